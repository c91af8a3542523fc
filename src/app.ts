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
import { DockerWatch } from './docker/watch.js';
import { Classifier } from './enforce/classify.js';
import { ConnectionResets } from './enforce/connection-ends.js';
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
import { ForeignBridges } from './enforce/veth-table.js';
import { Denials } from './flows/denials.js';
import { Destinations } from './flows/destination.js';
import { Tallies } from './flows/tallies.js';
import { FlowBlocklist } from './kernel/delete-flows.js';
import { exec } from './kernel/exec.js';
import { Kernel } from './kernel/kernel.js';
import { ToolProcess } from './kernel/tool-process.js';
import { DisposalStack } from './lib/async.js';
import { steadyNow } from './lib/clock.js';
import { AsyncSignal, Current, Signal } from './lib/current.js';
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

/** What the parts are made of, and where they are ended. */
export interface Base {
  readonly config: Config;
  readonly log: Logger;
  readonly shared: SharedStore;
  /** Ends the parts, in the reverse order of their making. */
  readonly parts: DisposalStack;
}
export type App = Awaited<ReturnType<typeof buildApp>>;

/** Builds all parts of the service, and subscribes them to each other. None works before the start (core-service.ts). */
export async function buildApp({ config, log, shared, parts }: Base, former: Config | undefined) {
  const { store, kind } = shared;
  const folder = config.state;
  const shape = shapeOf(config);
  const { prefix, marks } = shape;
  const now = (): number => performance.now();
  const applied = new Current<AppliedState>();
  const lastRepair = new Current<string>();
  const canaryPlace = new Current<CanaryPlace | undefined>();
  const onRepaired = (): void => lastRepair.set(new Date().toISOString());

  // What policies are compiled from: the folder of lists, the store, and how far the store is trusted.
  parts.add(() => store.close());
  const small = parts.use(await SmallState.open(folder, log));
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
    prefix,
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

  // Between Docker and the kernel.
  const docker = new DockerWatch({ socket: config.docker.socket, log, now });
  const blocklist = new FlowBlocklist(kernel, prefix, steadyNow);
  const threatsPublished = new AsyncSignal<ThreatLook>();
  const threats = new ActiveThreats({
    prefix,
    identityMask: marks.identity,
    maxEntries: config.threats.maxEntries,
    kernel,
    blocklist,
    applied,
    recheckAnswers: (look) => threatsPublished.emit(look),
    onRepaired,
    log,
  });
  const policies = new Policies({
    config,
    docker,
    overrides,
    temper: (policy, facts) => trust.policy(policy, facts, revisionOf),
  });
  const quotas = new Quotas({ small, kernel, applied, log, now: Date.now, steady: steadyNow });
  const reserved = new ReservedPorts({ config, shared, kernel, docker });
  mkdirSync(folder, { recursive: true, mode: 0o700 });
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
      log,
      journal: join(folder, 'names.journal'),
      onEvent: (event) => nameEvents.emit(event),
      ask: (question) => asking.value?.name(question) ?? 'no',
      now: steadyNow,
    }),
  );
  parts.use(docker);
  const destinations = new Destinations({ applied, dns, kernel, nat64 });
  const tallies = new Tallies();
  const neighbours = new NeighbourChanges(
    Date.now,
    (id) => applied.value?.subjects.get(id),
    policies.eastWest,
  );
  const denials = new Denials({
    marks,
    applied,
    names,
    dns,
    threats: threats.look,
    tallies,
    changes: neighbours,
  });
  const hostMode = new HostMode({ folder, kernel, dns, docker, port: shape.dns.port, log });
  const sandboxes = new Sandboxes(log);
  const folders = new SandboxFolders(folder, sandboxes, log);
  const isAway = new Current<boolean>();
  const attached = new Signal<string>();
  /** A container that is gone, before its names are forgotten. */
  const departing = new Signal<string>();
  const namespaces = new ContainerNamespaces({
    kernel,
    dns,
    docker,
    applied,
    folders,
    sandboxes,
    policyOf: policies.policyOf,
    isManaged: policies.isManaged,
    isLan: policies.isLan,
  });
  const namespaceDns = new NamespaceDns({ namespaces, onAttached: (id) => attached.emit(id), log });
  const lan = new NetnsRules({
    shape,
    kernel,
    docker,
    policies,
    dns,
    namespaces,
    namespaceDns,
    applied,
    reserved,
    onRepair: onRepaired,
    log,
  });
  const foreign = new ForeignBridges();
  const verified = new VerifiedNames({ marks, dns, threats: threats.look });
  const resets = new ConnectionResets({ applied, kernel, namespaces, run: exec, log });
  const pass = new EnforcementPass({
    shape,
    applied,
    kernel,
    reset: resets.reset,
    blocklist,
    docker,
    policies,
    quotas,
    reserved,
    foreign,
    canary: canaryPlace,
    hostMode,
    names,
    dns,
    threats,
    verified,
    installInNamespaces: (state) => lan.applied(state),
    log,
    now: steadyNow,
  });
  const reconciler = new Reconciler({ pass, log });
  const classifier = new Classifier({ docker, reconciler, pass, applied, namespaces, kernel, now, log });
  const hold = new PacketHold({ shape, applied, classifier, names, now });
  const checks = new ConnectionChecks({ shape, applied, verified, keys: dns.keys, kernel, log, now });
  const rules = { shape, kernel, dns, threats, applied, pass, reconciler, hostMode, log };
  const maintenance = new Maintenance(rules);
  const links = new LinkEvents({ kernel, docker, policies, reconciler, applied, log });
  const health = new Health({ applied, docker, reconciler, maintenance, folders, lastRepair });

  const begun = new DisposalStack();
  parts.add(() => begun.end());
  parts.add(() => namespaceDns.close());
  parts.add(async () => hold.close());
  parts.add(() => threats.close());
  parts.add(() => reconciler.stop());
  parts.add(async () => links.close());
  parts.add(async () => maintenance.stopChecking());

  // Feeds, audit, and changes through the API.
  const node = nodeName(config);
  parts.use(store.watch(() => trust.changed()));
  const feeds = parts.use(new Feeds({ config, shared, threats, docker, kernel, log }));
  feeds.begin();
  const audit = parts.use(await Audit.open({ dir: folder, store, kind, now: Date.now, node, log }));
  await recordStart(audit, node, lastRun.ended, former && changedKeys(former, config));
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
    parseList: reader.body,
    folderLists: () => [...lists.state.lists.values()],
    usedBy: (list) =>
      [...(applied.value?.subjects.values() ?? [])]
        .filter((m) => m.policy.lists.includes(list))
        .map((m) => containers().get(m.id)?.name ?? m.id),
    find: (idOrName) => containers().get(idOrName) ?? findContainer(containers().values(), idOrName),
    now: Date.now,
    prepare: pass.prepare,
    denied: (facts) => policies.policyOf(facts).denied ?? [],
    isDoubted: () => trust.doubt !== undefined,
    onChange: () => {
      appliedRevision.changed();
      reconciler.trigger({ kind: 'changes' });
    },
  });
  parts.add(async () => changes.close());
  const asks = new Asks({ shape, applied, names, destinations, changes, now });
  asking.set(asks);
  parts.add(async () => asks.close());
  listProblems.report([...lists.state.problems, ...nameConflicts(lists.state.lists, state)]);

  const app = {
    config,
    log,
    shared,
    parts,
    begun,
    tools,
    small,
    lastRun,
    node,
    applied,
    shape,
    kernel,
    docker,
    threats,
    policies,
    quotas,
    setWriters,
    names,
    nameEvents,
    dns,
    destinations,
    tallies,
    denials,
    neighbours,
    hostMode,
    folders,
    sandboxes,
    isAway,
    attached,
    departing,
    namespaces,
    namespaceDns,
    lan,
    foreign,
    canaryPlace,
    pass,
    reconciler,
    hold,
    verified,
    resets,
    asks,
    checks,
    maintenance,
    links,
    health,
    onRepaired,
    threatsPublished,
    feeds,
    audit,
    changes,
    trust,
    trustChanged,
    lists,
    state,
    listProblems,
    folderChanged,
    appliedRevision,
    revisionOf,
    overrides,
    ignored: new IgnoredLabels(audit, log),
  };
  return app;
}
