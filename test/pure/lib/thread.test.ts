/** Threads of the service and the memory that they take. */
import { once } from 'node:events';
import { getHeapSpaceStatistics } from 'node:v8';
import { expect, it } from 'vitest';
import { boundYoungGeneration, startThread } from '../../../src/lib/thread.js';

const youngBytes = (): number =>
  getHeapSpaceStatistics().find(({ space_name }) => space_name === 'new_space')?.space_size ?? Number.NaN;

/** Objects that survive some collections make V8 grow the young generation. */
function allocate(): void {
  const kept: object[] = [];
  for (let i = 0; i < 3_000_000; i++) {
    kept.push({ i, of: [i] });
    if (kept.length > 200_000) kept.splice(0, 100_000);
  }
}

it('keeps the size of the young generation after a thread has been started', async () => {
  boundYoungGeneration();
  const before = youngBytes();
  const thread = startThread(new URL('../../../src/config/list-thread.js', import.meta.url));
  try {
    thread.postMessage({ id: 1, kind: 'entries', job: { id: 1, from: 0 } });
    await once(thread, 'message');
    allocate();
    // V8 commits the second half of it with the first collection.
    expect(youngBytes()).toBeLessThanOrEqual(2 * before);
  } finally {
    await thread.terminate();
  }
});
