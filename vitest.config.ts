import { defineConfig } from 'vitest/config';

/** A failure's message names what differs: in a log that was cut it is all that is left. */
const chaiConfig = { truncateThreshold: 2_000 };

/** pure: no root, seconds. kernel: root, throw-away network namespaces. lab, attacks: root, a real Docker engine. */
export default defineConfig({
  test: {
    projects: [
      { test: { name: 'pure', chaiConfig, include: ['test/pure/**/*.test.ts'], testTimeout: 60_000 } },
      {
        test: {
          name: 'kernel',
          chaiConfig,
          include: ['test/kernel/**/*.test.ts'],
          fileParallelism: false,
          testTimeout: 60_000,
          hookTimeout: 60_000,
        },
      },
      {
        test: {
          name: 'lab',
          chaiConfig,
          include: ['test/live/**/*.test.ts'],
          fileParallelism: false,
          testTimeout: 300_000,
          hookTimeout: 180_000,
        },
      },
      {
        test: {
          name: 'attacks',
          chaiConfig,
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
