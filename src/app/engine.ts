import type { Config } from '../config/config.js';
import { HostWatch } from '../coverage/host-watch.js';
import type { DnsService } from '../dns/dns-service.js';
import type { NamesPolicy } from '../dns/names-policy.js';
import type { NamespaceDns } from '../dns/namespace-dns.js';
import { SandboxFolders } from '../dns/sandbox-folders.js';
import { DockerWatch } from '../docker/watch.js';
import type { Denials } from '../enforce/denials.js';
import { Holding } from '../enforce/holding.js';
import { HostMode } from '../enforce/host-cgroups.js';
import type { LearnedPort } from '../enforce/learned-sets.js';
import { LinkEvents } from '../enforce/link-events.js';
import { dispose, Maintenance } from '../enforce/maintenance.js';
import type { EnforcementPass } from '../enforce/pass.js';
import { closedPlaces, type Overrides, Policies } from '../enforce/policies.js';
import { Quotas } from '../enforce/quotas.js';
import { type Readiness, readiness } from '../enforce/readiness.js';
import { Reconciler } from '../enforce/reconciler.js';
import { makeRecording, type Recording } from '../enforce/recording.js';
import { ForeignPorts } from '../enforce/veth-table.js';
import { FlowBlocklist } from '../kernel/delete-flows.js';
import { exec } from '../kernel/exec.js';
import { POLLING } from '../kernel/follow-folder.js';
import { Kernel } from '../kernel/kernel.js';
import { Sandboxes } from '../kernel/sandboxes.js';
import { Current } from '../lib/current.js';
import type { Logger } from '../lib/log.js';
import type { NetnsRules } from '../netns-rules/netns-rules.js';
import type { ContainerFacts } from '../policy/container.js';
import type { Mode, Policy } from '../policy/policy.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import { type KernelConfig, UNATTRIBUTED_ID } from '../ruleset/desired-state.js';
import { shapeOf } from '../ruleset/kernel-config.js';
import type { ReservedPort } from '../ruleset/reserved-ports.js';
import type { Endpoint } from '../store/store-interface.js';
import type { ActiveThreats } from '../threats/active-threats.js';
import { makeDenials } from './wire-denials.js';
import { makeNames } from './wire-dns.js';
import { alsoInside, makeInside } from './wire-inside.js';
import { makeEnforcer } from './wire-pass.js';
import { makeThreats } from './wire-threats.js';

export interface EngineOptions {
  readonly config: Config;
  readonly said: () => Overrides;
  /** Where the store's servers are, for those at this host. */
  readonly storeServers: () => readonly Endpoint[];
  readonly log: Logger;
  /** The last word on a policy; left out: the policy as it is. */
  readonly temper?: (policy: Policy, facts: ContainerFacts) => Policy;
  /** How the rules of an earlier run hold each container, before the first pass. */
  readonly onTakeOver?: (modes: ReadonlyMap<string, Mode>) => void;
  /** Another process has removed what the kernel remembers of the store. */
  readonly onRecordLost?: () => void;
  /** After each pass that held. */
  readonly onApplied?: () => void;
}

/** Everything that enforces, wired: Docker and links in, kernel and DNS out. */
export class Engine {
  /** What the last pass has installed: every part that needs it reads it here. */
  readonly applied = new Current<AppliedState>();
  readonly shape: KernelConfig;
  readonly kernel: Kernel;
  readonly docker: DockerWatch;
  readonly policies: Policies;
  readonly quotas: Quotas;
  readonly names: NamesPolicy;
  readonly dns: DnsService;
  readonly recording: Recording;
  readonly denials: Denials;
  readonly bars: FlowBlocklist;
  readonly threats: ActiveThreats;
  readonly enforcer: EnforcementPass;
  readonly hostMode: HostMode;
  readonly reconciler: Reconciler;
  readonly namespaceDns: NamespaceDns;
  readonly lan: NetnsRules;
  readonly hostWatch: HostWatch;
  lastRepair: string | null = null;
  readonly #folders: SandboxFolders;
  readonly #o: EngineOptions;
  /** A veth on a bridge that no network has: asked about at once. */
  readonly #foreign = new ForeignPorts(() => this.#relist());
  readonly #open: (Disposable | AsyncDisposable)[] = [];
  readonly #sandboxes: Sandboxes;
  readonly #upkeep: Maintenance;
  readonly #links: LinkEvents;
  readonly #holding: Holding;

  constructor(options: EngineOptions) {
    const { config, log } = options;
    this.#o = options;
    this.shape = shapeOf(config);
    this.kernel = new Kernel(this.shape, exec, log);
    this.docker = new DockerWatch({ socket: config.docker.socket, log, now: () => performance.now() });
    this.bars = new FlowBlocklist(this.kernel, this.shape.prefix, Date.now);
    this.threats = makeThreats(this, config, log);
    this.policies = new Policies({
      config,
      said: options.said,
      view: () => this.docker.view(),
      temper: options.temper ?? ((policy) => policy),
    });
    this.quotas = new Quotas({
      folder: config.state,
      run: exec,
      state: () => this.state,
      trigger: (trigger) => this.reconciler.trigger(trigger),
      log,
      now: Date.now,
    });
    const names = makeNames({
      config,
      prefix: this.shape.prefix,
      kernel: this.kernel,
      sets: alsoInside(this.kernel.sets, () => this.lan),
      docker: this.docker,
      log,
      threats: this.threats.look,
      onEvent: (e) => this.denials.name(e),
    });
    this.names = names.policy;
    this.dns = names.dns;
    this.recording = makeRecording(this, { config, lost: () => this.#holding.lost, log });
    this.denials = makeDenials(this);
    this.hostMode = new HostMode({
      folder: config.state,
      kernel: this.kernel,
      dns: this.dns,
      docker: this.docker,
      port: this.shape.dns.port,
      log,
    });
    this.enforcer = makeEnforcer(this, {
      foreign: this.#foreign,
      closed: this.#closed,
      log,
    });
    this.enforcer.restored.subscribe((modes) => options.onTakeOver?.(modes));
    this.enforcer.installed.subscribe((state) => this.#applied(state));
    this.reconciler = new Reconciler({ pass: this.enforcer, log });
    this.#holding = new Holding({
      shape: this.shape,
      docker: this.docker,
      reconciler: this.reconciler,
      denials: this.denials,
      state: () => this.state,
      setUnattributed: (port) => this.enforcer.setUnattributed(port),
      onUnattributed: (src) => this.names.unattributedSender(src),
      log,
    });
    this.#folders = new SandboxFolders(config.state, log);
    this.#sandboxes = new Sandboxes({
      onPrepared: (path, sockets) => inside.furnished(path, sockets),
      onPrepareFailed: (path, e) =>
        log.debug({ path, err: e.message }, 'a new network namespace could not be prepared'),
      onQueriedBefore: (path, e) => inside.askedBefore(path, e),
      onPolling: (folder, isPolling) => this.#folders.polling.note(folder, isPolling, 'thread'),
      onFailure: (e) =>
        log.error(
          { err: String(e) },
          'the thread that prepares new network namespaces has ended: it is started again',
        ),
    });
    const inside = makeInside(this, {
      folders: this.#folders,
      sandboxes: this.#sandboxes,
      learned: this.#learned,
      closed: this.#closed,
      log,
    });
    this.namespaceDns = inside.namespaceDns;
    this.lan = inside.lan;
    this.hostWatch = new HostWatch({ config, docker: this.docker, state: () => this.state, log });
    this.#upkeep = new Maintenance({
      shape: this.shape,
      kernel: this.kernel,
      dns: this.dns,
      threats: this.threats,
      reconciler: this.reconciler,
      hostWatch: this.hostWatch,
      state: () => this.state,
      wanted: () => this.enforcer.wanted(),
      recordLost: () => this.#recordLost(),
      isLegacy: () => this.hostMode.isLegacy,
      log,
    });
    this.#links = new LinkEvents({
      kernel: this.kernel,
      docker: this.docker,
      policies: this.policies,
      reconciler: this.reconciler,
      namespaceDns: this.namespaceDns,
      onLanLink: () => this.lan.linkMade(),
      state: () => this.state,
      log,
    });
  }

  /** What works worse than it should on this host; undefined: nothing. */
  get degraded(): string | undefined {
    return this.#folders.polling.isOn ? POLLING : undefined;
  }

  get state(): AppliedState | undefined {
    return this.applied.value;
  }

  /** As /readyz says it. */
  get readiness(): Readiness {
    const { reconciler } = this;
    const why = reconciler.lastError?.message ?? 'the kernel does not hold the desired state';
    return readiness({
      now: performance.now(),
      hasState: this.state !== undefined,
      isDockerThere: this.docker.answers,
      failure: reconciler.inSync ? undefined : why,
      waiting: reconciler.waiting,
      checkedAt: this.#upkeep.checkedAt ?? reconciler.heldAt,
    });
  }

  /** Resolves when the first pass holds. Queue and log are bound before: nothing that is held is lost. */
  async start(): Promise<void> {
    await this.kernel.prepare((what, port) => this.#links.take(what, port));
    this.#holding.begin();
    this.#open.push(this.#holding);
    const { v4, v6, port } = this.shape.dns;
    this.#open.push(await this.dns.listen(v4, port), await this.dns.listen(v6, port));
    await this.#learnFolders();
    this.#sandboxes.arm({ prepare: true });
    this.#open.push(
      this.#folders.follow(
        (path) => this.lan.appeared(path),
        (folder) => this.#sandboxes.follow(folder),
      ),
      this.#sandboxes,
    );
    let isAway = false; // then new networks of that kind are not reported either
    this.docker.onChange((view, change) => {
      if (change.kind === 'connected') void this.#learnFolders();
      isAway = change.kind === 'disconnected' || (isAway && !view.connected);
      this.#sandboxes.arm({ close: isAway || [...view.networks.values()].some(this.policies.isLan) });
      this.namespaceDns.reported();
      this.reconciler.trigger({ kind: 'docker', change });
      if (view.connected)
        for (const id of this.dns.ledger.containers())
          if (!view.containers.has(id) && id !== UNATTRIBUTED_ID) this.dns.forget(id);
    });
    this.docker.start();
    // Seen before the first list begins: ports of others are free from the first pass on.
    this.#foreign.unproven(this.docker.view(), await this.kernel.links(new Set()), this.policies.isManaged);
    if (!(await this.#firstView())) isAway = true;
    await this.hostMode.prepare();
    await this.quotas.prepare();
    this.#open.push(this.hostMode);
    this.reconciler.trigger({ kind: 'start' }, true);
    this.reconciler.begin();
    await this.reconciler.inForce(30_000);
    await this.namespaceDns.whole(NAMESPACES_MS);
    await this.lan.applied();
    this.lan.begin();
    this.#open.push(this.lan);
    this.#open.push(this.#upkeep, this.quotas, this.recording);
    this.quotas.begin();
    this.recording.begin();
    await this.#upkeep.begin();
  }

  /** Takes what is ours out of containers' namespaces (teardown). */
  async leaveNamespaces(): Promise<void> {
    await this.#sandboxes[Symbol.asyncDispose]();
    await this.namespaceDns.detachAll();
    await this.lan.removeAll();
  }

  async stop(): Promise<void> {
    this.#upkeep.stopLooking();
    this.#links.close();
    await this.reconciler.stop();
    await this.threats.close();
    this.#holding.close();
    await this.namespaceDns.close();
    for (const part of this.#open.reverse()) await dispose(part);
    await this.docker.close();
    this.dns[Symbol.dispose]();
    await this.kernel[Symbol.asyncDispose]();
  }

  /** The first container may start while Docker does not answer: its sandbox appears in a folder that must be known by then. */
  async #learnFolders(): Promise<void> {
    await this.#folders
      .noteEngines(this.#o.config.docker.socket)
      .catch((e: unknown) =>
        this.#o.log.warn(
          { err: String(e) },
          'cannot look for the exec root of dockerd: the first container shows it',
        ),
      );
  }

  /** Waits for Docker; without it the first pass only lays the closed base, and new sandboxes are closed. */
  async #firstView(): Promise<boolean> {
    const asked = this.docker.refresh().catch(() => undefined);
    const soon = await Promise.race([asked, wait(DOCKER_SOON_MS)]);
    if (!soon) this.#sandboxes.arm({ close: true });
    const view = soon ?? (await Promise.race([asked, wait(DOCKER_WAIT_MS)]));
    if (!view)
      this.#o.log.warn(
        { socket: this.#o.config.docker.socket },
        'Docker does not answer yet: unknown ports stay closed until it does',
      );
    return view !== undefined;
  }

  #relist(): void {
    this.docker.refresh().then(
      () => this.reconciler.trigger({ kind: 'unknown bridge' }),
      (e: unknown) =>
        this.#o.log.warn({ err: String(e) }, 'a port on a strange bridge stays closed until Docker answers'),
    );
  }

  readonly #closed = (): readonly ReservedPort[] =>
    closedPlaces(this.#o.config, this.#o.storeServers(), {
      hostAddresses: this.kernel.hostAddresses(),
      containers: this.docker.view().containers.values(),
    });

  readonly #learned: LearnedPort = {
    wanted: (id) => this.dns.members(id),
    has: (id, set, address) => this.dns.isMember(id, set, address),
  };

  #recordLost(): void {
    this.lastRepair = new Date().toISOString();
    this.#o.log.warn({}, 'the record of the store in the kernel was removed: it is written again');
    this.#o.onRecordLost?.();
  }

  #applied(state: AppliedState): void {
    if (state.repaired) {
      this.lastRepair = new Date().toISOString();
      this.#o.log.warn({}, 'rules of ours were missing or changed: repaired');
    }
    this.#holding.settle();
    this.#links.askAgain(state.vethMap.outdated);
    this.#folders.noteAll(state.view.containers.values());
    this.namespaceDns.applied(state);
    this.names.refreshSearchDomains(state.view.containers.keys());
    this.#o.onApplied?.();
    this.denials.retain(new Set(state.view.containers.keys()));
  }
}

const DOCKER_WAIT_MS = 10_000;
/** Within this time a healthy engine lists its containers. */
const DOCKER_SOON_MS = 1_000;
/** Names work again when the service says that it is ready. */
const NAMESPACES_MS = 5_000;
const wait = (ms: number): Promise<undefined> =>
  new Promise((resolve) => void setTimeout(() => resolve(undefined), ms).unref());
