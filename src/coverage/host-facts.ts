import { type Exec, must } from '../kernel/exec.js';
import { parseSave, type SavedRule, type SavedTable } from '../kernel/iptables-text.js';
import { type HostRules, savedRules } from '../kernel/read-rules.js';
import type { Family } from '../lib/ip.js';
import { textIfThere } from '../lib/small-file.js';

/** What in the chain FORWARD accepts before our rules have spoken. Pure. */

/** A rule of another program that accepts forwarded packets before Drawbridge's rules. */
export interface ForeignAccept {
  readonly family: Family;
  readonly chain: string;
  /** As iptables-save prints it, without "-A CHAIN". */
  readonly rule: string;
}

/** Facts about the host itself that affect enforcement. */
export interface HostFacts {
  /** net.ipv4.ip_forward and net.ipv6.conf.all.forwarding. */
  readonly forwarding: { readonly v4: boolean; readonly v6: boolean };
  /** net.bridge.bridge-nf-call-iptables and -ip6tables; undefined: br_netfilter is not loaded. */
  readonly bridgeNf?: { readonly v4: boolean; readonly v6: boolean };
  /** DOCKER-USER exists in `filter`, and FORWARD jumps to it. */
  readonly dockerUser: { readonly v4: boolean; readonly v6: boolean };
  readonly foreignAccepts: readonly ForeignAccept[];
  readonly firewalld: boolean;
  readonly ufw: boolean;
  /** The host's resolvers, as /etc/resolv.conf names them. */
  readonly resolvers: readonly string[];
  /** Kinds of sockets that the kernel has loaded and whose packets its rules do not see as those of their sender. */
  readonly unseenSockets?: readonly string[];
}

/** A file's text; undefined when there is none. */
type ReadText = (path: string) => string | undefined;

/**
 * Read the facts about this host (this network namespace): kernel switches, rules of other programs, active firewalls. Does not use
 * the service manager. `known`: what was read before. Throws KernelError when the rules cannot be read.
 */
export async function readHostFacts(
  run: Exec,
  prefix: string,
  bridges: ReadonlySet<string>,
  readText: ReadText = textIfThere,
  known?: HostRules,
): Promise<HostFacts> {
  const filterOf = async (family: Family): Promise<SavedTable> =>
    known?.filters.get(family) ??
    parseSave(await savedRules(run, family, ['-t', 'filter']), prefix).get('filter') ??
    new Map();
  const [filter4, filter6, tables] = await Promise.all([
    filterOf(4),
    filterOf(6),
    known?.nftTables ?? must(run, 'nft', ['list', 'tables']),
  ]);
  return {
    ...readHostFiles(readText),
    ...rulesOf(filter4, filter6, bridges),
    firewalld: /^table \w+ firewalld$/m.test(tables) || hasChain(filter4, /^FWD[IO]_|^FORWARD_direct$/),
    ufw: hasChain(filter4, /^ufw-/),
  };
}

/** The facts that files show: reading them starts no process. */
export const readHostFiles = (
  readText: ReadText = textIfThere,
): Pick<HostFacts, 'forwarding' | 'bridgeNf' | 'resolvers' | 'unseenSockets'> => ({
  ...switches(readText),
  resolvers: resolversOf(readText('/etc/resolv.conf') ?? ''),
  unseenSockets: unseenSockets(readText('/proc/net/protocols') ?? ''),
});

/**
 * Protocols (net/core/sock.c, proto_register) whose packets are IP of their own socket, stay on the host, or need a capability that coverage
 * reports. Docker's seccomp profile refuses AF_VSOCK; it permits all other families, and the kernel loads their modules on demand.
 */
const SEEN =
  /^(?:TCP|UDP|UDP-?Lite|UDPLITE|MPTCP|PING|RAW|SCTP|DCCP)(?:v6)?$|^(?:UNIX|UNIX-STREAM|NETLINK|PACKET|XDP|AF_VSOCK|ALG|KEY|KCM|SMC6?|L2TP\/IP(?:v6)?|PPTP|PPPOL2TP)$/;

function unseenSockets(protocols: string): string[] {
  const [, ...lines] = protocols.split('\n');
  const names = lines.flatMap((line) => line.trim().split(/\s+/)[0] || []);
  return [...new Set(names.filter((name) => !SEEN.test(name)))].sort();
}

function rulesOf(
  v4: SavedTable,
  v6: SavedTable,
  bridges: ReadonlySet<string>,
): Pick<HostFacts, 'dockerUser' | 'foreignAccepts'> {
  const jumped = (filter: SavedTable): boolean =>
    filter.has('DOCKER-USER') &&
    (filter.get('FORWARD') ?? []).some((r) => /(^| )-j DOCKER-USER$/.test(r.text));
  return {
    dockerUser: { v4: jumped(v4), v6: jumped(v6) },
    foreignAccepts: [...acceptsAhead(v4, 4, bridges), ...acceptsAhead(v6, 6, bridges)],
  };
}

function switches(readText: ReadText): Pick<HostFacts, 'forwarding' | 'bridgeNf'> {
  const isOn = (path: string): boolean => readText(`/proc/sys/net/${path}`)?.trim() === '1';
  const loaded = readText('/proc/sys/net/bridge/bridge-nf-call-iptables') !== undefined;
  return {
    forwarding: { v4: isOn('ipv4/ip_forward'), v6: isOn('ipv6/conf/all/forwarding') },
    ...(loaded
      ? {
          bridgeNf: {
            v4: isOn('bridge/bridge-nf-call-iptables'),
            v6: isOn('bridge/bridge-nf-call-ip6tables'),
          },
        }
      : {}),
  };
}

const hasChain = (filter: SavedTable | undefined, name: RegExp): boolean =>
  [...(filter?.keys() ?? [])].some((chain) => name.test(chain));

const resolversOf = (text: string): string[] =>
  [...text.matchAll(/^\s*nameserver\s+(\S+)/gm)].map((m) => m[1] ?? '');

/** Chains jump to chains. iptables refuses loops, and no known program nests deeper. */
const MAX_DEPTH = 16;

/**
 * Find the rules that accept new packets from a managed bridge before Drawbridge's jump. `bridges`: names of the managed ones. If the
 * jump is not installed yet, its future place is used: the head of DOCKER-USER, else of FORWARD.
 */
function acceptsAhead(
  filter: SavedTable,
  family: Family,
  bridges: ReadonlySet<string>,
): readonly ForeignAccept[] {
  const found: ForeignAccept[] = [];
  const isInstalled = ['FORWARD', 'DOCKER-USER'].some((c) => filter.get(c)?.some(isOurJump));
  if (!isInstalled && !filter.has('DOCKER-USER')) return [];
  const isPlace = (rule: SavedRule): boolean =>
    isInstalled ? isOurJump(rule) : /(^| )-j DOCKER-USER$/.test(rule.text);
  walk(filter, isPlace, 'FORWARD', MAX_DEPTH, (chain, rule) => {
    if (concerns(rule, bridges)) found.push({ family, chain, rule });
  });
  return found;
}

/** Returns false when the walk reached Drawbridge's jump: later rules do not matter. */
function walk(
  filter: SavedTable,
  isPlace: (rule: SavedRule) => boolean,
  chain: string,
  depth: number,
  onAccept: (chain: string, rule: string) => void,
): boolean {
  for (const rule of filter.get(chain) ?? []) {
    if (isPlace(rule)) return false;
    const target = /(?:^| )-[jg] (\S+)/.exec(rule.text)?.[1];
    if (target === 'ACCEPT') onAccept(chain, rule.text);
    else if (target !== undefined && filter.has(target) && depth > 0) {
      if (!walk(filter, isPlace, target, depth - 1, onAccept)) return false;
    }
  }
  return true;
}

const isOurJump = (rule: SavedRule): boolean => rule.hash !== undefined;

/** New packets, and an input interface that may be a managed bridge. */
function concerns(rule: string, bridges: ReadonlySet<string>): boolean {
  const states = /--(?:ctstate|state) (\S+)/.exec(rule)?.[1]?.split(',');
  if (states && !/! --(?:ctstate|state)/.test(rule) && !states.includes('NEW')) return false;
  const [, not, name] = /(?:^| )(! )?-i (\S+)/.exec(rule) ?? [];
  if (name === undefined) return true;
  const fits = (bridge: string): boolean =>
    name.endsWith('+') ? bridge.startsWith(name.slice(0, -1)) : bridge === name;
  return [...bridges].some((b) => (not === undefined ? fits(b) : !fits(b)));
}
