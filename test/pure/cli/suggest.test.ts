import { Readable } from 'node:stream';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { OwnerRecord } from '../../../src/flows/flow-record.js';
import { seen } from '../suggest/sample.js';
import { Bench } from './bench.js';

let bench: Bench;
const record = (owner: string, ...names: readonly string[]): OwnerRecord => ({
  owner,
  since: Date.now() - 86_400_000,
  gaps: [],
  starts: 2,
  dropped: 0,
  seen: names.map((name) => seen(name, { owner })),
});
beforeEach(async () => {
  bench = await Bench.make();
  await bench.serve();
  bench.controller.records.set('name:web', record('name:web', 'a.org', 'pastebin.com'));
  bench.controller.records.set('compose:shop/api', record('compose:shop/api', 'c.org'));
});
afterEach(() => bench.end());

const lists = (): unknown[] => bench.controller.calls.filter(([what]) => what === 'putList');

it('prints a list file in a pipe, other forms when they are asked for, and tables on a terminal', async () => {
  const yaml = await bench.run('suggest', 'web');
  expect(yaml).toMatchObject({ code: 0, err: '' });
  expect(yaml.out).toMatch(
    /\nallow:\n {2}# 41 times since .*\n {2}- a\.org\n {2}# - pastebin\.com {3}# anyone/,
  );
  expect((await bench.run('suggest', 'web', '--format', 'label')).out).toMatch(
    /^drawbridge\.allow=a\.org\n# pastebin\.com: anyone .*\n# drawbridge\.allow=a\.org, pastebin\.com\n$/,
  );
  expect((await bench.run('suggest', '--project', 'shop', '--compose')).out).toMatch(
    /^ {2}api:\n {4}labels:/m,
  );
  expect(JSON.parse((await bench.run('suggest', 'web', '--json')).out)).toMatchObject({ container: 'web' });
  expect(JSON.parse((await bench.run('suggest', '--project', 'shop', '--json')).out)).toHaveLength(1);
  bench.host = { isTerminal: true };
  expect((await bench.run('suggest', 'web')).out).toMatch(
    /^web: 1 entry · 1 to decide \(pastebin\.com\) · nothing new for .*\n(.*\n)*entries:\n(.*\n)*left out:\n/,
  );
  expect((await bench.run('suggest', 'web')).out).toMatch(/41 times since \d+ days? ago/);
});

it('refuses wrong usage', async () => {
  expect(await bench.run('suggest')).toMatchObject({ code: 2 });
  expect(await bench.run('suggest', 'web', '--project', 'shop')).toMatchObject({ code: 2 });
  expect((await bench.run('suggest', 'web', '--format', 'xml')).err).toMatch(/invalid format "xml"/);
  expect((await bench.run('suggest', 'web', '--since', 'soon')).err).toMatch(
    /--since: "soon" is not a duration/,
  );
  expect((await bench.run('suggest', 'nothing')).code).toBe(1);
});

it('lists create --from shows the list, asks, and makes it', async () => {
  expect(await bench.run('lists', 'create', 'ci', '--from', 'web')).toMatchObject({ code: 2 });
  bench.host = { canAsk: true, stdin: Readable.from(['n\n']) };
  const refused = await bench.run('lists', 'create', 'ci', '--from', 'web');
  expect(refused).toMatchObject({ code: 1, err: 'Create the list ci? [y/N]\nnothing was changed\n' });
  expect(refused.out).toContain('  - a.org\n');
  expect(lists()).toEqual([]);
  bench.host = { canAsk: true, stdin: Readable.from(['y\n']) };
  expect(await bench.run('lists', 'create', 'ci', '--from', 'web')).toMatchObject({
    code: 0,
    out: expect.stringMatching(/ci is in force with 1 entry\n$/),
  });
  expect(lists()).toMatchObject([
    ['putList', 'ci', { description: 'What web was seen to use', allow: ['a.org'] }, 0, 'local:ann'],
  ]);
});

it('lists create of a project needs no question with --yes; several sources are refused', async () => {
  const made = await bench.run('lists', 'create', 'shop', '--project', 'shop', '--yes', '--json');
  expect(JSON.parse(made.out)).toMatchObject({ name: 'shop', allow: ['c.org'] });
  expect(await bench.run('lists', 'create', 'x', 'a.org', '--from', 'web', '--yes')).toMatchObject({
    code: 2,
  });
  expect(
    await bench.run('lists', 'create', 'x', '--project', 'shop', '--from', 'web', '--yes'),
  ).toMatchObject({
    code: 2,
  });
});
