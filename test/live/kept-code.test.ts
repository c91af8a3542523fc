/** The service keeps V8's code of itself, and starts whatever is in the file of it. */
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type Drawbridge, program } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';

const isBuilt = program().some((part) => part.endsWith('dist/main.js'));
if (!isBuilt) process.stdout.write('SKIPPED: the code that the service keeps: dist is older than src\n');
const REST_MS = 60_000;
let lab: Lab;
let drawbridge: Drawbridge;
let file: string;
beforeAll(async () => {
  lab = await Lab.up({ sniffer: false });
  const folder = join(lab.dir, 'code');
  mkdirSync(folder);
  drawbridge = lab.drawbridge({ env: { CACHE_DIRECTORY: folder } });
  file = join(folder, 'service.cjs.code');
}, 60_000);
afterAll(() => lab.down());

const sizeOf = (): number => statSync(file, { throwIfNoEntry: false })?.size ?? 0;
function commandOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8');
  } catch {
    return ''; // it has exited
  }
}
async function restart(): Promise<void> {
  await drawbridge.stop();
  drawbridge.start();
  await drawbridge.ready();
}

it('the process that starts tools is there soon after the start', async () => {
  await drawbridge.ready();
  const isThere = (): boolean =>
    readFileSync(`/proc/${drawbridge.pid}/task/${drawbridge.pid}/children`, 'utf8')
      .split(' ')
      .some((pid) => commandOf(pid).includes('tool-runner'));
  await waitFor('the process that starts tools', async () => isThere(), 10_000);
});

it.skipIf(!isBuilt)(
  'it is written once the service is at rest, used by the next start, and written again after it was damaged',
  async () => {
    await drawbridge.ready();
    await waitFor('the code to be written', async () => sizeOf() > 0, REST_MS);
    const whole = readFileSync(file);
    expect(whole.length).toBeGreaterThan(500_000);
    await restart();
    for (const damaged of [randomBytes(1_000), Buffer.concat([whole.subarray(0, 100_000), randomBytes(9)])]) {
      writeFileSync(file, damaged);
      await restart();
    }
    await waitFor('the code to be written again', async () => sizeOf() > 500_000, REST_MS);
    await restart();
  },
  300_000,
);
