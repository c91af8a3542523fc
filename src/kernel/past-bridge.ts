import { Coalescer } from '../lib/async.js';
import type { Family } from '../lib/ip.js';
import type { Logger } from '../lib/log.js';
import type { BridgePorts } from './bridge-fdb.js';
import {
  type ForeignChains,
  ForeignHooks,
  neededBehindBridge,
  reasonAgainst,
  rulesBehindBridge,
} from './bridge-hooks.js';
import { BridgeProgram, PROGRAM_NAME } from './bridge-program.js';
import type { LinkCache } from './host-links.js';
import type { SavedTables } from './iptables-text.js';
import type { Bridges, Filtering, Link } from './netlink/links.js';
import { SharedIngress } from './netlink/traffic-control.js';

/** The index of the block that veths share: of no meaning, and unlikely to be that of another program. */
export const INGRESS_BLOCK = 0x00db_5eed;
/** The longest time for which a service that hangs or has crashed leaves packets to the program. */
const LEASE_MS = 3_000;
const RETRY_MS = 60_000;
const FORWARDING = 3;
/** The veth was removed in the meantime. */
const GONE = 'ENODEV';
const NOT_CHECKED = 'not checked yet';

interface Route {
  readonly ifindex: number;
  readonly bridge: number;
  readonly mark: number;
}
/** How many elements of `routed4` are handed past their bridges, and why no others are. */
export interface PastBridgeState {
  readonly handed: number;
  readonly others: number;
  /** Why none is handed; undefined while they are. */
  readonly why?: string;
}

interface PastBridgeParts {
  readonly links: Pick<LinkCache, 'at' | 'indexOf' | 'isBridgedVeth'>;
  readonly bridges: Pick<Bridges, 'filtering'>;
  readonly ports: Pick<BridgePorts, 'ports'>;
  readonly log: Pick<Logger, 'info' | 'warn'>;
  readonly isWanted: boolean;
}

/**
 * Hands the packets that containers send to their own bridge past the rules for frames, as long as these have nothing to do but to write
 * the mark: no other program has a rule there, and no setting of the bridge decides. It needs a program of BPF at the ingress of each veth,
 * which share one block of filters: a link of BPF for each would wait 13 ms for a grace period with the lock of rtnetlink held.
 *
 * What the program knows is never more than what the applied rules say: `before` an apply it forgets what this will no longer say, and only
 * `after` it is told what is new.
 */
export class PastBridge {
  readonly #o: PastBridgeParts;
  readonly #hooks = new ForeignHooks();
  readonly #ingress = new SharedIngress(INGRESS_BLOCK);
  #program: BridgeProgram | undefined;
  #wanted: ReadonlyMap<string, number> = new Map();
  readonly #routes = new Map<string, Route>();
  /** Veths that share the block; undefined when they must be listed first. */
  #shared: Set<number> | undefined;
  /** Veths that cannot share it, by the reason. */
  readonly #refused = new Map<number, string>();
  /** Ports that their bridge does not let forward. */
  readonly #blocked = new Set<number>();
  readonly #settings = new Map<number, Filtering>();
  #why: string | undefined = NOT_CHECKED;
  #foreign: { readonly generation: number | undefined; readonly chains: ForeignChains } | undefined;
  /** Rules of iptables that need the way through br_netfilter. */
  #behind: string | undefined = NOT_CHECKED;
  /** Why the last attempt has failed. */
  #failed: string | undefined;
  #retryAt = 0;
  readonly #runs = new Coalescer(() => this.#run());
  #closed = false;

  constructor(parts: PastBridgeParts) {
    this.#o = parts;
  }

  /** Before the first pass: the program of an earlier run of the service ends. Rejects with NetlinkError. */
  async prepare(): Promise<void> {
    this.#ingress.removeProgram();
    if (!this.#o.isWanted) await this.#ingress.remove(await this.#ingress.interfaces());
  }

  get state(): PastBridgeState {
    const handed = this.#routes.size;
    const others = this.#wanted.size - handed;
    return this.#why === undefined
      ? { handed, others }
      : { handed: 0, others: handed + others, why: this.#why };
  }

  /** `routed4` will be this: forget what is not in it. Throws BpfError. */
  before(routed: ReadonlyMap<string, number>): void {
    if (routed === this.#wanted) return;
    const kept = [...this.#wanted].filter(([element, mark]) => routed.get(element) === mark);
    if (kept.length < this.#wanted.size) this.#wanted = new Map(kept);
    for (const element of this.#routes.keys()) if (!this.#wanted.has(element)) this.#forget(element);
  }
  /** The rules are applied, and `routed4` is this. */
  after(routed: ReadonlyMap<string, number>): void {
    if (routed === this.#wanted) return;
    this.#wanted = routed;
    this.#wake();
  }
  /** The rules of iptables as they were read. */
  note(tables: ReadonlyMap<Family, SavedTables>): void {
    this.#behind = rulesBehindBridge(tables);
  }

  /** A link is new or has changed. Throws BpfError or NetlinkError. */
  linkChanged(now: Link, before: Link | undefined): void {
    if (now.kind === 'bridge') this.#bridgeChanged(now.index, now.mtu !== before?.mtu);
    else if (before && (now.master !== before.master || now.mtu !== before.mtu))
      this.#dropWhere((r) => r.ifindex === now.index);
  }
  linkGone(index: number): void {
    this.#dropWhere((r) => r.ifindex === index || r.bridge === index);
    for (const of of [this.#shared, this.#refused, this.#blocked, this.#settings]) of?.delete(index);
  }
  portChanged(index: number, state: number): void {
    const wasBlocked = this.#blocked.has(index);
    if (state === FORWARDING) this.#blocked.delete(index);
    else this.#blocked.add(index);
    if (state !== FORWARDING) this.#dropWhere((r) => r.ifindex === index);
    else if (wasBlocked) this.#wake();
  }
  /** Reports of links were lost. */
  invalidate(): void {
    this.#dropWhere(() => true);
    this.#shared = undefined;
    this.#settings.clear();
    this.#wake();
  }

  #bridgeChanged(index: number, isNew: boolean): void {
    const known = this.#settings.get(index);
    if (!known) return;
    const now = this.#settingsOf(index);
    if (now) this.#settings.set(index, now);
    else this.#settings.delete(index);
    if (isNew || !now || (Object.keys(now) as (keyof Filtering)[]).some((key) => now[key] !== known[key]))
      this.#dropWhere((r) => r.bridge === index);
  }
  #dropWhere(isMeant: (route: Route) => boolean): void {
    for (const [element, route] of this.#routes) if (isMeant(route)) this.#forget(element);
    this.#wake();
  }
  #forget(element: string): void {
    this.#program?.delete(element);
    this.#routes.delete(element);
  }

  /**
   * With each beat of the service: hands packets over for some seconds more, if nothing else decides about them. `generation`: of
   * nf_tables. Never rejects.
   */
  async check(generation: number | undefined): Promise<void> {
    const why = await this.#reasonAgainst(generation).catch(
      (e: unknown) => `it could not be checked (${textOf(e)})`,
    );
    if (this.#closed) return;
    const isOther = why !== this.#why;
    if (isOther) this.#report(why);
    this.#why = why;
    this.#program?.hold(why === undefined ? LEASE_MS : 0);
    if (isOther) this.#wake();
    else if (this.#refused.size > 0) this.#tryRefused();
  }

  /** No news tells that another program has removed its discipline from a veth. */
  #tryRefused(): void {
    if (performance.now() < this.#retryAt) return;
    this.#retryAt = performance.now() + RETRY_MS;
    this.#refused.clear();
    this.#wake();
  }

  async #reasonAgainst(generation: number | undefined): Promise<string | undefined> {
    if (!this.#o.isWanted) return 'kernel.pastBridge is off';
    if (this.#failed !== undefined && performance.now() < this.#retryAt) return this.#failed;
    this.#failed = undefined;
    if (!this.#foreign || generation === undefined || this.#foreign.generation !== generation)
      this.#foreign = { generation, chains: await this.#hooks.read() };
    return reasonAgainst(this.#foreign.chains, this.#behind, (device) => {
      const index = this.#o.links.indexOf(device);
      return index === undefined || this.#o.links.isBridgedVeth(index);
    });
  }

  #report(why: string | undefined): void {
    const { log } = this.#o;
    if (why === undefined)
      log.info({}, 'packets of containers are handed past their bridge (docs/kernel.md)');
    else log.info({ why }, 'packets of containers take the way through their bridge, which is slower');
  }

  #wake(): void {
    if (!this.#closed && this.#why === undefined) void this.#runs.run();
  }

  /** Never rejects. */
  async #run(): Promise<void> {
    if (this.#closed || this.#why !== undefined) return;
    try {
      await this.#attach();
      this.#putRoutes();
    } catch (e) {
      this.#retryAt = performance.now() + RETRY_MS;
      this.#failed = `the kernel refused (${textOf(e)})`;
      this.#why = this.#failed;
      this.#o.log.warn(
        { err: textOf(e) },
        'packets of containers cannot be handed past their bridge: will try again',
      );
      this.#refused.clear();
      this.#shared = undefined;
    }
  }

  async #attach(): Promise<void> {
    const isNew = this.#program === undefined;
    this.#program ??= new BridgeProgram();
    const wanted = this.#missing().map(([, route]) => route.ifindex);
    this.#shared ??= await this.#listed();
    const shared = this.#shared;
    const others = [...new Set(wanted)].filter((index) => !shared.has(index) && !this.#refused.has(index));
    if (others.length === 0 && !(isNew && shared.size > 0)) return;
    const refused = await this.#ingress.add(others);
    for (const index of others) {
      const code = refused.get(index);
      if (code === undefined) shared.add(index);
      else if (code !== GONE) this.#refused.set(index, code);
    }
    if (refused.size > 0)
      this.#o.log.info(
        { veths: Object.fromEntries(refused) },
        'packets of these veths are not handed past their bridge',
      );
    if (shared.size > 0) await this.#ingress.setProgram(this.#program.fd, PROGRAM_NAME);
  }

  /** Veths that share the block. Also notes which ports their bridges block: from now on the kernel reports this. */
  async #listed(): Promise<Set<number>> {
    for (const { index, state } of await this.#o.ports.ports()) this.portChanged(index, state);
    return new Set(await this.#ingress.interfaces());
  }

  #putRoutes(): void {
    if (this.#closed || this.#why !== undefined) return;
    for (const [element, route] of this.#missing()) {
      if (!this.#shared?.has(route.ifindex)) continue;
      this.#program?.put(element, route.mark, route.bridge);
      this.#routes.set(element, route);
    }
    this.#program?.hold(LEASE_MS);
  }

  /** Elements that are wanted and not yet handed over, of veths and bridges that leave every decision to the rules. */
  #missing(): readonly (readonly [string, Route])[] {
    return [...this.#wanted].flatMap(([element, mark]) => {
      if (this.#routes.has(element)) return [];
      const ifindex = Number.parseInt(element, 10);
      const bridge = this.#bridgeOf(ifindex);
      return bridge === undefined ? [] : [[element, { ifindex, bridge, mark }] as const];
    });
  }

  #isNeededBehind(): boolean {
    return !this.#foreign || neededBehindBridge(this.#foreign.chains, this.#behind) !== undefined;
  }

  #settingsOf(bridge: number): Filtering | undefined {
    try {
      return this.#o.bridges.filtering(bridge);
    } catch {
      return undefined; // not known: then its packets take all rules
    }
  }

  /** The bridge of a veth, if no setting of it decides about frames. */
  #bridgeOf(ifindex: number): number | undefined {
    const links = this.#o.links;
    const port = links.at(ifindex);
    const bridge = port?.master === undefined ? undefined : links.at(port.master);
    if (bridge?.kind !== 'bridge' || this.#blocked.has(ifindex) || (bridge.mtu ?? 0) < (port?.mtu ?? 0))
      return undefined;
    const settings = this.#settings.get(bridge.index) ?? this.#settingsOf(bridge.index);
    if (!settings) return undefined;
    this.#settings.set(bridge.index, settings);
    const isRead = settings.netfilter && this.#isNeededBehind();
    return settings.stp || settings.vlan || isRead ? undefined : bridge.index;
  }

  /** Every packet takes all rules from here on. Throws NetlinkError. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#routes.clear();
    try {
      this.#program?.hold(0);
      this.#ingress.removeProgram();
    } finally {
      this.#ingress.close();
      this.#hooks.close();
      this.#program?.[Symbol.dispose]();
      this.#program = undefined;
    }
  }
  /** Resolves when no change is active or waiting. */
  settled(): Promise<void> {
    return this.#runs.settled();
  }
}

const textOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** Takes the program and the share in its block from all veths. Returns what was removed. Rejects with NetlinkError. */
export async function releaseIngress(): Promise<string[]> {
  using ingress = new SharedIngress(INGRESS_BLOCK);
  ingress.removeProgram();
  const veths = await ingress.interfaces();
  await ingress.remove(veths);
  return veths.length > 0 ? [`the ingress disciplines of ${veths.length} veths`] : [];
}
