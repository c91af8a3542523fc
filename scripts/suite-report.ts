/** What `scripts/suites.ts` prints about a suite that failed: its failed tests, or why the whole suite failed. */
import { stripVTControlCharacters } from 'node:util';

/** The part of vitest's JSON report that is used. */
export interface Report {
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly numPendingTests: number;
  readonly numTodoTests: number;
  readonly testResults: readonly {
    readonly name?: string;
    readonly message?: string;
    readonly assertionResults: readonly {
      readonly fullName: string;
      readonly status: string;
      readonly failureMessages?: readonly string[] | null;
    }[];
  }[];
}
/** How the process of a suite ended. */
export interface Ending {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  /** It was killed after this many seconds. */
  readonly killedAfter?: number;
  readonly seconds: number;
  readonly output: string;
}
export interface Totals {
  passed: number;
  failed: number;
  skipped: number;
}

/** Of each failure at most so many lines are repeated at the end, where a log that was cut still has them. */
const MOST_LINES = 40;
/** Of the end of the output, when the reason is shown too. */
const LAST_LINES = 15;

export const isGood = ({ code, killedAfter }: Ending): boolean => code === 0 && killedAfter === undefined;

/** A failure outside of any test (an import, a hook, a crashed worker, the time limit) counts as one. */
export function countsOf(report: Report | undefined, ending: Ending): Totals {
  const counts = {
    passed: report?.numPassedTests ?? 0,
    failed: report?.numFailedTests ?? 0,
    skipped: (report?.numPendingTests ?? 0) + (report?.numTodoTests ?? 0),
  };
  if (!isGood(ending) && counts.failed === 0) counts.failed = 1;
  return counts;
}

/** Without the frames of the test runner, which do not help to find a failure. */
const short = (text: string): string[] =>
  text
    .split('\n')
    .filter((line) => !line.includes('/node_modules/'))
    .slice(0, MOST_LINES);

/** One text for each failed test; without any, one text that says how the suite ended, and why. */
export function failuresOf(
  suite: string,
  files: readonly string[],
  report: Report | undefined,
  ending: Ending,
): string[] {
  const text = (what: string, lines: readonly string[]): string =>
    [`-- ${suite}: ${what}`, ...lines].join('\n');
  const failed = (report?.testResults ?? []).flatMap(({ message, assertionResults }) => {
    const tests = assertionResults.filter(({ status }) => status === 'failed');
    if (tests.length === 0 && message) return [text('outside of a test', short(message))];
    return tests.map((t) => text(t.fullName, short((t.failureMessages ?? []).join('\n'))));
  });
  if (failed.length > 0) return failed;
  return [text(howItEnded(ending), whyItFailed(files, ending))];
}

const SHORT = 300;
/** The first two lines of a failure, its test and the reason, cut. */
export const inShort = (failure: string): string =>
  failure
    .split('\n', 2)
    .map((line) => line.slice(0, SHORT))
    .join('\n   ');

function howItEnded({ code, signal, killedAfter, seconds }: Ending): string {
  if (killedAfter !== undefined) return `no test failed, but it did not end within ${killedAfter} s`;
  const how = signal === null ? `exit code ${code}` : `killed by ${signal}`;
  return `no test failed, but ${how} after ${seconds} s`;
}

function whyItFailed(files: readonly string[], ending: Ending): string[] {
  const lines = stripVTControlCharacters(ending.output).trimEnd().split('\n');
  const missing = files.filter((file) => !lines.some((line) => isResultOf(file, line)));
  return [
    ...unhandledErrors(lines),
    ...(missing.length > 0 ? ['files without a result:', ...missing.map((f) => `  ${f}`)] : []),
    'its last lines:',
    ...lines.slice(-LAST_LINES),
  ];
}

/** vitest prints such a line for each file that has ended, when its output is no terminal. */
const isResultOf = (file: string, line: string): boolean =>
  /^ [✓❯×↓] /.test(line) && line.includes(` ${file} `);

const SECTION = /Unhandled (?:Errors|Rejection)|Uncaught Exception/;
const REASON = /\b(?:Error|exited unexpectedly|timed out|Segmentation fault|FATAL)\b/;

/** The section of vitest's output about unhandled errors; without one, each line that looks like a reason. */
function unhandledErrors(lines: readonly string[]): string[] {
  const start = lines.findIndex((line) => SECTION.test(line));
  if (start >= 0)
    return lines
      .slice(start)
      .filter((line) => line.trim() !== '' && !line.includes('node_modules/'))
      .slice(0, MOST_LINES);
  return lines.filter((line) => REASON.test(line)).slice(-MOST_LINES);
}
