/** A suite that fails without a failed test must show why: its own output is far above the end of the log, or cut. */
import { expect, it } from 'vitest';
import { countsOf, type Ending, failuresOf, inShort, type Report } from '../../scripts/suite-report.js';

const ending = (over: Partial<Ending>): Ending => ({
  code: 1,
  signal: null,
  seconds: 301,
  output: '',
  ...over,
});
const report = (tests: Report['testResults'][number]['assertionResults'], message = ''): Report => ({
  numPassedTests: tests.filter((t) => t.status === 'passed').length,
  numFailedTests: tests.filter((t) => t.status === 'failed').length,
  numPendingTests: 1,
  numTodoTests: 0,
  testResults: [{ message, assertionResults: tests }],
});
const passed = { fullName: 'goes on', status: 'passed' };
const FILES = ['test/kernel/a.test.ts', 'test/kernel/b.test.ts'];
const one = (files: readonly string[], r: Report | undefined, e: Ending): string =>
  failuresOf('kernel', files, r, e).join('\n\n');

it('counts a suite that fails as a whole as one failure, and nothing twice', () => {
  expect(countsOf(report([passed]), ending({ code: 0 }))).toEqual({ passed: 1, failed: 0, skipped: 1 });
  expect(countsOf(report([passed]), ending({}))).toEqual({ passed: 1, failed: 1, skipped: 1 });
  expect(countsOf(report([{ fullName: 'x', status: 'failed' }]), ending({}))).toMatchObject({ failed: 1 });
  expect(countsOf(undefined, ending({ code: null, signal: 'SIGKILL' }))).toMatchObject({ failed: 1 });
  // vitest ends with 0 when it is asked to end, and a process that it left may keep its output open
  expect(countsOf(report([passed]), ending({ code: 0, killedAfter: 900 }))).toMatchObject({ failed: 1 });
});

it('shows the failed tests and what failed outside of a test, without the frames of the runner', () => {
  const failureMessages = [
    'AssertionError: expected 1\n    at /x/node_modules/vitest/a.js:1\n    at /x/a.test.ts:2',
  ];
  const text = one(
    FILES,
    report([passed, { fullName: 'ends', status: 'failed', failureMessages }]),
    ending({}),
  );
  expect(text).toBe('-- kernel: ends\nAssertionError: expected 1\n    at /x/a.test.ts:2');
  expect(one(FILES, report([], 'Cannot find module'), ending({}))).toBe(
    '-- kernel: outside of a test\nCannot find module',
  );
});

it('shows the unhandled errors of vitest, and the file that has no result', () => {
  const output = [
    ' \u001b[32m✓\u001b[39m \u001b[30m kernel \u001b[39m test/kernel/b.test.ts \u001b[2m(1 test)\u001b[22m 3ms',
    '\u001b[31m⎯⎯⎯ Unhandled Errors ⎯⎯⎯\u001b[39m',
    '',
    '\u001b[31mError\u001b[39m: [vitest-pool]: Worker forks emitted error.',
    ' ❯ EventEmitter.<anonymous> node_modules/vitest/dist/chunks/cli-api.js:7509:22',
    'Caused by: Error: Worker exited unexpectedly',
    ...Array.from({ length: 20 }, (_, i) => `line ${i}`),
  ].join('\n');
  const text = one(FILES, report([passed]), ending({ output }));
  expect(text.split('\n').slice(0, 5)).toEqual([
    '-- kernel: no test failed, but exit code 1 after 301 s',
    '⎯⎯⎯ Unhandled Errors ⎯⎯⎯',
    'Error: [vitest-pool]: Worker forks emitted error.',
    'Caused by: Error: Worker exited unexpectedly',
    'line 0',
  ]);
  expect(text).toContain('files without a result:\n  test/kernel/a.test.ts\nits last lines:');
  expect(text.endsWith('line 19')).toBe(true);
});

it('shows lines that look like a reason when there is no such section, and how the process ended', () => {
  const output = 'close timed out after 10000ms\nall is well\nError: no space\n';
  expect(one([], undefined, ending({ output, code: null, signal: 'SIGKILL' }))).toMatch(
    /^-- kernel: no test failed, but killed by SIGKILL after 301 s\nclose timed out after 10000ms\nError: no space\nits last lines:\n/,
  );
  expect(one(FILES, undefined, ending({ killedAfter: 900 }))).toMatch(
    /^-- kernel: no test failed, but it did not end within 900 s\nfiles without a result:\n {2}test\/kernel\/a.test.ts\n {2}test\/kernel\/b/,
  );
});

it('names each failure and the first line of its reason in short', () => {
  expect(inShort(`-- live/explain: ps counts\nError: ${'x'.repeat(500)}\n    at a.ts:1`)).toBe(
    `-- live/explain: ps counts\n   Error: ${'x'.repeat(293)}`,
  );
});
