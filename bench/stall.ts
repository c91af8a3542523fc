/**
 * How long one request or one file blocks the event loop, on which DNS answers and held packets wait:
 * `npx tsx bench/stall.ts [--keep]`. No root, no Docker.
 */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { Audit } from '../src/changes/audit.js';
import { Changes } from '../src/changes/changes.js';
import { watchFolder } from '../src/config/list-folder.js';
import { ListReader } from '../src/config/list-reader.js';
import type { Logger } from '../src/lib/log.js';
import { openEmbeddedStore } from '../src/store/embedded-store.js';
import { figure } from './harness.js';
import { type Row, writeResult } from './results.js';

const quiet: Logger = { debug() {}, info() {}, warn() {}, error() {} };
const base = await mkdtemp(join(tmpdir(), 'drawbridge-stall-'));
const folder = join(base, 'allowlists');
await mkdir(folder);
const store = await openEmbeddedStore({ dir: join(base, 'state'), log: quiet });
const reader = new ListReader();
const watching = await watchFolder(folder, reader, () => {});
const changes = await Changes.open({
  store,
  audit: await Audit.open({
    dir: join(base, 'state'),
    store,
    kind: 'embedded',
    now: Date.now,
    log: quiet,
  }),
  reconciler: { inForce: async () => {} },
  log: quiet,
  parseList: reader.body,
  folderLists: () => [...watching.state.lists.values()],
  usedBy: () => [],
  find: () => {
    throw new Error('no container');
  },
  now: Date.now,
  onChange: () => {},
});

const rows: Row[] = [];
async function measure(label: string, work: () => Promise<unknown>): Promise<void> {
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  await sleep(30);
  delay.reset();
  await sleep(5);
  const began = performance.now();
  const outcome = await work().then(
    () => 'done',
    () => 'refused',
  );
  const took = performance.now() - began;
  await sleep(30);
  delay.disable();
  rows.push({
    id: `stall-${rows.length + 1}`,
    label,
    unit: 'ms',
    ours: figure([delay.max / 1e6]),
    note: `${outcome}, after ${took.toFixed(0)} ms`,
  });
}

/** Waits until a file is in force, or refused. */
async function saved(name: string, text: string): Promise<void> {
  const file = join(folder, name);
  const list = name.replace('.yaml', '');
  const { lists } = watching.state;
  const isDone = (): boolean =>
    watching.state.lists.get(list) !== lists.get(list) ||
    watching.state.problems.some((p) => p.file === file);
  await writeFile(file, text);
  for (const end = performance.now() + 60_000; !isDone() && performance.now() < end; ) await sleep(5);
}
const names = (count: number, domain = 'example.org'): string[] =>
  Array.from({ length: count }, (_, i) => `host${i}.${domain}`);
const yaml = (entries: readonly string[]): string => `allow:\n${entries.map((e) => `  - ${e}\n`).join('')}`;

await measure('PUT of a text of 4 MB, one entry repeated', () =>
  changes.lists.put('text', { allow: ['a.example.org,'.repeat(285_000)] }, undefined, 'bench'),
);
await measure('PUT of 200,000 duplicates', () =>
  changes.lists.put('twice', { allow: new Array(200_000).fill('a.example.org') }, undefined, 'bench'),
);
await measure('PUT of 10,000 entries', () =>
  changes.lists.put('many', { allow: names(10_000) }, undefined, 'bench'),
);
await measure('one entry more', () => changes.lists.addEntry('many', 'one.example.net', undefined, 'bench'));
await measure('one entry less', () =>
  changes.lists.removeEntry('many', 'one.example.net', undefined, 'bench'),
);
await measure('PUT of 100 entries', () =>
  changes.lists.put('few', { allow: names(100) }, undefined, 'bench'),
);
await measure('a file of 50,000 entries', () => saved('large.yaml', yaml(names(50_000))));
await measure('then a file of one entry', () => saved('small.yaml', yaml(['a.example.org'])));
await measure('a file of 4 MB that is no list', () => saved('text.yaml', 'nonsense: [{ \n'.repeat(250_000)));
await rm(join(folder, 'large.yaml'));
await rm(join(folder, 'text.yaml'));
await measure('2,000 files', async () => {
  for (let i = 0; i < 1_990; i++) await writeFile(join(folder, `l${i}.yaml`), yaml(names(3, `l${i}.org`)));
  await sleep(200);
  await saved('last.yaml', yaml(['a.example.org']));
});
await sleep(1_500);
await measure('then a file of one entry', () => saved('small.yaml', yaml(['b.example.org'])));
await measure('then PUT of 100 entries', () =>
  changes.lists.put('few', { allow: names(100, 'example.com') }, undefined, 'bench'),
);

changes.close();
await watching[Symbol.asyncDispose]();
await reader[Symbol.asyncDispose]();
await store.close();
await rm(base, { recursive: true });
await writeResult('stall', 'npx tsx bench/stall.ts', rows);
