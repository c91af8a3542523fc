/** The nft program that is installed inside the namespace of a container on a macvlan or ipvlan network. Pure. */

import { createHash } from 'node:crypto';
import type { Family } from '../lib/ip.js';
import { classMatches } from './classes.js';
import { containerChain } from './container-chains.js';
import type { KernelConfig, SetDesired, Subject } from './desired-state.js';
import { logPrefix } from './log-words.js';
import { classSet, errorsChain, namesFor } from './naming.js';
import { nftMatches } from './render/nft.js';
import type { ReservedPort } from './reserved-ports.js';
import type { Rule } from './rules.js';
import { checkedChain, ERROR_RATE, LONGEST_ERROR, permitChain } from './verdict-chains.js';

export const LAN_TABLE = 'drawbridge_lan';
/** Drivers of Docker, and kinds of their links. Packets on them bypass the host's network stack. */
export const LAN_KINDS = ['macvlan', 'ipvlan'] as const;
/** Bits of the connmark inside: the other side opened the flow, a rule permitted it, nothing permits it any more. */
export const LAN_FLOW = { inbound: 1, permitted: 2, ended: 4 } as const;
const EMBEDDED = '127.0.0.11';
const FAMILIES: readonly Family[] = [4, 6];
/** Ahead of Docker's nat, and of the rules for its embedded resolver. */
const NAT_PRIORITY = -115;
const PRIORITY = 10;
/** An echo request carries 128 bytes at most, IP and ICMP headers apart. */
const ECHO = { 4: 20 + 8 + 128, 6: 40 + 8 + 128 } as const;
/** Listener reports of sixteen groups. */
const LONGEST_REPORT = 376;

export interface LanInput {
  readonly shape: KernelConfig;
  readonly member: Subject;
  /** The sets of the host. Those inside have the same names and contents. */
  readonly sets: ReadonlyMap<string, SetDesired>;
  /** TCP ports of Drawbridge's own, at addresses of the host or of a container. */
  readonly closed: readonly Required<Pick<ReservedPort, 'address' | 'port'>>[];
  /** Port at 127.0.0.11 on which Drawbridge's resolver answers inside. Absent: no query is answered. */
  readonly resolver: number | undefined;
  /** IPv6 networks that it is on. */
  readonly links6: readonly string[];
}
/** Members of learned sets with their remaining seconds. */
export type LanLearned = ReadonlyMap<string, ReadonlyMap<string, number>>;

/** Replaces the whole table in one transaction. */
export function lanProgram(input: LanInput, learned: LanLearned): string {
  const rules = rulesOf(input);
  const body = [
    ...setsOf(input, [...rules[4], ...rules[6]]).map((s) => setText(s, learned.get(s.name))),
    ...chains(input, rules).map(([name, lines]) => block(`chain ${name}`, lines)),
  ];
  const table = `table inet ${LAN_TABLE}`;
  return `${table}\ndelete ${table}\n${table} {\n${body.join('')}}\n`;
}

/**
 * What a closed namespace still sends: unsolicited neighbour advertisements of the length that Docker sends. Engine 28 announces
 * each IPv6 address from inside the namespace, and fails to start the container when the packet is refused.
 */
export const ANNOUNCEMENT = { type: 136, hopLimit: 255, to: 'ff02::1', bytes: 32 } as const;

/** Nothing leaves: for one that is on no such network now, and may join again. */
export function lanClosedProgram(): string {
  const table = `table inet ${LAN_TABLE}`;
  const { type, hopLimit, to, bytes } = ANNOUNCEMENT;
  const announcement = `ip6 nexthdr 58 icmpv6 type ${type} ip6 hoplimit ${hopLimit} ip6 daddr ${to} ip6 length ${bytes} accept`;
  const chain = (hook: string, ...first: readonly string[]): string =>
    block(`chain ${hook}`, [base(hook, PRIORITY), ...first, ...leaving('drop')]);
  return `${table}\ndelete ${table}\n${table} {\n${chain('output', announcement)}${chain('forward')}}\n`;
}

/** Equal for equal tables, learned members apart. */
export const lanKey = (input: LanInput): string =>
  createHash('sha256').update(lanProgram(input, new Map())).digest('base64url');

/** Learned sets that this table has. */
export const lanLearnedSets = (input: LanInput): ReadonlySet<string> => {
  const rules = rulesOf(input);
  const timed = setsOf(input, [...rules[4], ...rules[6]]).filter((s) => s.timed);
  return new Set(timed.map((s) => s.name));
};

/**
 * Frames that no socket of IP made: a packet socket goes around every other hook, whether it skips the queueing discipline
 * or not. What IP sends has a route, what such a socket sends has none.
 */
export function lanFramesProgram(devices: readonly string[], addresses: readonly string[]): string {
  const table = `table netdev ${LAN_TABLE}`;
  const renew = `${table}\ndelete ${table}\n`;
  if (devices.length === 0) return renew;
  const own = ['0.0.0.0', ...addresses.filter((a) => !a.includes(':'))];
  const lines = [
    egress(devices),
    'meta rtclassid 0-4294967295 accept',
    `ether type arp meta length <= 42 arp saddr ip { ${own.join(', ')} } accept`,
  ];
  return `${renew}${table} {\n${block('chain frames', lines)}}\n`;
}

/**
 * Frames of a closed namespace: ARP alone, by which Docker announces addresses. Refused as a whole where other frames are
 * evaluated already (`create`), and where the namespace has been opened since (`add chain`: its table is gone).
 */
export function lanClosedFramesProgram(devices: readonly string[]): string {
  const lines = [
    egress(devices),
    'meta rtclassid 0-4294967295 accept',
    'ether type arp meta length <= 42 accept',
  ];
  const table = `netdev ${LAN_TABLE}`;
  return `add chain inet ${LAN_TABLE} output\ncreate table ${table}\ntable ${table} {\n${block('chain frames', lines)}}\n`;
}

const egress = (devices: readonly string[]): string =>
  `type filter hook egress devices = { ${devices.map((d) => `"${d}"`).join(', ')} } priority 0; policy drop`;

type Rules = Readonly<Record<Family, readonly Rule[]>>;
function rulesOf({ shape, member }: LanInput): Rules {
  const names = namesFor(shape.prefix);
  const errors = errorsChain(shape.prefix, member.id);
  const isErrors = ({ then }: Rule): boolean => then.k === 'goto' && then.chain === errors;
  // a packet queue belongs to one network namespace: what does not pass the host is denied without asking a person
  const isAsking = ({ then }: Rule): boolean => then.k === 'jump' && then.chain === names.ask;
  const of = (family: Family): Rule[] =>
    containerChain(member, family, names, shape).filter(
      (r) => !r.when.some((m) => m.k === 'sentTo') && !isErrors(r) && !isAsking(r),
    );
  return { 4: of(4), 6: of(6) };
}

function setsOf({ sets }: LanInput, rules: readonly Rule[]): SetDesired[] {
  const used = new Set(rules.flatMap((r) => r.when.flatMap((m) => (m.k === 'set' ? [m.set] : []))));
  return [...used].sort().map((name) => {
    const set = sets.get(name);
    if (!set) throw new Error(`the rules of a container name the set ${name}, which is not desired`);
    return set;
  });
}

function setText(set: SetDesired, learned: ReadonlyMap<string, number> = new Map()): string {
  const members = set.timed
    ? [...learned].map(([address, seconds]) => `${address} timeout ${seconds}s`)
    : set.members;
  const flags = set.timed ? 'flags timeout' : 'flags interval; auto-merge';
  const elements = members.length > 0 ? [`elements = { ${members.join(', ')} }`] : [];
  return block(`set ${set.name}`, [`type ipv${set.family}_addr; ${flags}`, ...elements]);
}

const block = (head: string, lines: readonly string[]): string =>
  `  ${head} {\n${lines.map((l) => `    ${l}\n`).join('')}  }\n`;
const leaving = (what: string): string[] => LAN_KINDS.map((kind) => `meta oifkind "${kind}" ${what}`);
const base = (hook: string, priority: number, type = 'filter'): string =>
  `type ${type} hook ${hook} priority ${priority}; policy accept`;
const bit = (flow: keyof typeof LAN_FLOW): string => `ct mark and ${LAN_FLOW[flow]} == ${LAN_FLOW[flow]}`;
const setBit = (flow: keyof typeof LAN_FLOW): string => `ct mark set ct mark or ${LAN_FLOW[flow]}`;

function chains(input: LanInput, rules: Rules): (readonly [string, readonly string[]])[] {
  const { resolver } = input;
  return [
    ...(resolver === undefined ? [] : namesTo(input, resolver)),
    ['forged', [logging(input.shape), 'drop']],
    ['denied', denied(input.shape)],
    ['link', link(input.links6)],
    ['judge', evaluation(input, rules)],
    ['arrived', ARRIVED],
    ['output', [base('output', PRIORITY), ...atResolver(resolver), ...leaving('goto judge')]],
    ['forward', [base('forward', PRIORITY), ...leaving('goto judge')]],
    // a socket that is bound to the device takes a redirected question out through it
    [
      'leaving',
      [
        base('postrouting', PRIORITY),
        ...['ip daddr 127.0.0.0/8', 'ip saddr 127.0.0.0/8', 'ip6 saddr ::1'].flatMap((l) =>
          leaving(`${l} drop`),
        ),
        ...leaving('ct state new fib saddr type != local drop'),
      ],
    ],
    ['input', [base('input', PRIORITY), ...LAN_KINDS.map((k) => `meta iifkind "${k}" goto arrived`)]],
  ];
}

/** Redirect port 53 to Drawbridge's resolver for every destination, except where an entry has dns=direct. */
function namesTo(input: LanInput, port: number): (readonly [string, readonly string[]])[] {
  const direct = input.member.classes
    .filter((c) => c.direct && c.statics.some((s) => s.range.family === 4))
    .flatMap((c) =>
      classMatches(c).map((when) => {
        const set = classSet(input.shape.prefix, input.member.id, c.key, 4, 'static');
        return `${nftMatches([...when, { k: 'set', set, by: 'dst' }], 4)} return`;
      }),
    );
  const to = ['udp', 'tcp'].map((p) => `meta nfproto ipv4 ${p} dport 53 dnat ip to ${EMBEDDED}:${port}`);
  return [
    ['names', [...direct, ...to]],
    [
      'resolver',
      [
        base('output', NAT_PRIORITY, 'nat'),
        ...to.map((t) => `ip daddr ${EMBEDDED} ${t}`),
        ...leaving('goto names'),
      ],
    ],
  ];
}

/** Filter still sees the device that the question was for. */
const atResolver = (port: number | undefined): string[] =>
  port === undefined
    ? []
    : ['udp', 'tcp'].map((p) => `ct status dnat ip daddr ${EMBEDDED} ${p} dport ${port} accept`);

/** What others opened is theirs to answer. A packet in the middle of a TCP conversation opens nothing. */
const ARRIVED: readonly string[] = [
  `${bit('ended')} drop`,
  `ct state new tcp flags & (fin | syn | rst | ack) == syn ${setBit('inbound')}`,
  `ct state new meta l4proto != tcp ${setBit('inbound')}`,
];

function evaluation(input: LanInput, rules: Rules): string[] {
  const targets = targetsOf(input);
  return [
    `icmpv6 type { ${LINK_TYPES} } jump link`,
    'fib saddr type != local goto forged',
    `${bit('ended')} goto denied`,
    'ip hdrlength > 5 goto denied',
    ...['hbh', 'rt', 'dst', 'mh'].map((header) => `exthdr ${header} exists goto denied`),
    `icmp type echo-request meta length > ${ECHO[4]} goto denied`,
    `icmpv6 type echo-request meta length > ${ECHO[6]} goto denied`,
    `ct direction reply ${bit('inbound')} accept`,
    `ct state established ${bit('permitted')} accept`,
    // the namespace has no flows but the container's own
    ...FAMILIES.map(
      (f) =>
        `ct state related meta l4proto ${f === 4 ? 'icmp' : 'ipv6-icmp'} meta length <= ${LONGEST_ERROR[f]} limit rate ${ERROR_RATE.perSecond}/second burst ${ERROR_RATE.burst} packets accept`,
    ),
    ...input.closed.map(
      ({ address, port }) =>
        `${address.includes(':') ? 'ip6' : 'ip'} daddr ${address} tcp dport ${port} goto denied`,
    ),
    ...FAMILIES.flatMap((f) => rules[f].map((r) => ruleText(r, f, targets))),
    'goto denied',
  ];
}

const NEIGHBOUR_TYPES = 'nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert';
const LINK_TYPES = `mld2-listener-report, ${NEIGHBOUR_TYPES}`;
/** Solicitations and advertisements without an option, or with one of eight bytes, and their lengths with the IPv6 header. */
const HONEST: readonly string[] = [
  ...[48, 56].map((length) => `nd-router-solicit . ${length}`),
  ...[64, 72].flatMap((length) => [`nd-neighbor-solicit . ${length}`, `nd-neighbor-advert . ${length}`]),
];
/** What IPv6 itself needs on a link. Without a source it checks whether an address is free (RFC 4862 5.4). */
const link = (networks: readonly string[]): string[] => [
  'ip6 saddr != :: fib saddr type != local goto forged',
  `icmpv6 type mld2-listener-report ip6 hoplimit 1 ip6 daddr ff02::16 meta length <= ${LONGEST_REPORT} accept`,
  `icmpv6 type . meta length { ${HONEST.join(', ')} } ip6 hoplimit 255 ip6 daddr { ${['fe80::/10', 'ff02::/16', ...networks].join(', ')} } accept`,
];

const logging = ({ logGroup, prefix }: KernelConfig): string =>
  `limit rate 20/second burst 60 packets log prefix "${logPrefix(prefix, 'deny')}" group ${logGroup} snaplen 128`;

/** No refusal goes to a forged source, whatever has led here. */
function denied(shape: KernelConfig): string[] {
  const { deny } = shape;
  const refusal = [
    'meta l4proto tcp reject with tcp reset',
    'limit rate 50/second burst 100 packets reject with icmpx admin-prohibited',
  ];
  return [logging(shape), 'fib saddr type != local drop', ...(deny === 'reject' ? refusal : []), 'drop'];
}

/**
 * Where a container's chain leads, and what that is here. Its bounds are counted at the veths of bridges alone, and so are names of connections
 * checked: a packet queue belongs to one network namespace.
 */
function targetsOf({ shape, member }: LanInput): ReadonlyMap<string, string> {
  const names = namesFor(shape.prefix);
  const permit = `${setBit('permitted')} accept`;
  return new Map([
    [permitChain(member, names), permit],
    [checkedChain(member, names), permit],
    [names.no, 'goto denied'],
    [names.quota, 'goto denied'],
  ]);
}

function ruleText({ when, then }: Rule, family: Family, targets: ReadonlyMap<string, string>): string {
  const target = then.k === 'goto' ? targets.get(then.chain) : undefined;
  if (target === undefined) throw new Error(`no word of nft for the target ${JSON.stringify(then)}`);
  return [`meta nfproto ipv${family}`, nftMatches(when, family), target].filter((t) => t !== '').join(' ');
}
