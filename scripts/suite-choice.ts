/**
 * Which suites `scripts/test` runs: what shares a process, what runs on Engine 28, and what only a nightly run has, unless the change touches it
 * (test/README.md has the reasons).
 */
import { spawnSync } from 'node:child_process';

/**
 * Short suites that share a process of vitest: its start takes more processor time than another file in it. Each file has its own worker.
 */
export const TOGETHER: Readonly<Record<string, readonly string[]>> = {
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
export const ON_ENGINE_28 = [
  'live/observe-to-enforce',
  'live/timing',
  'live/lifecycle',
  'live/races',
  'live/policy-loopback',
  'live/host-mode',
  'attacks/',
];
/** Forms of packets and of DNS messages, which our rules and resolver alone evaluate, and what mixes or repeats what other suites try: they run on one engine; `scripts/test --engine 28` runs them there too. */
export const ON_ANY_ENGINE = [
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
/** What each commit runs on Engine 28: each class of difference between the engines, once. */
export const ON_ENGINE_28_ALWAYS = ['attacks/identity', 'live/lifecycle', 'live/observe-to-enforce'];

/** These attacks are also made on the service without all that reports (test/lab/core-service.ts). */
export const ON_CORE = ['attacks/dns-tunnels', 'attacks/identity', 'attacks/names-tls', 'attacks/tcp-udp'];

/** They run each night, and for a commit that changes them (`TOUCHED`). */
export const NIGHTLY_ONLY = [
  'live/legitimate-compose',
  'live/legitimate-packages',
  'live/recipes-builds',
  'live/recipes-services',
];
/** Each commit runs it for a shorter time, unless its change touches it. */
export const CHURN = 'attacks/churn';

/** What of a nightly run a change adds to the run of its commit. */
export interface Chosen {
  /** Names of suites, of NIGHTLY_ONLY or CHURN. */
  readonly suites: ReadonlySet<string>;
  /** All that depends on the engine, in place of ON_ENGINE_28_ALWAYS. */
  readonly engine28: boolean;
  readonly node24: boolean;
  /** The attacks on the service without what reports. */
  readonly core: boolean;
  /** A line for the log. */
  readonly why: string;
}

const RECIPES = ['live/recipes-builds', 'live/recipes-services'];
const PROGRAMS = ['live/legitimate-compose', 'live/legitimate-packages'];
const ALL = [...NIGHTLY_ONLY, CHURN, 'core', 'engine28', 'node24'];
/** Beginning of a path → what a change below it adds. */
export const TOUCHED: readonly (readonly [paths: readonly string[], adds: readonly string[]])[] = [
  [['scripts/test', 'scripts/suite', 'scripts/long.ts', 'vitest.config.ts', '.ci/'], ALL],
  [
    ['package.json', 'package-lock.json'],
    ['engine28', 'node24', ...PROGRAMS],
  ],
  [['src/core-service.ts', 'src/app.ts', 'test/lab/core-service.ts'], ['core']],
  [['src/docker/', 'src/namespaces/', 'src/enforce/host-cgroups.ts', 'test/lab/'], ['engine28']],
  [['src/lib/', 'scripts/build.mjs', 'scripts/bundles.mjs', 'test/lab/packaged-node.ts'], ['node24']],
  [['docs/recipes/', 'test/live/recipe', 'src/suggest/', 'allowlists/'], RECIPES],
  [
    ['src/connections/', 'allowlists/', 'test/live/compose-support.ts', 'test/live/package-tools.ts'],
    PROGRAMS,
  ],
  [['src/store/', 'src/changes/', 'test/attacks/churn'], [CHURN]],
];

/** @param changed paths below the root of the repository; undefined: not known, which adds everything. */
export function chosenFor(changed: readonly string[] | undefined): Chosen {
  const isBelow = (paths: readonly string[]): boolean =>
    (changed ?? []).some((file) => paths.some((path) => file.startsWith(path)));
  const added = new Set(
    changed === undefined ? ALL : TOUCHED.flatMap(([paths, adds]) => (isBelow(paths) ? adds : [])),
  );
  for (const name of [...NIGHTLY_ONLY, CHURN]) if (isBelow([`test/${name}.test.ts`])) added.add(name);
  const names = added.size === 0 ? 'nothing' : [...added].sort().join(', ');
  const why =
    changed === undefined
      ? 'git does not show what changed: with all that the parts of a nightly run add'
      : `${changed.length} files changed, which adds: ${names}`;
  const [engine28, node24, core] = ['engine28', 'node24', 'core'].map((word) => added.delete(word));
  return { suites: added, engine28: engine28 === true, node24: node24 === true, core: core === true, why };
}

/**
 * Paths of the files that differ from the base: the commit in the environment variable BASE; otherwise what the branch has in common with origin/main, or,
 * where that is the commit itself, its first parent. undefined when git cannot say: no repository, or a shallow or first commit.
 */
export function changedFiles(root: string): readonly string[] | undefined {
  const git = (...args: readonly string[]): string | undefined => {
    const { status, stdout } = spawnSync('git', args, { cwd: root, encoding: 'utf8' });
    return status === 0 ? stdout.trim() : undefined;
  };
  const head = git('rev-parse', 'HEAD');
  const common = git('merge-base', 'HEAD', 'origin/main');
  const base = process.env.BASE || (common === undefined || common === head ? 'HEAD^' : common);
  const changed = git('diff', '--name-only', '--no-renames', base);
  const untracked = git('ls-files', '--others', '--exclude-standard');
  if (changed === undefined || untracked === undefined) return undefined;
  return `${changed}\n${untracked}`.split('\n').filter((line) => line !== '');
}
