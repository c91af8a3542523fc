/**
 * The suites of `scripts/test`: `tsx scripts/suites.ts REPORT-DIR PART…` (every: what each commit runs; nightly: all, at length; or parts: check, pure,
 * fuzz, kernel, live, attacks; engine28: what of live and attacks also runs on Engine 28, LAB_ENGINE=28 runs all of a part on it; core: the attacks on the service without what reports; node24: the pure
 * tests that depend on Node, on Node 24; quick: what found most in little time). Suites that mind the time run by themselves or in pairs, the others three at a time: most of theirs is
 * waiting; the fuzzers and the pure tests take what is idle meanwhile. What a suite prints is shown when it ends, and what failed once more at the very end.
 * Leaves REPORT-DIR/totals: "passed failed skipped". Needs root for all but check, pure and fuzz.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { engineOfRun, provideEngine } from '../test/lab/packaged-engine.js';
import { provideNode } from '../test/lab/packaged-node.js';
import { NIGHTLY } from './long.js';
import {
  CHURN,
  type Chosen,
  changedFiles,
  chosenFor,
  NIGHTLY_ONLY,
  ON_ANY_ENGINE,
  ON_CORE,
  ON_ENGINE_28,
  ON_ENGINE_28_ALWAYS,
  TOGETHER,
} from './suite-choice.js';
import {
  countsOf,
  type Ending,
  failuresOf,
  inShort,
  isGood,
  type Report,
  type Totals,
} from './suite-report.js';

const ROOT = join(import.meta.dirname, '..');
/** Suite → seconds of a run that was asked for them (`scripts/test --write-durations`). */
const DURATIONS = join(ROOT, 'test', 'durations.json');
/** A suite that takes longer hangs. `kernel` is forty files in one suite: next to two others on a slow host it takes ten minutes. */
const LIMIT_MS = 900_000;
const KERNEL_LIMIT_MS = 1_800_000;
/** For each target; each run has a new seed, and `npm run fuzz` takes longer ones. */
const FUZZ_SECONDS = { every: 9, nightly: 180 };
/** A churn of a run of every commit; shorter than what measures the memory of the service. */
const CHURN_SECONDS = '75';
const CHURN_SEEDS = 3;
/** In a nightly run all counts are larger. */
const NIGHTLY_LIMIT_FACTOR = 6;
/** Suites at a time: three keep two cores busy, since a suite waits most of its time. */
const LANES = 3;
/** Bounds of time on a quiet host: another lab on the same cores would be measured, too. Other suites must not have any. */
const ALONE = ['live/timing'];
/** What they claim happens within a second or so: two at a time, before the others. */
const IN_PAIRS = ['live/revoke', 'live/floods', 'live/emergency', 'live/near'];
/** Environment of these suites. */
const ENV_28 = { LAB_ENGINE: '28' };

interface Suite {
  readonly name: string;
  readonly argv: readonly string[];
  readonly alone: boolean;
  readonly env?: Readonly<Record<string, string>>;
  /** vitest leaves a report; other programs count by their exit code. */
  readonly report?: string;
  /** ms; LIMIT_MS unless it is another one. */
  readonly limit?: number;
  /** Test files that must have a result; left out: not known. */
  readonly files?: readonly string[];
}

const [reports = '', ...words] = process.argv.slice(2);
const isNightly = words.includes('nightly');
const limitFactor = isNightly ? NIGHTLY_LIMIT_FACTOR : 1;
if (isNightly) Object.assign(process.env, { ...NIGHTLY, ...process.env });
const running = new Set<ChildProcess>();
const totals: Totals = { passed: 0, failed: 0, skipped: 0 };
const failures: string[] = [];
/** Seconds that each suite took. */
const durations = new Map<string, number>();

function vitest(name: string, project: string, files: readonly string[] = []): Suite {
  const report = join(reports, `${name.replaceAll('/', '-')}.json`);
  const argv = ['node_modules/.bin/vitest', 'run', '--project', project, ...files];
  return {
    name,
    argv: [...argv, '--reporter=default', '--reporter=json', `--outputFile.json=${report}`],
    alone: ALONE.includes(name),
    report,
    ...(files.length === 0 ? {} : { files }),
  };
}

const pure = vitest('pure', 'pure');
/** The names of the suites of one part, each of one file. */
const suitesIn = (part: 'live' | 'attacks'): string[] =>
  readdirSync(join(ROOT, 'test', part))
    .filter((f) => f.endsWith('.test.ts'))
    .sort()
    .map((f) => `${part}/${f.slice(0, -'.test.ts'.length)}`);
/** The suites of these names. Those that share a process are one suite. */
function filesOf(names: readonly string[]): Suite[] {
  const groups = new Map<string, string[]>();
  for (const name of names) {
    const [part = '', file = ''] = name.split('/');
    const group = Object.entries(TOGETHER).find(([of, files]) => of.startsWith(part) && files.includes(file));
    const key = group?.[0] ?? name;
    groups.set(key, [...(groups.get(key) ?? []), name]);
  }
  return [...groups].map(([name, members]) =>
    vitest(
      members.length === 1 ? (members[0] ?? name) : name,
      name.startsWith('live/') ? 'lab' : 'attacks',
      members.map((m) => `test/${m}.test.ts`),
    ),
  );
}

/** What takes long and seldom fails alone: left out of `quick`. */
const NOT_QUICK = ['attacks/churn', 'attacks/kill-steps', 'attacks/reuse'];
const QUICK_KERNEL = ['dns/', 'netlink/', 'threats/', 'redis/store.test.ts'];
const kernelFiles = (): string[] =>
  readdirSync(join(ROOT, 'test', 'kernel'), { recursive: true })
    .map(String)
    .filter((f) => f.endsWith('.test.ts'))
    .sort();
const kernelSuite = (files: readonly string[]): Suite => ({
  ...vitest('kernel', 'kernel'),
  limit: KERNEL_LIMIT_MS,
  files: files.map((f) => `test/kernel/${f}`),
});
/** The kernel tests but for the long ones of the stores. */
function quickKernel(): Suite {
  const isQuick = (f: string): boolean =>
    !f.includes('/') || QUICK_KERNEL.some((wanted) => f.startsWith(wanted));
  const suite = kernelSuite(kernelFiles().filter(isQuick));
  return { ...suite, argv: [...suite.argv, ...(suite.files ?? [])] };
}

const suitesOnEngine28 = (): string[] =>
  [...suitesIn('live'), ...suitesIn('attacks')]
    .filter((name) => ON_ENGINE_28.some((wanted) => name.startsWith(wanted)))
    .filter((name) => !ON_ANY_ENGINE.includes(name));
const variant = (suite: Suite, title: string, suffix: string, env: Suite['env']): Suite => {
  const report = suite.report?.replace(/\.json$/, `-${suffix}.json`) ?? '';
  const argv = [...suite.argv.slice(0, -1), `--outputFile.json=${report}`];
  return { ...suite, name: `${suite.name} on ${title}`, argv, report, ...(env && { env }) };
};
const onEngine28 = (suite: Suite): Suite => variant(suite, 'Engine 28', '28', ENV_28);
const onCore = (suite: Suite): Suite => variant(suite, 'the core', 'core', { LAB_SERVICE: 'core' });

/**
 * What the pure tests on Node 24 leave out, because no release of Node can change its result: files that compare the repository with itself or with
 * another program, and properties of the compiler of rules and of ranges, which calculate with values of ECMAScript. What uses a library of Node
 * (sockets, files, threads, names, Unicode, compression) runs on both.
 */
const ON_ANY_NODE = [
  'docs/**',
  '{attacks,bench,mutants,packages,suite-report,units}.test.ts',
  'cli/{completion,lazy-start}.test.ts',
  'ruleset/{deny-rules,host-identity,kept-members,observed,recompile,verdicts}.test.ts',
  'threats/{name-table,ranges,real-feeds}.test.ts',
].map((files) => `--exclude=test/pure/${files}`);
/** With what is idle, behind all others: its tests wait for a third of their time. */
const whenIdle = (argv: readonly string[]): string[] => ['nice', '-n', '15', ...argv, '--testTimeout=240000'];
const onNode24 = (suite: Suite): Suite => {
  const [, ...args] = suite.argv.slice(0, -1);
  const report = join(reports, 'pure-node24.json');
  const vitestOfNode = [node24, 'node_modules/vitest/vitest.mjs', ...args, `--outputFile.json=${report}`];
  const argv = whenIdle([...vitestOfNode, '--maxWorkers=1', ...ON_ANY_NODE]);
  return { ...suite, name: 'pure on Node 24', argv, report };
};

/** A new seed each run, which it prints: with it, the same inputs can be tried again. */
const fuzz = (seconds: number): Suite => ({
  name: 'fuzz',
  argv: ['nice', '-n', '19', 'node_modules/.bin/tsx', 'test/fuzz/main.ts', '--seconds', `${seconds}`],
  alone: false,
  limit: KERNEL_LIMIT_MS,
});
/** Of each commit: without what runs each night, unless the change touches it. */
const shortSuites = (part: 'live' | 'attacks'): Suite[] =>
  filesOf(suitesIn(part).filter((name) => !NIGHTLY_ONLY.includes(name) || chosen.suites.has(name))).map(
    (suite) =>
      suite.name === CHURN && !chosen.suites.has(CHURN)
        ? { ...suite, env: { CHURN: CHURN_SECONDS, ...onlyGiven('CHURN') } }
        : suite,
  );
/** A variable that the caller has set prevails. */
const onlyGiven = (name: string): Record<string, string> => {
  const value = process.env[name];
  return value === undefined ? {} : { [name]: value };
};
/** The churn again, with seeds that no run had before. */
const churns = (): Suite[] =>
  Array.from({ length: CHURN_SEEDS - 1 }, (_, n) => {
    const seed = `${(Date.now() + n) % 1_000_000}`;
    const [suite] = filesOf([CHURN]);
    if (suite === undefined) throw new Error(`no suite is called ${CHURN}`);
    const report = join(reports, `churn-${seed}.json`);
    const argv = [...suite.argv.slice(0, -1), `--outputFile.json=${report}`];
    return { ...suite, name: `${CHURN} with seed ${seed}`, argv, report, env: { SEED: seed } };
  });

const PARTS: Record<string, () => readonly Suite[]> = {
  check: () => [{ name: 'check', argv: ['npm', 'run', '--silent', 'check'], alone: false }],
  pure: () => [{ ...pure, argv: whenIdle([...pure.argv, '--maxWorkers=100%']) }],
  fuzz: () => [fuzz(FUZZ_SECONDS.every)],
  'fuzz-long': () => [fuzz(FUZZ_SECONDS.nightly)],
  node24: () => [onNode24(vitest('pure', 'pure'))],
  kernel: () => [kernelSuite(kernelFiles())],
  live: () => filesOf(suitesIn('live')),
  attacks: () => filesOf(suitesIn('attacks')),
  core: () => filesOf(ON_CORE).map(onCore),
  quick: () => [
    ...(PARTS.check?.() ?? []),
    ...(PARTS.pure?.() ?? []),
    quickKernel(),
    ...filesOf(suitesIn('attacks').filter((name) => !NOT_QUICK.includes(name))),
  ],
  engine28: () => filesOf(suitesOnEngine28()).map(onEngine28),
  'engine28-short': () =>
    filesOf(suitesOnEngine28().filter((name) => ON_ENGINE_28_ALWAYS.includes(name))).map(onEngine28),
  'live-short': () => shortSuites('live'),
  'attacks-short': () => shortSuites('attacks'),
  'churn-seeds': churns,
};

/** The parts that the words `every` and `nightly` run. */
const MEANS: Readonly<Record<string, () => readonly string[]>> = {
  every: () => [
    'check',
    'pure',
    'fuzz',
    'kernel',
    'live-short',
    'attacks-short',
    chosen.engine28 ? 'engine28' : 'engine28-short',
    ...(chosen.node24 ? ['node24'] : []),
    ...(chosen.core ? ['core'] : []),
  ],
  nightly: () => [
    'check',
    'pure',
    'fuzz-long',
    'kernel',
    'live',
    'attacks',
    'core',
    'churn-seeds',
    'engine28',
    'node24',
  ],
};
const chosen: Chosen = chosenFor(words.includes('every') ? changedFiles(ROOT) : []);
const parts = words.flatMap((word) => MEANS[word]?.() ?? [word]);
if (words.includes('every')) process.stdout.write(`\n== ${chosen.why}\n`);

/** Ends the suite's whole process group: what it started must not outlive it. */
function kill(child: ChildProcess, signal: NodeJS.Signals): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/** What the processes of a suite are doing: when it hangs, its output does not show where. */
function processesOf(child: ChildProcess): string {
  const columns = 'pid,ppid,stat,etimes,cputimes,wchan:24,args';
  const { stdout } = spawnSync('ps', ['-o', columns, '--forest', '-s', `${child.pid}`], { encoding: 'utf8' });
  const lines = (stdout ?? '').split('\n').map((line) => line.slice(0, 200));
  return `\nprocesses when it was killed:\n${lines.join('\n')}`;
}

function run({ argv, env, limit: usual = LIMIT_MS }: Suite): Promise<Ending> {
  const limit = usual * limitFactor;
  const began = performance.now();
  return new Promise((resolve, reject) => {
    const child = spawn(argv[0] as string, argv.slice(1), {
      cwd: ROOT,
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, FORCE_COLOR: '0', ...env },
    });
    running.add(child);
    const output: Buffer[] = [];
    let late = '';
    const timer = setTimeout(() => {
      late = processesOf(child);
      kill(child, 'SIGTERM');
      setTimeout(() => kill(child, 'SIGKILL'), 30_000).unref();
    }, limit);
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (chunk: Buffer) => output.push(chunk));
    child.once('error', reject);
    child.once('close', (code, signal) => {
      clearTimeout(timer);
      running.delete(child);
      resolve({
        code,
        signal,
        ...(late === '' ? {} : { killedAfter: limit / 1000 }),
        seconds: Math.round((performance.now() - began) / 1000),
        output: `${Buffer.concat(output).toString()}${late}`,
      });
    });
  });
}

const readReport = (suite: Suite): Report | undefined =>
  suite.report !== undefined && existsSync(suite.report)
    ? (JSON.parse(readFileSync(suite.report, 'utf8')) as Report)
    : undefined;

/** Programs other than vitest leave no report: they count as one test. */
function totalsOf(suite: Suite, report: Report | undefined, ending: Ending): Totals {
  if (suite.report !== undefined) return countsOf(report, ending);
  return isGood(ending) ? { passed: 1, failed: 0, skipped: 0 } : { passed: 0, failed: 1, skipped: 0 };
}

async function runSuite(suite: Suite): Promise<void> {
  const ending = await run(suite);
  const report = readReport(suite);
  const { passed, failed, skipped } = totalsOf(suite, report, ending);
  if (failed > 0) failures.push(...failuresOf(suite.name, suite.files ?? [], report, ending));
  totals.passed += passed;
  totals.failed += failed;
  totals.skipped += skipped;
  const { killedAfter, seconds, output } = ending;
  durations.set(suite.name, seconds);
  const end = killedAfter === undefined ? '' : `; it did not end within ${killedAfter} s`;
  const counts = `${passed} passed, ${failed} failed, ${skipped} skipped`;
  process.stdout.write(`\n== ${suite.name}\n${output}-- ${suite.name}: ${counts} in ${seconds} s${end}\n`);
}

async function lane(waiting: Suite[]): Promise<void> {
  for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) await runSuite(next);
}

/** ms of all processors since the boot. */
function processorTime(): { readonly idle: number; readonly all: number } {
  const times = cpus().map((cpu) => cpu.times);
  const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
  return { idle: sum(times.map((t) => t.idle)), all: sum(times.flatMap((t) => Object.values(t))) };
}

const phases: string[] = [];
async function phase(name: string, lanes: readonly Promise<void>[]): Promise<void> {
  const before = processorTime();
  const began = performance.now();
  await Promise.all(lanes);
  const after = processorTime();
  const unused = Math.round((100 * (after.idle - before.idle)) / Math.max(1, after.all - before.all));
  phases.push(`${name} ${Math.round((performance.now() - began) / 1000)} (${unused} %)`);
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
  process.on(signal, () => {
    for (const child of running) kill(child, 'SIGTERM');
    process.exit(130);
  });

/** Why the suites on Engine 28 cannot run; undefined when they can or when none is wanted. */
async function withoutEngine28(): Promise<string | undefined> {
  if (process.env.LAB_ENGINE_DIR) return provideEngine(engineOfRun()).then(() => undefined); // a fault there is an error
  if (engineOfRun() !== '28' && !parts.some(isOnEngine28)) return undefined;
  return provideEngine('28').then(
    () => undefined,
    (e: Error) => e.message,
  );
}
const isOnEngine28 = (part: string): boolean => part.startsWith('engine28');
const needsEngine28 = (part: string): boolean =>
  isOnEngine28(part) || (engineOfRun() === '28' && /^(live|attacks)/.test(part));

let node24 = '';
/** Why the pure tests cannot run on Node 24. */
const withoutNode24 = (): Promise<string | undefined> =>
  provideNode().then(
    (program) => {
      node24 = program;
      return undefined;
    },
    (e: Error) => e.message,
  );

/** Part → why it cannot run here. */
const missing = new Map<string, string>();
// both are downloads where this machine does not have them yet
const [withoutEngine, withoutNode] = await Promise.all([
  withoutEngine28(),
  parts.includes('node24') ? withoutNode24() : undefined,
]);
for (const part of parts.filter(needsEngine28))
  if (withoutEngine !== undefined) missing.set(part, withoutEngine);
if (withoutNode !== undefined) missing.set('node24', withoutNode);
const skippedParts = [...missing.keys()];
const skippedLine = [...missing].map(([part, why]) => `\n== SKIPPED: ${part}: ${why}\n`).join('');
process.stdout.write(skippedLine);
totals.skipped += skippedParts.length;
const suites = parts
  .filter((part) => !skippedParts.includes(part))
  .flatMap((part) => {
    const suitesOf = PARTS[part];
    if (suitesOf === undefined)
      throw new Error(`no part is called ${part}: ${Object.keys(PARTS).join(', ')}`);
    return suitesOf();
  });
await phase('alone', [lane(suites.filter(({ alone }) => alone))]);
const WHEN_IDLE = ['pure', 'fuzz', 'pure on Node 24'];
const idle = lane(suites.filter(({ name }) => WHEN_IDLE.includes(name)));
const pairs = suites.filter(({ name }) => IN_PAIRS.includes(name));
await phase('in pairs', [lane(pairs), lane(pairs)]);
const together = suites.filter(({ alone, name }) => !alone && ![...IN_PAIRS, ...WHEN_IDLE].includes(name));
/** Longest first: the last suites to end are short ones. A suite without a duration may be long. */
const expected = JSON.parse(readFileSync(DURATIONS, 'utf8')) as Record<string, number>;
const secondsOf = ({ name }: Suite): number => expected[name] ?? LIMIT_MS / 1000;
const others = together.sort((a, b) => secondsOf(b) - secondsOf(a));
await phase(`${LANES} at a time`, [...Array.from({ length: LANES }, () => lane(others)), idle]);
process.stdout.write(skippedLine);
const slowest = [...durations].sort(([, a], [, b]) => b - a).map(([name, seconds]) => `${name} ${seconds}`);
process.stdout.write(`\n== seconds of each suite\n${slowest.join(', ')}\n`);
process.stdout.write(
  `\n== seconds of each phase, and how much of the processors nothing used\n${phases.join(', ')}\n`,
);
if (process.env.WRITE_DURATIONS === '1') {
  const sorted = Object.entries({ ...expected, ...Object.fromEntries(durations) }).sort(
    ([, a], [, b]) => b - a,
  );
  writeFileSync(DURATIONS, `${JSON.stringify(Object.fromEntries(sorted), null, 2)}\n`);
}
if (failures.length > 0) {
  process.stdout.write(`\n== what failed\n${failures.join('\n\n')}\n`);
  // of a log that is cut, its end is left
  process.stdout.write(`\n== in short\n${failures.map(inShort).join('\n')}\n`);
}
writeFileSync(join(reports, 'totals'), `${totals.passed} ${totals.failed} ${totals.skipped}\n`);
