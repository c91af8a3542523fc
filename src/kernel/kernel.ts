import type { Family } from '../lib/ip.js';
import type { Logger } from '../lib/log.js';
import type { HostLink } from '../ruleset/applied-state.js';
import { type ForwardingInput, forwardingOf, neighbourRoutes } from '../ruleset/bridge-forwarding.js';
import { BRIDGE_TABLE } from '../ruleset/bridge-table.js';
import type { DesiredInput, DesiredState, KernelConfig, SetDesired } from '../ruleset/desired-state.js';
import { namesFor } from '../ruleset/naming.js';
import { LAN_KINDS } from '../ruleset/netns-program.js';
import type { Delta } from '../ruleset/recompile.js';
import { type Plan, runStep } from './apply.js';
import { BridgeFdb, BridgePorts } from './bridge-fdb.js';
import { Cgroups, canZone, isLegacy, type NftAbilities, nftAbilities } from './cgroups.js';
import { type Applied, Dataplane } from './dataplane.js';
import { asReader, type Exec } from './exec.js';
import { FrameChecks } from './frame-checks.js';
import { LinkCache, type LinkChangeListener, RouteMonitor } from './host-links.js';
import { withFastSets } from './ipset-text.js';
import { NeighbourRouting, PolicyRoutes } from './neighbour-routing.js';
import { Addresses, HostAddresses } from './netlink/addresses.js';
import { Conntrack } from './netlink/conntrack.js';
import { areMembers, IpsetStore } from './netlink/ipset-bulk.js';
import { Bridges, Links } from './netlink/links.js';
import { NftElements } from './netlink/nft-codec.js';
import { EMPTY_BRIDGE, hasOurLayout, withFastElements, withQueueRule } from './nft-text.js';
import { PastBridge } from './past-bridge.js';
import {
  type HostRules,
  KeptRules,
  type KernelSnapshot,
  type Observed,
  readHostNetworkRules,
  readSenders,
} from './read-rules.js';
import type { SetStore } from './set-store.js';
import { type SocketEnds, socketsIn } from './sockets.js';

/** The longest time for which DNS queries of observed containers get no reply after a crash. */
const HEARTBEAT_SECONDS = 3;
/** So few sets are listed one by one. */
const FEW_SETS = 64;
/** Sets that are read before other tasks have their turn. */
const READ_AT_ONCE = 50;
const HALVES = { 4: ['0.0.0.0/1', '128.0.0.0/1'], 6: ['::/1', '8000::/1'] } as const;

const KEPT = 'the rules in the kernel are those that were last read: they are not read again';

const linkChange = ({ kind }: { readonly kind?: string }, isNew: boolean): 'veth' | 'link' | 'link state' =>
  !isNew ? 'link state' : kind === 'veth' ? 'veth' : 'link';

/** What shows changes of nf_tables and of sets by whatever program. Changes of iptables-legacy do not show in it. */
export interface Evidence {
  /** The count of all changes of nf_tables. */
  readonly generation: number | undefined;
  /** For each set a text that differs after any change of its members; undefined for a set that does not exist. */
  readonly digests: ReadonlyMap<string, string | undefined>;
}

/** The kernel of this network namespace: the classes that read and write its tables, sets, links, routes and flows. */
export class Kernel implements AsyncDisposable {
  readonly #shape: KernelConfig;
  readonly #run: Exec;
  readonly #log: Pick<Logger, 'debug'>;
  readonly #plane: Dataplane;
  readonly linkTable = new Links();
  readonly addressTable = new Addresses();
  readonly sets: SetStore = new IpsetStore();
  readonly #elements = new NftElements();
  readonly flows: Conntrack;
  readonly cgroups = new Cgroups();
  readonly own = new HostAddresses(this.addressTable);
  /** The command iptables is iptables-legacy. */
  isLegacy = false;
  /** The kernel and iptables support conntrack zones for datagrams. */
  hasZones = false;
  /** Whether nft identifies the senders in the host's network. Otherwise iptables does, at a higher cost for every packet of the host. */
  nft: NftAbilities = { identifies: false, queues: false };
  readonly #ports = new BridgePorts();
  readonly forwarding: BridgeFdb;
  readonly #policyRoutes = new PolicyRoutes();
  readonly #routing = new NeighbourRouting(this.#policyRoutes);
  readonly #kept: KeptRules | undefined;
  readonly #cache = new LinkCache(this.linkTable);
  readonly #bridges = new Bridges();
  readonly pastBridge: PastBridge;
  readonly frames = new FrameChecks();
  #monitor: RouteMonitor | undefined;
  #refresh: (() => void) | undefined;

  /** `kept`: the file in which a start finds the rules as the service has last read them. Without it, each start reads them. */
  constructor(shape: KernelConfig, run: Exec, log: Pick<Logger, 'debug' | 'info' | 'warn'>, kept?: string) {
    this.#log = log;
    const [links, bridges, ports, linkTable] = [this.#cache, this.#bridges, this.#ports, this.linkTable];
    const isWanted = shape.pastBridge === true;
    this.pastBridge = new PastBridge({ links, linkTable, bridges, ports, log, isWanted });
    this.forwarding = new BridgeFdb(this.#ports, log);
    this.#shape = shape;
    this.flows = new Conntrack({ ended: shape.marks.ended });
    this.#run = run;
    this.#kept =
      kept === undefined
        ? undefined
        : new KeptRules({
            path: kept,
            prefix: shape.prefix,
            objectOf: (name) => this.cgroups.at(this.cgroups.pathOf(name))?.object,
          });
    this.#plane = new Dataplane(
      withQueueRule(withFastElements(withFastSets(run, this.sets), this.#elements), this.#elements),
      shape,
      (name) => this.#cache.indexOf(name),
      (path) => this.cgroups.at(path) !== undefined,
    );
  }

  /** Follows links and addresses from here on; puts our DNS addresses on lo. */
  async prepare(changed: LinkChangeListener): Promise<void> {
    this.#monitor = this.#follow(changed);
    this.frames.begin(this.#shape.marks.enforced);
    this.addressTable.add('lo', `${this.#shape.dns.v4}/32`);
    this.addressTable.add('lo', `${this.#shape.dns.v6}/128`);
    await Promise.all([this.own.refresh(), this.pastBridge.prepare()]);
    for (const l of await this.links()) if (l.kind === 'bridge') this.#bridges.release(l.index);
  }

  /**
   * Tests which rules this kernel and its tools accept. Then begins to read the installed rules, which needs the names of the links:
   * `listed` resolves when these are known. The first pass needs both results. What the file of kept rules proves is not asked again.
   */
  async probe(listed: Promise<void>): Promise<void> {
    const at = this.generation();
    const kept = this.#kept?.read(at);
    if (kept) {
      this.hasZones = true;
      this.cgroups.isInNft = kept.abilities.isInNft;
      this.nft = kept.abilities.nft;
      this.#plane.readAhead(() => this.generation(), { rules: kept.rules, at });
      this.#log.debug({}, KEPT);
      return listed;
    }
    const askedVersion = isLegacy(this.#run).then((is) => (this.isLegacy = is));
    const [hasZones] = await Promise.all([
      canZone(this.#run, askedVersion),
      this.cgroups.askNft(this.#run),
      listed,
    ]);
    this.hasZones = hasZones;
    // iptables-legacy never has zones (canZone), and the generation of nf_tables does not show its changes.
    if (hasZones) this.#plane.readAhead(() => this.generation());
    if (hasZones) this.nft = await nftAbilities(this.#run, this.cgroups);
  }

  #follow(changed: LinkChangeListener): RouteMonitor {
    return new RouteMonitor({
      onLink: (l) => {
        if (this.#cache.masterOf(l.index)?.master !== l.master) this.forwarding.moved(l.index);
        if (this.#routing.linkChanged(l.index, l.up)) this.#reroute(changed);
        const before = this.#cache.at(l.index);
        const isNew = this.#cache.put(l);
        this.pastBridge.linkChanged(l, before);
        if (LAN_KINDS.some((kind) => kind === l.kind)) changed('lan link', l.index);
        else if (l.kind === 'veth' || l.kind === 'bridge' || l.master !== undefined)
          changed(linkChange(l, isNew), l.index);
      },
      onPort: (index, state) => this.pastBridge.portChanged(index, state),
      onLinkGone: (l) => {
        this.#cache.remove(l);
        this.pastBridge.linkGone(l.index);
        if (l.kind === 'veth') changed('link gone');
      },
      onAddress: (a) => {
        this.own.put(a);
        if (this.#routing.isUsed) changed('routing');
      },
      onAddressGone: (a) => {
        this.own.gone(a);
        // When a link loses its last address, the kernel removes every route through it (net/ipv4/fib_frontend.c,
        // fib_disable_ip).
        if (this.#routing.isUsed) this.#reroute(changed);
      },
      onRuleGone: (rule) => {
        if (this.#routing.isWanted(rule)) this.#reroute(changed);
      },
      onOverrun: () => {
        this.#cache.invalidate();
        this.pastBridge.invalidate();
        this.own.refresh().then(
          () => changed('links overran'),
          () => changed('links overran'),
        );
      },
    });
  }

  #reroute(changed: LinkChangeListener): void {
    this.#routing.invalidate();
    changed('routing');
  }

  /** As `LinkCache.all`. */
  links(known?: ReadonlySet<number>): Promise<readonly HostLink[]> {
    return this.#cache.all(known);
  }

  /** Counts what the kernel has reported about links, and each reason to list them again. */
  get linkReports(): number {
    return this.#cache.reports;
  }

  /** The netns id of the namespace of a veth's peer. Undefined when the peer is in this namespace, or unknown. */
  namespaceBehind(port: number): number | undefined {
    return this.#cache.namespaceBehind(port);
  }

  /** A veth that is on a bridge. */
  isBridgedVeth(index: number): boolean {
    return this.#cache.isBridgedVeth(index);
  }

  /** The state that earlier runs left in the kernel. It is empty if marks had another layout then. */
  async readSnapshot(): Promise<KernelSnapshot> {
    const { bridge, backstop, tables, identity, sets } = await this.#plane.read();
    this.pastBridge.note(tables);
    const isOurs = hasOurLayout(this.#shape, bridge);
    const elements = isOurs ? bridge.elements : EMPTY_BRIDGE;
    const names = namesFor(this.#shape.prefix);
    const hostNetwork = readHostNetworkRules(isOurs ? tables.get(4) : undefined, names);
    const senders = readSenders(isOurs ? identity : undefined, (name) => this.cgroups.pathOf(name));
    const isInstalled = backstop.rules.length > 0;
    return { bridge: elements, isInstalled, sets, ...(senders ?? hostNetwork) };
  }
  async apply(desired: DesiredState, beforeBinding: () => Promise<void>, delta?: Delta): Promise<Applied> {
    this.pastBridge.before(desired.bridge.routed4);
    const applied = await this.#plane.apply(desired, beforeBinding, delta);
    this.pastBridge.after(desired.bridge.routed4);
    return applied;
  }
  /** What the kernel holds now. */
  async observe(): Promise<Observed> {
    const observed = await this.#plane.observe();
    this.pastBridge.note(observed.tables);
    return observed;
  }
  /** Keeps rules that were read for the next start, which reads them again if the generation of nf_tables has changed. */
  keep(rules: Observed, generation: number | undefined): void {
    if (!this.hasZones) return; // iptables-legacy, whose changes have no generation, has none
    const { nft, cgroups } = this;
    const { sets: _, ...others } = rules;
    this.#kept?.write({ rules: others, abilities: { isInNft: cgroups.isInNft, nft } }, generation);
  }
  /** The steps from what was observed to the desired state, without those of the sets with these names. */
  planFrom(observed: Observed, desired: DesiredState, without?: Iterable<string>): Plan {
    return this.#plane.planFrom(observed, desired, without);
  }
  /** The steps from what the kernel holds now, for readers of the API: its processes yield to those of the passes. */
  planForReaders(desired: DesiredState): Promise<Plan> {
    return this.#plane.plan(desired, asReader(this.#run));
  }
  invalidate(): void {
    this.#plane.invalidate();
    this.forwarding.invalidate();
    this.#routing.invalidate();
  }

  /** The rules of other programs as the last pass has read and left them. Undefined when they must be read again, or before the first pass. */
  hostRules(): HostRules | undefined {
    return this.#plane.hostRules();
  }

  /** A count that each change of nf_tables in this network namespace increases. Throws NetlinkError. */
  generation(): number | undefined {
    return this.#elements.generation();
  }

  /** As NftElements.counters. */
  counters(family: Family, chains: readonly string[]): ReturnType<NftElements['counters']> {
    return this.#elements.counters(family, chains);
  }

  /** The bytes that the kernel has counted for each quota of Drawbridge. Rejects with NetlinkError. */
  usedQuotas(): Promise<ReadonlyMap<string, number>> {
    return this.#elements.quotas(BRIDGE_TABLE);
  }

  /** The present evidence for these sets. It takes no process. Rejects with NetlinkError. */
  async evidence(sets: readonly string[]): Promise<Evidence> {
    const generation = this.generation(); // first: a change while the sets are read must show later
    const all = sets.length > FEW_SETS ? await this.sets.digests(sets) : undefined;
    if (all) return { generation, digests: new Map(sets.map((set) => [set, all.get(set)])) };
    const digests = new Map<string, string | undefined>();
    for (const set of sets) {
      if (digests.size % READ_AT_ONCE === READ_AT_ONCE - 1)
        await new Promise((resume) => setImmediate(resume));
      digests.set(set, this.sets.digest(set));
    }
    return { generation, digests };
  }

  /** Whether a set of addresses and networks has these members and no others. Rejects with NetlinkError. */
  async hasMembers({ name, members }: Pick<SetDesired, 'name' | 'members'>): Promise<boolean> {
    return areMembers(await this.sets.members(name), members);
  }

  /** The ways to neighbours on bridges without an address, before any rule lets them speak. Rejects with NetlinkError. */
  routeNeighbours(bridges: DesiredInput['bridges']): Promise<void> {
    return this.#routing.add(neighbourRoutes(bridges, this.own.subnets));
  }
  /** Those that are no longer wanted, after the rules have changed. Rejects with NetlinkError. */
  removeSurplusRoutes(): Promise<void> {
    return this.#routing.removeSurplus();
  }
  /** Whether another process has changed the rules that lead to them. */
  isRoutingChanged(): Promise<boolean> {
    return this.#routing.isChanged();
  }

  /** Sets the static entries that bridges have for these veths. The changes are made in parallel to the passes. */
  setStaticEntries(
    veths: Pick<ForwardingInput, 'others' | 'isEnforced'> & {
      readonly bound: readonly { readonly index: number; readonly mac: string }[];
    },
  ): void {
    const bound = veths.bound.map((v) => ({ ...v, ...this.#cache.masterOf(v.index) }));
    this.forwarding.apply(forwardingOf({ ...veths, bound, own: this.#cache.macs() }));
  }

  /** The header of an empty set, such as most learned sets after a start, takes a tenth of the time of a listing. */
  async members(set: string): Promise<ReadonlyMap<string, number> | undefined> {
    if (this.sets.entries(set) === 0) return new Map();
    const members = await this.sets.members(set);
    return members && new Map(members.map((m) => [m.address, m.timeout ?? 0]));
  }
  add(set: string, address: string, seconds: number): Promise<void> {
    return this.sets.add(set, address, seconds);
  }
  remove(set: string, address: string): Promise<void> {
    return this.sets.remove(set, address);
  }
  async addToBlocklist(set: string, members: readonly string[], seconds: number): Promise<void> {
    const input = members.map((m) => `add ${set} ${m} timeout ${seconds} -exist\n`).join('');
    await runStep(this.#run, { tool: 'ipset', script: input });
  }
  async removeFromBlocklist(set: string, members: readonly string[]): Promise<void> {
    const input = members.map((m) => `del ${set} ${m} -exist\n`).join('');
    await runStep(this.#run, { tool: 'ipset', script: input });
  }
  sockets(cgroups: readonly string[]): Promise<readonly SocketEnds[]> {
    return socketsIn(this.#run, cgroups);
  }
  hostAddresses(): ReadonlySet<string> {
    return this.own.all;
  }

  /**
   * Refreshes the heartbeat set for a few seconds. Its members cover every address. DNS queries of observed containers
   * are redirected to Drawbridge while they exist.
   */
  heartbeat(): void {
    this.#refresh ??= this.sets.repeatedAdds(
      ([4, 6] as const).flatMap((family) =>
        HALVES[family].map((half) => [`${this.#shape.prefix}-alive${family}`, half] as const),
      ),
      HEARTBEAT_SECONDS,
    );
    this.#refresh();
  }

  /**
   * Empties the heartbeat set when the service stops: from then on, queries of observed containers go to their original
   * resolvers.
   */
  async expireHeartbeat(): Promise<void> {
    for (const family of [4, 6] as const) {
      const set = `${this.#shape.prefix}-alive${family}`;
      if ((await this.sets.members(set)) === undefined) continue; // torn down
      for (const half of HALVES[family]) await this.sets.remove(set, half);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#monitor?.close();
    this.linkTable.close();
    this.addressTable.close();
    this.forwarding.close();
    await Promise.all([this.forwarding.settled(), this.pastBridge.settled()]);
    const [bridges, ports, routes, elements] = [
      this.#bridges,
      this.#ports,
      this.#policyRoutes,
      this.#elements,
    ];
    for (const part of [bridges, ports, routes, this.sets, elements, this.flows, this.frames]) part.close();
    this.pastBridge.close(); // it may throw
  }
}
