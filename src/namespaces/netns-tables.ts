/** Rules inside the network namespaces of containers on macvlan and ipvlan networks, and settings of their devices: write, read and remove them. */
import { createHash } from 'node:crypto';
import { type Exec, must } from '../kernel/exec.js';
import { Addresses } from '../kernel/netlink/addresses.js';
import { type Link, Links } from '../kernel/netlink/links.js';
import {
  addressBytes,
  attribute,
  cString,
  nested,
  parseAttributes,
  u32le,
} from '../kernel/netlink/netlink-codec.js';
import { isRefusal } from '../kernel/netlink/netlink-error.js';
import { NetlinkSocket, type Outgoing } from '../kernel/netlink/netlink-socket.js';
import {
  addElement,
  askGeneration,
  batchBegin,
  batchEnd,
  deleteElement,
  deleteTable,
  generationOf,
  newChain,
  newRule,
  newTable,
} from '../kernel/netlink/nft-codec.js';
import { HOOK, icmpv6Message, leavesThrough, verdict } from '../kernel/netlink/nft-expressions.js';
import { ANNOUNCEMENT, LAN_KINDS, LAN_TABLE } from '../ruleset/netns-program.js';

/** The container's end of a macvlan or ipvlan link. */
export interface LanEnd {
  readonly device: string;
  readonly mac: string;
  readonly addresses: readonly string[];
}

const PRIORITY = 10;
const BASE = [
  { name: 'output', type: 'filter', hook: HOOK.output, priority: PRIORITY },
  { name: 'forward', type: 'filter', hook: HOOK.forward, priority: PRIORITY },
] as const;

/**
 * Drops every packet that leaves through a macvlan or ipvlan link of this namespace, except Docker's announcements of
 * addresses. An existing table is left as it is. Uses netlink: there is no time to run a program before the container's
 * first instruction. Throws NetlinkError.
 */
export function closeLan(namespace: string): void {
  const { type, hopLimit, to, bytes } = ANNOUNCEMENT;
  const rules = BASE.flatMap((chain) => [
    newChain(LAN_TABLE, chain),
    ...(chain.name === 'output'
      ? [newRule(LAN_TABLE, chain.name, icmpv6Message(type, hopLimit, keyOf(to), bytes), verdict('accept'))]
      : []),
    ...LAN_KINDS.map((kind) => newRule(LAN_TABLE, chain.name, leavesThrough(kind), verdict('drop'))),
  ]);
  try {
    transact(namespace, 'close', [newTable(LAN_TABLE, 'only'), ...rules]);
  } catch (e) {
    if (!isRefusal(e, 'EEXIST')) throw e;
  }
}

const inside = (run: Exec, namespace: string, argv: readonly string[], input?: string): Promise<string> =>
  must(run, 'nsenter', [`--net=${namespace}`, '--', ...argv], input === undefined ? {} : { input });

/** Applies an nft program in that namespace, as one transaction. Rejects with the error output of nft. */
export async function applyLanProgram(run: Exec, namespace: string, program: string): Promise<void> {
  await inside(run, namespace, ['nft', '-f', '-'], program);
}

/** A hash of the tables in that namespace without their learned members. Undefined when a table is missing. */
export async function lanFingerprint(run: Exec, namespace: string): Promise<string | undefined> {
  const root: unknown = JSON.parse(await inside(run, namespace, ['nft', '-j', '-s', 'list', 'ruleset']));
  const items = (root as { nftables?: readonly Item[] }).nftables ?? [];
  const own = items.flatMap(ownPart);
  if (own.length === 0) return undefined;
  return createHash('sha256').update(JSON.stringify(own)).digest('base64url');
}

type Item = Readonly<Record<string, Part>>;
interface Part {
  readonly name?: string;
  readonly table?: string;
  readonly handle?: number;
  readonly flags?: unknown;
  readonly elem?: unknown;
}
function ownPart(item: Item): Item[] {
  const [[kind, part] = []] = Object.entries(item);
  if (kind === undefined || part === undefined) return [];
  if ((kind === 'table' ? part.name : part.table) !== LAN_TABLE) return [];
  const { handle: _, elem, ...rest } = part;
  const isTimed = JSON.stringify(part.flags ?? []).includes('timeout');
  return [{ [kind]: elem === undefined || isTimed ? rest : { ...rest, elem } }];
}

/** Counts every change of any table of that namespace. Throws NetlinkError. */
export function generationIn(namespace: string): number | undefined {
  using socket = new NetlinkSocket({ protocol: 'netfilter', namespace });
  const [answer] = socket.request(`read the generation of the tables in ${namespace}`, askGeneration());
  return answer && generationOf(answer.body);
}

/** Returns false when there was no table. Throws NetlinkError. */
export function removeLan(namespace: string): boolean {
  const gone = [deleteTable(LAN_TABLE), deleteTable(LAN_TABLE, 'netdev')].map((message) => {
    try {
      transact(namespace, 'remove', [message]);
      return true;
    } catch (e) {
      if (isRefusal(e, 'ENOENT')) return false;
      throw e;
    }
  });
  return gone.includes(true);
}

/** Adds a member to a learned set, or sets the time-out of an existing member. Throws NetlinkError. */
export function putLanMember(namespace: string, set: string, address: string, seconds: number): void {
  const key = keyOf(address);
  const add = addElement(LAN_TABLE, set, key, seconds * 1000);
  // before Linux 6.12, a second add does not change the time-out of a member
  transact(namespace, `add ${address} to ${set}`, [add, deleteElement(LAN_TABLE, set, key), add]);
}

/** Removes a member; a missing member is no error. Throws NetlinkError. */
export function removeLanMember(namespace: string, set: string, address: string): void {
  try {
    transact(namespace, `remove ${address} from ${set}`, [deleteElement(LAN_TABLE, set, keyOf(address))]);
  } catch (e) {
    if (!isRefusal(e, 'ENOENT')) throw e;
  }
}

function keyOf(address: string): Buffer {
  const bytes = addressBytes(address);
  if (!bytes) throw new TypeError(`${address} is not an address`);
  return bytes;
}

/**
 * Names of the macvlan and ipvlan links in that namespace that are up. Docker renames a link while it is down, and
 * since Linux 6.16 this removes a hook on the earlier name (net/netfilter/nft_chain_filter.c, nf_tables_netdev_event).
 * Rejects as `lanEnds` does.
 */
export async function linksAt(namespace: string): Promise<readonly string[]> {
  using links = new Links({ namespace });
  const isLan = (l: Link): boolean => l.up && LAN_KINDS.some((k) => k === l.kind);
  return (await links.list()).filter(isLan).map((l) => l.name);
}

/** The macvlan and ipvlan links in that namespace. Rejects with NetlinkError, or when the path is not a namespace. */
export async function lanEnds(namespace: string): Promise<readonly LanEnd[]> {
  using links = new Links({ namespace });
  using addresses = new Addresses({ namespace });
  const [all, local] = await Promise.all([links.list(), addresses.list()]);
  return all
    .filter((l) => LAN_KINDS.some((kind) => kind === l.kind))
    .map((l) => ({
      device: l.name,
      mac: l.mac ?? '',
      addresses: local.filter((a) => a.index === l.index).map((a) => a.address),
    }));
}

/** Changes nf_tables in that namespace (its path, or a descriptor) with one transaction. Throws NetlinkError. */
export function transact(namespace: string | number, what: string, messages: readonly Outgoing[]): void {
  using socket = new NetlinkSocket({ protocol: 'netfilter', namespace });
  socket.transaction(`${what} in ${namespace}`, [batchBegin(), ...messages, batchEnd()]);
}

/** Generic netlink (include/uapi/linux/genetlink.h): the family that resolves names, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID and _NAME. */
const CONTROL = { family: 16, getFamily: 3, id: 1, name: 2, header: 4 } as const;
/** include/uapi/linux/ethtool_netlink.h, since Linux 5.7: ETHTOOL_MSG_FEATURES_GET and _SET, ETHTOOL_A_FEATURES_*, ETHTOOL_FLAG_OMIT_REPLY. */
const FEATURES = {
  get: 11,
  set: 12,
  header: 1,
  wanted: 3,
  active: 4,
  device: 1,
  flags: 3,
  omitReply: 2,
} as const;
/** ETHTOOL_A_BITSET_*: a list of bits by name, each with or without the flag that sets it. */
const BITSET = { bits: 3, bit: 1, name: 2, value: 3 } as const;
/** What a veth takes in one packet (net/core/dev.c, netif_needs_gso: it takes a packet only if it takes all types that the packet has). */
const SEGMENTED = [
  'tx-udp-segmentation',
  'tx-tcp-segmentation',
  'tx-tcp6-segmentation',
  'tx-sctp-segmentation',
  'tx-gso-list',
] as const;

/**
 * Whether the veths in that namespace hand on segments in one packet, which the host would count as one, with one header. Otherwise the kernel makes
 * the segments before the veth, for packet sockets too (validate_xmit_skb). Resolves with the veths that were changed. Rejects with NetlinkError, or
 * when the path is not a namespace.
 */
export async function setSegmentation(namespace: string, isOn: boolean): Promise<readonly string[]> {
  using links = new Links({ namespace });
  using socket = new NetlinkSocket({ protocol: 'generic', namespace });
  const ask = (what: string, type: number, command: number, ...attributes: Buffer[]): Buffer | undefined => {
    const body = Buffer.concat([Buffer.from([command, 1, 0, 0]), ...attributes]);
    return socket.request(`${what} in ${namespace}`, { type, body })[0]?.body;
  };
  const name = attribute(CONTROL.name, cString('ethtool'));
  const found = ask('find the netlink of ethtool', CONTROL.family, CONTROL.getFamily, name);
  const family = found && parseAttributes(found, CONTROL.header).get(CONTROL.id)?.readUInt16LE(0);
  if (family === undefined) throw new Error('the kernel has no netlink of ethtool');
  const bits = SEGMENTED.map((feature) => {
    const value = isOn ? [attribute(BITSET.value, Buffer.alloc(0))] : [];
    return nested(BITSET.bit, attribute(BITSET.name, cString(feature)), ...value);
  });
  const change = nested(FEATURES.wanted, nested(BITSET.bits, ...bits));
  const changed: string[] = [];
  for (const { index, name, kind } of await links.list()) {
    if (kind !== 'veth') continue;
    const header = (flags: number): Buffer =>
      nested(
        FEATURES.header,
        attribute(FEATURES.device, u32le(index)),
        attribute(FEATURES.flags, u32le(flags)),
      );
    const features = ask(`read the features of ${name}`, family, FEATURES.get, header(0));
    const active = features && parseAttributes(features, CONTROL.header).get(FEATURES.active);
    const isAny = SEGMENTED.some((feature) => active?.includes(cString(feature)) === true);
    if (isAny === isOn) continue; // what is on in part was not set here
    ask(`set the features of ${name}`, family, FEATURES.set, header(FEATURES.omitReply), change);
    changed.push(name);
  }
  return changed;
}
