import { existsSync, writeFileSync } from 'node:fs';
import { setPriority } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { buildServer } from './api/api-server.js';
import { peerOf } from './api/auth.js';
import { ClosedService, type Service } from './api/closed-service.js';
import type { Context } from './api/context.js';
import { listen, refuseWithoutTokens } from './api/listen.js';
import { nodeCensus, Views } from './api/views.js';
import { Engine } from './app/engine.js';
import { AppliedRevision } from './changes/applied-revision.js';
import { Audit } from './changes/audit.js';
import { Changes } from './changes/changes.js';
import { findContainer } from './changes/container-changes.js';
import { Fleet } from './changes/fleet.js';
import {
  changedKeys,
  FailedLogins,
  IgnoredLabels,
  recordAlone,
  recordStart,
  recordStop,
} from './changes/service-records.js';
import { modesInForce, StoreTrust } from './changes/store-trust.js';
import { tokenKey } from './changes/stored-state.js';
import { localSocketOf } from './config/api-listener.js';
import { type Config, nodeName } from './config/config.js';
import type { FolderState } from './config/list-files.js';
import { ListProblems, watchFolder } from './config/list-folder.js';
import { ListReader } from './config/list-reader.js';
import { mayRemoveContainers } from './docker/docker-events.js';
import type { Overrides } from './enforce/policies.js';
import { Counts } from './kernel/counts.js';
import { exec } from './kernel/exec.js';
import { ToolProcess } from './kernel/tool-process.js';
import { DisposalStack } from './lib/async.js';
import { Faults } from './lib/faults.js';
import type { Logger } from './lib/log.js';
import type { Problem } from './lib/problem.js';
import { Turns } from './lib/shared-read.js';
import { VERSION } from './lib/version.js';
import { layClosedFirst, stayClosed } from './ops/guard.js';
import { formerPrefixes, leavePrefix, teardownKernel } from './ops/teardown.js';
import type { List } from './policy/policy.js';
import { openStore } from './store/shared-store.js';
import { closedCause } from './store/store-error.js';
import type { SharedStore } from './store/store-interface.js';
import { Feeds } from './threats/feed-service.js';

export interface RunOptions {
  readonly config: Config;
  readonly log: Logger;
  /** The configuration that ran before, where the service starts because of SIGHUP. */
  readonly former?: Config | undefined;
}

/**
 * Starts the service: closed base → store → lists → kernel and DNS → API. Runs closed while the store cannot be opened;
 * rejects when it cannot enforce for another reason. Either way nothing new passes.
 */
export async function runService({ config, log, former }: RunOptions): Promise<Service> {
  raisePriority(log);
  if (config.failure === 'open') log.warn({ failure: 'open' }, FAILURE_OPEN);
  await layClosedFirst(config, log);
  const open = (): Promise<SharedStore> => openStore(config, log);
  const begin = (shared: SharedStore): Promise<Service> => startWhole(config, log, shared, former);
  let shared: SharedStore;
  try {
    shared = await open();
  } catch (e) {
    await stayClosed(config, log);
    const cause = closedCause(e);
    if (!cause) throw e;
    const teardown = async (who: string): Promise<void> => {
      const why = await recordAlone(config, { who, action: 'teardown', after: null, outcome: 'done' });
      if (why !== undefined) log.error({ who, why }, 'the audit has no record of this teardown');
      await teardownKernel(config);
    };
    return ClosedService.begin({ config, log, open, begin, teardown }, cause);
  }
  return begin(shared);
}

/** On failure everything that was begun ends, the store too, and the kernel is left closed. */
async function startWhole(
  config: Config,
  log: Logger,
  shared: SharedStore,
  former: Config | undefined,
): Promise<Service> {
  const parts = new DisposalStack();
  try {
    return await start(config, log, shared, parts, former);
  } catch (e) {
    await parts
      .end()
      .catch((ending: unknown) => log.error({ err: ending }, 'the failed start left parts behind'));
    await stayClosed(config, log);
    throw e;
  }
}

const FAILURE_OPEN =
  'failure: open: while this service is away, containers that start then pass everywhere, enforced or not';
const NICE = -10;
const AUTOGROUP = '/proc/self/autogroup';
/** Containers' first packets wait for us: we and the tools we run go before them. */
function raisePriority(log: Logger): void {
  try {
    setPriority(NICE);
    // Where the kernel groups the processes of a session (sched(7), autogroup), the group has a nice value of its own.
    if (existsSync(AUTOGROUP)) writeFileSync(AUTOGROUP, String(NICE));
  } catch (e) {
    log.warn({ err: String(e) }, 'cannot raise the own priority: on a busy host first packets wait longer');
  }
}

async function start(
  config: Config,
  log: Logger,
  shared: SharedStore,
  parts: DisposalStack,
  replaced: Config | undefined,
): Promise<Service> {
  const { store } = shared;
  parts.add(() => store.close());
  const tools = new ToolProcess(log);
  parts.add(() => tools[Symbol.asyncDispose]());
  const node = nodeName(config);
  const applied = new AppliedRevision(() => store.revision());
  let changes: Changes | undefined;
  const reader = new ListReader();
  parts.add(() => reader[Symbol.asyncDispose]());
  const listProblems = new ListProblems(log);
  const lists = await watchFolder(config.allowlists, reader, (s) => {
    listProblems.report([...s.problems, ...nameConflicts(s.lists, changes)]);
    changes?.rearm();
    engine.reconciler.trigger({ kind: 'lists folder' });
  });
  parts.add(async () => lists[Symbol.asyncDispose]());
  listProblems.report(lists.state.problems);
  const revisionOf = (key: string): number => changes?.revisionOf(key) ?? 0;
  const said = (): Overrides => {
    applied.read();
    return trust.said(saidBy(lists.state, changes), revisionOf);
  };
  const engine = new Engine({
    config,
    said,
    temper: (policy, facts) => trust.policy(policy, facts, revisionOf),
    onTakeOver: (modes) => trust.takeOver(modes),
    onRecordLost: () => trust.rewrite(),
    storeServers: () => shared.servers(),
    log,
    onApplied: () => applied.applied(),
  });
  parts.add(() => engine.stop());
  const trust = await StoreTrust.open({
    store,
    isShared: shared.kind === 'redis',
    run: exec,
    prefix: config.kernel.prefix,
    former: formerPrefixes(config),
    log,
    modes: () => engine.state && modesInForce(engine.state),
    onChange: () => engine.reconciler.trigger({ kind: 'store' }),
    now: Date.now,
  });
  parts.add(() => trust.close());
  const changed = store.watch(() => trust.changed());
  parts.add(async () => changed[Symbol.dispose]());
  const { kernel, dns, names, threats, docker, policies, quotas, recording, denials } = engine;
  const feeds = new Feeds({ config, shared, threats, docker, kernel, log });
  parts.add(() => feeds[Symbol.asyncDispose]());
  feeds.begin();
  engine.docker.onChange((view, change) => {
    feeds.hostChanged();
    if (mayRemoveContainers(change)) void changes?.forget((id) => !view.containers.has(id));
  });
  const { kind } = shared;
  const audit = await Audit.open({ dir: config.state, store, kind, now: Date.now, node, log });
  parts.add(() => audit[Symbol.asyncDispose]());
  await recordStart(audit, node, replaced && changedKeys(replaced, config));
  parts.add(() => recordStop(audit, node));
  const ignored = new IgnoredLabels(audit, log);
  engine.docker.onChange((view) => ignored.check(view));
  changes = await Changes.open({
    store,
    audit,
    reconciler: engine.reconciler,
    log,
    node,
    tokens: config.api.tokens,
    parseList: reader.body,
    folderLists: () => [...lists.state.lists.values()],
    usedBy: (list) => usersOf(engine, list),
    find: (idOrName) => findContainer(engine.docker.view().containers.values(), idOrName),
    now: Date.now,
    onChange: () => {
      applied.changed();
      engine.reconciler.trigger({ kind: 'changes' });
    },
  });
  const opened = changes;
  parts.add(async () => opened.close());
  listProblems.report([...lists.state.problems, ...nameConflicts(lists.state.lists, changes)]);
  refuseWithoutTokens(config.api.listen, changes.tokens.count);
  await threatsFirst(feeds, log);
  await engine.start();
  trust.changed();
  const former = await leavePrefix(config);
  if (former.length > 0) log.info({ removed: former }, 'what stood under another kernel.prefix is gone');
  let ended: () => void = () => undefined;
  const done = new Promise<void>((resolve) => (ended = resolve));
  let stopping: Promise<void> | undefined;
  const stop = (): Promise<void> => {
    stopping ??= parts.end().finally(ended);
    return stopping;
  };
  const faults = new Faults({
    resync: () => {
      engine.reconciler.trigger({ kind: 'resource' }, true);
      return engine.reconciler.inForce(RESYNC_MS);
    },
    exit: (code) => process.exit(code),
    log,
    now: () => performance.now(),
  });
  const watched = faults.watch();
  parts.add(async () => watched[Symbol.dispose]());
  const turns = new Turns(() => engine.reconciler.resting === undefined);
  const counts = new Counts(exec, engine.shape.prefix, turns);
  const fleet = new Fleet({
    node,
    beats: shared.beats,
    own: () => ({
      version: VERSION,
      revision: applied.value,
      inSync: views.ready().ready && store.health().ok,
      ...nodeCensus(views.containers()),
    }),
    log,
  });
  parts.add(async () => fleet[Symbol.asyncDispose]());
  const { reconciler, enforcer, namespaceDns, hostMode, hostWatch, lan, shape } = engine;
  const views: Views = new Views({
    node,
    changes: opened,
    store,
    storeKind: shared.kind,
    trust,
    fleet,
    feeds,
    faults,
    appliedRevision: applied,
    overrides: said,
    health: engine,
    counts,
    turns,
    applied: engine.applied,
    shape,
    kernel,
    dns,
    names,
    threats,
    docker,
    policies,
    quotas,
    recording,
    denials,
    reconciler,
    enforcer,
    namespaceDns,
    hostMode,
    hostWatch,
    lan,
  });
  const context: Context = {
    node,
    changes: opened,
    audit,
    store,
    trust,
    fleet,
    feeds,
    docker,
    denials,
    reconciler,
    views,
    teardown: async () => {
      await trust.close();
      await reconciler.stop();
      await threats.close();
      await quotas[Symbol.asyncDispose]();
      await engine.leaveNamespaces();
      await teardownKernel(config);
      setImmediate(() => void stop());
    },
  };
  // counters of rules that are laid again begin at zero: what they counted until then is kept
  const reading = setInterval(
    () =>
      void views
        .refreshCounts()
        .catch((e: unknown) => log.debug({ err: String(e) }, 'counters could not be read')),
    COUNTS_MS,
  );
  parts.add(async () => clearInterval(reading));
  const isConfigured = (name: string): boolean => config.api.tokens.some((token) => token.name === name);
  const authenticate = (secret: string) => {
    const found = opened.tokens.authenticate(secret);
    const counts = found && (isConfigured(found.name) || trust.believes(tokenKey(found.name), revisionOf));
    return counts ? found : undefined;
  };
  const failed = new FailedLogins(audit, log, Date.now);
  parts.add(async () => failed[Symbol.dispose]());
  const onRefused = failed.seen;
  const server = await buildServer({ context, log, version: VERSION, authenticate, peerOf, onRefused });
  parts.add(() => server.close());
  const localSocket = localSocketOf(config);
  await listen(server, { address: config.api.listen, localSocket, tokens: opened.tokens.count, log });
  const { ready, reason } = views.ready();
  const facts = { api: config.api.listen, containers: engine.state?.subjects.size ?? 0 };
  if (ready) log.info(facts, `ready: ${reason}`);
  else log.warn(facts, `not ready yet: ${reason}`);
  return { stop, done, stuck: () => stuckPass(engine.reconciler.passMs) };
}

/** A pass that reads the kernel again takes less, also on a busy host. */
const RESYNC_MS = 60_000;
const COUNTS_MS = 60_000;
/** A pass over thousands of containers on a busy host takes some tens of seconds. */
const STUCK_PASS_MS = 180_000;
const stuckPass = (ms: number): string | undefined =>
  ms > STUCK_PASS_MS ? `a pass over the rules has been running for ${Math.round(ms / 1000)} s` : undefined;

const THREATS_MS = 5_000;
/** A name that a feed lists must not be asked in our first moments: the last good versions come before DNS does. */
async function threatsFirst(feeds: Feeds, log: Logger): Promise<void> {
  const late = sleep(THREATS_MS, true, { ref: false });
  if (await Promise.race([feeds.restored, late]))
    log.warn(
      {},
      'the last good versions of threat feeds are late: until they come, names in them are not kept back',
    );
}

/** Store lists and folder lists by name. A file that takes a store list's name is refused (see `complain`). */
function saidBy(folder: FolderState, changes: Changes | undefined): Overrides {
  const now = changes?.current();
  return {
    lists: new Map([...folder.lists, ...(now?.lists ?? [])]),
    absent: folder.absent,
    grants: now?.grants ?? [],
    modes: now?.modes ?? new Map(),
    pauses: now?.pauses ?? [],
    lockdown: now?.lockdown,
  };
}

const usersOf = (engine: Engine, list: string): string[] =>
  [...(engine.state?.subjects.values() ?? [])]
    .filter((m) => m.policy.lists.includes(list))
    .map((m) => engine.docker.view().containers.get(m.id)?.name ?? m.id);

/** The store's list stays in force: a file must not change what the API has promised. */
function nameConflicts(folder: ReadonlyMap<string, List>, changes: Changes | undefined): Problem[] {
  const stored = changes?.current().lists ?? new Map();
  return [...folder.values()]
    .filter((l) => stored.has(l.name))
    .map((l) => ({
      detail: `list ${l.name} is in the store already, this file is not used`,
      remedy: `rename the file, or drawbridge lists delete ${l.name}`,
      ...(l.file ? { file: l.file } : {}),
    }));
}
