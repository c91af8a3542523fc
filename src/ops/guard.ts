import { mkdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Config } from '../config/config.js';
import { openEngine } from '../docker/open-engine.js';
import { HostCgroupTable } from '../enforce/host-cgroups.js';
import { Cgroups, canZone, nftAbilities } from '../kernel/cgroups.js';
import { Dataplane } from '../kernel/dataplane.js';
import { type Exec, exec } from '../kernel/exec.js';
import { FrameChecks } from '../kernel/frame-checks.js';
import { readNotes } from '../kernel/host-notes.js';
import type { SavedTable } from '../kernel/iptables-text.js';
import { endKeeper } from '../kernel/keeper.js';
import { type Link, Links } from '../kernel/netlink/links.js';
import { NftElements } from '../kernel/netlink/nft-codec.js';
import { SharedIngress } from '../kernel/netlink/traffic-control.js';
import type { IndexOf } from '../kernel/nft-parse.js';
import { withQueueRule } from '../kernel/nft-text.js';
import { INGRESS_BLOCK } from '../kernel/past-bridge.js';
import type { Observed } from '../kernel/read-rules.js';
import type { Logger } from '../lib/log.js';
import { errorText } from '../lib/problem.js';
import type { DockerView } from '../policy/container.js';
import { BACKSTOP_TABLE } from '../ruleset/backstop-table.js';
import { compile } from '../ruleset/compile.js';
import { closedBase, type DesiredState, type HostNet, type KernelConfig } from '../ruleset/desired-state.js';
import { shapeOf } from '../ruleset/kernel-config.js';
import { chainOf, TABLE } from '../ruleset/render/iptables.js';
import { lockHolder } from '../store/folder-lock.js';
import { isServed, noteFound } from './teardown.js';

export interface GuardOutcome {
  /** `stands`: rules of Drawbridge were installed already, and were not changed. */
  readonly outcome: 'laid' | 'stands';
  /** Names of veths of other programs, which are not filtered. */
  readonly exempt: readonly string[];
  /** Problems with notes in the state folder. The base is installed all the same. */
  readonly notes?: readonly string[];
}
export interface GuardOptions {
  /** Time (ms) to wait for Docker to list its bridges. */
  readonly askMs?: number;
  /** Treatment of packets of unknown veths while no service runs. The guard is closed whatever the configuration has. */
  readonly failure?: Config['failure'];
}
const ASK_MS = 3_000;
/** Names that Docker gives its bridges by default. Bridges with other names are known only when Docker answers. */
const DOCKERS = /^(docker0|docker_gwbridge|br-[0-9a-f]{12})$/;
const NO_VIEW: DockerView = {
  content: {},
  containers: new Map(),
  networks: new Map(),
  listings: 0,
  listBegan: 0,
  starting: new Set(),
  attached: new Set(),
  connected: false,
};

/** Boot-time default-deny: the closed base without any container, laid without the service and without Docker. */
export async function layGuard(config: Config, options: GuardOptions = {}): Promise<GuardOutcome> {
  const { askMs = ASK_MS, failure = 'closed' } = options;
  const notes = await noteBefore(config);
  const links = await allLinks();
  const exempt = exemptPorts(links, await dockerBridges(config, askMs));
  const shape = { ...shapeOf(config), failure };
  const base = {
    ...closedBase(
      shape,
      exempt.map((l) => l.index),
    ),
    hostNet: await hostNet(config),
  };
  const indexes = new Map(links.map((l) => [l.name, l.index]));
  using elements = new NftElements();
  const outcome = await layBase(withQueueRule(exec, elements), shape, compile(base), (name) =>
    indexes.get(name),
  );
  return { outcome, exempt: exempt.map((l) => l.name), ...(notes.length > 0 && { notes }) };
}

/** Write the notes that teardown needs. A read-only state folder must not leave the host open, so a failure is only reported. */
async function noteBefore(config: Config): Promise<string[]> {
  try {
    mkdirSync(config.state, { recursive: true, mode: 0o700 });
    await noteFound(config);
    return [];
  } catch (e) {
    if (!isOfTheSystem(e)) throw e;
    return [
      `cannot note in ${config.state} what was installed before Drawbridge (${e.message}): ` +
        'drawbridge teardown may leave empty base chains of iptables behind',
    ];
  }
}

const isOfTheSystem = (e: unknown): e is NodeJS.ErrnoException => e instanceof Error && 'syscall' in e;

async function allLinks(): Promise<readonly Link[]> {
  const table = new Links();
  try {
    return await table.list();
  } finally {
    table.close();
  }
}

/** The existing veths on bridges that are not Docker's. Without an answer of Docker its bridges are recognised by name. */
function exemptPorts(links: readonly Link[], bridges: ReadonlySet<string> | undefined): Link[] {
  const isDockers = (name: string): boolean => bridges?.has(name) ?? DOCKERS.test(name);
  const masters = new Map(links.map((l) => [l.index, l.name]));
  return links.filter((l) => {
    const master = isBridged(l) ? masters.get(l.master) : undefined;
    return master !== undefined && !isDockers(master);
  });
}
const isBridged = (l: Link): l is Link & { readonly master: number } => l.kind === 'veth' && !!l.master;

/** Whether containers run on Docker's bridges. */
async function hasContainers(config: Config): Promise<boolean> {
  const links = await allLinks();
  const bridged = links.filter(isBridged);
  if (bridged.length === 0) return false;
  return exemptPorts(links, await dockerBridges(config, START_ASK_MS)).length < bridged.length;
}

/** Names of Docker's bridges. Returns undefined when Docker does not answer, as before its start. */
async function dockerBridges(config: Config, askMs: number): Promise<ReadonlySet<string> | undefined> {
  await using docker = openEngine(config.docker.socket);
  const late = sleep(askMs, undefined, { ref: false });
  const view = await Promise.race([docker.refresh(), late]).catch(() => undefined);
  return view && new Set([...view.networks.values()].flatMap((n) => n.bridge ?? []));
}

/** The service takes them over. Those that end with this process are left to it. */
function beginFrameChecks(enforced: number): boolean {
  const checks = new FrameChecks();
  checks.begin(enforced);
  checks.close();
  return checks.state.isKept;
}

/** Parent cgroups of containers in the host network, as far as an earlier run recorded them. */
async function hostNet(config: Config): Promise<HostNet> {
  const { parents } = readNotes(config.state);
  const cgroups = new Cgroups();
  await cgroups.askNft(exec);
  const zones = await canZone(exec);
  const nft = zones ? await nftAbilities(exec, cgroups) : { identifies: false, queues: false };
  const framesChecked = beginFrameChecks(shapeOf(config).marks.enforced);
  const table = new HostCgroupTable({
    cgroups,
    parents,
    onParents: () => undefined,
    singles: () => false,
    zones: () => zones,
    nft: () => ({ ...nft, framesChecked }),
  });
  return table.find(NO_VIEW).net;
}

/** Install `base` unless rules of Drawbridge are installed already: then change nothing. Throws KernelError. */
async function layBase(
  run: Exec,
  shape: KernelConfig,
  base: DesiredState,
  indexOf: IndexOf,
): Promise<'laid' | 'stands'> {
  const plane = new Dataplane(run, shape, indexOf);
  if (stands(base, await plane.read())) return 'stands';
  await plane.apply(base);
  return 'laid';
}

/** True if every hook has a jump of Drawbridge and the bridge table has rules, from the service or from a guard. */
function stands(base: DesiredState, observed: Observed): boolean {
  if (!observed.bridge.exists || observed.bridge.rules.length === 0) return false;
  return base.tables.every(({ family, layer, hooks }) => {
    const saved: SavedTable = observed.tables.get(family)?.get(TABLE[layer]) ?? new Map();
    // Docker puts its own jumps before Drawbridge's when it starts: the security table filters until the service runs.
    return hooks.every((h) =>
      [chainOf(layer, h), 'FORWARD'].some((c) => saved.get(c)?.some((r) => r.hash !== undefined)),
    );
  });
}

/** All rules are installed in this network namespace, under any prefix: the table of the backstop, which comes last, has none. */
function hasRules(): boolean {
  using elements = new NftElements();
  return elements.hasTable('inet', BACKSTOP_TABLE.replace('inet ', ''));
}

/** Docker may hang: installing the base waits no longer than this. */
const START_ASK_MS = 500;

/**
 * The first step of every start, before anything that can fail: with nothing of Drawbridge in the kernel and no container (a boot) the
 * closed base is installed. Containers that run were open until now: they go on until the first pass has their policies, or the start
 * fails. Rules of an earlier run stay as they are. If another instance has locked the
 * state folder, nothing is changed. Never rejects: what fails is logged, and the start goes on to its own, clearer error.
 */
export async function layClosedFirst(config: Config, log: Logger): Promise<void> {
  await attempt(config, log, async () => {
    if (hasRules()) return false;
    if (!(await hasContainers(config))) return true;
    log.info({}, 'containers run without rules: they stay open until the policies are in force');
    for (const note of await noteBefore(config)) log.warn({}, note);
    return false;
  });
}

/**
 * After a start that failed: every hook of the closed base is installed, or stays what it is. Nothing is touched while
 * another service is at work in this network namespace.
 */
export async function stayClosed(config: Config, log: Logger): Promise<void> {
  await attempt(config, log, async () => {
    await endKeeper(config.state); // no process has locked the folder
    return !isServed(config);
  });
}

async function attempt(config: Config, log: Logger, isNeeded: () => Promise<boolean>): Promise<void> {
  try {
    if ((await holder(config)) !== undefined || !(await isNeeded())) return;
    // for some seconds a service that has ended leaves packets to it: the base knows none of their marks, and would answer with resets
    using ingress = new SharedIngress(INGRESS_BLOCK);
    ingress.removeProgram();
    const {
      outcome,
      exempt,
      notes = [],
    } = await layGuard(config, { askMs: START_ASK_MS, failure: config.failure });
    for (const note of notes) log.warn({}, note);
    if (outcome === 'laid')
      log.info(
        { exempt },
        'the closed base is installed: nothing new passes until the policies are in force',
      );
  } catch (e) {
    log.error(
      { err: errorText(e) },
      'cannot install the closed base: containers may be open until the reported problem is fixed',
    );
  }
}

/** A folder that cannot be read counts as not locked. */
const holder = ({ state }: Config): Promise<string | undefined> => lockHolder(state).catch(() => undefined);
