import type { CheckedName, RefusalReason } from '../connections/flow-check.js';
import type { DnsService } from '../dns/dns-service.js';
import type { NameEvent, NamesPolicy } from '../dns/names-policy.js';
import { HeldDenials, type HeldParts } from '../enforce/neighbour-changes.js';
import type { RuleCounts } from '../kernel/counts.js';
import type { DeniedLog, LoggedFacts } from '../kernel/denied-log.js';
import { type Current, Signal } from '../lib/current.js';
import { putNewest } from '../lib/fair-shares.js';
import { familyOf, PROTOCOL_NUMBERS } from '../lib/ip.js';
import { denialText, listOf } from '../policy/deny-entries.js';
import { OWN_RESOLVER, type Verdict } from '../policy/finding.js';
import type { PolicyEntry } from '../policy/policy.js';
import { hitText, type ThreatHit, type ThreatLook } from '../policy/threat.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import { CANARY_ID } from '../ruleset/canary-subject.js';
import type { Subject } from '../ruleset/desired-state.js';
import { type LogWord, meaningOf } from '../ruleset/log-words.js';
import type { Marks } from '../ruleset/marks.js';
import { mayReach } from '../ruleset/policy-evaluator.js';
import type { TracePacket } from '../ruleset/trace.js';
import { BOUNDS } from '../ruleset/verdict-chains.js';
import { Copies, type Tallies } from './tallies.js';

/**
 * What denied, for counters. `address`: no entry covers it. `port`: the address was resolved for a name that is permitted, on other ports or protocols.
 */
export const DENIAL_REASONS = [
  'name',
  'port',
  'address',
  'threat',
  'sni',
  'ech',
  'host',
  'limit',
  'other',
] as const;
type DenialReason = (typeof DENIAL_REASONS)[number];
const OF_CHECK: Readonly<Record<RefusalReason, DenialReason>> = {
  'server-name': 'sni',
  'no-server-name': 'sni',
  'not-tls': 'sni',
  quic: 'sni',
  ech: 'ech',
  host: 'host',
};

export interface DenialsParts {
  readonly marks: Marks;
  readonly applied: Pick<Current<AppliedState>, 'value'>;
  readonly names: Pick<NamesPolicy, 'containerAt' | 'searchDomains'>;
  readonly changes: HeldParts['changes'];
  readonly dns: Pick<DnsService, 'namesReader'>;
  readonly threats: ThreatLook;
  readonly tallies: Pick<Tallies, 'copied' | 'deny' | 'read' | 'retain'>;
  /** ms since the epoch. */
  readonly now?: () => number;
}

/** To an address that was resolved, of which a new connection may be permitted. */
const LATE = 'it begins no connection: the one that it belongs to has ended, was refused, or is not known';

const NOT_PERMITTED = 'no entry permits it';
const OBSERVED = 'no entry permits it (observed, so it passed)';
/** A resolver sends the questions of a pair within milliseconds; musl and busybox one after the other. */
const PAIR_MS = 2_000;
const MAX_PAIRS = 4_096;
/** The address is in the kernel's set from an earlier run, or from a version of the feeds that was just replaced. */
const UNKNOWN_FEED = 'a threat feed lists it';

/** Denials as they happen, and their totals. Each denial has the name that the container resolved. */
export class Denials implements Disposable {
  /** Denials since the start. What a rule denied counts as far as the kernel has logged it. */
  readonly totals = Object.fromEntries(DENIAL_REASONS.map((r) => [r, 0])) as Record<DenialReason, number>;
  /** Packets from the middle of a connection to a neighbour. */
  readonly refused = new Signal<LoggedFacts>();
  /** Refused packets of which no copy has come: the limit of the log has left them out, or the kernel had no room for the copy. */
  readonly notLogged = new Signal<number>();
  /** Of refused packets, whatever refused them. */
  readonly #copies = new Copies();
  #log: Pick<DeniedLog, 'drain'> | undefined;
  readonly #o: DenialsParts;
  readonly #now: () => number;
  /** Names denied a moment ago, with the types that were asked for. */
  readonly #asked = new Map<string, { readonly time: number; readonly types: Set<string> }>();
  readonly #listeners = new Set<(e: DenialEvent) => void>();
  readonly #held: HeldDenials<DenialEvent>;

  constructor(options: DenialsParts) {
    this.#o = options;
    this.#now = options.now ?? Date.now;
    const { changes, names, applied } = options;
    this.#held = new HeldDenials({
      changes,
      subject: (id) => applied.value?.subjects.get(id),
      searchDomains: (id) => names.searchDomains(id),
      now: this.#now,
    });
  }

  /** The log from which packets come: it is read before counters are compared with them. */
  follow(log: Pick<DeniedLog, 'drain'>): void {
    this.#log = log;
  }

  /** Counters of rules, as they were at `at` (ms since the epoch). */
  counted({ own, refused }: RuleCounts, at: number): void {
    this.#log?.drain();
    const lost = this.#copies.read(refused, at);
    if (lost > 0) this.notLogged.emit(lost);
    // What passed is recorded from conntrack, whether or not a copy of it has come.
    for (const [id, missing] of this.#o.tallies.read(own, at))
      if (this.#o.applied.value?.subjects.get(id)?.policy.mode !== 'observe')
        this.#o.tallies.deny(id, missing);
  }

  packet(p: LoggedFacts): void {
    const { marks } = this.#o;
    const identity = (p.mark & marks.identity) >>> marks.shift;
    const { word } = p;
    const { passes, isOwn } = meaningOf(word);
    const now = this.#now();
    if (!p.elsewhere && !passes) this.#copies.arrived(now);
    // It does not show which side has opened the connection, and is no attempt to record.
    if (word === 'later') {
      this.totals.other++;
      this.refused.emit(p);
      return;
    }
    const isIn = identity === 0 && (word === 'threat' || word === 'seen');
    const container = this.#containerOf(identity, isIn ? p.dst : p.src);
    if (container === undefined || container === CANARY_ID) return;
    const subject = this.#o.applied.value?.subjects.get(container);
    if (word === 'near' && subject && mayReach(subject, p)) return;
    if (!p.elsewhere && isOwn) this.#o.tallies.copied(container, now);
    const address = isIn ? p.src : p.dst;
    const { names, isOwn: isOwnResolver } = this.#o.dns.namesReader(container)(address);
    const [name = null] = names;
    const isResolved = name !== null && !isOwnResolver;
    const ends = { subject, isIn, isResolved, isOwnResolver };
    const { verdict, total, ...why } = this.#evaluated(word, p, ends);
    const event: DenialEvent = {
      time: new Date(now).toISOString(),
      container,
      verdict,
      proto: p.proto,
      address,
      port: p.dport,
      name,
      ...why,
    };
    const tell = (told: DenialEvent): void => {
      if (total) this.totals[total]++;
      this.#add(told);
    };
    if (total === 'limit' || !this.#held.take(event, tell)) tell(event);
  }

  /** What the word of a rule means for the packet. */
  #evaluated(
    word: Exclude<LogWord, 'later'>,
    p: LoggedFacts,
    { subject, isIn, isResolved, isOwnResolver }: PacketEnds,
  ): Evaluated {
    const total = isResolved ? 'port' : 'address';
    const limited = (reason: string): Evaluated => ({ verdict: 'deny', total: 'limit', reason });
    switch (word) {
      case 'deny': {
        const by = this.#deniedBy(p, subject);
        const isLate = p.isLater && isResolved;
        const reason = by ? denialText(by) : isLate ? LATE : NOT_PERMITTED;
        return { verdict: 'deny', total: isLate ? 'other' : total, reason, ...byEntry(by) };
      }
      case 'would': {
        const by = this.#deniedBy(p, subject);
        const text = by && `${denialText(by)}; observed, so it passed`;
        const reason = text ?? (isOwnResolver ? OWN_RESOLVER : OBSERVED);
        return { verdict: 'would-deny', reason, ...byEntry(by), hasPassed: true };
      }
      case 'near':
        return { verdict: 'would-deny', reason: OBSERVED };
      case 'threat': {
        const { threats } = this.#o;
        const hit = isIn ? threats.blockedSource(p.src) : threats.blockedAddress(p.dst);
        return { verdict: 'threat', total: 'threat', reason: listedText(hit, isIn), ...byFeed(hit) };
      }
      case 'seen': {
        const { threats } = this.#o;
        const hit = isIn ? threats.observedSource(p.src) : threats.observedAddress(p.dst);
        const reason = `${listedText(hit, isIn)}, action observe: it passed`;
        return { verdict: 'would-deny', reason, ...byFeed(hit), ...(isIn ? {} : { hasPassed: true }) };
      }
      case 'connections':
        return limited(`limit connections=${subject?.limits?.connections ?? '?'} reached`);
      case 'quota':
        return limited(subject?.limits?.quota?.reached ?? 'its quota is reached');
      case 'flood':
        return limited(
          `a flood: more than ${BOUNDS.newPerSecond} new connections a second, or ${BOUNDS.open} open`,
        );
      case 'syndata':
        return limited('data with the SYN (TCP Fast Open), which no enforced container may send');
      case 'unknown':
        return { verdict: 'deny', total, reason: NOT_PERMITTED };
    }
  }

  /** The subject with this identity mark; of a packet without one, the container with this address. */
  #containerOf(identity: number, address: string): string | undefined {
    const subjects = [...(this.#o.applied.value?.subjects.values() ?? [])];
    return subjects.find((m) => m.identity === identity)?.id ?? this.#o.names.containerAt(address);
  }

  /** The deny entry that decides about the packet. */
  #deniedBy({ proto, src, dst, dport }: LoggedFacts, subject: Subject | undefined): PolicyEntry | undefined {
    const evaluator = this.#o.applied.value?.evaluator;
    if (!subject?.denied || !evaluator) return undefined;
    const family = familyOf(dst);
    const flow = { src, dst, dport, states: ['NEW'], syn: proto === 'tcp', echo: true } as const;
    return evaluator.denialOf(subject, { family, proto: traced(proto), ...flow });
  }

  /** A connection that the check of names has refused. */
  checked({ container, proto, address, port, name, refusal }: CheckedName): void {
    if (!refusal) return;
    const { isThreat } = refusal;
    const reason = isThreat ? refusal.detail : `${refusal.reason}: ${refusal.detail}`;
    this.totals[isThreat ? 'threat' : OF_CHECK[refusal.reason]]++;
    this.#add({
      time: new Date(this.#now()).toISOString(),
      container,
      verdict: isThreat ? 'threat' : 'deny',
      proto,
      address,
      port,
      name: shownName(refusal.name || name),
      reason,
      ...this.#listedBy(isThreat ? refusal.name || name : undefined),
    });
  }

  name(e: NameEvent): void {
    if (e.verdict === 'allow') return;
    if (this.#isSecondOfPair(e)) return;
    const tell = (told: DenialEvent): void => {
      if (e.verdict !== 'would-deny')
        this.totals[e.verdict === 'threat' ? 'threat' : e.verdict === 'deny' ? 'name' : 'other']++;
      this.#add(told);
    };
    const event: DenialEvent = {
      time: new Date(this.#now()).toISOString(),
      container: e.container,
      verdict: e.verdict === 'error' ? 'deny' : e.verdict,
      proto: 'dns',
      address: '',
      port: 53,
      name: e.name,
      reason: e.reason,
      ...this.#listedBy(e.verdict === 'threat' ? e.name : undefined),
    };
    if (e.verdict === 'error' || !this.#held.take(event, tell)) tell(event);
  }

  #listedBy(name: string | undefined): Pick<DenialEvent, 'decidedBy'> {
    const hit = name === undefined ? undefined : this.#o.threats.blockedName(name);
    return byFeed(hit);
  }

  /** Resolvers ask for A and AAAA together: one lookup of a program is one event with one query of each type. */
  #isSecondOfPair(e: NameEvent): boolean {
    const now = this.#now();
    const key = `${e.container} ${e.name} ${e.verdict} ${e.reason}`;
    const known = this.#asked.get(key);
    if (known && now - known.time < PAIR_MS && known.time <= now && !known.types.has(e.type)) {
      known.types.add(e.type);
      return true;
    }
    putNewest(this.#asked, key, { time: now, types: new Set([e.type]) }, MAX_PAIRS);
    return false;
  }

  onEvent(listener: (e: DenialEvent) => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  retain(containers: Pick<ReadonlySet<string>, 'has'>): void {
    this.#o.tallies.retain(containers);
  }

  /** Tell what waits. Call it while the listeners can still record it. */
  [Symbol.dispose](): void {
    this.#held.end();
  }

  #add(e: DenialEvent): void {
    for (const listener of this.#listeners) listener(e);
  }
}

const listedText = (hit: ThreatHit | undefined, isIn: boolean): string =>
  `${isIn ? 'from outside: ' : ''}${hit ? hitText(hit) : UNKNOWN_FEED}`;

const byFeed = (hit: ThreatHit | undefined): Pick<DenialEvent, 'decidedBy'> =>
  hit ? { decidedBy: { feed: hit.feed } } : {};

const byEntry = (by: PolicyEntry | undefined): Pick<DenialEvent, 'decidedBy'> =>
  by ? { decidedBy: { entry: by.entry.canonical, list: listOf(by.source) } } : {};

/** `container:NAME` in a record is a neighbour by its address: no client can write itself one into the hello. */
const shownName = (text: string): string | null => (text.startsWith('container:') ? null : text || null);

const traced = (proto: string): TracePacket['proto'] =>
  proto === 'tcp' || proto === 'udp' || proto === 'icmp'
    ? proto
    : Number(PROTOCOL_NUMBERS[proto as 'tcp'] ?? proto);

export interface DenialEvent {
  readonly time: string;
  readonly container: string;
  readonly verdict: Verdict | 'would-deny';
  readonly proto: string;
  readonly address: string;
  readonly port: number;
  readonly name: string | null;
  readonly reason: string;
  /** What decided; absent: no entry, no list, no feed. */
  readonly decidedBy?: DecidedBy;
  /** The connection goes on to be counted: by its entry in conntrack, or where it is refused. */
  readonly hasPassed?: true;
}
interface PacketEnds {
  readonly subject: Subject | undefined;
  /** From outside to the container. */
  readonly isIn: boolean;
  /** The container resolved a name to the address. */
  readonly isResolved: boolean;
  /** The address is that of a resolver of the container itself. */
  readonly isOwnResolver: boolean;
}
interface Evaluated extends Pick<DenialEvent, 'verdict' | 'reason' | 'decidedBy' | 'hasPassed'> {
  /** Absent: it passed. */
  readonly total?: DenialReason;
}
interface DecidedBy {
  /** The canonical deny entry. */
  readonly entry?: string;
  readonly list?: string | null;
  readonly feed?: string;
}
