import { isDeepStrictEqual } from 'node:util';
import type { Family, Range } from '../lib/ip.js';
import { memo, reuses } from '../lib/memo.js';
import type { Tunnel } from '../lib/special-use.js';
import type { Policy } from '../policy/policy.js';
import type { ClassPlan, NameChecks } from './classes.js';
import type { DenyPlan } from './deny-plan.js';
import { type Marks, UNATTRIBUTED } from './marks.js';
import type { ReservedPort } from './reserved-ports.js';
import type { Rule } from './rules.js';

/** An nft table of Drawbridge without its elements. */
export interface NftProgram {
  /** As nft names it: "bridge drawbridge". */
  readonly table: string;
  /** Maps, sets, and chains without their rules. */
  readonly declarations: string;
  readonly rules: ReadonlyMap<string, readonly string[]>;
  /** Kernel objects that the text of the rules names. The program differs if an object of the same name is replaced. */
  readonly objects?: readonly string[];
}

/** Constants of one instance. */
export interface KernelConfig {
  readonly prefix: string;
  readonly marks: Marks;
  readonly holdQueue: number;
  /** Of packets whose names are checked: TCP. */
  readonly checkQueue: number;
  /** The same for datagrams: its packets are segmented, because one GSO packet of UDP is several datagrams (UDP_SEGMENT). */
  readonly datagramQueue: number;
  /** Of packets that wait for the decision of a person. */
  readonly askQueue: number;
  /** Which connections are checked by the name that they ask for. */
  readonly names: NameChecks;
  readonly logGroup: number;
  /** The dedicated addresses on lo where our DNS listens, and its port. */
  readonly dns: { readonly v4: string; readonly v6: string; readonly port: number };
  readonly deny: 'reject' | 'drop';
  readonly failure: 'closed' | 'open';
  /** Prefixes of NAT64 translators, in addition to the well-known one. */
  readonly nat64?: readonly string[];
  /** Closed to every container, since there are threat feeds. */
  readonly tunnels?: readonly Tunnel[];
  /** No threat feed is configured: nothing fills the sets of threats, and no packet is looked up in them. */
  readonly withoutFeeds?: true;
  /** Hand packets of containers past the rules for frames where nothing else decides about them (kernel/past-bridge.ts). */
  readonly pastBridge?: true;
}

/** A port of a managed bridge that belongs to a container. */
export interface Veth {
  readonly ifindex: number;
  readonly mac: string;
  readonly ip4?: string;
  readonly ip6?: string;
  readonly bridge: string;
  /** Bound a moment ago. Rules that only permit, and that need its addresses, come with a later pass: nothing waits for them. */
  readonly isNew?: true;
}

/** A network namespace that has an identity: a container with those that share its namespace. */
export interface Subject {
  /** Full id of the namespace's owner. */
  readonly id: string;
  readonly identity: number;
  readonly policy: Policy;
  readonly classes: readonly ClassPlan[];
  /** What its deny entries deny; absent: it has none. */
  readonly denied?: DenyPlan;
  /** Families in which it has addresses: a container without IPv6 needs no IPv6 rules. */
  readonly families: ReadonlySet<Family>;
  /** Neighbours that eastWest lets it reach with every protocol. */
  readonly neighbours: readonly string[];
  readonly veths: readonly Veth[];
  readonly published: readonly { readonly proto: 'tcp' | 'udp' | 'sctp'; readonly port: number }[];
  /** Limits from its label, enforced in mode enforce. */
  readonly limits?: SubjectLimits;
  /** Set if it is also on managed macvlan or ipvlan networks: the same policy is installed inside its own namespace. */
  readonly lan?: NetnsPlace;
  /** It lives in the host's network, in these cgroups: its own, and those of containers that share its namespace. */
  readonly host?: HostPlace;
}
export interface HostPlace {
  readonly cgroups: readonly Cgroup[];
  /** Its datagrams have a zone of conntrack to themselves. False: it has streams outside of it, which would be torn. */
  readonly zoned?: boolean;
}

export interface SubjectLimits {
  /** Of all its ports together, what it sends. */
  readonly bytesPerSecond?: number;
  /** Open at one time. */
  readonly connections?: number;
  readonly quota?: SubjectQuota;
}
/** What it may send and receive within the period that is now. */
export interface SubjectQuota {
  /** Of the kernel's counter: owner and period. */
  readonly name: string;
  readonly bytes: number;
  /** Where counting begins when the kernel has no counter of this name. */
  readonly used: number;
  /** Nothing more passes until the period ends (ms since the epoch). */
  readonly spent: boolean;
  readonly until: number;
  /** In words, once it is. */
  readonly reached: string;
}
export interface NetnsPlace {
  /** How many it is on. */
  readonly links: number;
  /** Its own addresses there, as Docker knows them. */
  readonly addresses: readonly string[];
  /** IPv6 networks of those links. */
  readonly links6: readonly string[];
}

/** A cgroup of the unified hierarchy. */
export interface Cgroup {
  /** From the root of the hierarchy, without a slash before it. */
  readonly path: string;
  /** The kernel's id of the cgroup that exists at this path now. */
  readonly object: string;
  /** As nft names it: from /sys/fs/cgroup. Undefined: nft, or the kernel, cannot ask for it. */
  readonly nft?: string;
}
/** Cgroups by which the senders in the host network are distinguished. */
export interface HostNet {
  /** Cgroups whose packets are evaluated: parents that only Docker uses, or single cgroups where Docker has no such parent. */
  readonly gates: readonly Cgroup[];
  /** Cgroups of Drawbridge below a gate. Their packets are not evaluated. */
  readonly exempt: readonly Cgroup[];
  /** Cgroups of build steps below a gate, which belong to no container. */
  readonly builds: readonly Cgroup[];
  /** The kernel can give each container's datagrams a zone of conntrack. */
  readonly zones?: boolean;
  /** nft identifies the senders (host-identity.ts), so that a packet of the host meets one cgroup match before the backstop. */
  readonly native?: boolean;
  /** nft identifies a container or a build step now. */
  readonly hasSenders?: boolean;
  /** A table of nft can queue packets (host-identity.ts). Otherwise those of unknown senders are queued before conntrack. */
  readonly queues?: boolean;
  /** nft can take options out of headers of TCP. */
  readonly strips?: boolean;
  /** Programs check frames before all rules, also while the service does not run (kernel/frame-checks.ts). */
  readonly framesChecked?: boolean;
}

export interface Bridge {
  readonly name: string;
  readonly mac: string;
  /** ifindexes of all veths on it. */
  readonly veths: readonly number[];
  /** Canonical networks of its addresses. */
  readonly subnets?: readonly string[];
  /** IPv4 subnets in which Docker gives the bridge no address. */
  readonly withoutGateway?: { readonly ifindex: number; readonly subnets: readonly string[] };
  /** It has ports that are no veths: others than containers send through it, too. */
  readonly mixed?: boolean;
}

/** No container is looked for in the host's network. */
export const NO_HOST_NET: HostNet = { gates: [], exempt: [], builds: [] };

export interface DesiredInput {
  readonly shape: KernelConfig;
  readonly subjects: readonly Subject[];
  readonly bridges: readonly Bridge[];
  /** veths that no managed network owns. */
  readonly exempt: readonly number[];
  /** veths on managed bridges that are proven to belong to no container. */
  readonly unattributed: readonly number[];
  readonly unattributedMode: 'enforce' | 'observe' | 'off';
  readonly unattributedClasses: readonly ClassPlan[];
  readonly unattributedDenied?: DenyPlan;
  readonly hostNet: HostNet;
  /** Closed to every container; none when left out. */
  readonly closed?: readonly ReservedPort[];
  /** Public address space that Docker networks use, which `any` does not include. */
  readonly inside?: readonly Range[];
}

/** What a member is. Each backend has its type for each kind. */
export type SetKind = 'address' | 'net' | 'address+port' | 'address+port+address';
export interface SetDesired {
  readonly name: string;
  /** Id of the subject whose policy fills the set. Absent for sets that all subjects share and for threat sets. */
  readonly owner?: string;
  readonly of: SetKind;
  readonly family: Family;
  /** Members have time-outs (learned sets). The DNS ledger owns the contents. */
  readonly timed: boolean;
  /** Contents of a set that is not timed. */
  readonly members: readonly string[];
  /** A full set takes a new member in the place of any other. */
  readonly evicts?: true;
  /** Rules deny by it: one that another process empties would let pass what it covers. */
  readonly denies?: true;
  /** The threat feeds fill the set: a pass only creates it. */
  readonly isThreats?: true;
}

/** A rule that comes before those of other programs at this hook of netfilter. */
export interface Hook {
  readonly at: 'prerouting' | 'input' | 'forward' | 'output';
  readonly rule: Rule;
}
/** In the order of a packet: before conntrack, the sender's mark, DNAT, the verdict, and after what other programs accept. */
export type Layer = 'untracked' | 'mark' | 'redirect' | 'verdict' | 'backstop';
export interface TableDesired {
  readonly family: Family;
  readonly layer: Layer;
  /** In an order in which every chain is declared before a rule jumps to it. */
  readonly chains: ReadonlyMap<string, readonly Rule[]>;
  readonly hooks: readonly Hook[];
}

/** Elements of the bridge table, as nft writes them. */
export interface BridgeDesired {
  /** "IFINDEX . HEAD . ADDRESS" of IPv4 packets to the bridge itself; the head is the Ethernet header and 0x45. */
  readonly routed4: ReadonlyMap<string, number>;
  readonly id4: ReadonlyMap<string, number>;
  readonly id6: ReadonlyMap<string, number>;
  readonly loose: ReadonlyMap<number, number>;
  /** veths of unattributed senders while their mode is enforce. */
  readonly nameless: ReadonlyMap<number, number>;
  /** Networks of managed bridges; empty without such veths. */
  readonly net4: ReadonlySet<string>;
  readonly net6: ReadonlySet<string>;
  readonly up: ReadonlyMap<number, string>;
  readonly strict: ReadonlySet<number>;
  /** MACs of strict ports. */
  readonly macs: ReadonlySet<string>;
  /** "IFINDEX . ADDRESS": the IPv6 link-local address that Linux derives from the MAC (RFC 4291 appendix A). */
  readonly ll6: ReadonlySet<string>;
  readonly exempt: ReadonlySet<number>;
  /** "IFINDEX . MAC": each veth's own bridge. */
  readonly bridgemac: ReadonlySet<string>;
  readonly enf4: ReadonlySet<string>;
  readonly enf6: ReadonlySet<string>;
  /** "ADDRESS . PORT" of containers that are Drawbridge's own. */
  readonly closed4: ReadonlySet<string>;
  readonly closed6: ReadonlySet<string>;
  /** Addresses that are bound to a veth, whatever the policy behind it. */
  readonly own4: ReadonlySet<string>;
  readonly own6: ReadonlySet<string>;
  /** "MARK . GROUP . PORT": multicast that an entry names. */
  readonly mcast4: ReadonlySet<string>;
  readonly mcast6: ReadonlySet<string>;
  /** Bytes a second of each named limit. */
  readonly limits: ReadonlyMap<string, number>;
  /** Bytes of each named quota, and what was used of it before the kernel counts. */
  readonly allowances: ReadonlyMap<string, Allowance>;
  /** Ports to named limits, and to named quotas. */
  readonly rates: ReadonlyMap<number, string>;
  readonly quotas: ReadonlyMap<number, string>;
}
export interface Allowance {
  readonly bytes: number;
  readonly used: number;
}

export interface DesiredState {
  readonly sets: ReadonlyMap<string, SetDesired>;
  readonly tables: readonly TableDesired[];
  readonly bridge: BridgeDesired;
  /** Chains of the table that identifies senders in the host network; empty where the layer `mark` does. */
  readonly identity: ReadonlyMap<string, readonly Rule[]>;
  /** For the backstop in a table of its own (backstop-table.ts). */
  readonly hostNet: HostNet;
}

/** The senders in the host network at one moment. */
export interface HostCgroups {
  readonly net: HostNet;
  /** By id of the namespace's owner: its cgroup, and those of containers that share its namespace. */
  readonly cgroups: ReadonlyMap<string, readonly Cgroup[]>;
  /** Containers (by id) that were not filtered from their first instruction: their parent cgroup has host processes, or was unknown. */
  readonly late: ReadonlyMap<string, 'shared' | 'unseen'>;
  /** Containers (by id) whose packets pass no rule of Drawbridge, with the reason. */
  readonly open: ReadonlyMap<string, string>;
}

/** The state for which nothing is known: no container, and every veth is queued. `exempt` lists veths that are not Docker's. */
export const closedBase = (shape: KernelConfig, exempt: readonly number[] = []): DesiredInput => ({
  shape,
  subjects: [],
  bridges: [],
  exempt,
  unattributed: [],
  unattributedMode: 'enforce',
  unattributedClasses: [],
  hostNet: NO_HOST_NET,
});

/**
 * Return the subject of the last pass if the new one is equal to it. Rules, sets and signatures are cached by the subject object, so
 * that a pass renders only changed subjects. A subject with any difference is rendered as a whole.
 */
export function keepSubject(known: Subject | undefined, member: Subject): Subject {
  return reuses() && known !== undefined && isSameSubject(known, member) ? known : member;
}

/** Most properties are the same objects, such as the policy: comparing their contents, too, takes a quarter of a pass without changes. */
function isSameSubject(a: Subject, b: Subject): boolean {
  const keys = Object.keys(b) as (keyof Subject)[];
  if (keys.length !== Object.keys(a).length) return false;
  return keys.every(
    (key) => Object.hasOwn(a, key) && (a[key] === b[key] || isDeepStrictEqual(a[key], b[key])),
  );
}

/** Used in place of a container id. No container id is that short. */
export const UNATTRIBUTED_ID = 'unattributed';

const lastByClasses = memo((_classes: readonly ClassPlan[]): { subject?: Subject } => ({}));
/** All forwarded sources that are no container share one identity, one chain and one set of resolved addresses. */
export function unattributedSubject({
  unattributedMode: mode,
  unattributedClasses: classes,
  unattributedDenied: denied,
}: Pick<DesiredInput, 'unattributedMode' | 'unattributedClasses' | 'unattributedDenied'>): Subject {
  const last = lastByClasses(classes);
  if (last.subject?.policy.mode === mode && last.subject.denied === denied) return last.subject;
  const subject: Subject = {
    id: UNATTRIBUTED_ID,
    identity: UNATTRIBUTED,
    policy: { mode, modeSource: { kind: 'unattributed' }, entries: [], lists: [], notes: [] },
    classes,
    ...(denied ? { denied } : {}),
    families: new Set([4, 6] as const),
    neighbours: [],
    veths: [],
    published: [],
  };
  last.subject = subject;
  return subject;
}
