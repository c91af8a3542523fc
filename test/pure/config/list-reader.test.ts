import { afterAll, beforeEach, expect, it } from 'vitest';
import { parseListFile } from '../../../src/config/list-files.js';
import { ListReader } from '../../../src/config/list-reader.js';
import { listFromObject } from '../../../src/policy/list-parse.js';

const reader = new ListReader();
let before = 0;
beforeEach(() => {
  before = reader.inThread;
});
afterAll(() => reader[Symbol.asyncDispose]());
const many = (count: number): string[] =>
  Array.from({ length: count }, (_, i) => `host${i}.example.org:1-${i + 1}`);

it('reads a large body in the thread as it is read here', async () => {
  const body = {
    allow: [
      ...many(2_000),
      '10.0.0.0/8',
      '[2001:db8::]:1-65535',
      { to: 'x.org', comment: 'c' },
      'list:other',
    ],
  };
  expect(await reader.body('l', 'store', body)).toEqual(listFromObject('l', 'store', body));
  expect(reader.inThread - before).toBe(1);
});

it('reads a large file in the thread as it is read here, with the places of faults', async () => {
  for (const last of ['last.org', '127.1']) {
    const text = `allow:\n${[...many(2_000), last].map((e) => `  - ${e}\n`).join('')}`;
    expect(await reader.file('/l/x.yaml', Buffer.from(text))).toEqual(parseListFile('/l/x.yaml', text));
  }
  expect(reader.inThread - before).toBe(2);
});

it('reads a small one here', async () => {
  expect(await reader.body('l', 'store', { allow: many(100) })).toMatchObject({ ok: true });
  expect(await reader.file('l.yaml', Buffer.from('allow: [a.org]'))).toMatchObject({ ok: true });
  expect(reader.inThread - before).toBe(0);
});

it('stops at 200 duplicates, in texts and in items', async () => {
  for (const allow of [['a.example.org,'.repeat(285_000)], new Array(200_000).fill('a.example.org')]) {
    const read = await reader.body('l', 'store', { allow });
    expect(read.ok ? [] : read.problems).toHaveLength(200);
    expect(JSON.stringify(read)).toContain('the rest was not read');
  }
});

it('refuses a list that takes too long, and reads the next', async () => {
  const hurried = new ListReader(1);
  const read = await hurried.body('l', 'store', { allow: many(100_000) });
  expect(read).toMatchObject({
    ok: false,
    problems: [{ detail: expect.stringMatching(/needed more than 0.001 s/) }],
  });
  await hurried[Symbol.asyncDispose]();
  expect(await reader.body('l', 'store', { allow: many(5_000) })).toMatchObject({ ok: true });
});
