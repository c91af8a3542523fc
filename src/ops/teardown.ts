import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Config } from '../config/config.js';
import { BridgePorts, releaseVeths } from '../kernel/bridge-fdb.js';
import { Cgroups } from '../kernel/cgroups.js';
import { type Exec, exec, must } from '../kernel/exec.js';
import { releaseFrameChecks } from '../kernel/frame-checks.js';
import { type Chains, readNotes, writeNotes } from '../kernel/host-notes.js';
import { RESTORE, removalEdits, restoreScript } from '../kernel/iptables-text.js';
import { endKeeper } from '../kernel/keeper.js';
import { PolicyRoutes, removeNeighbourRoutes } from '../kernel/neighbour-routing.js';
import { Addresses } from '../kernel/netlink/addresses.js';
import { endAccounting } from '../kernel/netlink/conntrack.js';
import { Bridges, Links } from '../kernel/netlink/links.js';
import { NetlinkError } from '../kernel/netlink/netlink-error.js';
import { releaseIngress } from '../kernel/past-bridge.js';
import { type Observed, observe, setNames } from '../kernel/read-rules.js';
import { removeLan, setSegmentation } from '../namespaces/netns-tables.js';
import { removeResolverRules } from '../namespaces/resolver-rules.js';
import { readFolders } from '../namespaces/sandbox-folders.js';
import { ARP_TABLE, BACKSTOP_TABLE } from '../ruleset/backstop-table.js';
import { BRIDGE_TABLE } from '../ruleset/bridge-table.js';
import { IDENTITY_TABLE } from '../ruleset/host-identity.js';
import { isHostResolver } from '../ruleset/host-net.js';
import { DNS_ADDRESSES, shapeOf } from '../ruleset/kernel-config.js';
import { removeCanary } from './canary.js';

/** Record the chains that exist before the first start, so that teardown can restore that state. */
export async function noteFound(config: Config): Promise<void> {
  const chains = await readChains(exec);
  const prefixes = [config.kernel.prefix, ...formerPrefixes(config)];
  if (prefixes.every((prefix) => isUntouched(chains, prefix))) writeNotes(config.state, { chains });
}

/** The kernel.prefix of an earlier start. Returns undefined if there was none with this state folder. */
function lastPrefix(config: Config): string | undefined {
  const { prefix } = readNotes(config.state);
  return /^[A-Z][A-Z0-9]{0,7}$/.test(prefix) ? prefix : undefined;
}

/** The earlier prefix, if the configuration has another one now. */
export function formerPrefixes(config: Config): readonly string[] {
  const last = lastPrefix(config);
  return last === undefined || last === config.kernel.prefix ? [] : [last];
}

/** Prefixes of the rules and sets of Drawbridge in the kernel. */
async function installedPrefixes(run: Exec): Promise<readonly string[]> {
  const sets = (await must(run, 'ipset', ['list', '-n'])).split('\n');
  const chains = Object.values(await readChains(run)).flat();
  return [...sets, ...chains].flatMap((name) => OWN_NAME.exec(name)?.[1] ?? []);
}
/** The set of `recordSet` and a chain of every version. */
const OWN_NAME = /^([A-Z][A-Z0-9]{0,7})-(?:record|THREAT-IN)$/;

async function teardownFormer(former: Iterable<string>): Promise<readonly string[]> {
  const removed: string[] = [];
  for (const prefix of former) removed.push(...(await teardownPrefix(exec, prefix)));
  return removed;
}

/**
 * Remove the rules of the previous kernel.prefix when those of the current one are installed: meanwhile both are enforced.
 * Returns what was removed.
 */
export async function leavePrefix(config: Config): Promise<readonly string[]> {
  const removed = await teardownFormer(formerPrefixes(config));
  const { prefix } = config.kernel;
  if (lastPrefix(config) !== prefix) writeNotes(config.state, { prefix });
  return removed;
}

/**
 * Remove everything of Drawbridge from the kernel of this host, without the service. Returns a list of what was removed. Of a
 * configuration that was refused, `kernel.prefix` and `state` may be the defaults: then every prefix that the kernel has goes, too.
 */
export async function teardownKernel(config: Config, isRefused = false): Promise<readonly string[]> {
  await endKeeper(config.state);
  const former = new Set([...formerPrefixes(config), ...(isRefused ? await installedPrefixes(exec) : [])]);
  former.delete(config.kernel.prefix);
  const removed = [
    ...(await releaseIngress()),
    ...releaseFrameChecks(),
    ...(await teardownFormer(former)),
    ...(await teardownRules(exec, config.kernel.prefix, readNotes(config.state).chains)),
  ];
  const addresses = new Addresses();
  try {
    const hosted = (await addresses.list()).filter((a) => isHostResolver(a.address));
    const own = [
      `${DNS_ADDRESSES.v4}/32`,
      `${DNS_ADDRESSES.v6}/128`,
      ...hosted.map((a) => `${a.address}/128`),
    ];
    for (const a of own) if (addresses.remove('lo', a)) removed.push(`address ${a} on lo`);
  } finally {
    addresses.close();
  }
  await removeCanary(exec, []);
  removed.push(...(await releaseBridges()), ...(await removeRoutes()));
  removed.push(...(await tidyNamespaces(config.state)), ...removeParents(config.state));
  if (endAccounting(config.state)) removed.push('the sysctl net.netfilter.nf_conntrack_acct');
  return removed;
}

/** True if a process listens to the packet queue: a service, perhaps with another configuration. */
export function isServed(config: Config): boolean {
  const { holdQueue } = shapeOf(config);
  return readText('/proc/net/netfilter/nfnetlink_queue')
    .split('\n')
    .some((line) => line.trim().split(/\s+/)[0] === String(holdQueue));
}

/** The file does not exist while no queue does. */
function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}

/** Let bridges learn MAC addresses again. */
async function releaseBridges(): Promise<string[]> {
  using links = new Links();
  using bridges = new Bridges();
  using ports = new BridgePorts();
  const all = (await links.list()).filter((l) => l.kind === 'bridge');
  const former = all.filter((l) => bridges.release(l.index));
  const veths = await releaseVeths(ports);
  return [
    ...former.map((l) => `limit on what bridge ${l.name} learns`),
    ...(veths.length > 0 ? [`${veths.length} entries of forwarding tables`] : []),
  ];
}

async function removeRoutes(): Promise<string[]> {
  using table = new PolicyRoutes();
  return (await removeNeighbourRoutes(table)).map((subnet) => `routes between neighbours in ${subnet}`);
}

/** Remove cgroups that Drawbridge created for Docker's containers, if they are empty. */
function removeParents(state: string): string[] {
  const cgroups = new Cgroups();
  return readNotes(state)
    .parents.made.filter((path) => cgroups.remove(path))
    .map((path) => `cgroup ${path}`);
}

/** Remove Drawbridge's tables from the namespaces of containers, where the service did not remove them. */
async function tidyNamespaces(state: string): Promise<string[]> {
  const removed: string[] = [];
  for (const path of readFolders(state).flatMap((folder) =>
    listed(folder).map((name) => join(folder, name)),
  )) {
    try {
      if (await removeResolverRules(path)) removed.push(`resolver rules in namespace ${path}`);
      if (removeLan(path)) removed.push(`rules in namespace ${path}`);
      if (/^[0-9a-f]{12}$/.test(basename(path)))
        removed.push(
          ...(await setSegmentation(path, true)).map((veth) => `setting of ${veth} in namespace ${path}`),
        );
    } catch (e) {
      if (!(e instanceof NetlinkError)) throw e; // a file that leads to no namespace any more
    }
  }
  return removed;
}

function listed(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return []; // no container has been started here
  }
}

interface JsonChain {
  readonly family?: unknown;
  readonly table?: unknown;
  readonly name?: unknown;
}
const TABLES = new Set(['raw', 'mangle', 'nat', 'filter', 'security']);

async function readChains(run: Exec): Promise<Chains> {
  const root: unknown = JSON.parse(await must(run, 'nft', ['-j', 'list', 'chains']));
  const items = (root as { nftables?: readonly { chain?: JsonChain }[] }).nftables ?? [];
  const found: Record<string, string[]> = {};
  for (const { chain } of items) {
    if (
      chain === undefined ||
      (chain.family !== 'ip' && chain.family !== 'ip6') ||
      !TABLES.has(String(chain.table))
    )
      continue;
    const table = `${chain.family} ${String(chain.table)}`;
    found[table] = [...(found[table] ?? []), String(chain.name)];
  }
  return found;
}

/** True if no chain of Drawbridge exists: then the chains are those from before the first start. */
const isUntouched = (found: Chains, prefix: string): boolean =>
  !Object.values(found).some((chains) => chains.some((c) => c.startsWith(`${prefix}-`)));

/** Base chains and tables that iptables created for Drawbridge, in the order in which they can be deleted. */
function leftovers(now: Chains, before: Chains): { chains: readonly string[]; tables: readonly string[] } {
  const chains: string[] = [];
  const tables: string[] = [];
  for (const [table, names] of Object.entries(now)) {
    const old = before[table];
    if (old === undefined) tables.push(table);
    else chains.push(...names.filter((n) => !old.includes(n)).map((n) => `${table} ${n}`));
  }
  return { chains, tables };
}

const BUILTIN = new Set(['PREROUTING', 'INPUT', 'FORWARD', 'OUTPUT', 'POSTROUTING']);

/**
 * Remove Drawbridge's rules, sets and bridge table. `before` lists the chains from before the first start: base chains and tables
 * that iptables created since then are removed too, if they are empty. Returns texts about what was removed.
 */
export async function teardownRules(
  run: Exec,
  prefix: string,
  before: Chains | undefined,
): Promise<readonly string[]> {
  const observed = await observe(run, prefix, () => undefined);
  const removed: string[] = [];
  const removeTable = async (table: string, { exists }: { readonly exists: boolean }): Promise<void> => {
    if (!exists) return;
    await must(run, 'nft', ['delete', 'table', ...table.split(' ')]);
    removed.push(`table ${table}`);
  };
  // The backstop drops what the chains have not evaluated, and what has no mark: it goes before them, and before the tables of the marks.
  await removeTable(BACKSTOP_TABLE, observed.backstop);
  removed.push(...(await removeChains(run, prefix, observed)));
  await removeTable(`bridge ${BRIDGE_TABLE}`, observed.bridge);
  await removeTable(IDENTITY_TABLE, observed.identity);
  await removeTable(ARP_TABLE, observed.arp);
  removed.push(...(await removeSets(run, prefix, observed)));
  if (before) removed.push(...(await removeLeftovers(run, before)));
  return removed;
}

/** Remove chains, jumps and sets of another prefix. Tables without a prefix stay. */
async function teardownPrefix(run: Exec, prefix: string): Promise<readonly string[]> {
  const observed = await observe(run, prefix, () => undefined);
  return [...(await removeChains(run, prefix, observed)), ...(await removeSets(run, prefix, observed))];
}

async function removeChains(run: Exec, prefix: string, { tables }: Observed): Promise<string[]> {
  const removed: string[] = [];
  for (const family of [4, 6] as const) {
    const found = removalEdits(tables.get(family) ?? new Map(), prefix);
    if (found.length === 0) continue;
    // `security` drops what `filter` has not evaluated
    const edits = [...found].sort((a, b) => Number(b.table === 'security') - Number(a.table === 'security'));
    await must(run, RESTORE[family], ['--noflush', '-w', '10'], { input: restoreScript(edits) });
    removed.push(...edits.flatMap((e) => e.remove.map((c) => `IPv${family} ${e.table} chain ${c}`)));
  }
  return removed;
}

async function removeSets(run: Exec, prefix: string, { sets }: Observed): Promise<string[]> {
  const { fresh, record } = await setNames(run, prefix);
  const names = [...sets.keys(), ...fresh, ...record];
  if (names.length === 0) return [];
  await destroySets(run, new Set(names));
  return [`${names.length} sets`];
}

/** The kernel releases the sets of removed rules a moment later (nf_tables_trans_destroy_work): until then it refuses to destroy one. */
export async function destroySets(
  run: Exec,
  names: ReadonlySet<string>,
  until = performance.now() + RELEASED_MS,
): Promise<void> {
  const listed = await must(run, 'ipset', ['list', '-n']);
  const input = listed
    .split('\n')
    .flatMap((name) => (names.has(name) ? `destroy ${name}\n` : []))
    .join('');
  try {
    if (input !== '') await must(run, 'ipset', ['restore'], { input });
  } catch (e) {
    if (performance.now() > until) throw e;
    await sleep(50);
    await destroySets(run, names, until);
  }
}
const RELEASED_MS = 5_000;

async function removeLeftovers(run: Exec, before: Chains): Promise<string[]> {
  const { chains, tables } = leftovers(await readChains(run), before);
  const removed: string[] = [];
  for (const table of tables)
    if (await isBare(run, ['table', ...table.split(' ')])) removed.push(await remove(run, 'table', table));
  for (const chain of chains) {
    const isOurs = BUILTIN.has(chain.split(' ')[2] ?? '');
    if (isOurs && (await isBare(run, ['chain', ...chain.split(' ')])))
      removed.push(await remove(run, 'chain', chain));
  }
  return removed;
}

async function remove(run: Exec, kind: 'table' | 'chain', what: string): Promise<string> {
  await must(run, 'nft', ['delete', kind, ...what.split(' ')]);
  return `${kind} ${what}`;
}

/** Only base chains that accept, and no rule in them. */
async function isBare(run: Exec, what: readonly string[]): Promise<boolean> {
  const root: unknown = JSON.parse(await must(run, 'nft', ['-j', 'list', ...what]));
  const items = (root as { nftables?: readonly Record<string, { policy?: string }>[] }).nftables ?? [];
  const chains = items.flatMap((i) => (i.chain ? [i.chain] : []));
  return (
    items.every((i) => i.rule === undefined) &&
    chains.every((c) => c.policy === undefined || c.policy === 'accept')
  );
}
