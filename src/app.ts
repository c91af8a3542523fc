/**
 * The only place where the parts of the service that enforce are put together: every part in the order of what it needs. A part
 * is handed only to parts that are built after it. The subscriptions between them are in subscriptions.ts.
 */

import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { Asks } from './ask/asks.js';
import { Audit } from './changes/audit.js';
import { Changes } from './changes/changes.js';
import { findContainer } from './changes/container-changes.js';
import { AppliedRevision, CurrentOverrides, nameConflicts } from './changes/current-overrides.js';
import { changedKeys, IgnoredLabels, recordStart, recordStop } from './changes/service-records.js';
import { modesInForce, StoreTrust } from './changes/store-trust.js';
import { type Config, nodeName } from './config/config.js';
import type { FolderState } from './config/list-files.js';
import { ListProblems, watchFolder } from './config/list-folder.js';
import { ListReader } from './config/list-reader.js';
import { ConnectionChecks } from './connections/connection-checks.js';
import { VerifiedNames } from './connections/verified-names.js';
import { DnsService, dnsConfig } from './dns/dns-service.js';
import { type NameEvent, NamesPolicy } from './dns/names-policy.js';
import { openEngine } from './docker/open-engine.js';
import { Classifier } from './enforce/classify.js';
import { ConnectionResets } from './enforce/connection-ends.js';
import { ForeignBridges } from './enforce/foreign-bridges.js';
import { Health } from './enforce/health.js';
import { HostMode } from './enforce/host-cgroups.js';
import { LearnedSetWriters } from './enforce/learned-sets.js';
import { LinkEvents } from './enforce/link-events.js';
import { Maintenance } from './enforce/maintenance.js';
import { NeighbourChanges } from './enforce/neighbour-changes.js';
import { PacketHold } from './enforce/packet-hold.js';
import { EnforcementPass } from './enforce/pass.js';
import { type Overrides, Policies, ReservedPorts } from './enforce/policies.js';
import { Quotas } from './enforce/quotas.js';
import { Reconciler } from './enforce/reconciler.js';
import { Denials } from './flows/denials.js';
import { Destinations } from './flows/destination.js';
import { Tallies } from './flows/tallies.js';
import { FlowBlocklist } from './kernel/delete-flows.js';
import { exec } from './kernel/exec.js';
import { Kernel } from './kernel/kernel.js';
import { ToolProcess } from './kernel/tool-process.js';
import { steadyNow } from './lib/clock.js';
import { Current, Signal } from './lib/current.js';
import { DisposalStack } from './lib/disposal-stack.js';
import type { Logger } from './lib/log.js';
import { nat64Ranges } from './lib/special-use.js';
import { ContainerNamespaces } from './namespaces/container-namespaces.js';
import { NamespaceDns } from './namespaces/namespace-dns.js';
import { NetnsRules } from './namespaces/netns-rules.js';
import { SandboxFolders } from './namespaces/sandbox-folders.js';
import { Sandboxes } from './namespaces/sandboxes.js';
import { LastRun } from './ops/last-run.js';
import { formerPrefixes } from './ops/teardown.js';
import type { ThreatLook } from './policy/threat.js';
import type { AppliedState, CanaryPlace } from './ruleset/applied-state.js';
import { shapeOf } from './ruleset/kernel-config.js';
import { SmallState } from './store/small-state.js';
import type { SharedStore } from './store/store-interface.js';
import { ActiveThreats } from './threats/active-threats.js';
import { Feeds } from './threats/feed-service.js';

/** An event of one kind. `emit` calls the listeners one after the other, and resolves when the last one has ended. */
class AsyncSignal<T> {
  readonly #listeners = new Set<(value: T) => Promise<void>>();

  async emit(value: T): Promise<void> {
    for (const listener of this.#listeners) await listener(value);
  }

  subscribe(listener: (value: T) => Promise<void>): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => this.#listeners.delete(listener) };
  }
}

/** What the parts are made of, and where they are ended. */
export interface Base {
  readonly config: Config;
  readonly log: Logger;
  readonly shared: SharedStore;
  /** Ends the parts, in the reverse order of their making. */
  readonly parts: DisposalStack;
}
export type App = Base & Inputs & Enforced & Containers & Pass & Changing;
type Inputs = Awaited<ReturnType<typeof buildInputs>>;
type Enforced = ReturnType<typeof buildNames>;
type Containers = ReturnType<typeof buildContainers>;
type Pass = ReturnType<typeof buildPass>;
type Changing = Awaited<ReturnType<typeof buildChanges>>;

/** Builds all parts that enforce. None works before the start (core-service.ts). */
export async function buildApp(base: Base, former: Config | undefined): Promise<App> {
  const inputs = { ...base, ...(await buildInputs(base)) };
  const names = { ...inputs, ...buildNames(inputs) };
  const containers = { ...names, ...buildContainers(names) };
  const pass = { ...containers, ...buildPass(containers) };
  return { ...pass, ...(await buildChanges(pass, former)) };
}

/** What policies are compiled from: the folder of lists, the store, and how far the store is trusted. */
async function buildInputs({ config, log, shared, parts }: Base) {
  const applied = new Current<AppliedState>();
  const shape = shapeOf(config);
  const lastRepair = new Current<string>();
  const canaryPlace = new Current<CanaryPlace | undefined>();
  const onRepaired = (): void => lastRepair.set(new Date().toISOString());

  const { store, kind } = shared;
  parts.add(() => store.close());
  const small = parts.use(await SmallState.open(config.state, log));
  const lastRun = parts.use(new LastRun(small, log));
  const tools = parts.use(new ToolProcess(log));
  const reader = parts.use(new ListReader());
  const listProblems = new ListProblems(log);
  const folderChanged = new Signal<FolderState>();
  const lists = parts.use(await watchFolder(config.allowlists, reader, (state) => folderChanged.emit(state)));
  listProblems.report(lists.state.problems);
  const state = await Changes.load({ store, log, parseList: reader.body });
  parts.add(async () => state.close());
  const kernel = parts.use(new Kernel(shape, exec, log, join(config.state, 'kernel-rules')));
  const trustChanged = new Signal();
  const trust = await StoreTrust.open({
    store,
    isShared: kind === 'redis',
    sets: kernel.sets,
    run: exec,
    prefix: shape.prefix,
    former: formerPrefixes(config),
    log,
    modes: () => applied.value && modesInForce(applied.value),
    onChange: () => trustChanged.emit(),
    now: Date.now,
  });
  parts.add(() => trust.close());
  const appliedRevision = new AppliedRevision(() => store.revision());
  const revisionOf = (key: string): number => state.revisionOf(key);
  const current = new CurrentOverrides(lists, state);
  const overrides = (): Overrides => {
    appliedRevision.read();
    return trust.said(current.read(Date.now()), revisionOf);
  };
  const rules = { applied, canaryPlace, lastRepair, onRepaired, shape, kernel, tools };
  const policyInputs = { reader, listProblems, folderChanged, lists, state, trust, trustChanged };
  return { ...rules, ...policyInputs, small, lastRun, appliedRevision, revisionOf, overrides };
}

/** Docker, threats, policies and names. */
function buildNames(p: Base & Inputs) {
  const { config, kernel, parts, revisionOf, shape, trust } = p;
  const { prefix, marks } = shape;
  const docker = openEngine(config.docker.socket, p.log);
  const blocklist = new FlowBlocklist(kernel, prefix, steadyNow);
  const threatsPublished = new AsyncSignal<ThreatLook>();
  const threats = new ActiveThreats({
    ...p,
    prefix,
    identityMask: marks.identity,
    maxEntries: config.threats.maxEntries,
    blocklist,
    recheckAnswers: (look) => threatsPublished.emit(look),
  });
  const policies = new Policies({
    ...p,
    docker,
    temper: (policy, facts) => trust.policy(policy, facts, revisionOf),
  });
  const quotas = new Quotas({ ...p, now: Date.now, steady: steadyNow });
  const reserved = new ReservedPorts({ ...p, docker });
  mkdirSync(config.state, { recursive: true, mode: 0o700 });
  const nat64 = nat64Ranges(config.networks.nat64);
  const setWriters = new LearnedSetWriters(kernel.sets);
  const names = new NamesPolicy({ prefix, kernel, docker, threats: threats.look, nat64 });
  const nameEvents = new Signal<NameEvent>();
  const asking = new Current<Asks>();
  const dns = parts.use(
    new DnsService({
      config: dnsConfig(config.dns),
      policy: names,
      sets: setWriters,
      original: kernel.flows,
      log: p.log,
      journal: join(config.state, 'names.journal'),
      onEvent: (event) => nameEvents.emit(event),
      ask: (question) => asking.value?.name(question) ?? 'no',
      now: steadyNow,
    }),
  );
  parts.use(docker);
  const enforced = { docker, blocklist, threats, threatsPublished, policies, quotas, reserved, nat64 };
  return { ...enforced, setWriters, names, nameEvents, asking, dns };
}

/** What is known of containers, and what is inside their network namespaces. */
function buildContainers(p: Base & Inputs & Enforced) {
  const { applied, config, docker, log, policies, shape, threats } = p;
  const destinations = new Destinations(p);
  const tallies = new Tallies();
  const subjectOf = (id: string) => applied.value?.subjects.get(id);
  const neighbours = new NeighbourChanges(Date.now, subjectOf, policies.eastWest);
  const changes = neighbours;
  const denials = new Denials({ ...p, marks: shape.marks, threats: threats.look, tallies, changes });
  const hostMode = new HostMode({ ...p, folder: config.state, port: shape.dns.port });
  const sandboxes = new Sandboxes(log);
  const folders = new SandboxFolders(config.state, sandboxes, log);
  const isAway = new Current<boolean>();
  const attached = new Signal<string>();
  /** A container that is gone, before its names are forgotten. */
  const departing = new Signal<string>();
  const { policyOf, isManaged, isLan } = policies;
  const namespaces = new ContainerNamespaces({
    ...p,
    docker,
    folders,
    sandboxes,
    policyOf,
    isManaged,
    isLan,
  });
  const namespaceDns = new NamespaceDns({ namespaces, onAttached: (id) => attached.emit(id), log });
  const lan = new NetnsRules({ ...p, namespaces, namespaceDns, onRepair: p.onRepaired });
  const inside = { sandboxes, folders, isAway, attached, departing, namespaces, namespaceDns, lan };
  return { destinations, tallies, neighbours, denials, hostMode, ...inside };
}

/** The pass, its queues, and what checks the kernel. */
function buildPass(p: Base & Inputs & Enforced & Containers) {
  const { dns, lan, log, namespaceDns, parts, shape, threats } = p;
  const now = (): number => performance.now();
  const foreign = new ForeignBridges();
  const verified = new VerifiedNames({ marks: shape.marks, dns, threats: threats.look });
  const resets = new ConnectionResets({ ...p, run: exec });
  const pass = new EnforcementPass({
    ...p,
    reset: resets.reset,
    foreign,
    canary: p.canaryPlace,
    verified,
    installInNamespaces: (state) => lan.applied(state),
    now: steadyNow,
  });
  const reconciler = new Reconciler({ pass, log });
  const classifier = new Classifier({ ...p, reconciler, pass, now });
  const hold = new PacketHold({ ...p, classifier, now });
  const checks = new ConnectionChecks({ ...p, verified, keys: dns.keys, now });
  const maintenance = new Maintenance({ ...p, pass, reconciler });
  const links = new LinkEvents({ ...p, reconciler });
  const health = new Health({ ...p, reconciler, maintenance });

  const begun = new DisposalStack();
  parts.add(() => begun.end());
  parts.add(() => namespaceDns.close());
  parts.add(async () => hold.close());
  parts.add(() => threats.close());
  parts.add(() => reconciler.stop());
  parts.add(async () => links.close());
  parts.add(async () => maintenance.stopChecking());
  return { begun, foreign, verified, resets, pass, reconciler, hold, checks, maintenance, links, health };
}

/** Feeds, the audit, and changes by people. */
async function buildChanges(p: Base & Inputs & Enforced & Containers & Pass, former: Config | undefined) {
  const { applied, appliedRevision, config, docker, lists, log, parts, policies, reconciler, state } = p;
  const { store, kind } = p.shared;
  const node = nodeName(config);
  parts.use(store.watch(() => p.trust.changed()));
  const feeds = parts.use(new Feeds(p));
  feeds.begin();
  const audit = parts.use(await Audit.open({ dir: config.state, store, kind, now: Date.now, node, log }));
  await recordStart(audit, node, p.lastRun.ended, former && changedKeys(former, config));
  parts.add(() => recordStop(audit, node));
  const containers = () => docker.view().containers;
  const changes = await Changes.open({
    store,
    audit,
    reconciler,
    log,
    node,
    state,
    tokens: config.api.tokens,
    parseList: p.reader.body,
    folderLists: () => [...lists.state.lists.values()],
    usedBy: (list) =>
      [...(applied.value?.subjects.values() ?? [])]
        .filter((m) => m.policy.lists.includes(list))
        .map((m) => containers().get(m.id)?.name ?? m.id),
    find: (idOrName) => containers().get(idOrName) ?? findContainer(containers().values(), idOrName),
    now: Date.now,
    denied: (facts) => policies.policyOf(facts).denied ?? [],
    isDoubted: () => p.trust.doubt !== undefined,
    onChange: () => {
      appliedRevision.changed();
      reconciler.trigger({ kind: 'changes' });
    },
  });
  parts.add(async () => changes.close());
  const asks = new Asks({ ...p, changes, now: () => performance.now() });
  p.asking.set(asks);
  parts.add(async () => asks.close());
  p.listProblems.report([...lists.state.problems, ...nameConflicts(lists.state.lists, state)]);
  return { node, feeds, audit, changes, asks, ignored: new IgnoredLabels(audit, log) };
}
