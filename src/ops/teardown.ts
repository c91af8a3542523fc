import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Config } from '../config/config.js';
import { readFolders } from '../dns/netns-paths.js';
import { readParents } from '../enforce/host-cgroups.js';
import { BridgePorts, releaseVeths } from '../kernel/bridge-forwarding.js';
import { Cgroups } from '../kernel/cgroups.js';
import { exec } from '../kernel/exec.js';
import { PolicyRoutes, removeNeighbourRoutes } from '../kernel/neighbour-routing.js';
import { Addresses } from '../kernel/netlink/addresses.js';
import { Bridges, Links } from '../kernel/netlink/links.js';
import { NetlinkError } from '../kernel/netlink/netlink-error.js';
import { removeLan } from '../kernel/netns-tables.js';
import { removeResolverRules } from '../kernel/resolver-rules.js';
import { isRecord } from '../lib/json.js';
import { isHostResolver } from '../ruleset/host-net.js';
import { DNS_ADDRESSES, shapeOf } from '../ruleset/kernel-config.js';
import { readStateFile, textsOf, writeStateFile } from '../store/state-file.js';
import { type Found, isUntouched, readChains } from './preexisting-chains.js';
import { teardownPrefix, teardownRules } from './teardown-kernel.js';

const foundFile = (state: string): string => join(state, 'kernel-found.json');

/** Notes what stands before us, so that teardown can leave it so. */
export async function noteFound(config: Config): Promise<void> {
  const found = await readChains(exec);
  const prefixes = [config.kernel.prefix, ...formerPrefixes(config)];
  if (prefixes.every((prefix) => isUntouched(found, prefix)))
    writeStateFile(foundFile(config.state), { version: FOUND_VERSION, ...found });
}

const prefixFile = (config: Config): string => join(config.state, 'kernel-prefix');

/** The prefix of what an earlier start laid; undefined: none has with this state folder. */
function lastPrefix(config: Config): string | undefined {
  try {
    const prefix = readFileSync(prefixFile(config), 'utf8').trim();
    return /^[A-Z][A-Z0-9]{0,7}$/.test(prefix) ? prefix : undefined;
  } catch {
    return undefined;
  }
}

/** That prefix, where the configuration has another one now. */
export function formerPrefixes(config: Config): readonly string[] {
  const last = lastPrefix(config);
  return last === undefined || last === config.kernel.prefix ? [] : [last];
}

async function teardownFormer(config: Config): Promise<readonly string[]> {
  const removed: string[] = [];
  for (const prefix of formerPrefixes(config)) removed.push(...(await teardownPrefix(exec, prefix)));
  return removed;
}

/**
 * What an earlier start laid under another prefix goes, once ours stands: both together held no less than ours alone.
 * Returns what was removed.
 */
export async function leavePrefix(config: Config): Promise<readonly string[]> {
  const removed = await teardownFormer(config);
  if (lastPrefix(config) !== config.kernel.prefix) writeFileSync(prefixFile(config), config.kernel.prefix);
  return removed;
}

const FOUND_VERSION = 1;

/** Undefined: never started with this state folder, or the file cannot be read: then only what has our name goes. */
export function foundBefore({ state }: Pick<Config, 'state'>): Found | undefined {
  const parse = (content: unknown): Found | undefined => {
    if (!isRecord(content)) return undefined;
    const { version: _, ...tables } = content;
    const chains = Object.entries(tables).map(([table, names]) => [table, textsOf(names)] as const);
    return chains.every((c): c is readonly [string, readonly string[]] => c[1] !== undefined)
      ? Object.fromEntries(chains)
      : undefined;
  };
  return readStateFile(foundFile(state), { version: FOUND_VERSION, parse });
}

/** Takes every trace out of this host's kernel; works without the service. Returns what was removed. */
export async function teardownKernel(config: Config): Promise<readonly string[]> {
  const removed = [
    ...(await teardownFormer(config)),
    ...(await teardownRules(exec, config.kernel.prefix, foundBefore(config))),
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
  removed.push(...(await releaseBridges()), ...(await removeRoutes()));
  removed.push(...(await tidyNamespaces(config.state)), ...removeParents(config.state));
  return removed;
}

/** A service listens to the queue of held packets: perhaps by another configuration than this. */
export function isServed(config: Config): boolean {
  const { holdQueue } = shapeOf(config);
  return readText('/proc/net/netfilter/nfnetlink_queue')
    .split('\n')
    .some((line) => line.trim().split(/\s+/)[0] === String(holdQueue));
}

/** Without a queue there is no such file. */
function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}

/** Bridges learn MACs as they did. */
async function releaseBridges(): Promise<string[]> {
  using links = new Links();
  using bridges = new Bridges();
  using ports = new BridgePorts();
  const all = (await links.list()).filter((l) => l.kind === 'bridge');
  const former = all.filter((l) => bridges.release(l.index));
  const veths = await releaseVeths(ports);
  return [
    ...former.map((l) => `bound on what bridge ${l.name} learns`),
    ...(veths.length > 0 ? [`${veths.length} entries of forwarding tables`] : []),
  ];
}

async function removeRoutes(): Promise<string[]> {
  using table = new PolicyRoutes();
  return (await removeNeighbourRoutes(table)).map((subnet) => `routes between neighbours in ${subnet}`);
}

/** Cgroups that we made for Docker's containers, while nothing is in them. */
function removeParents(state: string): string[] {
  const cgroups = new Cgroups();
  return readParents(state)
    .made.filter((path) => cgroups.remove(path))
    .map((path) => `cgroup ${path}`);
}

/** Our table in containers' own namespaces, where the service did not take it out itself. */
async function tidyNamespaces(state: string): Promise<string[]> {
  const removed: string[] = [];
  for (const path of readFolders(state).flatMap((folder) =>
    listed(folder).map((name) => join(folder, name)),
  )) {
    try {
      if (await removeResolverRules(path)) removed.push(`resolver rules in namespace ${path}`);
      if (removeLan(path)) removed.push(`rules in namespace ${path}`);
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
