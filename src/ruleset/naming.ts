import { createHash } from 'node:crypto';
import type { Family } from '../lib/ip.js';
import type { Direction, ThreatAction } from '../policy/threat.js';

/** Names of Drawbridge's chains. A chain's has at most 28 characters, a set's 31: the shortest bounds of the backends. */
export interface Names {
  readonly prefix: string;
  /** Entry chains of `verdict`: from forward, from input and from output. */
  readonly forward: string;
  readonly input: string;
  readonly output: string;
  /** Sets the permit bit and returns. */
  readonly ok: string;
  /** ICMP errors of an enforced container about its own flows. */
  readonly error: string;
  /** Logs and rejects. */
  readonly no: string;
  /** New packets of a container against the threat sets, new packets to one, and the rejection of both. */
  readonly threat: string;
  readonly threatIn: string;
  readonly threatNo: string;
  /** Packets of containers from a source that may be forged. */
  readonly threatForged: string;
  readonly threatDrop: string;
  /** Logs matches of feeds with the action observe. */
  readonly threatSeen: string;
  /** Queues packets of unknown veths (NFQUEUE). */
  readonly hold: string;
  /** Packets of a flow that Drawbridge deleted while they were in the queue. */
  readonly ended: string;
  /** Packets that open a flow. */
  readonly opening: string;
  /** Packets without an identity, to a container or through the host. */
  readonly toManaged: string;
  /** Drops packets that would re-create a deleted flow; `middle`, for neighbours and the host, also mid-stream TCP. */
  readonly cut: string;
  readonly middle: string;
  /** From neighbours to an enforced container. */
  readonly near: string;
  /** Logs and drops packets of neighbours with a source that is bound to no container. */
  readonly forged: string;
  readonly later: string;
  /** Packets of managed bridges without an identity: the bridge table was emptied or deleted. */
  readonly from: string;
  readonly unmarked: string;
  /** Root of the tree from identities to the chains of containers. */
  readonly dispatch: string;
  /** Permits what an observed container sends after it was logged. */
  readonly observe: string;
  /** Root of the tree for new connections of observed containers to the host. It ends with a return and denies nothing. */
  readonly observedHost: string;
  /** Permits within the bounds of a container, and rejections: of a flood, of too many connections, of a spent quota. */
  readonly bound: string;
  /** Counts a sample of the open connections of a source; denies when there are too many. */
  readonly count: string;
  readonly overfull: string;
  readonly flood: string;
  readonly many: string;
  readonly quota: string;
  /** New flows whose names are checked; `hostChecked`: of containers in the host network. */
  readonly checked: string;
  readonly hostChecked: string;
  /** Packets of flows that are being checked: those that were released, those that are queued, and what the check refuses. */
  readonly checking: string;
  readonly released: string;
  readonly inspect: string;
  readonly refused: string;
  /** Queues the first packet of a flow that no rule permits, where a person is asked. */
  readonly ask: string;
  /** Permits queries to Drawbridge's resolver within a rate. */
  readonly dnsOk: string;
  /** Entry chain of `redirect`. */
  readonly prerouting: string;
  /** Entry chains of `backstop`. */
  readonly backstop: string;
  readonly backstopInput: string;
  /** Chains for containers in the host network, in the order of the layers. */
  readonly hostRaw: string;
  readonly hostZone: string;
  readonly hostMark: string;
  readonly hostOwn: string;
  readonly hostWho: string;
  readonly hostHold: string;
  readonly hostDns: string;
  readonly hostDnsFor: string;
  readonly hostOut: string;
  readonly hostLo: string;
  readonly hostLost: string;
  readonly backstopOutput: string;
  readonly backstopHost: string;
}

const namesByPrefix = new Map<string, Names>();
/** The same object for the same prefix: each member of the rules asks for it. */
export function namesFor(prefix: string): Names {
  const known = namesByPrefix.get(prefix) ?? makeNames(prefix);
  namesByPrefix.set(prefix, known);
  return known;
}

function makeNames(prefix: string): Names {
  const n = (s: string): string => `${prefix}-${s}`;
  return {
    prefix,
    forward: n('FORWARD'),
    input: n('INPUT'),
    output: n('OUTPUT'),
    ok: n('OK'),
    error: n('ERROR'),
    no: n('NO'),
    threat: n('THREAT'),
    threatIn: n('THREAT-IN'),
    threatNo: n('THREAT-NO'),
    threatForged: n('THREAT-FORGED'),
    threatDrop: n('THREAT-DROP'),
    threatSeen: n('THREAT-SEEN'),
    hold: n('HOLD'),
    ended: n('ENDED'),
    opening: n('OPEN'),
    checked: n('NAMED'),
    hostChecked: n('HN-NAMED'),
    checking: n('CHECK'),
    released: n('RELEASED'),
    inspect: n('INSPECT'),
    refused: n('REFUSED'),
    toManaged: n('TO'),
    cut: n('CUT'),
    middle: n('MIDDLE'),
    near: n('NEAR'),
    forged: n('FORGED'),
    later: n('LATER'),
    from: n('FROM'),
    unmarked: n('UNMARKED'),
    dispatch: n('D'),
    observe: n('OBSERVE'),
    observedHost: n('W'),
    bound: n('BOUND'),
    count: n('COUNT'),
    overfull: n('OVERFULL'),
    flood: n('FLOOD'),
    many: n('MANY'),
    quota: n('QUOTA'),
    ask: n('ASK'),
    dnsOk: n('DNS'),
    prerouting: n('PREROUTING'),
    backstop: n('BACKSTOP'),
    backstopInput: n('BACKSTOP-IN'),
    hostRaw: n('HN-RAW'),
    hostZone: n('HN-ZONE'),
    hostMark: n('HN-MARK'),
    hostOwn: n('HN-OWN'),
    hostWho: n('HN-WHO'),
    hostHold: n('HN-HOLD'),
    hostDns: n('HN-DNS'),
    hostDnsFor: n('HN-DNS-FOR'),
    hostOut: n('HN-OUT'),
    hostLo: n('HN-LO'),
    hostLost: n('HN-LOST'),
    backstopOutput: n('BACKSTOP-OUT'),
    backstopHost: n('BACKSTOP-HN'),
  };
}

const SHORT_ID = 12;
const shortId = (id: string): string => id.slice(0, SHORT_ID);
export const containerChain = (prefix: string, id: string): string => `${prefix}-c-${shortId(id)}`;
/** Permits for ICMP errors of one container about its own flows. */
export const errorsChain = (prefix: string, id: string): string => `${prefix}-e-${shortId(id)}`;
export const limitChain = (prefix: string, id: string): string => `${prefix}-l-${shortId(id)}`;
export const checkedLimitChain = (prefix: string, id: string): string => `${prefix}-n-${shortId(id)}`;
/** Whether a chain begins the check of the name that a connection asks for. */
export function isCheckedChain(prefix: string, chain: string): boolean {
  const { checked, hostChecked } = namesFor(prefix);
  return chain === checked || chain === hostChecked || chain.startsWith(`${prefix}-n-`);
}
export const hostChain = (prefix: string, id: string): string => `${prefix}-h-${shortId(id)}`;

/** What becomes of a packet that a chain of a container hands on with `goto`. */
type HandedTo = 'permits' | 'refuses' | 'observes' | 'errors';
/**
 * By the chain where it goes: to what permits it, for a connection that is checked by name too; to what logs and refuses it; to what lets it pass
 * only because the container is observed; to the chain for its ICMP errors, which open no flow. Undefined: no chain of a container leads there.
 */
export function handedTo(prefix: string, chain: string): HandedTo | undefined {
  const names = namesFor(prefix);
  if ([names.no, names.quota, names.many].includes(chain)) return 'refuses';
  if (chain === names.observe) return 'observes';
  if (chain.startsWith(`${prefix}-e-`)) return 'errors';
  if ([names.ok, names.bound].includes(chain) || isCheckedChain(prefix, chain)) return 'permits';
  return chain.startsWith(`${prefix}-l-`) ? 'permits' : undefined;
}
/** Chains of `verdict` that log a packet, within a limit, and refuse it. */
export function refusingChains(prefix: string): readonly string[] {
  const { no, flood, many, quota, forged, later, threatNo, threatDrop } = namesFor(prefix);
  return [no, flood, many, quota, forged, later, threatNo, threatDrop];
}

const CLASS_HASH = 6;
export type SetKind = 'static' | 'learned';
const KIND_SUFFIX: Readonly<Record<SetKind, string>> = { static: 'n', learned: 'l' };
export function classSet(
  prefix: string,
  id: string,
  classKey: string,
  family: Family,
  kind: SetKind,
): string {
  return `${prefix}-${shortId(id)}-${classHash(classKey)}${family}${KIND_SUFFIX[kind]}`;
}

const MAX_HASHES = 4_096;
const hashes = new Map<string, string>();
function classHash(classKey: string): string {
  const known =
    hashes.get(classKey) ?? createHash('sha256').update(classKey).digest('hex').slice(0, CLASS_HASH);
  if (hashes.size >= MAX_HASHES) hashes.clear();
  hashes.set(classKey, known);
  return known;
}
/** Sets that all containers share. */
export const sharedSet = (
  prefix: string,
  what: 'enf' | 'own' | 'net' | 'pub' | 'alive' | 'any' | 'cut' | 'full',
  family: Family,
): string => `${prefix}-${what}${family}`;

/** Keeps the store's identity and revision: no rule names it. */
export const recordSet = (prefix: string): string => `${prefix}-record`;

/** Single addresses and networks need sets of their own kinds. */
export const THREAT_KINDS = ['ip', 'net'] as const;
export type ThreatKind = (typeof THREAT_KINDS)[number];
const WAYS: Readonly<Record<Direction, string>> = { both: '', outbound: 'out-', inbound: 'in-' };
/** What feeds of a direction list: threats, and what is only watched (action observe). */
export const threatSet = (
  prefix: string,
  action: ThreatAction,
  direction: Direction,
  kind: ThreatKind,
  family: Family,
): string => `${prefix}-${action === 'block' ? 'threat' : 'watch'}-${WAYS[direction]}${kind}${family}`;
const FRESH = '-new';
/** The set in which the next contents of a threat set are assembled. */
export const freshSet = (set: string): string => `${set}${FRESH}`;
/** big: a threat set. fresh: a set in which the next contents are assembled, or the rest of a run that ended. */
export function threatSetKind(prefix: string, name: string): 'big' | 'fresh' | undefined {
  if (!name.startsWith(`${prefix}-`)) return undefined;
  const found = /^(?:threat|watch)-(?:out-|in-)?(?:ip|net)[46](-new)?$/.exec(name.slice(prefix.length + 1));
  return found ? (found[1] === FRESH ? 'fresh' : 'big') : undefined;
}
