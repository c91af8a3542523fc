/**
 * Queries of a million records of flows, by container, name and verdict: the first page and one further on, against reading all records and
 * choosing among them, in one run. `npx tsx bench/flow-queries.ts [--records 1000000] [--rounds 9] [--keep]`; no root.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import Database from 'libsql';
import { FlowDatabase } from '../src/flows/flow-database.js';
import type { FlowQuery, SeenFlow } from '../src/flows/flow-record.js';
import { figure } from './harness.js';
import { type Figure, KEEP, type Row, writeResult } from './results.js';

const { values } = parseArgs({
  options: {
    ...KEEP,
    records: { type: 'string', default: '1000000' },
    rounds: { type: 'string', default: '9' },
  },
});
const DAY_MS = 86_400_000;
const CONTAINERS = 200;
const NAMES = 200;
const PER_BATCH = 1_000;
const BATCH_MS = 61_000;
const VERDICTS = ['allow', 'allow', 'allow', 'allow', 'deny', 'would-deny', 'threat'] as const;

/** The same records in each run. */
function* numbers(): Generator<number> {
  for (let state = 1; ; state = (state * 48_271) % 2_147_483_647) yield state;
}
const random = numbers();
const below = (n: number): number => Number(random.next().value) % n;

function flow(time: number): SeenFlow {
  const container = below(CONTAINERS);
  const name = below(NAMES) + container * 3;
  const verdict = VERDICTS[(name * 7 + container) % VERDICTS.length] ?? 'allow';
  const more = { reason: 'no entry permits it', entry: null, list: null, feed: null };
  return {
    id: `id${container}`,
    container: `web-${container}`,
    owner: `compose:app/web-${container}`,
    verdict,
    proto: 'tcp',
    address: `93.184.${name % 250}.${below(4)}`,
    port: 443,
    name: name % 5 === 0 ? null : `h${name}.example${name % 50}.test`,
    ...more,
    time,
    packets: 10,
    bytes: 4_000,
    count: 1,
  };
}

const folder = mkdtempSync(join(tmpdir(), 'flow-queries-'));
try {
  const file = join(folder, 'flows.db');
  const records = Number(values.records);
  let now = Date.now() - Math.ceil(records / PER_BATCH) * BATCH_MS;
  const db = new FlowDatabase({ file, keepMs: 365 * DAY_MS, maxSizeBytes: 4e9, now, isStart: true });
  const began = performance.now();
  for (let written = 0; written < records; written += PER_BATCH) {
    now += BATCH_MS;
    const batch = Array.from({ length: PER_BATCH }, () => flow(now - below(1_000)));
    db.write(batch, 0, now);
  }
  const { rows, destinations, bytes } = db.facts();
  const each = ((performance.now() - began) * 1_000) / records;
  console.log(
    `${rows} records of ${destinations} destinations, ${Math.round(bytes / 1e6)} MB; ${each.toFixed(1)} µs to write one`,
  );
  const all = new Database(file);
  const scan = all.prepare(
    'SELECT f.time, d.container, d.verdict, d.target, w.reason FROM flow f NOT INDEXED JOIN destination d ON d.id = f.destination JOIN why w ON w.id = f.why',
  );
  const took = (work: () => void): number => {
    const from = performance.now();
    work();
    return performance.now() - from;
  };
  const rounds = Array.from({ length: Number(values.rounds) });
  const scanned = rounds.map(() =>
    took(() => {
      for (const _ of scan.raw().iterate());
    }),
  );
  all.close();
  const ask = (query: Partial<FlowQuery>) => db.page({ limit: 100, ...query });
  const measured = (query: Partial<FlowQuery>): Figure => figure(rounds.map(() => took(() => ask(query))));
  const rowsOf = ([what, query]: readonly [string, Partial<FlowQuery>]): readonly Row[] => {
    const { next } = ask(query);
    const pages = [
      { label: what, ours: measured(query) },
      ...(next ? [{ label: `${what}, the next page`, ours: measured({ ...query, before: next }) }] : []),
    ];
    return pages.map(({ label, ours }) => ({
      ...{ id: `flow-query ${label}`, label, unit: 'ms', ours },
      beside: { ...figure(scanned), label: 'reading all' },
      ratio: figure(scanned.map((ms) => ours.median / ms)),
    }));
  };
  const found = Object.entries({
    newest: {},
    container: { container: 'web-7' },
    name: { name: 'h21.example21.test' },
    'name with *': { name: '*.example7.test' },
    'no name fits': { name: '*.nothing.test' },
    verdict: { verdicts: ['threat'] },
    'container and verdict': { container: 'web-9', verdicts: ['deny'] },
    'container, name and verdict': { container: 'web-9', name: '*.test', verdicts: ['deny', 'threat'] },
    'the last hour': { since: now - 3_600_000, verdicts: ['deny'] },
  } satisfies Record<string, Partial<FlowQuery>>).flatMap(rowsOf);
  const slowest = found.reduce((a, b) => (b.ours.median > a.ours.median ? b : a));
  await writeResult(
    'flow-queries',
    `npx tsx bench/flow-queries.ts --records ${records} --rounds ${rounds.length}`,
    [
      {
        ...slowest,
        id: 'flow-query',
        label: `the slowest of ${records.toLocaleString('en')} records: ${slowest.label}`,
      },
      ...found,
    ],
  );
  db.close();
} finally {
  rmSync(folder, { recursive: true });
}
