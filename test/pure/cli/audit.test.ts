import { appendFile, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Audit } from '../../../src/changes/audit.js';
import { openEmbeddedStore } from '../../../src/store/embedded-store.js';
import { Bench } from './bench.js';

const log = { debug() {}, info() {}, warn() {}, error() {} };
const RECORDS = 30;

let bench: Bench;
let files: string[];
const state = (file = ''): string => join(bench.dir, 'state', file);

/** Some files of a service that has ended. */
beforeEach(async () => {
  bench = await Bench.make();
  await mkdir(state());
  const store = await openEmbeddedStore({ dir: state(), log });
  const audit = await Audit.open({
    dir: state(),
    store,
    kind: 'embedded',
    now: () => 0,
    node: 'one',
    log,
    segmentBytes: 2_000,
  });
  for (let i = 1; i <= RECORDS; i++)
    await audit.record({
      who: 'ann',
      action: 'mode.set',
      target: `name:${i}`,
      before: null,
      after: { mode: 'off' },
      outcome: 'done',
    });
  await audit[Symbol.asyncDispose]();
  await store.close();
  files = (await readdir(state())).filter((name) => name.startsWith('audit-')).sort();
  expect(files.length).toBeGreaterThan(3);
});
afterEach(() => bench.end());

const verify = (...more: string[]) => bench.run('audit', 'verify', ...more);
const fileAt = (i: number): string => files.at(i) ?? '';
const lines = async (file: string): Promise<string[]> => (await readFile(state(file), 'utf8')).split('\n');

describe('audit verify, without the service', () => {
  it('a good chain: exit code 0, how much, and the last hash, which it then finds', async () => {
    const { code, out, err } = await verify();
    const [verdict, last, ...more] = out.trimEnd().split('\n');
    expect([code, err, more]).toEqual([0, '', []]);
    expect(verdict).toBe(`good: ${RECORDS} records in ${files.length} files`);
    expect(last).toMatch(/^last record: 30 at 1970-01-01T00:00:00\.000Z, hash [0-9a-f]{64}$/);
    const hash = last?.slice(-64) ?? '';
    expect((await verify('--contains', hash)).code).toBe(0);
    const json = JSON.parse((await verify('--json')).out);
    expect(json).toMatchObject({ ok: true, records: RECORDS, last: { n: 30, hash }, faults: [] });

    const missing = await verify('--contains', 'f'.repeat(64));
    expect([missing.code, missing.out]).toEqual([
      1,
      expect.stringMatching(/^no line has the hash f{64}: .*\nBROKEN/),
    ]);
    expect((await verify('--contains', 'x')).code).toBe(2);
  });

  it('a byte that was changed: exit code 1, the file and the line', async () => {
    const bytes = await readFile(state(fileAt(1)));
    const at = bytes.indexOf('name:');
    bytes.writeUInt8(bytes.readUInt8(at) ^ 1, at);
    await writeFile(state(fileAt(1)), bytes);
    const { code, out } = await verify();
    expect(code).toBe(1);
    expect(out).toMatch(new RegExp(`^${fileAt(1)}:2: its hash does not fit .*\nBROKEN: ${RECORDS} records`));
    expect(JSON.parse((await verify('--json')).out)).toMatchObject({
      ok: false,
      faults: [{ file: fileAt(1), line: 2 }],
    });
  });

  it('a file that is missing between others, or before them: exit code 1, and where', async () => {
    const taken = await readFile(state(fileAt(1)));
    await rm(state(fileAt(1)));
    const between = await verify();
    expect(between.code).toBe(1);
    expect(between.out).toMatch(
      new RegExp(`^${fileAt(2)}:1: it continues record \\d+, and the file before ends`),
    );
    expect(between.out).toContain('\nBROKEN: ');
    await writeFile(state(fileAt(1)), taken);
    expect((await verify()).code).toBe(0);
    await rm(state(fileAt(0)));
    const before = await verify();
    expect([before.code, before.out]).toEqual([
      1,
      expect.stringMatching(/:1: records 1 to \d+ are missing, and no record says that the budget/),
    ]);
  });

  it('a last line that is not whole is no break: it was never acknowledged; a whole one that is none is', async () => {
    const last = (await lines(fileAt(-1))).at(-2) ?? '';
    await appendFile(state(fileAt(-1)), last.slice(0, 40));
    const { code, out } = await verify();
    expect([code, out]).toEqual([
      0,
      expect.stringMatching(`^good: ${RECORDS} records in ${files.length} files\n`),
    ]);
    await appendFile(state(fileAt(-1)), '\n');
    const whole = await verify();
    expect([whole.code, whole.out]).toEqual([1, expect.stringContaining(': this is not a line of an audit')]);
  });

  it('a line that is not whole at the end of an older file: exit code 1', async () => {
    const text = await readFile(state(fileAt(0)), 'utf8');
    await writeFile(state(fileAt(0)), text.slice(0, -20));
    const { code, out } = await verify();
    const line = text.trimEnd().split('\n').length;
    expect([code, out]).toEqual([
      1,
      expect.stringContaining(`${fileAt(0)}:${line}: this is not a line of an audit`),
    ]);
  });

  it('a record removed from the end cannot be seen by itself, but by a hash that was noted elsewhere', async () => {
    const hash = JSON.parse((await verify('--json')).out).last.hash as string;
    const all = await lines(fileAt(-1));
    await writeFile(state(fileAt(-1)), `${all.slice(0, -2).join('\n')}\n`);
    expect((await verify()).code).toBe(0);
    expect((await verify('--contains', hash)).code).toBe(1);
  });
});
