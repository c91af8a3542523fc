/** The database of flows on a disk that damages it: what is recorded goes on, and what is read is answered. FLOW_DAMAGE: rounds at random; with it, all pages and columns. */
import {
  closeSync,
  copyFileSync,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build } from 'esbuild';
import Database from 'libsql';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { FlowDatabase } from '../../src/flows/flow-database.js';
import type { FlowPage, SeenFlow } from '../../src/flows/flow-record.js';
import type { FlowStore } from '../../src/flows/flow-store.js';
import { Tallies } from '../../src/flows/tallies.js';
import { Random } from '../fuzz/random.js';

const ROOT = join(import.meta.dirname, '../..');
/** By default each kind of damage once, and of the root pages and the columns every other one: each starts processes. */
const ROUNDS = Number(process.env.FLOW_DAMAGE ?? 9);
const ONE_OF = process.env.FLOW_DAMAGE === undefined ? 2 : 1;
const PAGE = 4096;
const OWNERS = 5;
/** Requests that a reader repeats because of one damage. */
const MOST_REFUSED = 3;
const START = Date.now() - 3_600_000;

/** Built as the service is: from sources, each process would compile its modules. */
const built = mkdtempSync(join(ROOT, 'node_modules/.flows-damage-'));
const folder = mkdtempSync(join(tmpdir(), 'flows-damage-'));
let Store: typeof FlowStore;
/** A database with a log that is not yet in it, and one without. */
const base = join(folder, 'base.db');
const withLog = join(folder, 'with-log.db');

beforeAll(async () => {
  await build({
    absWorkingDir: ROOT,
    entryPoints: ['src/flows/flow-store.ts', 'src/flows/flow-process.ts'],
    outdir: built,
    outExtension: { '.js': '.cjs' },
    bundle: true,
    platform: 'node',
    format: 'cjs',
    external: ['libsql'],
    banner: { js: "const importMetaUrl=require('node:url').pathToFileURL(__filename).href;" },
    define: { 'import.meta.url': 'importMetaUrl' },
    logOverride: { 'empty-import-meta': 'silent' },
  });
  ({ FlowStore: Store } = createRequire(import.meta.url)(join(built, 'flow-store.cjs')));
  fill(base);
  fill(withLog);
});
afterAll(() => {
  for (const path of [built, folder]) rmSync(path, { recursive: true });
});

const flow = (n: number, more: Partial<SeenFlow> = {}): SeenFlow => ({
  id: `${'abcdef0123456789'.repeat(2)}${n % OWNERS}`,
  container: `web-${n % OWNERS}`,
  owner: `name:web-${n % OWNERS}`,
  verdict: n % 3 === 0 ? 'deny' : 'allow',
  proto: 'tcp',
  address: `93.184.${n % 200}.1`,
  port: 443,
  name: `h${n % 200}.exp.test`,
  reason: 'why',
  entry: 'exp.test',
  list: 'list',
  feed: 'feed',
  time: START + n * 1_000,
  packets: 3,
  bytes: 180,
  count: 1,
  ...more,
});

function fill(file: string): void {
  const made = join(folder, `${Math.random()}.db`);
  const db = new FlowDatabase({ file: made, keepMs: 1e9, maxSizeBytes: 1e9, now: START, isStart: true });
  db.begun(START + 100);
  const containers = Array.from({ length: OWNERS }, (_, n) => ({
    owner: flow(n).owner,
    id: flow(n).id,
    name: flow(n).container,
    isStart: true,
  }));
  db.started(containers, START);
  db.mark({ owner: 'name:web-1', target: '*.known.test', port: null }, true);
  for (let n = 0; n < 2_000; n += 20)
    db.write(
      Array.from({ length: 20 }, (_, i) => flow(n + i)),
      0,
      START + n * 1_000,
    );
  if (file === withLog) for (const end of ['', '-wal']) copyFileSync(`${made}${end}`, `${file}${end}`);
  db.close();
  if (file === base) copyFileSync(made, file);
}

let ends = 0;
const quiet = {
  warn: (_: object, message: string) => {
    if (message.includes('has ended')) ends++;
  },
  error: () => undefined,
  info: () => undefined,
} as never;
let places = 0;
/** A state folder with a copy of the database, damaged. */
function damaged(of: string, damage: (file: string) => void): string {
  const place = mkdtempSync(join(folder, `${places++}-`));
  const file = join(place, 'flows.db');
  copyFileSync(of, file);
  if (existsSync(`${of}-wal`)) copyFileSync(`${of}-wal`, `${file}-wal`);
  damage(file);
  return place;
}
const open = (place: string): FlowStore => {
  const tallies = new Tallies();
  const options = { folder: place, keepMs: 1e9, maxSizeBytes: 1e9, log: quiet, tallies, now: Date.now };
  const store = new Store(options);
  store.begin();
  return store;
};

/** Everything that is read, in the order in which a person may. Throws when something stays refused. */
async function readAll(store: FlowStore): Promise<void> {
  let refused = 0;
  const answered = async <T>(what: string, read: () => Promise<T>): Promise<T> => {
    for (;;)
      try {
        return await read();
      } catch (e) {
        if ((e as Error).constructor.name !== 'RefusedError') throw new Error(`${what}: ${String(e)}`);
        if (++refused > MOST_REFUSED) throw new Error(`${what} is refused again and again: ${String(e)}`);
      }
  };
  const pageAfter = (before: FlowPage['next']): Promise<FlowPage> =>
    answered('page', () => store.page({ limit: 100, ...(before && { before }) }));
  let { next } = await pageAfter(null);
  for (let pages = 0; next && pages < 30; pages++) ({ next } = await pageAfter(next));
  await answered('denied', () => store.page({ limit: 100, verdicts: ['deny'] }));
  await answered('name', () => store.page({ limit: 100, name: '*.exp.test', container: 'web-1' }));
  for (const owner of await answered('owners', () => store.owners()))
    await answered('record', () => store.record(owner));
  for (let n = 0; n < OWNERS; n++) {
    await answered('record', () => store.record(flow(n).owner));
    await answered('run', () => store.run(flow(n).container));
    await answered('run by id', () => store.run(flow(n).id));
  }
  const { since, gaps } = await answered('facts', () => store.facts());
  for (const time of [since, ...gaps.flatMap(({ from, to }) => [from, to])]) new Date(time).toISOString();
  await answered('marks', () => store.marks());
  await answered('mark', () => store.mark({ owner: 'name:web-2', target: '*', port: 7 }, true));
}

let number = 0;
/** What is recorded from now on is read again. Returns its name. */
async function recordsStill(store: FlowStore): Promise<string> {
  const name = `new-${number++}.test`;
  for (let n = 0; n < 3; n++) store.add(flow(n, { name, time: Date.now() }));
  for (let tries = 0; ; tries++) {
    const { items } = await store.page({ limit: 10, name }).catch((e: unknown) => {
      if (tries >= MOST_REFUSED) throw e;
      return { items: [] };
    });
    if (items.length === 3) return name;
    if (tries >= MOST_REFUSED) throw new Error(`a new flow is not in the record: ${JSON.stringify(items)}`);
  }
}

async function survives(
  of: string,
  damage: (file: string) => void,
  isRestarted = false,
): Promise<{ readonly wasReplaced: boolean; readonly ends: number }> {
  ends = 0;
  const place = damaged(of, damage);
  let store = open(place);
  let wasReplaced = false;
  store.begunAgain.subscribe(() => {
    wasReplaced = true;
  });
  try {
    await readAll(store);
    const name = await recordsStill(store);
    expect(existsSync(join(place, 'flows.db.unusable'))).toBe(wasReplaced);
    if (wasReplaced) expect(store.warning).toMatch(/flows are recorded since .* damaged/);
    if (isRestarted) {
      await store[Symbol.asyncDispose]();
      store = open(place);
      expect((await store.page({ limit: 10, name })).items).toHaveLength(3);
    }
  } finally {
    await store[Symbol.asyncDispose]();
    rmSync(place, { recursive: true });
  }
  return { wasReplaced, ends };
}

const write = (file: string, bytes: Uint8Array, position: number): void => {
  const fd = openSync(file, 'r+');
  writeSync(fd, bytes, 0, bytes.length, position);
  closeSync(fd);
};
const sql = (file: string, text: string): void => {
  const db = new Database(file);
  db.exec(text);
  db.close();
};
const rows = (text: string): string[][] => {
  const db = new Database(base);
  const found = db.prepare(text).raw().all() as string[][];
  db.close();
  return found;
};

/** All of them, or every other one, beginning with the first or the second. */
const someOf = <T>(all: readonly T[], random: Random): T[] => {
  const first = random.below(ONE_OF);
  return all.filter((_, n) => n % ONE_OF === first);
};

describe('a damaged database of flows', () => {
  it('is replaced where the root page of a table or an index is zeroed', async () => {
    const roots = rows('SELECT name, rootpage FROM sqlite_master WHERE rootpage > 0');
    expect(roots.length).toBeGreaterThan(15);
    const seed = Number(process.env.SEED ?? Date.now() % 1e6);
    for (const [name, page] of someOf(roots, new Random(seed))) {
      const { wasReplaced } = await survives(base, (file) =>
        write(file, new Uint8Array(PAGE), (Number(page) - 1) * PAGE),
      ).catch((e: unknown) => Promise.reject(new Error(`SEED=${seed}, ${name}: ${String(e)}`)));
      // An index that nothing of this reads may stay unnoticed.
      if (!/destination_owner|run_name/.test(String(name)))
        expect({ name, wasReplaced }).toEqual({ name, wasReplaced: true });
    }
  }, 300_000);

  it('is replaced where a text in a column is not UTF-8, also in one of numbers', async () => {
    const tables = rows("SELECT name FROM sqlite_master WHERE type = 'table'").map(([name]) => String(name));
    const columns = tables.flatMap((table) =>
      rows(`SELECT name, type FROM pragma_table_info('${table}') WHERE name <> 'id'`).map(
        ([column, type]) => ({ table, column: String(column), isText: type === 'TEXT' }),
      ),
    );
    expect(columns.length).toBeGreaterThan(40);
    // One of texts and one of numbers of each table, other ones in each run: the library ends the process at each.
    const seed = Number(process.env.SEED ?? Date.now() % 1e6);
    const random = new Random(seed);
    const kindOf = ({ table, isText }: (typeof columns)[number]): string => `${table} ${isText}`;
    const tried = [...new Set(columns.map(kindOf))].flatMap((kind) => {
      const of = columns.filter((column) => kindOf(column) === kind);
      return of[random.below(of.length)] ?? [];
    });
    for (const { table, column, isText } of someOf(tried, random)) {
      const set = `UPDATE OR REPLACE "${table}" SET "${column}" = CAST(X'ff41fe' AS TEXT)`;
      const { ends } = await survives(base, (file) => sql(file, set)).catch((e: unknown) =>
        Promise.reject(new Error(`SEED=${seed}, ${table}.${column}: ${String(e)}`)),
      );
      // The library aborts where it expects a number.
      if (isText) expect({ table, column, ends }).toEqual({ table, column, ends: 0 });
      else if (table === 'fact') expect(ends).toBeGreaterThan(0);
    }
  }, 300_000);

  it(
    'goes on after random bits, torn pages, cut files and a damaged log',
    async () => {
      const seed = Number(process.env.SEED ?? Date.now() % 1e6);
      const random = new Random(seed);
      const sizeOf = (file: string): number => statSync(file).size;
      const kinds: readonly ((file: string) => void)[] = [
        (file) => {
          const bytes = readFileSync(file);
          for (let n = 0; n < 200; n++) {
            const at = random.below(bytes.length);
            bytes[at] = (bytes[at] ?? 0) ^ (1 << random.below(8));
          }
          writeFileSync(file, bytes);
        },
        (file) => {
          const page = random.below(sizeOf(file) / PAGE);
          write(file, Buffer.from(Array.from({ length: PAGE }, () => random.below(256))), page * PAGE);
        },
        (file) => {
          const half = readFileSync(base).subarray(0, PAGE / 2);
          write(file, half, (1 + random.below(sizeOf(file) / PAGE - 1)) * PAGE);
        },
        (file) => truncateSync(file, random.below(sizeOf(file))),
        (file) => truncateSync(`${file}-wal`, random.below(sizeOf(`${file}-wal`))),
        (file) => write(`${file}-wal`, new Uint8Array(5_000), random.below(sizeOf(`${file}-wal`))),
        (file) => rmSync(`${file}-wal`),
        (file) => write(file, Buffer.from([3]), 18),
        (file) => write(file, new Uint8Array(100), 0),
      ];
      for (let round = 0; round < ROUNDS; round++) {
        const kind = round % kinds.length;
        await survives(withLog, kinds[kind] as (file: string) => void, true).catch((e: unknown) =>
          Promise.reject(new Error(`SEED=${seed}, round ${round}, kind ${kind}: ${String(e)}`)),
        );
      }
    },
    300_000 + ROUNDS * 10_000,
  );

  it('is replaced while it is in use', async () => {
    const place = damaged(base, () => undefined);
    const file = join(place, 'flows.db');
    const store = open(place);
    try {
      await store.facts();
      const { size } = statSync(file);
      // What SQLite has in memory it does not read again.
      for (let page = 1; page < size / PAGE; page++) write(file, new Uint8Array(PAGE), page * PAGE);
      await readAll(store);
      await recordsStill(store);
      expect(existsSync(`${file}.unusable`)).toBe(true);
    } finally {
      await store[Symbol.asyncDispose]();
    }
  }, 120_000);
});
