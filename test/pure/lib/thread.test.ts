/** Threads of the service and the memory that they take. */
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { promisify } from 'node:util';
import { Script } from 'node:vm';
import { expect, it } from 'vitest';
import { setServiceFlags, sizeYoungGeneration, startThread, youngBytes } from '../../../src/lib/thread.js';

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
    allocate();
    // without the bound it is 32 MiB; some versions of V8 count the pages of a collection that runs
    expect(youngBytes()).toBeLessThan(2 * before);
  } finally {
    await thread.terminate();
  }
});

it('starts a thread with the flags that Node has made its own code with', async () => {
  // V8 compares the length of a script. It keeps what it has compiled, so that each one is another script.
  const source = (n: number): string => `x => x + ${n}`;
  // Node has set no flag of V8 when it makes the code of its modules
  const program = `process.stdout.write(new (require('node:vm').Script)(${JSON.stringify(source(0))}).createCachedData().toString('base64'))`;
  const { stdout } = await promisify(execFile)(process.execPath, ['-e', program]);
  const cachedData = Buffer.from(stdout, 'base64');
  const isRefused = (n: number): boolean | undefined =>
    new Script(source(n), { cachedData }).cachedDataRejected;
  setServiceFlags();
  expect(isRefused(1)).toBe(true);
  const thread = startThread(new URL('../../../src/config/list-thread.js', import.meta.url));
  try {
    expect(isRefused(2)).toBe(false);
    thread.postMessage({ id: 1, kind: 'entries', job: { id: 1, from: 0 } });
    await once(thread, 'message');
    expect(isRefused(3)).toBe(true);
  } finally {
    await thread.terminate();
  }
});

it('lets the young generation grow to the size that costs no speed', async () => {
  const program = `const { sizeYoungGeneration, youngBytes } = await import(${JSON.stringify(new URL('../../../src/lib/thread.ts', import.meta.url).href)});
    const before = youngBytes(); sizeYoungGeneration(); console.log(JSON.stringify([before, youngBytes()].map((b) => b / 2 ** 20)));`;
  const argv = [
    '--import',
    import.meta.resolve('tsx'),
    '--max-semi-space-size=16',
    '--input-type=module',
    '-e',
    program,
  ];
  const { stdout } = await promisify(execFile)(process.execPath, argv);
  const [before = 0, after] = JSON.parse(stdout) as number[];
  expect(after).toBe(Math.max(before, 4));
});
