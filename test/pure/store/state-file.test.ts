/** Files of the state folder survive whatever is in them, and know the version that wrote them. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Journal } from '../../../src/dns/journal.js';
import { LocalChanges } from '../../../src/store/redis-replica.js';

let dir: string;
let said: string[];
const complain = (_o: object, message: string): void => void said.push(message);
const log = { debug() {}, info() {}, warn: complain, error: complain };
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'drawbridge-state-'));
  said = [];
});
afterEach(() => rm(dir, { recursive: true }));

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
