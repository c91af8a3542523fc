import { defineConfig } from 'vitest/config';

/** pure: no root, seconds. kernel: root, throw-away network namespaces. lab, attacks: root, a real Docker engine. */
export default defineConfig({
  test: {
    // What differed is said in the message: it may be all that is left of a log.
    chaiConfig: { truncateThreshold: 2_000 },
    projects: [
      { test: { name: 'pure', include: ['test/pure/**/*.test.ts'], testTimeout: 60_000 } },
      {
        test: {
          name: 'kernel',
          include: ['test/kernel/**/*.test.ts'],
          fileParallelism: false,
          testTimeout: 60_000,
          hookTimeout: 60_000,
        },
      },
      {
        test: {
          name: 'lab',
          include: ['test/live/**/*.test.ts'],
          fileParallelism: false,
          testTimeout: 300_000,
          hookTimeout: 180_000,
        },
      },
      {
        test: {
          name: 'attacks',
          include: ['test/attacks/**/*.test.ts'],
          fileParallelism: false,
          maxConcurrency: 6,
          testTimeout: 300_000,
          hookTimeout: 180_000,
        },
      },
    ],
  },
});
