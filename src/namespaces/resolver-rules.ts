/**
 * Rules and sockets inside a container's own network namespace. Docker's embedded resolver forwards queries from the
 * host's namespace, where the container that sent them cannot be identified. The rules are written over netlink,
 * because a container's start leaves no time to run a program.
 */

import { closeSync, readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { Conntrack } from '../kernel/netlink/conntrack.js';
import {
  inEachNamespace,
  makeNamespace,
  tcpListenFd,
  udpSocketFd,
  withNamespace,
} from '../kernel/netlink/namespace.js';
import { encodeMessage, FLAG, u16be } from '../kernel/netlink/netlink-codec.js';
import { NetlinkError } from '../kernel/netlink/netlink-error.js';
import { NetlinkSocket, type Outgoing } from '../kernel/netlink/netlink-socket.js';
import {
  batchBegin,
  batchEnd,
  deleteTable,
  getTable,
  listRules,
  newChain,
  newRule,
  newTable,
  ruleOf,
  stateOfTable,
} from '../kernel/netlink/nft-codec.js';
import {
  destination,
  destinationPort,
  dnatIpv4,
  HOOK,
  isIpv4,
  notFrom,
  protocol,
  rejectIpv4,
  rejectTcp,
  source,
  verdict,
} from '../kernel/netlink/nft-expressions.js';
import { PROTOCOL_NUMBERS } from '../lib/ip.js';
import { errorCode } from '../lib/problem.js';
import { transact } from './netns-tables.js';

/** Docker's embedded resolver (moby libnetwork/resolver.go): port 53 of it is rewritten to a random port by nat rules. */
const EMBEDDED = '127.0.0.11';
const TABLE = 'drawbridge';
const LOOPBACK = 1;
const PROTOCOLS = [PROTOCOL_NUMBERS.udp, PROTOCOL_NUMBERS.tcp];
/** Before iptables' nat OUTPUT (NF_IP_PRI_NAT_DST, -100). */
const AHEAD_OF_DOCKER = -110;
const NAT = { name: 'resolver_nat', type: 'nat', hook: HOOK.output, priority: AHEAD_OF_DOCKER } as const;
const OUT = { name: 'resolver_out', type: 'filter', hook: HOOK.output, priority: 0 } as const;
const IN = { name: 'resolver_in', type: 'filter', hook: HOOK.input, priority: 0 } as const;

/**
 * Sends queries for 127.0.0.11:53 to our socket at 127.0.0.11:`port`, and closes everything else there. Applying it
 * again replaces it in one transaction. Throws NetlinkError.
 *
 * - nat: the first chain that maps a connection wins (nf_nat_core.c, nf_nat_inet_fn), so Docker's rules may be put back
 *   at any time.
 * - output: Docker's own port would answer a direct query.
 * - input: a packet socket on lo passes no output hook (the kernel drops that as martian unless route_localnet is set).
 * - source 127.0.0.11 is refused: no client has it, and as a "reply" to it a forged packet would reach Docker's port.
 */
export function installResolverRules(namespace: string, port: number): void {
  const install = (...before: readonly Outgoing[]): void =>
    transact(namespace, 'install resolver rules', [...before, ...content(port)]);
  try {
    install(newTable(TABLE, 'only'));
  } catch (e) {
    if (!(e instanceof NetlinkError) || e.code !== 'EEXIST') throw e;
    install(newTable(TABLE), deleteTable(TABLE), newTable(TABLE)); // ten times slower: a deletion waits for all readers
  }
}

/**
 * Resolves with false when there were no rules. Rejects with NetlinkError. The removal runs in another thread: it takes
 * 6 to 20 ms, since the kernel waits until no packet is in the chains.
 */
export async function removeResolverRules(namespace: string): Promise<boolean> {
  using socket = new NetlinkSocket({ protocol: 'netfilter', namespace });
  try {
    // Without a table a batch would be sent from another thread, and refused, in each namespace of a start.
    socket.request(`look for resolver rules in ${namespace}`, getTable(TABLE));
    await socket.transactionLater(`remove resolver rules in ${namespace}`, [
      batchBegin(),
      deleteTable(TABLE),
      batchEnd(),
    ]);
    return true;
  } catch (e) {
    if (e instanceof NetlinkError && e.code === 'ENOENT') return false;
    throw e;
  }
}

/** Bytes of an answer about one table. */
const TABLE_ANSWER = 4096;
const ENOENT = 2;
/** Whether resolver rules are in each of these namespaces. Those that cannot be read are left out. It takes some 40 µs each. */
export function haveResolverRules(namespaces: readonly string[]): ReadonlyMap<string, boolean> {
  const { type, body } = getTable(TABLE);
  const request = encodeMessage(type, FLAG.request | FLAG.ack, 0, body);
  return inEachNamespace(namespaces, (namespace) => {
    using socket = new NetlinkSocket({ protocol: 'netfilter', datagram: TABLE_ANSWER });
    const operation = `look for resolver rules in ${namespace}`;
    const errno = socket.repeat(operation, request);
    if (errno !== 0 && errno !== ENOENT) throw new NetlinkError(operation, errno);
    return errno === 0;
  });
}

function content(port: number): Outgoing[] {
  const to = [isIpv4(), destination(EMBEDDED)];
  const acceptOwn = (chain: string): Outgoing[] =>
    PROTOCOLS.map((p) => {
      const match = [...to, source(EMBEDDED, true), protocol(p), destinationPort(port)];
      return newRule(TABLE, chain, ...match, verdict('accept'));
    });
  return [
    ...[NAT, OUT, IN].map((chain) => newChain(TABLE, chain)),
    ...PROTOCOLS.map((p) =>
      newRule(TABLE, NAT.name, ...to, protocol(p), destinationPort(53), dnatIpv4(EMBEDDED, port)),
    ),
    ...acceptOwn(OUT.name),
    newRule(TABLE, OUT.name, ...to, protocol(PROTOCOL_NUMBERS.tcp), rejectTcp()),
    newRule(TABLE, OUT.name, ...to, rejectIpv4()),
    newRule(TABLE, IN.name, notFrom(LOOPBACK), ...to, verdict('drop')),
    ...acceptOwn(IN.name),
    newRule(TABLE, IN.name, ...to, verdict('drop')),
  ];
}

/** A placeholder for the port in the reference rules, with which installed rules are compared. */
const SOME_PORT = 0xabcd;
const CHAINS = [NAT, OUT, IN].length;
let reference: Promise<Buffer> | undefined;
/** The rules as the kernel lists them when they were installed in one transaction, and nothing was changed since. */
async function referenceRules(): Promise<Buffer> {
  const namespace = makeNamespace();
  try {
    transact(namespace, 'install resolver rules', [newTable(TABLE, 'only'), ...content(SOME_PORT)]);
    return await listedRules(namespace);
  } finally {
    closeSync(namespace);
  }
}

async function listedRules(namespace: string | number): Promise<Buffer> {
  using socket = new NetlinkSocket({ protocol: 'netfilter', namespace });
  const [table] = socket.request('look for resolver rules', getTable(TABLE));
  const { flags, use } = table ? stateOfTable(table.body) : {};
  if (flags !== 0 || use !== CHAINS) return Buffer.alloc(0);
  return Buffer.concat(await socket.dump('list resolver rules', listRules(TABLE), (m) => ruleOf(m.body)));
}

/**
 * The port to which the rules of an earlier run lead; undefined if there are none, or others than Drawbridge installs now. The whole
 * rules are compared, and their handles, which the kernel counts up: no rule was added, removed or replaced. Rejects with NetlinkError.
 */
async function installedPort(namespace: string): Promise<number | undefined> {
  const listed = await listedRules(namespace);
  reference ??= referenceRules();
  const expected = await reference;
  if (listed.length !== expected.length) return undefined;
  const port = listed.readUInt16BE(expected.indexOf(u16be(SOME_PORT)));
  if (port < PORTS.from) return undefined;
  return withoutPort(listed, port).equals(withoutPort(expected, SOME_PORT)) ? port : undefined;
}

function withoutPort(rules: Buffer, port: number): Buffer {
  const found = Buffer.from(rules);
  for (let at = found.indexOf(u16be(port)); at >= 0; at = found.indexOf(u16be(port), at))
    found.writeUInt16BE(0, at);
  return found;
}

/**
 * As `prepareResolver`, for a namespace that existed before this run. Rules of the run before stay, and the sockets are opened at their
 * port: that takes a twentieth of the time, in which the container has no names. A new port is taken if a process in the container has
 * bound it meanwhile.
 */
export async function resumeResolver(namespace: string): Promise<ResolverSockets> {
  const port = await installedPort(namespace).catch(() => undefined);
  try {
    if (port !== undefined) return { ...socketsAt(namespace, port), port };
  } catch {
    // the port is in use: the rules are replaced
  }
  return prepareResolver(namespace);
}

/** Descriptors of sockets at 127.0.0.11, `port`. */
export interface ResolverSockets {
  readonly udpFd: number;
  /** Listens. */
  readonly tcpFd: number;
  readonly port: number;
}

const TRIES = 8;
const POLL_MS = 2;
const PORTS = { from: 20_000, count: 40_000 } as const;
/** Errors of a sandbox that is being created: its file is not mounted yet, or its loopback is still down. */
const NOT_YET = new Set(['EINVAL', 'EADDRNOTAVAIL']);
const MADE_WITHIN_MS = 1_000;

/**
 * Opens sockets and installs the rules that redirect queries to them. The port is random, so that the container cannot
 * bind it first. Rejects with NetlinkError or the error of opening the namespace.
 */
export async function prepareResolver(namespace: string): Promise<ResolverSockets> {
  const sockets = await openSockets(namespace);
  try {
    installResolverRules(namespace, sockets.port);
    return sockets;
  } catch (e) {
    closeResolver(sockets);
    throw e;
  }
}

/** The number of flows in the network namespace of the reading thread (net/netfilter/nf_conntrack_standalone.c). */
const FLOWS = '/proc/sys/net/netfilter/nf_conntrack_count';

/**
 * Whether the container sent a query to Docker's resolver before the rules were installed: then a flow to the resolver
 * leads to another port than `port`. Call it right after `prepareResolver`. A new namespace mostly has no flows: the
 * conntrack table, which has the flows of all namespaces (43 ms with 100,000), is read only if the count is not 0.
 * Rejects with NetlinkError.
 */
export async function wasQueriedBefore(namespace: string, port: number): Promise<boolean> {
  if (withNamespace(namespace, () => readFileSync(FLOWS, 'latin1')).trim() === '0') return false;
  using conntrack = new Conntrack({ namespace });
  const flows = await conntrack.flows(4, { orig: { dst: EMBEDDED } });
  return flows.some(({ reply }) => reply.sport !== port);
}

export function closeResolver({ udpFd, tcpFd }: ResolverSockets): void {
  closeSync(udpFd);
  closeSync(tcpFd);
}

async function openSockets(namespace: string): Promise<ResolverSockets> {
  const end = performance.now() + MADE_WITHIN_MS;
  for (let n = 1; ; n++) {
    const port = PORTS.from + Math.floor(Math.random() * PORTS.count);
    try {
      return { ...socketsAt(namespace, port), port };
    } catch (e) {
      const isYetToCome = NOT_YET.has(errorCode(e) ?? '');
      if (isYetToCome ? performance.now() > end : n >= TRIES) throw e;
      if (isYetToCome) await delay(POLL_MS);
    }
  }
}

function socketsAt(namespace: string, port: number): Omit<ResolverSockets, 'port'> {
  const place = { family: 4, address: EMBEDDED, port, namespace } as const;
  const udpFd = udpSocketFd(place);
  try {
    return { udpFd, tcpFd: tcpListenFd(place) };
  } catch (e) {
    closeSync(udpFd);
    throw e;
  }
}
