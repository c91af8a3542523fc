/**
 * The canary: a network namespace on a managed bridge of this host, which the rules hold like an enforced container with one entry. Packets
 * to a permitted and to a forbidden address cross the host to a second namespace, where what arrives is counted.
 */
import { randomBytes } from 'node:crypto';
import { closeSync } from 'node:fs';
import { createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Reconciler } from '../enforce/reconciler.js';
import { type Exec, must } from '../kernel/exec.js';
import type { Kernel } from '../kernel/kernel.js';
import { makeNamespace, tcpConnectFd, tcpListenFd } from '../kernel/netlink/namespace.js';
import { Repeated } from '../lib/clock.js';
import { type Current, Signal } from '../lib/current.js';
import type { Family } from '../lib/ip.js';
import type { Logger } from '../lib/log.js';
import { Serial } from '../lib/serial.js';
import type { AppliedState, CanaryPlace, ManagedBridge } from '../ruleset/applied-state.js';
import { CANARY_ID, CANARY_PORT } from '../ruleset/canary-subject.js';
import { boundDatagrams } from './self-test.js';

export interface CanaryParts {
  readonly prefix: string;
  /** ms; 0: never. */
  readonly everyMs: number;
  readonly applied: Pick<Current<AppliedState>, 'value'>;
  /** Where the passes find the veth of the canary. */
  readonly canaryPlace: Current<CanaryPlace | undefined>;
  readonly kernel: { readonly linkTable: Pick<Kernel['linkTable'], 'byName'> };
  readonly reconciler: Pick<Reconciler, 'inForce'>;
  readonly run: Exec;
  readonly log: Pick<Logger, 'info' | 'warn' | 'error'>;
}
export interface CanaryResult {
  /** Null: it could not run, or has not run yet. */
  readonly ok: boolean | null;
  /** When it ended (ms since the epoch). */
  readonly at: number | null;
  readonly detail: string;
}

const FIRST_MS = 2_000;
const OFF: CanaryResult = { ok: null, at: null, detail: 'off: canary.every is 0' };
const NOT_YET: CanaryResult = { ok: null, at: null, detail: 'it has not run yet' };

export class Canary implements AsyncDisposable {
  /** The result was another one before: `ok` has changed. */
  readonly changed = new Signal<CanaryResult>();
  readonly #o: CanaryParts;
  readonly #serial = new Serial();
  #stage: CanaryStage | undefined;
  #result: CanaryResult;
  readonly #runs: Repeated;
  #isOver = false;

  constructor(parts: CanaryParts) {
    this.#o = parts;
    this.#result = parts.everyMs === 0 ? OFF : NOT_YET;
    this.#runs = new Repeated('the canary did not run', parts.everyMs, () => this.check());
  }

  get result(): CanaryResult {
    return this.#result;
  }

  begin(): void {
    if (this.#o.everyMs > 0) this.#runs.begin(Math.min(FIRST_MS, this.#o.everyMs));
  }

  /** Run it now. Never rejects. */
  check(): Promise<CanaryResult> {
    return this.#serial.run(async () => {
      if (this.#isOver) return this.#result;
      const found = await this.#run().catch((e: unknown) => notRun(String(e)));
      this.#settle({ ...found, at: Date.now() });
      return this.#result;
    });
  }

  #settle(result: CanaryResult): void {
    const before = this.#result;
    this.#result = result;
    if (before.ok === result.ok && (result.ok !== null || before.detail === result.detail)) return;
    const { detail } = result;
    if (result.ok === true) this.#o.log.info({ detail }, 'canary: the rules permit and deny as they should');
    else if (result.ok === false)
      this.#o.log.error({ detail }, 'canary: the rules do not do what they should');
    else this.#o.log.warn({ detail }, 'canary: it could not run, and proves nothing');
    if (before.ok !== result.ok) this.changed.emit(result);
  }

  /** A permitted address that is not reached counts only if it is not reached by new namespaces either: another program may remove routes. */
  async #run(): Promise<Omit<CanaryResult, 'at'>> {
    const first = verdictOf(await this.#arrivals(false));
    const { ok, detail } = first.ok || first.isLeak ? first : verdictOf(await this.#arrivals(true));
    return { ok, detail };
  }

  async #arrivals(isNew: boolean): Promise<readonly Arrivals[]> {
    if (isNew || !this.#stage || !this.#isWhole(this.#stage)) await this.#rebuild();
    const stage = this.#stage;
    if (!stage) throw new Error('there are no namespaces');
    const all: Arrivals[] = [];
    for (const at of stage.addresses) all.push(await exchange(stage, at));
    return all;
  }

  /** Its veths exist, and the rules that are in force know it by them. */
  #isWhole({ place, bridge, names }: CanaryStage): boolean {
    const { applied, kernel } = this.#o;
    const now = applied.value?.vethMap;
    return (
      now?.bindings.get(place.ifindex)?.container === CANARY_ID &&
      now.bridges.get(bridge.link.name)?.link.mac === bridge.link.mac &&
      kernel.linkTable.byName(names.source)?.index === place.ifindex &&
      kernel.linkTable.byName(names.target) !== undefined
    );
  }

  async #rebuild(): Promise<void> {
    const { applied, canaryPlace, kernel, reconciler, run, prefix } = this.#o;
    await this.#remove();
    const bridge = chooseBridge(applied.value);
    if (!bridge) throw new Error('there is no managed bridge with access to other networks');
    const stage = new CanaryStage(run, prefix, bridge);
    this.#stage = stage;
    await stage.make((name) => kernel.linkTable.byName(name)?.index);
    canaryPlace.set(stage.place);
    await stage.attach();
    await reconciler.inForce(IN_FORCE_MS);
    if (applied.value?.vethMap.canary?.ifindex !== stage.place.ifindex)
      throw new Error('the rules do not know its veth: the bridge is not managed any more');
    await stage.speak();
  }

  async #remove(): Promise<void> {
    const stage = this.#stage;
    this.#stage = undefined;
    this.#o.canaryPlace.set(undefined);
    await stage?.[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isOver = true;
    await this.#runs[Symbol.asyncDispose]();
    await this.#serial.run(() => this.#remove());
  }
}

const IN_FORCE_MS = 5_000;
const notRun = (detail: string): Omit<CanaryResult, 'at'> => ({ ok: null, detail });

/** One with IPv6, to check both families; internal networks lead nowhere. */
function chooseBridge(state: AppliedState | undefined): ManagedBridge | undefined {
  const all = [...(state?.vethMap.bridges.values() ?? [])]
    .filter(({ network }) => !network.internal)
    .sort((a, b) => (a.link.name < b.link.name ? -1 : 1));
  return all.find(hasIpv6) ?? all[0];
}
const hasIpv6 = ({ network }: ManagedBridge): boolean => network.subnets.some((s) => s.includes(':'));

type Way = 'tcp' | 'udp';
/** What has arrived in one family: of tcp, connections that were complete; of udp, datagrams, and for `permitted` the replies to them. */
interface Arrivals {
  readonly family: Family;
  readonly permitted: ReadonlySet<Way>;
  readonly forbidden: ReadonlySet<Way>;
}
const WAYS: readonly Way[] = ['tcp', 'udp'];

export function verdictOf(all: readonly Arrivals[]) {
  const those = (has: (a: Arrivals, way: Way) => boolean): string =>
    all.flatMap((a) => WAYS.filter((way) => has(a, way)).map((way) => `IPv${a.family} ${way}`)).join(', ');
  const leaks = those((a, way) => a.forbidden.has(way));
  const missing = those((a, way) => !a.permitted.has(way));
  if (leaks !== '')
    return { ok: false, isLeak: true, detail: `a forbidden address was reached (${leaks}): ${LEAK}` };
  if (missing !== '')
    return {
      ok: false,
      isLeak: false,
      detail: `a permitted address was not reached (${missing}): ${STOPPED}`,
    };
  const families = all.map((a) => `IPv${a.family}`).join(' and ');
  const rest = all.length === 2 ? '' : '; IPv6 is not checked: no managed bridge has it';
  const detail = `permitted reached, forbidden not (${families}, tcp and udp)${rest}`;
  return { ok: true, isLeak: false, detail };
}
const LEAK = 'another rule accepts before those of Drawbridge, or they are missing; see drawbridge doctor';
const STOPPED = 'rules or routes of this host stop it; see drawbridge doctor';

const ROUND_MS = 20;
const ARRIVE_MS = 2_000;
/** After the permitted packets have arrived: the forbidden ones were sent before them. */
const QUIET_MS = 60;

type Addresses = CanaryStage['addresses'][number];

async function exchange(stage: CanaryStage, at: Addresses): Promise<Arrivals> {
  const { family, source, permitted, forbidden } = at;
  const got = { permitted: new Set<Way>(), forbidden: new Set<Way>() };
  const nonce = randomBytes(16);
  using sender = boundDatagrams(family, source, 0, stage.source);
  using good = receiver(stage, family, permitted, nonce);
  using bad = receiver(stage, family, forbidden, nonce);
  bad.tcp.on('connection', () => got.forbidden.add('tcp'));
  bad.udp.on('message', (m) => void (m.equals(nonce) && got.forbidden.add('udp')));
  sender.socket.on('message', (m) => void (m.equals(nonce) && got.permitted.add('udp')));
  good.tcp.on('connection', () => got.permitted.add('tcp'));
  using _bad = connection(stage, at, forbidden);
  using _good = connection(stage, at, permitted);
  for (let ms = 0; ms < ARRIVE_MS && got.permitted.size < WAYS.length; ms += ROUND_MS) {
    for (const to of [forbidden, permitted]) sender.socket.send(nonce, CANARY_PORT, to, () => undefined);
    await sleep(ROUND_MS);
  }
  await sleep(QUIET_MS);
  return { family, ...got };
}

/** It answers datagrams, and accepts connections. */
function receiver({ target: namespace }: CanaryStage, family: Family, address: string, nonce: Buffer) {
  const datagrams = boundDatagrams(family, address, CANARY_PORT, namespace);
  const udp = datagrams.socket;
  udp.on('message', (m, from) => m.equals(nonce) && udp.send(m, from.port, from.address, () => undefined));
  const tcp = createServer((socket) => void socket.on('error', () => undefined).destroy());
  tcp.on('error', () => undefined); // what cannot be accepted has not arrived
  tcp.listen({ fd: tcpListenFd({ family, address, port: CANARY_PORT, namespace }) });
  const dispose = (): void => {
    datagrams[Symbol.dispose]();
    tcp.close();
  };
  return { udp, tcp, [Symbol.dispose]: dispose };
}

function connection(stage: CanaryStage, { family, source }: Addresses, to: string): Disposable {
  const place = { family, address: source, namespace: stage.source };
  const fd = tcpConnectFd(place, { address: to, port: CANARY_PORT });
  return { [Symbol.dispose]: () => closeSync(fd) };
}

/**
 * Addresses of the canary: of the space for benchmarks (RFC 2544), and unique local ones (RFC 4193), which no feed may block. The first block is
 * taken that no route of the host leads to.
 */
const BLOCKS: Readonly<Record<Family, readonly string[]>> = {
  4: ['198.18.219.', '198.19.219.', '198.18.119.', '198.19.119.'],
  6: ['fd64:7262:d0ca::', 'fd64:7262:d0cb::', 'fd64:7262:d0cc::'],
};
/** Marks routes of Drawbridge (rtm_protocol), as in kernel/neighbour-routing.ts. */
const ORIGIN = '219';
const LENGTH: Readonly<Record<Family, number>> = { 4: 32, 6: 128 };

/** Two namespaces without names: the kernel removes them and their veths with this process, however it ends. */
class CanaryStage implements AsyncDisposable {
  readonly bridge: ManagedBridge;
  readonly names: Readonly<Record<'source' | 'target', string>>;
  /** Descriptors of the namespaces. */
  readonly source: number;
  readonly target: number;
  addresses: readonly (CanaryPlace['addresses'][number] & { readonly forbidden: string })[] = [];
  place: CanaryPlace = { ifindex: 0, mac: '', addresses: [] };
  readonly #run: Exec;
  readonly #macs = { source: randomMac(), near: randomMac(), target: randomMac() };

  constructor(run: Exec, prefix: string, bridge: ManagedBridge) {
    this.#run = run;
    this.bridge = bridge;
    this.names = { source: `${prefix}-canary`, target: `${prefix}-target` };
    this.source = makeNamespace();
    this.target = makeNamespace();
  }

  /** Make the veths, which are connected to nothing yet. */
  async make(indexOf: (name: string) => number | undefined): Promise<void> {
    const { source, target } = this.names;
    await removeCanary(
      this.#run,
      [source, target].filter((name) => indexOf(name) !== undefined),
    );
    const families = ([4, 6] as const).filter((family) => family === 4 || hasIpv6(this.bridge));
    this.addresses = await Promise.all(families.map((family) => this.#choose(family)));
    const { source: mac, near, target: far } = this.#macs;
    await this.#ip(undefined, [
      `link add ${source} type veth peer name eth0 address ${mac} netns ${path(this.source)}`,
      `link add ${target} address ${near} type veth peer name eth0 address ${far} netns ${path(this.target)}`,
    ]);
    const ifindex = indexOf(source);
    if (ifindex === undefined) throw new Error(`the veth ${source} was removed at once`);
    this.place = { ifindex, mac, addresses: this.addresses };
  }

  async #choose(family: Family): Promise<Addresses> {
    for (const block of BLOCKS[family]) {
      const all = { source: `${block}1`, permitted: `${block}2`, forbidden: `${block}3` };
      const taken = await Promise.all(Object.values(all).map((a) => this.#isRouted(a)));
      if (!taken.includes(true)) return { family, ...all };
    }
    throw new Error(`routes of this host lead to all IPv${family} addresses that it could take`);
  }

  /** Another route than the default one leads to it. */
  async #isRouted(address: string): Promise<boolean> {
    const { code, stdout } = await this.#run('ip', ['-j', 'route', 'get', 'fibmatch', address]);
    if (code !== 0) return false; // no route at all
    const [found] = JSON.parse(stdout) as readonly { readonly dst?: string }[];
    return found?.dst !== 'default' && found?.dst !== '::/0';
  }

  /** Attach the near ends to the bridge and to the routes of the host. */
  async attach(): Promise<void> {
    const { source, target } = this.names;
    const bridge = this.bridge.link.name;
    // the bridge may know the MAC address of an earlier canary
    const routes = this.addresses.flatMap(({ family, ...a }) => [
      `neigh replace ${a.source} lladdr ${this.#macs.source} nud reachable dev ${bridge}`,
      route(family, a.source, bridge),
      ...[a.permitted, a.forbidden].flatMap((to) => [
        `neigh replace ${to} lladdr ${this.#macs.target} nud permanent dev ${target}`,
        route(family, to, target),
      ]),
    ]);
    await this.#ip(undefined, [
      `link set ${source} addrgenmode none`,
      `link set ${target} addrgenmode none`,
      `link set ${target} up`,
      `link set ${source} master ${bridge} up`,
      ...routes,
    ]);
    const own = this.addresses.flatMap(({ family, permitted, forbidden }) =>
      [permitted, forbidden].map((a) => `address add ${a}/${LENGTH[family]} dev eth0${nodad(family)}`),
    );
    const back = this.addresses.map((a) => ({ family: a.family, to: a.source, mac: this.#macs.near }));
    await this.#inside(this.target, own, back);
  }

  /** The rules know the veth: only now its far end sends. */
  speak(): Promise<void> {
    const { mac } = this.bridge.link;
    const own = this.addresses.map(
      ({ family, source }) => `address add ${source}/${LENGTH[family]} dev eth0${nodad(family)}`,
    );
    const to = this.addresses.flatMap(({ family, permitted, forbidden }) =>
      [permitted, forbidden].map((a) => ({ family, to: a, mac })),
    );
    return this.#inside(this.source, own, to);
  }

  /** Without queries of ARP or of neighbour discovery. */
  #inside(
    namespace: number,
    addresses: readonly string[],
    to: readonly { readonly family: Family; readonly to: string; readonly mac: string }[],
  ): Promise<void> {
    return this.#ip(namespace, [
      'link set eth0 addrgenmode none',
      'link set eth0 up',
      ...addresses,
      ...to.flatMap((t) => [
        `neigh replace ${t.to} lladdr ${t.mac} nud permanent dev eth0`,
        route(t.family, t.to, 'eth0'),
      ]),
    ]);
  }

  async #ip(namespace: number | undefined, lines: readonly string[]): Promise<void> {
    const input = `${lines.join('\n')}\n`;
    const args = ['-batch', '-'];
    if (namespace === undefined) await must(this.#run, 'ip', args, { input });
    else await must(this.#run, 'nsenter', [`--net=${path(namespace)}`, '--', 'ip', ...args], { input });
  }

  /** Links that are gone are no error: their namespace may have ended. */
  async [Symbol.asyncDispose](): Promise<void> {
    closeSync(this.source);
    closeSync(this.target);
    await removeCanary(this.#run, Object.values(this.names));
  }
}

/** Remove these links, and the routes of every canary. Its addresses are in fixed blocks. */
export async function removeCanary(run: Exec, links: readonly string[]): Promise<void> {
  for (const name of links) await run('ip', ['link', 'delete', name]);
  for (const family of ['-4', '-6'])
    await run('ip', [family, 'route', 'flush', 'table', 'main', 'proto', ORIGIN]);
}

const path = (namespace: number): string => `/proc/${process.pid}/fd/${namespace}`;
const route = (family: Family, to: string, dev: string): string =>
  `route replace ${to}/${LENGTH[family]} dev ${dev} proto ${ORIGIN}`;
const nodad = (family: Family): string => (family === 6 ? ' nodad' : '');

/** Locally administered, of one station. */
function randomMac(): string {
  const bytes = randomBytes(6);
  bytes[0] = ((bytes[0] ?? 0) & 0xfc) | 2;
  return [...bytes].map((b) => b.toString(16).padStart(2, '0')).join(':');
}
