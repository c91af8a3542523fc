import { channel } from 'node:diagnostics_channel';
import { existsSync, writeFileSync } from 'node:fs';
import { setPriority } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { type App, buildApp } from './app.js';
import { recordAlone } from './changes/service-records.js';
import type { Config } from './config/config.js';
import type { Readiness } from './enforce/health.js';
import { DeniedLog } from './kernel/denied-log.js';
import { findKeeper, Keeper } from './kernel/keeper.js';
import { keptSockets } from './kernel/netlink/kept-sockets.js';
import { trimHeap } from './kernel/netlink/libc.js';
import { DisposalStack } from './lib/disposal-stack.js';
import { Faults, logContained } from './lib/faults.js';
import type { Logger } from './lib/log.js';
import { collectGarbage, sizeYoungGeneration } from './lib/thread.js';
import { layClosedFirst, stayClosed } from './ops/guard.js';
import type { ClosedServiceOptions, Service } from './ops/service-manager.js';
import { leavePrefix, teardownKernel } from './ops/teardown.js';
import { openStore } from './store/shared-store.js';
import { type ClosedCause, closedCause } from './store/store-error.js';
import type { SharedStore } from './store/store-interface.js';
import { subscribe } from './subscriptions.js';
import type { Feeds } from './threats/feed-service.js';

/** What shows people what the service does, and takes their changes. Enforcement needs none of it. */
export interface Reports {
  /** Runs while the store cannot be opened. */
  closed(options: ClosedServiceOptions, cause: ClosedCause): Promise<Service>;
  /** Builds the parts. None of them works yet. */
  build(app: App): Reporter;
}
export interface Reporter {
  /** Builds what takes requests, while the start waits for Docker. */
  prepare(run: Lifetime): Promise<void>;
  /** Reads facts of the host, after the first pass. */
  readHost(): Promise<void>;
  /** Takes requests. Further fields of the result are logged. */
  serve(): Promise<Readiness & { readonly api?: string }>;
  /** Begins what has work of its own: the service is ready, and waits for none of it. */
  begin(): void;
}
export interface Lifetime extends Pick<Service, 'stop' | 'done'> {
  readonly faults: Faults;
}

export interface RunOptions {
  readonly config: Config;
  readonly log: Logger;
  /** The configuration that ran before, where the service starts because of SIGHUP. */
  readonly former?: Config | undefined;
}

/**
 * Starts the service: closed base → store → lists → kernel and DNS → `reports`. Runs closed while the store cannot be opened;
 * rejects when it cannot enforce for another reason. In both cases no new connection passes.
 */
export async function runCore({ config, log, former }: RunOptions, reports: Reports): Promise<Service> {
  raisePriority(log);
  logContained(log);
  if (config.failure === 'open') log.warn({ failure: 'open' }, FAILURE_OPEN);
  await findKeeper(config, log);
  await layClosedFirst(config, log);
  const open = (): Promise<SharedStore> => openStore(config, log);
  const begin = (shared: SharedStore): Promise<Service> =>
    startOrStayClosed({ config, log, former }, shared, reports);
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
    return reports.closed({ config, log, open, begin, teardown }, cause);
  }
  return begin(shared);
}

/** When the start fails, every part that was begun ends, the store too, and the kernel is left closed. */
async function startOrStayClosed(
  { config, log, former }: RunOptions,
  shared: SharedStore,
  reports: Reports,
): Promise<Service> {
  const parts = new DisposalStack();
  try {
    parts.use(new Keeper({ config, log }));
    const app = await buildApp({ config, log, shared, parts }, former);
    subscribe(app);
    const reporter = reports.build(app);
    // It ends before all that records and sends denials.
    parts.use(app.denials);
    return await start(app, reporter);
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
/** The first packets of containers wait for this process: it and the tools that it runs go before other processes. */
function raisePriority(log: Logger): void {
  try {
    setPriority(NICE);
    // Where the kernel groups the processes of a session (sched(7), autogroup), the group has a nice value of its own.
    if (existsSync(AUTOGROUP)) writeFileSync(AUTOGROUP, String(NICE));
  } catch (e) {
    log.warn({ err: String(e) }, 'cannot raise the own priority: on a busy host first packets wait longer');
  }
}

/** Resolves once the rules are in force and requests are taken. */
async function start(app: App, reporter: Reporter): Promise<Service> {
  const { config, log, parts, reconciler } = app;
  await threatsFirst(app.feeds, log);
  const run = lifetimeOf(app);
  let prepared: Promise<void> | undefined;
  await begin(app, reporter, () => {
    parts.use(run.faults.watch());
    prepared = reporter.prepare(run);
    prepared.catch(() => undefined); // awaited below, unless the start fails
  });
  app.trust.changed();
  const removed = await leavePrefix(config);
  if (removed.length > 0) log.info({ removed }, 'removed the rules of the previous kernel.prefix');
  await prepared;
  const { ready, reason, ...more } = await reporter.serve();
  const following = setTimeout(() => {
    app.maintenance.follow();
    app.tools.begin();
    app.docker.inspectRest();
    reporter.begin();
  }, FOLLOW_MS);
  parts.add(async () => clearTimeout(following));
  const resting = setTimeout(() => void releaseMemory(log), REST_MS).unref();
  parts.add(async () => clearTimeout(resting));
  const facts = { ...more, containers: app.applied.value?.subjects.size ?? 0 };
  if (ready) log.info(facts, `ready: ${reason}`);
  else log.warn(facts, `not ready yet: ${reason}`);
  return { stop: run.stop, done: run.done, stuck: () => stuckPass(reconciler.passMs) };
}

/** How the service ends. */
function lifetimeOf({
  parts,
  reconciler,
  lastRun,
  log,
}: Pick<App, 'parts' | 'reconciler' | 'lastRun' | 'log'>): Lifetime {
  let ended: () => void = () => undefined;
  const done = new Promise<void>((resolve) => (ended = resolve));
  let stopping: Promise<void> | undefined;
  const stop = (): Promise<void> => {
    keptSockets.seal();
    stopping ??= parts.end().finally(ended);
    return stopping;
  };
  const faults = new Faults({
    resync: () => {
      reconciler.trigger({ kind: 'resource' }, true);
      return reconciler.inForce(RESYNC_MS);
    },
    exit: (cause) => {
      lastRun.fault(cause);
      process.exit(1);
    },
    log,
    now: () => performance.now(),
  });
  return { stop, done, faults };
}

/**
 * Resolves when the first pass has succeeded. Queue and log are bound before, so that no held packet is lost. `whileWaiting` is called when
 * the start waits for Docker and for the tools of the kernel.
 */
async function begin(e: App, reporter: Reporter, whileWaiting: () => void): Promise<void> {
  const { begun, kernel, docker, dns, lan, links, hold, checks, sandboxes, folders, reconciler, log } = e;
  const { socket } = e.config.docker;
  const prepared = kernel.prepare((event, link) => {
    if (event === 'lan link') lan.linkMade();
    else links.take(event, link);
  });
  const probed = kernel.probe(prepared);
  probed.catch(() => undefined); // awaited below, unless the start fails before
  await prepared;
  for (const queue of [hold, checks, e.asks]) {
    queue.begin();
    begun.use(queue);
  }
  const deniedLog = begun.use(
    new DeniedLog({ group: e.shape.logGroup }, (packet) => e.denials.packet(packet)),
  );
  const { v4, v6, port } = e.shape.dns;
  begun.use(await dns.listen(v4, port));
  begun.use(await dns.listen(v6, port));
  sandboxes.arm({ prepare: true });
  begun.use(folders);
  begun.use(sandboxes);
  // Read before the first list begins: veths of other programs are exempt from the first pass on.
  e.foreign.unproven(docker.view(), await kernel.links(), e.policies.isManaged);
  const [isThere] = await Promise.all([
    isDockerThere(e),
    probed,
    e.hostMode.prepare(),
    e.quotas.prepare(),
    findSandboxes(e, whileWaiting),
  ]);
  if (!isThere) {
    e.isAway.set(true);
    log.warn({ socket }, 'Docker does not answer yet: unknown veths stay closed until it does');
  }
  begun.use(e.hostMode);
  reconciler.trigger({ kind: 'start' }, true);
  reconciler.begin();
  await reconciler.inForce(FIRST_PASS_MS);
  const host = reporter.readHost();
  await e.namespaceDns.whole(NAMESPACES_MS);
  await Promise.race([aliasesKnown(e), sleep(NAMESPACES_MS, undefined, { ref: false })]);
  await lan.applied();
  keptSockets.closeInherited();
  lan.begin();
  begun.use(lan);
  begun.use(e.maintenance);
  begun.use(e.quotas);
  e.quotas.begin();
  e.denials.follow(deniedLog);
  e.maintenance.begin();
  await host;
}

/** The first container may start while Docker does not answer: its sandbox appears in a folder that must be known by then. */
async function findSandboxes(
  {
    config,
    folders,
    namespaces,
    namespaceDns,
  }: Pick<App, 'config' | 'folders' | 'namespaces' | 'namespaceDns'>,
  whileWaiting: () => void,
): Promise<void> {
  const noted = folders.noteEngines(config.docker.socket);
  // The requests to Docker are sent when their sockets are connected.
  for (let turn = 0; turn < 2; turn++) await new Promise((resume) => setImmediate(resume));
  whileWaiting();
  await noted;
  namespaceDns.surveyed(await namespaces.findSandboxes());
}

/** Where our resolver answers inside a namespace, the names of neighbours include aliases that only their inspects have. */
function aliasesKnown({ docker, namespaceDns }: Pick<App, 'docker' | 'namespaceDns'>): Promise<void> {
  const clients = [...docker.view().containers.values()].filter((c) => namespaceDns.status(c.id) !== 'none');
  return docker.inspectOn(new Set(clients.flatMap((c) => c.endpoints.map((e) => e.networkId))));
}

/** Without an answer the first pass only installs the closed base, and new sandboxes are closed. */
async function isDockerThere({
  docker,
  policies,
  sandboxes,
}: Pick<App, 'docker' | 'policies' | 'sandboxes'>): Promise<boolean> {
  // The veth of a container on a managed bridge shows its network namespace.
  const asked = docker
    .begin((networks) => networks.length > 0 && networks.every((n) => n && policies.isManaged(n)))
    .catch(() => undefined);
  const wait = (ms: number): Promise<undefined> => sleep(ms, undefined, { ref: false });
  const soon = await Promise.race([asked, wait(DOCKER_SOON_MS)]);
  if (!soon) sandboxes.arm({ close: true });
  return (soon ?? (await Promise.race([asked, wait(DOCKER_WAIT_MS)]))) !== undefined;
}

const FIRST_PASS_MS = 30_000;
const DOCKER_WAIT_MS = 10_000;
/** Within this time a healthy engine lists its containers. */
const DOCKER_SOON_MS = 1_000;
/** Names work again when the service reports that it is ready. */
const NAMESPACES_MS = 5_000;
/** A pass that reads the kernel again takes less, also on a busy host. */
const RESYNC_MS = 60_000;
/** What is begun then needs 50 ms, half of it to start processes. Requests that waited for the service are answered before. */
const FOLLOW_MS = 50;
/** What the start and its first passes have to do is done by then. */
const REST_MS = 10_000;
/** A pass over thousands of containers on a busy host takes some tens of seconds. */
const STUCK_PASS_MS = 180_000;
const stuckPass = (ms: number): string | undefined =>
  ms > STUCK_PASS_MS ? `a pass over the rules has been running for ${Math.round(ms / 1000)} s` : undefined;

const THREATS_MS = 5_000;
/** A name that a feed lists must not be resolved in the first moments: the last good versions are loaded before DNS listens. */
async function threatsFirst(feeds: Feeds, log: Logger): Promise<void> {
  const late = sleep(THREATS_MS, true, { ref: false });
  if (await Promise.race([feeds.restored, late]))
    log.warn(
      {},
      'the last good versions of threat feeds are late: until they come, names in them are not blocked',
    );
}

/** Reports that the functions which a start needs are compiled: the launcher keeps V8's code of them (scripts/launcher.cjs). */
const AT_REST = channel('drawbridge:at rest');

/**
 * Give back what the start has left, in 40 to 100 ms. V8 would need a minute for most of it, and keeps 6 MiB. Once is enough: what a burst
 * has left V8 gives back by itself within minutes, but for some 12 MiB of the C heap (bench/bursts.ts).
 */
async function releaseMemory(log: Logger): Promise<void> {
  // first: V8 accepts code that was made with the flags of a start only, and a collection removes that of functions which are not used any more
  AT_REST.publish(undefined);
  try {
    await collectGarbage();
    trimHeap();
    sizeYoungGeneration();
  } catch (e) {
    log.debug({ err: String(e) }, 'this Node has no inspector: memory of the start is not given back');
  }
}
