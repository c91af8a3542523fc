import { Coalescer } from '../lib/async.js';
import type { Family } from '../lib/ip.js';
import type { Logger } from '../lib/log.js';
import { errorText } from '../lib/problem.js';
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
import type { Bridges, Filtering, Link, Links } from './netlink/links.js';
import { SharedIngress } from './netlink/traffic-control.js';

/** The index of the block that veths share: of no meaning, and unlikely to be that of another program. */
export const INGRESS_BLOCK = 0x00db_5eed;
/** The longest time for which a service that hangs or has crashed leaves packets to the program. */
const LEASE_MS = 3_000;
const RETRY_MS = 60_000;
/** Veths that are read in one check, and that get their discipline before the next one. */
const AT_ONCE = 64;
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
  readonly linkTable: Pick<Links, 'sent'>;
  readonly bridges: Pick<Bridges, 'filtering'>;
  readonly ports: Pick<BridgePorts, 'ports'>;
  readonly log: Pick<Logger, 'info'>;
  readonly isWanted: boolean;
}

/**
 * Hands the packets that containers send to their own bridge past the rules for frames, as long as these have nothing to do but to write
 * the mark: no other program has a rule there, and no setting of the bridge decides. It needs a program of BPF at the ingress of each veth,
 * which share one block of filters: a link of BPF for each would wait 13 ms for a grace period with the lock of rtnetlink held.
 *
 * The program has no element that the applied rules do not have: `before` deletes those that an apply removes, and `after` adds the new ones
 * once it has succeeded.
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
  /** Veths on a bridge of containers that are newer than their container's first packet: nothing is on its way to them. */
  readonly #fresh = new Set<number>();
  /** Veths to which nothing is on its way: between two checks they have sent nothing. */
  readonly #quiet = new Set<number>();
  /** Veths that wait for a moment at which nothing is on its way to them, and what they had sent when they were last read. */
  readonly #waiting = new Map<number, bigint | undefined>();
  /** Ports that their bridge does not let forward. */
  readonly #blocked = new Set<number>();
  readonly #settings = new Map<number, Filtering>();
  #why: string | undefined = NOT_CHECKED;
  /** The reason in the last line of the log about it; undefined after the line that packets may be handed over. */
  #said: string | undefined = NOT_CHECKED;
  #foreign: { readonly generation: number | undefined; readonly chains: ForeignChains } | undefined;
  /** Rules of iptables that need the way through br_netfilter. */
  #behind: string | undefined = NOT_CHECKED;
  /** Why the last attempt has failed. */
  #failed: string | undefined;
  #retryAt = 0;
  /** When the veths that share the block were last listed (ms, monotonic). */
  #listedAt = 0;
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
    else this.#portMoved(now, before);
  }
  linkGone(index: number): void {
    this.#dropWhere((r) => r.ifindex === index || r.bridge === index);
    for (const of of [
      this.#shared,
      this.#refused,
      this.#blocked,
      this.#settings,
      this.#fresh,
      this.#quiet,
      this.#waiting,
    ])
      of?.delete(index);
  }
  portChanged(index: number, state: number): void {
    if (state !== FORWARDING) {
      this.#blocked.add(index);
      this.#dropWhere((r) => r.ifindex === index);
    } else if (this.#blocked.delete(index)) this.#wake();
  }
  /** Reports of links were lost: nothing is handed over before the next pass, which lists them again. */
  invalidate(): void {
    this.before(new Map());
    this.#shared = undefined;
    this.#settings.clear();
  }

  #portMoved(now: Link, before: Link | undefined): void {
    const isMoved = now.master !== before?.master;
    const isIdle = isMoved && now.kind === 'veth' && this.#why === undefined;
    const isFresh = isIdle && this.#settings.has(now.master ?? 0);
    if (isFresh) this.#fresh.add(now.index);
    else if (!before || (!isMoved && now.mtu === before.mtu)) return;
    this.#dropWhere((r) => r.ifindex === now.index);
    this.#wake();
  }
  #bridgeChanged(index: number, isResized: boolean): void {
    const known = this.#settings.get(index);
    if (!known) return;
    const now = this.#settingsOf(index);
    if (now) this.#settings.set(index, now);
    else this.#settings.delete(index);
    const isSame = now && (Object.keys(now) as (keyof Filtering)[]).every((key) => now[key] === known[key]);
    if (isSame && !isResized) return;
    this.#dropWhere((r) => r.bridge === index);
    this.#wake();
  }
  #dropWhere(isMeant: (route: Route) => boolean): void {
    for (const [element, route] of this.#routes) if (isMeant(route)) this.#forget(element);
  }
  #forget(element: string): void {
    this.#program?.delete(element);
    this.#routes.delete(element);
  }

  /**
   * Called about once a second: hands packets over for some seconds more, if nothing else decides about them. `generation`: of
   * nf_tables. Rejects with BpfError.
   */
  async check(generation: number | undefined): Promise<void> {
    const why = await this.#reasonAgainst(generation).catch(
      (e: unknown) => `it could not be checked (${errorText(e)})`,
    );
    if (this.#closed) return;
    const isOther = why !== this.#why;
    if (why !== undefined) this.#report(why);
    this.#why = why;
    this.#program?.hold(why === undefined ? LEASE_MS : 0);
    if (why === undefined) this.#findQuiet();
    // later they may be in use
    else for (const idle of [this.#fresh, this.#quiet]) idle.clear();
    if (isOther || this.#quiet.size > 0) this.#wake();
    if (why === undefined) this.#lookAgain();
  }

  /**
   * To give a veth an ingress discipline, the kernel takes its device out of use for 0.3 ms, or for some ms on a busy host (net/sched/sch_api.c,
   * qdisc_graft): what is sent to it meanwhile is lost. A lost answer to the first packet of a connection costs a second, one to a DNS
   * query five. So a veth that is in use without a pause waits, however long. Those that were read go to the end.
   */
  #findQuiet(): void {
    for (const [index, before] of [...this.#waiting].slice(0, AT_ONCE - this.#quiet.size)) {
      this.#waiting.delete(index);
      const sent = this.#o.linkTable.sent(index);
      if (sent === undefined) continue;
      if (sent === before) this.#quiet.add(index);
      else this.#waiting.set(index, sent);
    }
  }

  /** No news tells that another program has given or taken an ingress discipline, or has removed the filter. */
  #lookAgain(): void {
    if (performance.now() - this.#listedAt < RETRY_MS) return;
    for (const index of this.#refused.keys()) this.#waiting.set(index, undefined);
    this.#shared = undefined;
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

  /** Says once what holds now, and why. A failure is tried again each minute, and said again when it is another one. */
  #report(why: string | undefined): void {
    if (why === this.#said) return;
    this.#said = why;
    const { log } = this.#o;
    if (why === undefined)
      log.info(this.state, 'packets of containers may be handed past their bridge (docs/kernel.md)');
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
      this.#report(this.#why);
    } catch (e) {
      this.#retryAt = performance.now() + RETRY_MS;
      this.#failed = `the kernel refused (${errorText(e)})`;
      this.#why = this.#failed;
      this.#report(this.#failed);
      this.#shared = undefined;
    }
  }

  async #attach(): Promise<void> {
    const isNew = this.#program === undefined || this.#shared === undefined;
    this.#program ??= new BridgeProgram();
    const shared = this.#shared ?? (await this.#list());
    this.#shared = shared;
    const others = [...this.#fresh, ...this.#quiet].filter((index) => !shared.has(index));
    this.#fresh.clear();
    this.#quiet.clear();
    for (const [, { ifindex }] of this.#missing()) {
      const isKnown = shared.has(ifindex) || this.#refused.has(ifindex) || others.includes(ifindex);
      if (!isKnown && !this.#waiting.has(ifindex)) this.#waiting.set(ifindex, undefined);
    }
    if (others.length === 0 && !isNew) return;
    const refused = await this.#ingress.add(others);
    for (const index of others)
      if (!refused.has(index)) {
        shared.add(index);
        this.#refused.delete(index);
      }
    this.#noteRefused(refused);
    if (shared.size > 0) await this.#ingress.setProgram(this.#program.fd, PROGRAM_NAME);
  }

  #noteRefused(refused: ReadonlyMap<number, string>): void {
    const news = [...refused].filter(([index, code]) => code !== GONE && this.#refused.get(index) !== code);
    for (const [index, code] of news) this.#refused.set(index, code);
    if (news.length > 0)
      this.#o.log.info(
        { veths: Object.fromEntries(news) },
        'packets of these veths are not handed past their bridge (EEXIST: another program uses their ingress)',
      );
  }

  /** Veths that share the block. Also notes which ports their bridges block: from now on the kernel reports this. */
  async #list(): Promise<Set<number>> {
    for (const { index, state } of await this.#o.ports.ports()) this.portChanged(index, state);
    const shared = new Set(await this.#ingress.interfaces());
    this.#dropWhere((r) => !shared.has(r.ifindex));
    this.#listedAt = performance.now();
    return shared;
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

/** Takes the program and the share in its block from all veths. Returns what was removed. Rejects with NetlinkError. */
export async function releaseIngress(): Promise<string[]> {
  using ingress = new SharedIngress(INGRESS_BLOCK);
  ingress.removeProgram();
  const veths = await ingress.interfaces();
  const left = await ingress.remove(veths);
  return veths.length > left.size ? [`the ingress disciplines of ${veths.length - left.size} veths`] : [];
}
