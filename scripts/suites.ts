/**
 * The suites of `scripts/test`: `tsx scripts/suites.ts REPORT-DIR PART…` (check, pure, fuzz, kernel, live, attacks;
 * engine28: what of live and attacks also runs on Engine 28, LAB_ENGINE=28 runs all of a part on it; node24: the pure
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
/** A suite that takes longer hangs. `kernel` is forty files in one suite: next to two others on a slow host it takes ten minutes. */
const LIMIT_MS = 900_000;
const KERNEL_LIMIT_MS = 1_800_000;
/** For each target; each run has a new seed, and `npm run fuzz` takes longer ones. */
const FUZZ_SECONDS = 9;
/** Suites at a time: three keep two cores busy, since a suite waits most of its time. */
const LANES = 3;
/** Bounds of time on a quiet host: another lab on the same cores would be measured, too. Other suites must not have any. */
const ALONE = ['live/timing'];
/** What they claim happens within a second or so: two at a time, before the others. */
const IN_PAIRS = ['live/revoke', 'live/floods', 'live/emergency', 'live/near'];
/** They take longest, so they start first: the last suites to end are short ones. */
const LONGEST = [
  'live/host-mode',
  'live/chaos',
  'live/policy-direct',
  'kernel',
  'attacks/kill-steps',
  'attacks/churn',
  'live/boot',
  'live/coverage',
  'live/policy-loopback',
  'attacks/heirs',
  'live/chaos-controller',
  'live/neighbours',
  'live/docker-watch',
];

/**
 * Short suites that share a process of vitest: its start takes more processor time than another file in it. Each file has its own worker.
 */
const TOGETHER: Readonly<Record<string, readonly string[]>> = {
  'attacks/names': ['names-fakes', 'names-http', 'names-quic', 'names-segments', 'names-tls'],
  'attacks/forms': ['extensions', 'icmp', 'ipv6-forms', 'multicast', 'raw-ip', 'tcp-udp'],
  'attacks/flows': ['helpers', 'revoked', 'riding', 'split', 'threats'],
  'attacks/frames': ['bridges', 'ethernet', 'spoofing'],
  'attacks/generators': ['generate', 'generate-streams'],
  'attacks/dns': ['dns-names', 'dns-tunnels'],
  'attacks/holders': ['identity', 'relay', 'reuse'],
  'live/asks': ['api', 'ask', 'events-out', 'late-names', 'limits'],
  'live/kept': ['kept-code', 'lab', 'legitimate-build', 'passed-flows', 'upgrade'],
  'live/recipes': ['recipes-builds', 'recipes-services'],
  'live/lists': ['clock', 'deny', 'feeds', 'fleet', 'labels', 'own-terms', 'reporting', 'two'],
  'live/starts': [
    'canary',
    'chaos-legacy',
    'first-start',
    'flow-mix',
    'host-mode-legacy',
    'kept-rules',
    'past-bridge',
  ],
  'live/names': ['connection-names', 'encrypted-hellos', 'names-race'],
  'live/programs': ['legitimate-compose', 'legitimate-packages', 'legitimate-traffic', 'newcomer', 'swarm'],
};

/** What depends on the engine: its events, its network set-up, its rules, its resolver, its cgroups. */
const ON_ENGINE_28 = [
  'live/observe-to-enforce',
  'live/timing',
  'live/lifecycle',
  'live/races',
  'live/policy-loopback',
  'live/host-mode',
  'attacks/',
];
/** Forms of packets and of DNS messages, which our rules and resolver alone evaluate, and what mixes or repeats what other suites try: they run on one engine; `scripts/test --engine 28` runs them there too. */
const ON_ANY_ENGINE = [
  'attacks/bridges',
  'attacks/churn',
  'attacks/dns-answers',
  'attacks/dns-names',
  'attacks/dns-tunnels',
  'attacks/ethernet',
  'attacks/extensions',
  'attacks/generate',
  'attacks/generate-streams',
  'attacks/heirs',
  'attacks/helpers',
  'attacks/icmp',
  'attacks/image-labels',
  'attacks/ipv6-forms',
  'attacks/kill-steps',
  'attacks/multicast',
  'attacks/names-fakes',
  'attacks/names-host',
  'attacks/names-http',
  'attacks/names-quic',
  'attacks/names-segments',
  'attacks/names-service',
  'attacks/names-tls',
  'attacks/raw-ip',
  'attacks/revoked',
  'attacks/riding',
  'attacks/split',
  'attacks/spoofing',
  'attacks/tcp-udp',
  'attacks/threats',
];
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

const [reports = '', ...parts] = process.argv.slice(2);
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

const variant = (suite: Suite, title: string, suffix: string, env: Suite['env']): Suite => {
  const report = suite.report?.replace(/\.json$/, `-${suffix}.json`) ?? '';
  const argv = [...suite.argv.slice(0, -1), `--outputFile.json=${report}`];
  return { ...suite, name: `${suite.name} on ${title}`, argv, report, ...(env && { env }) };
};
const onEngine28 = (suite: Suite): Suite => variant(suite, 'Engine 28', '28', ENV_28);
/** These attacks are also made on the service without all that reports (test/lab/core-service.ts). */
const ON_CORE = ['attacks/dns-tunnels', 'attacks/identity', 'attacks/names-tls', 'attacks/tcp-udp'];
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

const PARTS: Record<string, () => readonly Suite[]> = {
  check: () => [{ name: 'check', argv: ['npm', 'run', '--silent', 'check'], alone: false }],
  pure: () => [{ ...pure, argv: whenIdle([...pure.argv, '--maxWorkers=100%']) }],
  // A new seed each run, which it prints: with it, the same inputs can be tried again.
  fuzz: () => [
    {
      name: 'fuzz',
      argv: [
        'nice',
        '-n',
        '19',
        'node_modules/.bin/tsx',
        'test/fuzz/main.ts',
        '--seconds',
        `${FUZZ_SECONDS}`,
      ],
      alone: false,
    },
  ],
  node24: () => [onNode24(vitest('pure', 'pure'))],
  kernel: () => [kernelSuite(kernelFiles())],
  live: () => filesOf(suitesIn('live')),
  attacks: () => [...filesOf(suitesIn('attacks')), ...filesOf(ON_CORE).map(onCore)],
  quick: () => [
    ...(PARTS.check?.() ?? []),
    ...(PARTS.pure?.() ?? []),
    quickKernel(),
    ...filesOf(suitesIn('attacks').filter((name) => !NOT_QUICK.includes(name))),
  ],
  engine28: () =>
    filesOf(
      [...suitesIn('live'), ...suitesIn('attacks')]
        .filter((name) => ON_ENGINE_28.some((wanted) => name.startsWith(wanted)))
        .filter((name) => !ON_ANY_ENGINE.includes(name)),
    ).map(onEngine28),
};

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

function run({ argv, env, limit = LIMIT_MS }: Suite): Promise<Ending> {
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
  if (engineOfRun() !== '28' && !parts.includes('engine28')) return undefined;
  return provideEngine('28').then(
    () => undefined,
    (e: Error) => e.message,
  );
}
const needsEngine28 = (part: string): boolean =>
  part === 'engine28' || (engineOfRun() === '28' && (part === 'live' || part === 'attacks'));

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
const rank = ({ name }: Suite): number => {
  const place = LONGEST.indexOf(name.split(' ')[0] ?? '');
  return place < 0 ? LONGEST.length : place;
};
const others = together.sort((a, b) => rank(a) - rank(b));
await phase(`${LANES} at a time`, [...Array.from({ length: LANES }, () => lane(others)), idle]);
process.stdout.write(skippedLine);
/** The order of LONGEST follows these. */
const slowest = [...durations].sort(([, a], [, b]) => b - a).map(([name, seconds]) => `${name} ${seconds}`);
process.stdout.write(`\n== seconds of each suite\n${slowest.join(', ')}\n`);
process.stdout.write(
  `\n== seconds of each phase, and how much of the processors nothing used\n${phases.join(', ')}\n`,
);
if (failures.length > 0) {
  process.stdout.write(`\n== what failed\n${failures.join('\n\n')}\n`);
  // of a log that is cut, its end is left
  process.stdout.write(`\n== in short\n${failures.map(inShort).join('\n')}\n`);
}
writeFileSync(join(reports, 'totals'), `${totals.passed} ${totals.failed} ${totals.skipped}\n`);
