import { createSocket, type Socket } from 'node:dgram';
import { setTimeout as sleep } from 'node:timers/promises';
import { Dataplane } from '../kernel/dataplane.js';
import type { Exec } from '../kernel/exec.js';
import { udpSocketFd } from '../kernel/netlink/namespace.js';
import type { Family } from '../lib/ip.js';
import { isDest, parseEntry } from '../policy/entry-parse.js';
import { planClasses } from '../ruleset/classes.js';
import { compile } from '../ruleset/compile.js';
import { closedBase, type DesiredInput, type KernelConfig, type Subject } from '../ruleset/desired-state.js';
import { PLACES, SelfTestStage } from './self-test-stage.js';

/** What arrived of what was sent, in one phase and family. */
export interface Arrival {
  readonly phase: 'without rules' | 'enforced' | 'unknown port';
  readonly family: Family;
  readonly permitted: boolean;
  readonly forbidden: boolean;
}
const EXPECTED: Readonly<Record<Arrival['phase'], readonly [permitted: boolean, forbidden: boolean]>> = {
  'without rules': [true, true],
  enforced: [true, false],
  'unknown port': [false, false],
};
/** Those that arrived otherwise than they should. */
export const wrongArrivals = (arrivals: readonly Arrival[]): readonly Arrival[] =>
  arrivals.filter((a) => a.permitted !== EXPECTED[a.phase][0] || a.forbidden !== EXPECTED[a.phase][1]);

const PORT = 9999;
const ROUND_MS = 50;
/** Until what must arrive has arrived, at most; and how long nothing more may come after that. */
const ARRIVE_MS = 3_000;
const QUIET_MS = 200;

/**
 * Enforces one container in namespaces made for it, sends packets to a permitted and a forbidden address, and tells
 * what came through: first without rules, then with its policy, then as a port that nobody knows. Throws when the
 * stage or the rules cannot be made.
 */
export async function selfTest(run: Exec, shape: KernelConfig): Promise<readonly Arrival[]> {
  await using stage = new SelfTestStage(run);
  await stage.build();
  const links = await stage.links();
  const plane = new Dataplane(stage.inHost, shape, (name) => links.get(name)?.ifindex);
  const arrivals = [...(await both(stage, 'without rules'))];
  await plane.apply(compile(enforced(shape, await memberOf(stage, links), links, stage.bridge)));
  arrivals.push(...(await both(stage, 'enforced')));
  await plane.apply(compile(closedBase(shape, exemptOf(links))));
  arrivals.push(...(await both(stage, 'unknown port')));
  return arrivals;
}

type Links = Awaited<ReturnType<SelfTestStage['links']>>;

/** The uplink plays the net: it is no container's. */
const exemptOf = (links: Links): number[] => [links.get('net0')?.ifindex ?? 0];

function enforced(shape: KernelConfig, member: Subject, links: Links, bridge: string): DesiredInput {
  const ports = member.veths.map((p) => p.ifindex);
  return {
    ...closedBase(shape, exemptOf(links)),
    subjects: [member],
    bridges: [{ name: bridge, mac: links.get(bridge)?.address ?? '', veths: ports }],
  };
}

async function memberOf(stage: SelfTestStage, links: Links): Promise<Subject> {
  const entries = ([4, 6] as const).flatMap((f) => {
    const parsed = parseEntry(f === 4 ? PLACES[f].permitted : `[${PLACES[f].permitted}]`);
    return parsed.ok && isDest(parsed.value)
      ? [{ entry: parsed.value, source: { from: 'label' } as const }]
      : [];
  });
  const port = {
    ifindex: links.get('box0')?.ifindex ?? 0,
    mac: await stage.boxMac(),
    ip4: PLACES[4].box,
    ip6: PLACES[6].box,
    bridge: stage.bridge,
  };
  return {
    id: 'd'.repeat(64),
    identity: 2,
    policy: { mode: 'enforce', modeFrom: 'self-test', entries, lists: [], notes: [] },
    classes: planClasses(entries, () => []),
    families: new Set([4, 6]),
    neighbours: [],
    veths: [port],
    published: [],
  };
}

async function both(stage: SelfTestStage, phase: Arrival['phase']): Promise<readonly Arrival[]> {
  return Promise.all(([4, 6] as const).map((family) => exchange(stage, phase, family)));
}

/** To the forbidden first in every round: it would arrive before the permitted does. */
async function exchange(stage: SelfTestStage, phase: Arrival['phase'], family: Family): Promise<Arrival> {
  const { box, permitted, forbidden } = PLACES[family];
  using sender = bound(family, box, 0, stage.path('box'));
  using good = bound(family, permitted, PORT, stage.path('net'));
  using bad = bound(family, forbidden, PORT, stage.path('net'));
  const got = { good: false, bad: false };
  good.socket.on('message', () => (got.good = true));
  bad.socket.on('message', () => (got.bad = true));
  const [wantGood, wantBad] = EXPECTED[phase];
  const rounds = wantGood ? ARRIVE_MS / ROUND_MS : 1000 / ROUND_MS;
  for (let i = 0; i < rounds && !(got.good && (got.bad || !wantBad)); i++) {
    for (const to of [forbidden, permitted]) sender.socket.send('drawbridge', PORT, to);
    await sleep(ROUND_MS);
  }
  await sleep(QUIET_MS);
  return { phase, family, permitted: got.good, forbidden: got.bad };
}

function bound(
  family: Family,
  address: string,
  port: number,
  namespace: string,
): Disposable & { readonly socket: Socket } {
  const socket = createSocket(family === 4 ? 'udp4' : 'udp6');
  socket.on('error', () => undefined); // a rejected packet tells by an ICMP error; what arrives is what counts
  socket.bind({ fd: udpSocketFd({ family, address, port, namespace }) });
  return { socket, [Symbol.dispose]: () => void socket.close() };
}
