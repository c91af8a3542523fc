import { defineConfig } from 'vitest/config';

// Node reads all certificates of this file whenever a process starts, which takes twice as long as the rest of a small program. Tests name the
// certificates that they need.
delete process.env.NODE_EXTRA_CA_CERTS;

/** A failure's message names what differs: in a log that was cut it is all that is left. */
const chaiConfig = { truncateThreshold: 2_000 };
/** Milliseconds within which a polled condition must hold: a test must not depend on the speed of the machine. */
const expect = { poll: { timeout: 20_000 } };

/** pure: no root, seconds. kernel: root, throw-away network namespaces. lab, attacks: root, a real Docker engine. */
export default defineConfig({
  test: {
    // scripts/test starts vitest some hundred times, and each time would transform the same modules. The key of a module has its content.
    experimental: { fsModuleCache: true },
    projects: [
      {
        test: {
          name: 'pure',
          chaiConfig,
          expect,
          include: ['test/pure/**/*.test.ts'],
          globalSetup: ['scripts/test-parts.mjs'],
          testTimeout: 60_000,
          // Half of the processor time went into loading the same modules for each file.
          isolate: false,
        },
      },
      {
        test: {
          name: 'kernel',
          chaiConfig,
          expect,
          include: ['test/kernel/**/*.test.ts'],
          globalSetup: ['scripts/test-parts.mjs'],
          fileParallelism: false,
          isolate: false,
          testTimeout: 60_000,
          hookTimeout: 60_000,
        },
      },
      {
        test: {
          name: 'lab',
          chaiConfig,
          expect,
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
          expect,
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
