/**
 * Faults of the host, the network and the engine, in two labs at once: a container on bare Docker, and with Drawbridge an enforced and an
 * observed one. Each has a stream, asks DNS once a second and connects each 200 ms. With Drawbridge no more is lost, no stream ends that goes
 * on without, and the enforced container never gets a name that is not permitted.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';

const NAME = 'known.fault.test';
const OTHER = 'other.fault.test';
const SHARED = '93.184.72.1';
const OPEN = '93.184.72.2';
const RESOLVERS = ['198.51.100.54', '198.51.100.53'] as const;
/** The resolver that Docker gives to a container of a user-defined network. */
const DOCKERS = '127.0.0.11';
/** Shorter than Docker's resolver waits for its first server twice: what a fault delays for longer is lost. */
const PATIENCE_MS = '4000';
const CLIENT = `${join(import.meta.dirname, 'steady.mjs')}:/steady.mjs:ro`;
const KINDS = ['tls', 'http', 'known name', 'new name', 'same connection', 'stream'] as const;
type Kind = (typeof KINDS)[number];
/** Connections to the same address, for a name that only the observed container may use. */
const WRONG = ['wrong tls', 'wrong http'] as const;

interface Done {
  readonly kind: Kind | (typeof WRONG)[number];
  readonly began: number;
  readonly ended: number;
  readonly why: string | null;
}
/** One of the two labs, and what runs in it. */
interface Side {
  readonly lab: Lab;
  readonly containers: Readonly<Record<string, Container>>;
}

let bare: Side;
let firewalled: Side;
let drawbridge: Drawbridge;

async function begin(labels: Readonly<Record<string, Readonly<Record<string, string>>>>): Promise<Side> {
  const lab = await Lab.up({ sniffer: false, daemon: { 'live-restore': true } });
  writeFileSync(lab.resolvConf, RESOLVERS.map((r) => `nameserver ${r}\n`).join(''));
  await lab.dns.set({ ...ANSWERS, [OTHER]: { A: [SHARED] } });
  await lab.docker('network', 'create', '--opt', 'com.docker.network.bridge.name=fault', 'fault');
  if (Object.keys(labels).length > 1) {
    drawbridge = lab.drawbridge();
    await drawbridge.ready();
  }
  const start = ([name, own]: [string, Readonly<Record<string, string>>]) =>
    lab
      .start({
        network: 'fault',
        mounts: [CLIENT],
        cmd: ['node', '/steady.mjs', SHARED, NAME, OTHER, OPEN, DOCKERS, PATIENCE_MS],
        labels: own,
      })
      .then((container) => [name, container] as const);
  return { lab, containers: Object.fromEntries(await Promise.all(Object.entries(labels).map(start))) };
}

beforeAll(async () => {
  [bare, firewalled] = await Promise.all([
    begin({ bare: {} }),
    begin({ enforced: { 'drawbridge.allow': `${NAME}, *.new.${NAME}, ${OPEN}` }, observed: {} }),
  ]);
  await Promise.all([working(bare), working(firewalled)]);
}, 180_000);
afterAll(() => Promise.all([bare?.lab.down(), firewalled?.lab.down()]));

async function done(c: Container): Promise<readonly Done[]> {
  const lines = (await c.logs()).trim().split('\n');
  return lines.filter((line) => line.startsWith('{')).map((line) => JSON.parse(line) as Done);
}
/** Three of each kind that began after now have succeeded in each container. */
async function working({ containers }: Side): Promise<void> {
  const from = Date.now();
  const isWorking = async (c: Container): Promise<boolean> => {
    const good = (await done(c)).filter(({ began, why }) => began > from && why === null);
    return KINDS.every((kind) => good.filter((one) => one.kind === kind).length > 2);
  };
  await waitFor(
    'each kind of work',
    async () => (await Promise.all(Object.values(containers).map(isWorking))).every(Boolean),
    90_000,
    500,
  );
}

type Counts = Readonly<Record<string, number>>;
function countsOf(all: readonly Done[]): Counts {
  const counts: Record<string, number> = {};
  for (const { kind } of all) counts[kind] = (counts[kind] ?? 0) + 1;
  return counts;
}
interface Outcome {
  /** How many of each kind failed in each container, of those that began in the fault, and of streams that ended in it. */
  readonly lost: Readonly<Record<string, Counts>>;
  /** Of these: when they began, in ms after the fault, and why they failed. */
  readonly why: Readonly<Record<string, readonly string[]>>;
  /** The connections for the other name that succeeded, and those that did not. */
  readonly wrong: Readonly<Record<string, readonly [got: Counts, denied: Counts]>>;
}
async function outcomeOf(side: Side, name: string): Promise<Outcome> {
  const fault = FAULTS[name] ?? expect.fail(name);
  const from = Date.now();
  await fault(side);
  const counted = name === CUT ? Date.now() : from;
  await working(side);
  const lost: Record<string, Counts> = {};
  const why: Record<string, readonly string[]> = {};
  const wrong: Record<string, [Counts, Counts]> = {};
  for (const [name, container] of Object.entries(side.containers)) {
    const all = (await done(container)).filter(
      ({ kind, began, ended }) => (kind === 'stream' ? ended : began) > from,
    );
    const isWrong = ({ kind }: Done): boolean => WRONG.some((one) => one === kind);
    const failed = all.filter((d) => d.why !== null && !isWrong(d));
    lost[name] = countsOf(failed.filter((d) => d.kind === 'stream' || d.began > counted));
    why[name] = failed.map((d) => `${d.kind} ${d.began - from}-${d.ended - from}: ${d.why}`);
    const tried = all.filter(isWrong);
    wrong[name] = [
      countsOf(tried.filter((d) => d.why === null)),
      countsOf(tried.filter((d) => d.why !== null)),
    ];
  }
  return { lost, why, wrong };
}

const host = (lab: Lab, ...argv: readonly string[]) => lab.inHost(argv, { check: true });
const net = (lab: Lab, ...argv: readonly string[]) => lab.inNet(argv, { check: true });
/** The time for which a fault lasts, in ms: on both sides the same, and longer than a client of DNS waits for one server. */
const LASTS_MS = 3_000;

const ANSWERS = { [NAME]: { A: [SHARED], ttl: 2 }, [`*.new.${NAME}`]: { A: ['93.184.72.3'] } };
/** All answers are of this kind for a time. Returns when that began. */
async function answersAre(lab: Lab, how: { delayMs: number } | { truncate: true }): Promise<number> {
  await lab.dns.clearLog();
  const began = Date.now();
  const late = Object.entries(ANSWERS).map(([name, rule]) => [name, { ...rule, ...how, ttl: 2 }]);
  await lab.dns.set(Object.fromEntries(late));
  await sleep(LASTS_MS);
  return began;
}
const linkOf = async (lab: Lab, name: string): Promise<string> =>
  (await host(lab, 'ip', '-o', 'link', 'show', name)).stdout;

/**
 * Which of the packets that were sent meanwhile are lost, and which wait for the neighbour's address and arrive when the bridge is back, is luck
 * on bare Docker, too: only what began after it is compared, and streams.
 */
const CUT = 'the bridge goes down and comes back';
/** Each shows that it has an effect. */
type Fault = (side: Side) => Promise<void>;
const FAULTS: Readonly<Record<string, Fault>> = {
  'the first resolver is dead': async ({ lab }) => {
    await net(lab, 'iptables', '-I', 'INPUT', '-d', RESOLVERS[0], '-j', 'DROP');
    await sleep(LASTS_MS);
    await net(lab, 'iptables', '-D', 'INPUT', '-d', RESOLVERS[0], '-j', 'DROP');
  },
  'both resolvers need a second': async ({ lab, containers }) => {
    const began = await answersAre(lab, { delayMs: 1_000 });
    for (const [name, container] of Object.entries(containers)) {
      const slow = async () =>
        (await done(container)).some(
          (d) => d.kind === 'new name' && d.why === null && d.began >= began && d.ended - d.began >= 1_000,
        );
      await waitFor(`an answer after a second in ${name}`, slow);
    }
    await lab.dns.set(ANSWERS);
  },
  'all answers over UDP are truncated': async (side) => {
    const { lab } = side;
    await answersAre(lab, { truncate: true });
    await lab.dns.set(ANSWERS);
    const protocols = (await lab.dns.queries()).filter((q) => q.name.endsWith(NAME)).map((q) => q.proto);
    // The client takes them as they are; Drawbridge has to see the addresses that it permits.
    expect([...new Set(protocols)].sort()).toEqual(side === bare ? ['udp'] : ['tcp', 'udp']);
  },
  [CUT]: async ({ lab }) => {
    await host(lab, 'ip', 'link', 'set', 'fault', 'down');
    await sleep(LASTS_MS);
    expect(await linkOf(lab, 'fault')).toContain('state DOWN');
    await host(lab, 'ip', 'link', 'set', 'fault', 'up');
  },
  'networks are created and removed': async ({ lab }) => {
    for (let n = 0; n < 3; n++) {
      const id = (await lab.docker('network', 'create', `passing${n}`)).trim();
      expect(await linkOf(lab, `br-${id.slice(0, 12)}`)).toContain('mtu');
      await lab.docker('network', 'rm', `passing${n}`);
    }
  },
  'dockerd is killed and started, with live-restore': ({ lab }) => lab.restartDocker('SIGKILL'),
  'sysctls that other programs set': async ({ lab }) => {
    const names = ['net.bridge.bridge-nf-call-iptables', 'net.ipv4.conf.all.rp_filter'];
    expect((await host(lab, 'sysctl', '-n', ...names)).stdout).toBe('1\n0\n');
    for (const value of ['0', '1']) {
      await host(lab, 'sysctl', '-qew', `${names[0]}=${value}`, `${names[1]}=1`);
      expect((await host(lab, 'sysctl', '-n', ...names)).stdout).toBe(`${value}\n1\n`);
    }
  },
};

/** How often a client asks for each name, in ms (test/live/steady.mjs). */
const ASKS_MS = 1_000;
const DEAD = 'the first resolver is dead';
/** Control: on bare Docker something is lost in these. */
const BITES = [DEAD, CUT, 'dockerd is killed and started, with live-restore'];

describe('no more is lost than on bare Docker:', () => {
  it.each(Object.keys(FAULTS))('%s', async (name) => {
    const [without, { lost, why, wrong }] = await Promise.all([
      outcomeOf(bare, name),
      outcomeOf(firewalled, name),
    ]);
    const seen = JSON.stringify({ ...without.why, ...why });
    console.log(`lost: ${seen}`);
    if (BITES.includes(name)) expect(without.why.bare, name).not.toEqual([]);
    for (const kind of KINDS) {
      // One more: the fault begins a moment earlier or later between two attempts, and a busy host is late once. A stream has no such moment.
      const onBare = without.lost.bare?.[kind] ?? 0;
      // Which of the names that are asked for meanwhile bare Docker answers is luck: its client asks again when the resolver may be back.
      const isLuck = name === DEAD && kind.endsWith(' name');
      const most = (isLuck ? Math.max(onBare, LASTS_MS / ASKS_MS) : onBare) + (kind === 'stream' ? 0 : 1);
      for (const container of ['enforced', 'observed'])
        expect(lost[container]?.[kind] ?? 0, `${container} ${kind}: ${seen}`).toBeLessThanOrEqual(most);
    }
    const [got, denied] = wrong.enforced ?? [];
    expect([got, Object.keys(denied ?? {}).sort()]).toEqual([{}, [...WRONG].sort()]);
    expect(Object.keys(wrong.observed?.[0] ?? {}).sort()).toEqual([...WRONG].sort()); // the control
  });
});
