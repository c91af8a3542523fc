/** Which names connections were permitted for, so that a connection ends when its name is no longer permitted. */

import type { DnsService } from '../dns/dns-service.js';
import type { PublishedKeys } from '../dns/published-keys.js';
import type { Current } from '../lib/current.js';
import { familyOf } from '../lib/ip.js';
import type { ThreatLook } from '../policy/threat.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { Subject } from '../ruleset/desired-state.js';
import type { Flow } from '../ruleset/flow.js';
import type { Marks } from '../ruleset/marks.js';
import type { PolicyEvaluator } from '../ruleset/policy-evaluator.js';
import type { NameJudge } from './flow-check.js';
import { judgeFor, type NameDenials, type NameFacts } from './name-rules.js';

/** The ends of a connection, as its first packet has them. */
export interface FlowEnds {
  readonly proto: 'tcp' | 'udp';
  readonly source: string;
  readonly sourcePort: number;
  readonly address: string;
  readonly port: number;
}
export interface VerifiedNamesParts {
  readonly marks: Pick<Marks, 'check'>;
  readonly dns: Pick<DnsService, 'learnedNames'> & { readonly keys: Pick<PublishedKeys, 'of'> };
  readonly threats: Pick<ThreatLook, 'blockedName'>;
}

/**
 * Connections whose names are known, and open flows of which the counters are followed (flows/flow-tally.ts): a host has fewer. Connections
 * that were used longest ago, or began before this service, are decided by their addresses.
 */
export const MOST_FLOWS = 65_536;
/** Names of one flow: of QUIC and HTTP, which may ask for several. */
const MAX_NAMES = 16;
/**
 * A flow takes its place again after this many notes: a key that is deleted from a Map and set again for each request makes V8 search longer
 * each time, until the Map is built again.
 */
const PLACE_NOTES = 4_096;
interface NamesOfFlow {
  /** In the order of their first use. */
  readonly names: Set<string>;
  /** Number of the note. */
  placed: number;
}
function deleteFirst(from: Map<string, unknown> | Set<string>): void {
  const [first] = from.keys();
  if (first !== undefined) from.delete(first);
}
/** By the number of IANA. */
export const PROTOCOLS: Readonly<Record<number, 'tcp' | 'udp'>> = { 6: 'tcp', 17: 'udp' };

export const keyOfEnds = ({ proto, source, sourcePort, address, port }: FlowEnds): string =>
  `${proto} ${source} ${sourcePort} ${address} ${port}`;

/** What the deny entries of a subject change for a connection with these ends. */
function denialsOf(
  subject: Subject | undefined,
  { proto, source: src, address: dst, port: dport }: FlowEnds,
  evaluator: Pick<PolicyEvaluator, 'addressPermits'> | undefined,
): NameDenials | undefined {
  if (!subject?.denied) return undefined;
  const family = familyOf(dst);
  const packet = { family, proto, src, dst, dport, states: ['NEW'], syn: proto === 'tcp' } as const;
  return { names: subject.denied.names, byAddress: () => evaluator?.addressPermits(subject, packet) };
}

export class VerifiedNames {
  /** What decides about names, at the moment of each decision. */
  readonly facts: NameFacts;
  readonly #o: VerifiedNamesParts;
  /** In the order of their last use, by the number of notes; see PLACE_NOTES. */
  readonly #flows = new Map<string, NamesOfFlow>();
  #notes = 0;

  constructor(parts: VerifiedNamesParts) {
    this.#o = parts;
    const { dns, threats } = parts;
    this.facts = { keysOf: (name) => dns.keys.of(name), threatOf: (name) => threats.blockedName(name) };
  }

  /** A connection was permitted for a name. `key`: of its ends; `isFirst`: it is a new connection of these ends. */
  note(key: string, name: string, isFirst: boolean): void {
    this.#notes += 1;
    const known = isFirst ? undefined : this.#flows.get(key);
    const flow = known ?? { names: new Set<string>(), placed: -PLACE_NOTES };
    flow.names.add(name);
    if (flow.names.size > MAX_NAMES) deleteFirst(flow.names);
    this.#use(key, flow);
  }

  /**
   * The names for which a connection was permitted, in the order of their first use. Empty: they are not known. Who asks has seen that the
   * connection is in use.
   */
  namesOf(ends: FlowEnds): readonly string[] {
    const key = keyOfEnds(ends);
    const flow = this.#flows.get(key);
    if (!flow) return [];
    this.#use(key, flow);
    return [...flow.names];
  }

  #use(key: string, flow: NamesOfFlow): void {
    if (this.#notes - flow.placed < PLACE_NOTES) return;
    flow.placed = this.#notes;
    this.#flows.delete(key);
    this.#flows.set(key, flow);
    if (this.#flows.size > MOST_FLOWS) deleteFirst(this.#flows);
  }

  /** Whether the names are known for which a connection was permitted. */
  knows({ proto: number, orig: { src, sport, dst, dport } }: Flow): boolean {
    const proto = PROTOCOLS[number];
    if (!proto || sport === undefined || dport === undefined) return false;
    return this.#flows.has(keyOfEnds({ proto, source: src, sourcePort: sport, address: dst, port: dport }));
  }

  /**
   * Whether the policy of its container still permits the names of a connection that was checked; true for others. If its names are not
   * known, each name must be permitted for which the container was given the address.
   */
  permits(subject: Subject, flow: Flow, evaluator?: Pick<PolicyEvaluator, 'addressPermits'>): boolean {
    const { id, classes } = subject;
    const { marks, dns } = this.#o;
    const proto = PROTOCOLS[flow.proto];
    const { src, sport, dst, dport } = flow.orig;
    if (!marks.check || (flow.mark & marks.check.mask) === 0) return true;
    if (!proto || sport === undefined || dport === undefined) return true;
    const ends = { proto, source: src, sourcePort: sport, address: dst, port: dport };
    const known = this.#flows.get(keyOfEnds(ends));
    const names = known ? [...known.names] : dns.learnedNames(id, flow.reply.src);
    const to = { ...ends, address: flow.reply.src, port: flow.reply.sport ?? dport };
    const denials = denialsOf(subject, to, evaluator);
    const judge = judgeFor(classes, to, this.facts, denials);
    return names.every((name) => judge.request({ kind: 'name', name }).allow);
  }
}

/** A judge by the policy at the moment of each decision. */
export function judgeNow(
  container: string,
  to: FlowEnds,
  of: {
    readonly applied: Pick<Current<AppliedState>, 'value'>;
    readonly verified: Pick<VerifiedNames, 'facts'>;
  },
): NameJudge {
  const now = (): NameJudge => {
    const state = of.applied.value;
    const subject = state?.subjects.get(container);
    const denials = denialsOf(subject, to, state?.evaluator);
    return judgeFor(subject?.classes ?? [], to, of.verified.facts, denials);
  };
  return { hello: (hello) => now().hello(hello), request: (host) => now().request(host) };
}
