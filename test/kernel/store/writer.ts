/** Child of the kill test: writes with many in flight, prints each key once it is acknowledged; with `recorded` through the audit. */
import { Audit } from '../../../src/changes/audit.js';
import { Committer } from '../../../src/changes/commit.js';
import { ChangesState } from '../../../src/changes/stored-state.js';
import { openEmbeddedStore } from '../../../src/store/embedded-store.js';

const [dir = '', round = '0', kind] = process.argv.slice(2);
const quiet = { debug() {}, info() {}, warn() {}, error() {} };
const store = await openEmbeddedStore({ dir, log: quiet, compactAt: 20_000 });
const LANES = 8;
const MOST = 100_000;

async function lane(n: number): Promise<void> {
  for (let i = 0; i < MOST; i++) {
    const key = `r${round}/${n}/${i}`;
    const revision = await store.put(key, { key, fill: 'x'.repeat(i % 200) });
    process.stdout.write(`${key} ${revision}\n`);
    if (i > 3)
      await store
        .delete(`r${round}/${n}/${i - 3}`)
        .then(() => process.stdout.write(`-r${round}/${n}/${i - 3}\n`));
  }
}

async function recorded(): Promise<(n: number) => Promise<void>> {
  const audit = await Audit.open({
    dir,
    store,
    kind: 'embedded',
    now: Date.now,
    log: quiet,
    segmentBytes: 20_000,
    segments: 1_000,
  });
  const state = await ChangesState.open(store, quiet, performance.now, async () => ({
    ok: false,
    problems: [],
  }));
  const committer = new Committer({
    store,
    state,
    audit,
    reconciler: { inForce: async () => undefined },
    log: quiet,
    onChange: () => undefined,
  });
  return async (n) => {
    for (let i = 0; i < MOST; i++) {
      const key = `mode/r${round}/${n}/${i}`;
      const change = { key, before: undefined, after: { mode: 'off' }, who: 'writer', action: 'mode.set' };
      await committer.commit({ ...change, target: key });
      process.stdout.write(`${key} ${store.revision()}\n`);
    }
  };
}

const work = kind === 'recorded' ? await recorded() : lane;
process.stdout.write('ready\n');
await Promise.all(Array.from({ length: LANES }, (_, n) => work(n)));
