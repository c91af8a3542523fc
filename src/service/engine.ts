import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Config } from '../config/config.js';
import { bindPorts } from '../control/bindings.js';
import { Classifier } from '../control/classify.js';
import { Denials } from '../control/denials.js';
import { Drift } from '../control/drift.js';
import { Enforcer, type InForce } from '../control/enforcer.js';
import { ForeignPorts } from '../control/foreign-ports.js';
import { Hold } from '../control/hold.js';
import { NamesPolicy } from '../control/names-policy.js';
import type { NamespaceDns } from '../control/namespace-dns.js';
import { Reconciler } from '../control/reconciler.js';
import type { Shape } from '../desired/state.js';
import { DnsService } from '../dns/service.js';
import { DockerWatch } from '../docker/watch.js';
import { KernelAdapter } from '../kernel/adapter.js';
import { exec } from '../kernel/exec.js';
import type { Flow } from '../kernel/netlink/conntrack-codec.js';
import { LegacyTables } from '../kernel/netlink/legacy-tables.js';
import { PacketLog } from '../kernel/netlink/log.js';
import { parsePacket } from '../kernel/netlink/packet.js';
import { PacketQueue } from '../kernel/netlink/queue.js';
import { RulesMonitor } from '../kernel/rules-monitor.js';
import type { Endpoint, Logger, NameEvent } from '../ports.js';
import { closedPlaces } from './closed.js';
import { HostMode } from './host-mode.js';
import { HostWatch } from './host-watch.js';
import { InUse } from './in-use.js';
import { makeNamespaceDns } from './namespaces.js';
import { Policies, type Said } from './policies.js';
import { Pulse } from './pulse.js';
import { SandboxFolders } from './sandbox-folders.js';
import { SearchDomains } from './search-domains.js';
import { shapeOf } from './shape.js';

export interface EngineOptions {
  readonly config: Config;
  readonly said: () => Said;
  /** Where the store's servers are, for those at this host. */
  readonly storeServers: () => readonly Endpoint[];
  readonly log: Logger;
  /** After each pass that held. */
  readonly onApplied?: () => void;
}

/** Everything that enforces, wired: Docker and links in, kernel and DNS out. */
export class Engine {
  readonly shape: Shape;
  readonly kernel: KernelAdapter;
  readonly docker: DockerWatch;
  readonly policies: Policies;
  readonly names: NamesPolicy;
  readonly dns: DnsService;
  readonly denials: Denials;
  readonly enforcer: Enforcer<Flow>;
  readonly hostMode: HostMode;
  readonly reconciler: Reconciler;
  readonly hold: Hold;
  readonly namespaceDns: NamespaceDns;
  readonly hostWatch: HostWatch;
  lastRepair: string | null = null;
  readonly #folders: SandboxFolders;
  readonly #o: EngineOptions;
  /** A veth on a bridge that no network has: asked about at once. */
  readonly #foreign = new ForeignPorts(performance.now.bind(performance), () => this.#relist());
  readonly #search: SearchDomains;
  readonly #classifier: Classifier;
  readonly #drift: Drift;
  readonly #open: (Disposable | AsyncDisposable)[] = [];
  #queue: PacketQueue | undefined;

  constructor(options: EngineOptions) {
    const { config, log } = options;
    this.#o = options;
    this.shape = shapeOf(config);
    this.kernel = new KernelAdapter(this.shape, exec);
    this.docker = new DockerWatch({ socket: config.docker.socket, log, now: () => performance.now() });
    this.policies = new Policies(config, options.said, () => this.docker.view());
    this.#search = new SearchDomains((id) => this.docker.resolver(id));
    this.names = this.#makeNames();
    this.dns = this.#makeDns();
    this.denials = this.#makeDenials();
    this.hostMode = new HostMode({
      folder: config.state,
      kernel: this.kernel,
      dns: this.dns,
      docker: this.docker,
      port: this.shape.dns.port,
      log,
    });
    this.enforcer = this.#makeEnforcer();
    this.reconciler = new Reconciler({ pass: (p) => this.enforcer.pass(p), log });
    this.#classifier = this.#makeClassifier();
    this.#drift = this.#makeDrift();
    this.hold = this.#makeHold();
    this.#folders = new SandboxFolders(config.state);
    this.namespaceDns = makeNamespaceDns({
      kernel: this.kernel,
      dns: this.dns,
      docker: this.docker,
      state: () => this.state,
      folders: this.#folders,
      policyOf: this.policies.policyOf,
      log,
    });
    this.hostWatch = new HostWatch({ config, docker: this.docker, state: () => this.state, log });
  }

  get state(): InForce | undefined {
    return this.enforcer.state;
  }

  /** Resolves when the first pass holds. Queue and log are bound before: nothing that is held is lost. */
  async start(): Promise<void> {
    const { log } = this.#o;
    await this.kernel.prepare((what, port) => this.#linkNews(what, port));
    this.#listenToPackets();
    const { v4, v6, port } = this.shape.dns;
    this.#open.push(await this.dns.listen(v4, port), await this.dns.listen(v6, port));
    this.docker.onChange((view, reason) => {
      this.reconciler.trigger(`docker: ${reason}`);
      if (view.connected)
        for (const id of this.dns.ledger.containers()) if (!view.containers.has(id)) this.dns.forget(id);
    });
    this.docker.start();
    // Seen before the first list begins: ports of others are free from the first pass on.
    this.#foreign.unproven(this.docker.view(), await this.kernel.links(new Set()));
    await this.#firstView();
    await this.hostMode.prepare();
    this.#open.push(this.#folders.follow((path) => this.namespaceDns.appeared(path)));
    this.#open.push(this.hostMode);
    this.reconciler.trigger('start', true);
    this.reconciler.begin();
    await this.reconciler.inForce(30_000);
    await this.namespaceDns.whole(NAMESPACES_MS);
    await this.hostWatch.start();
    this.#open.push(this.hostWatch);
    this.#open.push(new RulesMonitor(this.shape.prefix, (what) => this.#changedByOthers(what), log));
    this.#open.push(
      new Pulse({
        kernel: this.kernel,
        state: () => this.state,
        tampered: (what) => this.#tampered(what),
        emptied: (what) => this.#repair(what),
        resting: () => this.reconciler.resting,
        log,
        dns: this.dns,
        ...this.#legacyTables(),
      }),
    );
    this.#open.push(
      new InUse({
        dns: this.dns,
        flows: this.kernel.flows,
        marks: this.shape.marks,
        state: () => this.state,
        log,
      }),
    );
  }

  async stop(): Promise<void> {
    this.#drift.stop();
    await this.reconciler.stop();
    this.hold.close();
    await this.namespaceDns.close();
    for (const part of this.#open.reverse()) {
      if (Symbol.asyncDispose in part) await part[Symbol.asyncDispose]();
      else part[Symbol.dispose]();
    }
    await this.docker.close();
    this.dns[Symbol.dispose]();
    await this.kernel[Symbol.asyncDispose]();
  }

  /** Waits for Docker; without it the first pass only lays the closed base. */
  async #firstView(): Promise<void> {
    const view = await Promise.race([this.docker.refresh().catch(() => undefined), wait(DOCKER_WAIT_MS)]);
    if (!view)
      this.#o.log.warn(
        { socket: this.#o.config.docker.socket },
        'Docker does not answer yet: unknown ports stay closed until it does',
      );
  }

  #relist(): void {
    this.docker.refresh().then(
      () => this.reconciler.trigger('a port on a strange bridge'),
      (e: unknown) =>
        this.#o.log.warn({ err: String(e) }, 'a port on a strange bridge stays closed until Docker answers'),
    );
  }

  #changedByOthers(what: string): void {
    this.hostWatch.changed();
    this.#tampered(what);
  }

  #tampered(what: string): void {
    this.#o.log.debug({ what }, 'somebody may have changed rules: looking');
    this.#drift.suspect(what);
  }

  #repair(what: string): void {
    this.reconciler.trigger(`changed by others: ${what}`, true);
  }

  #legacyTables(): { tables?: () => string } {
    if (!this.hostMode.isLegacy) return {};
    const tables = new LegacyTables();
    this.#open.push(tables);
    return { tables: () => tables.fingerprint() };
  }

  #makeDrift(): Drift {
    return new Drift({
      look: async () => (this.state ? (await this.kernel.plan(this.state.desired)).stages.length : 0),
      resting: () => this.reconciler.resting,
      repair: (what) => this.#repair(what),
      log: this.#o.log,
    });
  }

  #makeNames(): NamesPolicy {
    return new NamesPolicy({
      prefix: this.shape.prefix,
      hostAddresses: () => this.kernel.hostAddresses(),
      searchDomains: (id) => this.#search.of(id),
    });
  }

  #makeDns(): DnsService {
    const { dns, state } = this.#o.config;
    mkdirSync(state, { recursive: true, mode: 0o700 });
    return new DnsService({
      config: {
        upstreams: dns.upstreams,
        zones: dns.zones,
        minTtl: dns.minTtlMs / 1000,
        maxTtl: dns.maxTtlMs / 1000,
        grace: dns.graceMs / 1000,
      },
      policy: this.names,
      sets: this.kernel.sets,
      original: this.kernel.flows,
      log: this.#o.log,
      journal: join(state, 'names.journal'),
      onEvent: (e: NameEvent) => this.denials.name(e),
    });
  }

  #makeDenials(): Denials {
    return new Denials({
      marks: this.shape.marks,
      containerOf: (identity, src) =>
        [...(this.state?.members.values() ?? [])].find((m) => m.identity === identity)?.id ??
        this.names.whoIs(src),
      namesOf: (container, address) => this.dns.namesFor(container, address),
      now: Date.now,
    });
  }

  #makeEnforcer(): Enforcer<Flow> {
    return new Enforcer<Flow>({
      shape: this.shape,
      kernel: this.kernel,
      view: () => this.docker.view(),
      policyOf: this.policies.policyOf,
      eastWest: this.policies.eastWest,
      hosts: this.hostMode.senders,
      beforeRules: (input) => this.hostMode.resolvers.sync(input),
      isManaged: this.policies.isManaged,
      foreign: this.#foreign,
      unattributed: this.policies.unattributed,
      closed: () => closedPlaces(this.#o.config, this.#o.storeServers(), this.kernel.hostAddresses()),
      learned: {
        wanted: (id) => this.dns.members(id),
        has: (id, set, address) => this.dns.isMember(id, set, address),
      },
      log: this.#o.log,
      now: Date.now,
      lookAgain: (ms) => this.reconciler.later('departed members', ms),
      onApplied: (state) => this.#applied(state),
    });
  }

  #applied(state: InForce): void {
    if (state.repaired) {
      this.lastRepair = new Date().toISOString();
      this.#o.log.warn({}, 'rules of ours were missing or changed: repaired');
    }
    this.names.applied(state);
    this.hold.settle();
    this.#folders.noteAll(state.view.containers.values());
    this.namespaceDns.applied(state);
    this.#search.refresh(state.members.keys());
    this.#o.onApplied?.();
    this.denials.retain(new Set(state.view.containers.keys()));
  }

  #makeClassifier(): Classifier {
    return new Classifier({
      refresh: () => this.docker.refresh(),
      inForce: (ms) => this.reconciler.inForce(ms),
      state: () => this.state,
      setUnattributed: (port) => this.enforcer.setUnattributed(port),
      log: this.#o.log,
    });
  }

  #makeHold(): Hold {
    return new Hold({
      marks: this.shape.marks,
      verdict: (id, verdict, mark) => this.#queue?.verdict(id, verdict, mark),
      state: () => this.#inKernel(),
      classify: () => this.#classifier.request(),
      now: () => performance.now(),
      onUnattributed: (src) => this.names.stranger(src),
    });
  }

  #inKernel() {
    const { state } = this;
    if (!state) return undefined;
    return {
      ports: state.ports,
      unattributed: state.unattributed,
      unattributedMode: state.input.unattributedMode,
      identityOf: (container: string) => {
        const m = state.members.get(container);
        return m && { identity: m.identity, mode: m.policy.mode };
      },
      veths: state.veths,
      listBegan: state.view.listBegan,
      isUnknownStarting: [...state.view.starting].some((id) => !state.view.containers.has(id)),
    };
  }

  #listenToPackets(): void {
    this.#queue = new PacketQueue({ queue: this.shape.holdQueue }, (p) => {
      const header = parsePacket(p.payload);
      if (header.ok)
        this.hold.take({ id: p.id, mark: p.mark, src: header.value.src, isLocal: p.hook === LOCAL_OUT });
      else this.#queue?.verdict(p.id, 'drop');
    });
    const packets = new PacketLog({ group: this.shape.logGroup }, (p) => {
      const header = parsePacket(p.payload);
      if (!header.ok) return;
      const { src, dst, protocol, dport = 0 } = header.value;
      this.denials.packet({
        prefix: p.prefix,
        mark: p.mark,
        proto: PROTO[protocol] ?? String(protocol),
        src,
        dst,
        dport,
      });
    });
    this.#open.push(this.#queue, packets);
  }

  #linkNews(what: 'link' | 'link gone' | 'links overran', port?: number): void {
    if (what === 'links overran') this.reconciler.trigger(what);
    else this.reconciler.later(what, what === 'link' ? LINK_MS : GONE_MS);
    const isIn = port !== undefined && this.kernel.namespaceBehind(port) !== undefined;
    if (isIn && this.state && !this.state.ports.bindings.has(port)) void this.#portArrived(port, this.state);
  }

  /** The port stands in its namespace, with the MAC it will have (Docker sets both before it brings it up): now it tells whose it is. */
  async #portArrived(port: number, state: InForce): Promise<void> {
    const before = state.ports.bindings;
    const links = await this.kernel.links(new Set(before.keys()));
    const { bindings } = bindPorts(this.docker.view(), links, before, this.policies.isManaged);
    const owner = bindings.get(port)?.container;
    if (owner !== undefined) this.namespaceDns.arrived(owner, port);
    this.reconciler.trigger('port');
  }
}

/** A new veth's network:connect event comes 15–30 ms behind it; what is gone has time. */
const LINK_MS = 40;
const GONE_MS = 500;
const DOCKER_WAIT_MS = 10_000;
/** Names work again when the service says that it is ready. */
const NAMESPACES_MS = 5_000;
/** NF_INET_LOCAL_OUT */
const LOCAL_OUT = 3;
const PROTO: Readonly<Record<number, string>> = { 1: 'icmp', 6: 'tcp', 17: 'udp', 58: 'icmp' };
const wait = (ms: number): Promise<undefined> =>
  new Promise((resolve) => void setTimeout(() => resolve(undefined), ms).unref());
