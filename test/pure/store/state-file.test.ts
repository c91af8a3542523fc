/** Small files of the state folder survive whatever is in them, and know the version that wrote them. */
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Journal } from '../../../src/dns/journal.js';
import { readParents } from '../../../src/enforce/host-cgroups.js';
import { readUsed } from '../../../src/enforce/quotas.js';
import { readFolders } from '../../../src/namespaces/sandbox-folders.js';
import { foundBefore } from '../../../src/ops/teardown.js';
import { LocalChanges } from '../../../src/store/redis-replica.js';
import { writeStateFile } from '../../../src/store/state-file.js';

let dir: string;
let said: string[];
const complain = (_o: object, message: string): void => void said.push(message);
const log = { debug() {}, info() {}, warn: complain, error: complain };
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'drawbridge-state-'));
  said = [];
});
afterEach(() => rm(dir, { recursive: true }));

const NAME = 'q-0123456789ab-24-0';
const USUAL = '/var/run/docker/netns';
/** Each file: how it is read, what of an older version is, and what nothing is. */
const FILES = [
  {
    file: 'cgroup-parents.json',
    read: () => readParents(dir, complain),
    empty: { known: [], made: [] },
    old: { known: ['a'], made: ['b'] },
    value: { known: ['a'], made: ['b'] },
  },
  {
    file: 'sandbox-folders.json',
    read: () => readFolders(dir, complain),
    empty: [USUAL],
    old: ['/run/x'],
    value: [USUAL, '/run/x'],
  },
  {
    file: 'quotas.json',
    read: () => Object.fromEntries(readUsed(join(dir, 'quotas.json'), log)),
    empty: {},
    old: { used: { [NAME]: 5 } },
    value: { [NAME]: 5 },
  },
  {
    file: 'kernel-found.json',
    read: () => foundBefore({ state: dir }),
    empty: undefined,
    old: { 'ip filter': ['INPUT'] },
    value: { 'ip filter': ['INPUT'] },
  },
] as const;

const GARBAGE: readonly (readonly [string, string | Buffer])[] = [
  ['nothing', ''],
  ['null', 'null'],
  ['a number', '5'],
  ['a text', '"x"'],
  ['cut short', '{"known":["a"'],
  ['binary', Buffer.from([0, 255, 254, 0, 123, 10])],
  ['zeros', Buffer.alloc(4096)],
  ['deep', '['.repeat(100_000)],
  ['fields of another kind', '{"known":5,"used":[1],"ip filter":{}}'],
  ['an array of others', '[5,{},null,["x"]]'],
];

describe.each(FILES)('$file', ({ file, read, empty, old, value }) => {
  it.each(GARBAGE)('with %s: as if there were none', async (_what, content) => {
    await writeFile(join(dir, file), content);
    expect(read()).toEqual(empty);
    // Read again, as the next start does.
    expect(read()).toEqual(empty);
  });

  it('is set aside when it cannot be read', async () => {
    await writeFile(join(dir, file), '{"known":[');
    read();
    expect(await readdir(dir)).toEqual([`${file}.damaged`]);
  });

  it('of an older version, without one, is read', async () => {
    await writeFile(join(dir, file), JSON.stringify(old));
    expect(read()).toEqual(value);
    expect(said).toEqual([]);
  });

  it('of a newer version is not used, and kept', async () => {
    const newer = Array.isArray(old) ? [{ version: 2 }, ...old] : { version: 2, ...old };
    await writeFile(join(dir, file), JSON.stringify(newer));
    expect(read()).toEqual(empty);
    expect(JSON.parse(await readFile(join(dir, `${file}.newer`), 'utf8'))).toEqual(newer);
  });

  it('is absent at the first start, without a word', () => {
    expect(read()).toEqual(empty);
    expect(said).toEqual([]);
  });
});

it('a file is written whole, by a second name', async () => {
  await writeFile(join(dir, 'f'), 'old');
  expect(() => writeStateFile(join(dir, 'missing', 'f'), {})).toThrow(/ENOENT/);
  writeStateFile(join(dir, 'f'), { version: 1, a: 1 });
  expect(await readFile(join(dir, 'f'), 'utf8')).toBe('{"version":1,"a":1}');
  expect(await readdir(dir)).toEqual(['f']);
});

describe('names.journal', () => {
  const path = (): string => join(dir, 'names.journal');
  const opened = (): unknown[] => {
    const facts: unknown[] = [];
    const journal = new Journal({ path: path(), log, wallAhead: () => 0 });
    journal.open(
      () => [],
      (read) => facts.push(...read),
    );
    journal.close();
    return facts;
  };
  const LINE = `${JSON.stringify({ c: 'a', n: 'n', a: '192.0.2.1', u: 5, s: 5 })}\n`;

  it('begins with its version, in a line that an older reader passes over', async () => {
    opened();
    const [first = ''] = (await readFile(path(), 'utf8')).split('\n');
    expect(JSON.parse(first)).toEqual({ forget: '', version: 1 });
  });

  it.each(GARBAGE)('with %s: goes on with what can be read', async (_what, content) => {
    await writeFile(
      path(),
      Buffer.concat([Buffer.from(LINE), Buffer.from(content), Buffer.from(`\n${LINE}`)]),
    );
    expect(opened()).toHaveLength(2);
  });

  it('of a newer version is not used, and kept', async () => {
    const text = `{"forget":"","version":2}\n${LINE}`;
    await writeFile(path(), text);
    expect(opened()).toEqual([]);
    expect(said.join()).toMatch(/newer version of Drawbridge/);
    expect(await readFile(`${path()}.newer`, 'utf8')).toBe(text);
  });
});

describe('redis/local.json', () => {
  const path = (): string => join(dir, 'local.json');
  it.each(GARBAGE)('with %s is called damaged', async (_what, content) => {
    await writeFile(path(), content);
    await expect(LocalChanges.read(path())).rejects.toMatchObject({ code: 'corrupt' });
  });
  it('of a newer version is called that', async () => {
    await writeFile(path(), '{"version":2}');
    await expect(LocalChanges.read(path())).rejects.toMatchObject({ code: 'newer' });
  });
});
