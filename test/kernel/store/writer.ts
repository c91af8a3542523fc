/** Child of the kill test: writes with many in flight, prints each key once it is acknowledged. */
import { openEmbeddedStore } from '../../../src/store/embedded-store.js';

const [dir = '', round = '0'] = process.argv.slice(2);
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
process.stdout.write('ready\n');
await Promise.all(Array.from({ length: LANES }, (_, n) => lane(n)));
