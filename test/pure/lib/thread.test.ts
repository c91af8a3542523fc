/** Threads of the service and the memory that they take. */
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import { sizeYoungGeneration, startThread, youngBytes } from '../../../src/lib/thread.js';

/** Objects that survive some collections make V8 grow the young generation. */
function allocate(): void {
  const kept: object[] = [];
  for (let i = 0; i < 3_000_000; i++) {
    kept.push({ i, of: [i] });
    if (kept.length > 200_000) kept.splice(0, 100_000);
  }
}

it('keeps the size of the young generation after a thread has been started', async () => {
  sizeYoungGeneration();
  const before = youngBytes();
  const thread = startThread(new URL('../../../src/config/list-thread.js', import.meta.url));
  try {
    thread.postMessage({ id: 1, kind: 'entries', job: { id: 1, from: 0 } });
    await once(thread, 'message');
    // while a collection runs, V8 may count the pages that it copies to; without the bound it is 32 MiB each time
    const sizes = [1, 2, 3].map(() => {
      allocate();
      return youngBytes();
    });
    expect(Math.min(...sizes)).toBeLessThan(2 * before);
  } finally {
    await thread.terminate();
  }
});

it('starts a thread with the flags that Node has made its own code with', async () => {
  const urlOf = (path: string): string => JSON.stringify(new URL(path, import.meta.url).href);
  // A process of its own: no test has changed its flags. V8 compares the length of a script, and keeps what it has compiled: each is another one.
  const program = `void (async () => {
    const { once } = require('node:events');
    const { Script } = require('node:vm');
    const { setServiceFlags, startThread } = await import(${urlOf('../../../src/lib/thread.ts')});
    const source = (n) => 'x => x + ' + n;
    const cachedData = new Script(source(0)).createCachedData();
    const isRefused = (n) => new Script(source(n), { cachedData }).cachedDataRejected;
    const seen = [isRefused(1)];
    setServiceFlags();
    seen.push(isRefused(2));
    const thread = startThread(new URL(${urlOf('../../../src/config/list-thread.js')}));
    seen.push(isRefused(3));
    thread.postMessage({ id: 1, kind: 'entries', job: { id: 1, from: 0 } });
    await once(thread, 'message');
    seen.push(isRefused(4));
    await thread.terminate();
    console.log(JSON.stringify(seen));
  })();`;
  const argv = ['--import', import.meta.resolve('tsx'), '-e', program];
  const { stdout } = await promisify(execFile)(process.execPath, argv);
  expect(JSON.parse(stdout)).toEqual([false, true, false, true]);
});

it('lets the young generation grow to the size that costs no speed, for a start to more, and gives that back', async () => {
  const program = `const { collectGarbage, sizeYoungGeneration, START_YOUNG_BYTES, youngBytes } = await import(${JSON.stringify(new URL('../../../src/lib/thread.ts', import.meta.url).href)});
    const sizes = [youngBytes()];
    sizeYoungGeneration(); sizes.push(youngBytes());
    sizeYoungGeneration(START_YOUNG_BYTES); sizes.push(youngBytes());
    await collectGarbage(); sizeYoungGeneration(); sizes.push(youngBytes());
    console.log(JSON.stringify(sizes.map((b) => b / 2 ** 20)));`;
  const argv = [
    '--import',
    import.meta.resolve('tsx'),
    '--max-semi-space-size=16',
    '--input-type=module',
    '-e',
    program,
  ];
  const { stdout } = await promisify(execFile)(process.execPath, argv);
  const [before = 0, after, atStart, atRest] = JSON.parse(stdout) as number[];
  expect(after).toBe(Math.max(before, 4));
  expect(atStart).toBe(Math.max(before, 8));
  expect(atRest).toBe(4);
});
