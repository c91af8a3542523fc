import type { DnsService } from '../dns/dns-service.js';
import type { Decide } from '../dns/recorder.js';
import type { DestinationKind, Sent, Sighting } from '../flows/destination.js';
import type { Kernel } from '../kernel/kernel.js';
import { PROTOCOL_NAMES, parseAddress } from '../lib/ip.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { DesiredState, KernelConfig, Subject } from '../ruleset/desired-state.js';
import type { Flow } from '../ruleset/flow.js';
import { type AsEnforced, asEnforced } from '../ruleset/policy-evaluator.js';
import type { TracePacket } from '../ruleset/trace.js';
import type { ActiveThreats } from '../threats/active-threats.js';

/** A destination that was used while the container was observed, and that mode enforce would deny now. */
export interface PreviewDestination {
  /** Permits it, ready to paste; null: no entry can. */
  readonly entry: string | null;
  readonly kind: DestinationKind;
  /** The name that was resolved, the neighbour, or the container that publishes the port; null: none. */
  readonly name: string | null;
  /** Empty where a name was only resolved. */
  readonly address: string;
  readonly port: number;
  /** dns: a name that was only resolved. */
  readonly proto: string;
  readonly first: string;
  readonly last: string;
  /** New connections that were recorded, or questions to DNS. */
  readonly count: number;
  readonly verdict: 'would-deny';
}
/** A connection that is open now, and that mode enforce would end. */
export interface PreviewFlow {
  readonly proto: string;
  readonly address: string;
  readonly port: number;
  readonly name: string | null;
  readonly entry: string | null;
  readonly container: string;
  /** New connections to it pass: it was opened before its name was resolved through Drawbridge, or past its rules. */
  readonly passesAgain: boolean;
}
/** The parts of the service that evaluate a subject as if it were enforced. */
export interface EvaluationParts {
  readonly shape: KernelConfig;
  readonly kernel: Pick<Kernel, 'hostAddresses'>;
  readonly dns: Pick<DnsService, 'isMember'>;
  readonly threats: Pick<ActiveThreats, 'has'>;
}

/**
 * A subject in mode enforce now. `decide` is given where its policy is not the one that is applied; `isAssumed` adds members to the
 * sets of resolved addresses.
 */
export function enforcedAs(
  { shape, kernel, dns, threats }: EvaluationParts,
  state: AppliedState,
  member: Subject,
  more: {
    readonly decide?: Decide;
    readonly isAssumed?: (set: string, address: string) => boolean;
  } = {},
): AsEnforced {
  const learned = (desired: DesiredState, set: string, address: string): boolean => {
    if (desired.sets.get(set)?.isThreats) return threats.has(set, address);
    return more.isAssumed?.(set, address) === true || dns.isMember(member.id, set, address, more.decide);
  };
  return asEnforced(state, member, { shape, hostAddresses: kernel.hostAddresses(), learned });
}

/** A destination that was used. Times are ms since the epoch. */
export interface UsedDestination extends Sighting {
  readonly first: number;
  readonly last: number;
  readonly count: number;
  /** Of a name: the addresses that only a resolver of the container gave for it. An entry for the name does not permit them. */
  readonly own?: readonly UsedDestination[];
}

/** Recorded destinations, and how a policy evaluates them now. */
export interface PreviewInput {
  readonly rows: readonly UsedDestination[];
  readonly enforced: AsEnforced;
  /** Whether enforce would answer the name. */
  readonly answers: (name: string) => boolean;
  /** Evaluates as if the name had just been resolved to the address through Drawbridge. */
  readonly assuming: <T>(name: string, address: string, evaluate: () => T) => T;
  /** Addresses of the neighbours of this name now. */
  readonly neighbours: (name: string) => readonly string[];
}

/** Recorded destinations that the rules and entries of now would deny. */
export const wouldDeny = (input: PreviewInput): readonly PreviewDestination[] =>
  input.rows
    .flatMap((row) => (passes(input, row) ? (row.own ?? []).filter((own) => !passes(input, own)) : [row]))
    .map(shown);

/** Whether enforce would let this pass. */
export function passes(input: PreviewInput, row: Sighting): boolean {
  const { name, address, resolved } = row;
  if (row.proto === 'dns') return name !== null && input.answers(name);
  if (row.kind === 'neighbour' && name !== null) {
    const now = input.neighbours(name);
    return (now.length > 0 ? now : [address]).some((a) => permits(input.enforced, { ...row, address: a }));
  }
  if (row.kind !== 'name' || resolved === null) return permits(input.enforced, row);
  return input.answers(resolved) && input.assuming(resolved, address, () => permits(input.enforced, row));
}

/** A new connection of the member under enforce. */
function permits(
  { member, evaluator }: AsEnforced,
  row: Pick<Sighting, 'address' | 'port' | 'proto' | 'entry' | 'kind'>,
): boolean {
  const packet = packetOf(row);
  if (!packet) return false;
  const own = member.veths[0];
  const src = (packet.family === 4 ? own?.ip4 : own?.ip6) ?? '';
  return evaluator.permits(evaluator.sentBy(member, { ...packet, src }));
}

function packetOf(row: Pick<Sighting, 'address' | 'port' | 'proto' | 'entry' | 'kind'>) {
  const { address, port, proto, entry, kind } = row;
  const parsed = parseAddress(address);
  if (!parsed) return undefined;
  const published = kind === 'published' ? Number(/:(\d+)/.exec(entry ?? '')?.[1] ?? Number.NaN) : Number.NaN;
  const packet: Omit<TracePacket, 'mark' | 'src'> = {
    family: parsed.family,
    proto: proto === 'tcp' || proto === 'udp' || proto === 'icmp' ? proto : Number(proto),
    dst: address,
    states: Number.isNaN(published) ? ['NEW'] : ['NEW', 'DNAT'],
    syn: proto === 'tcp',
    ...(Number.isNaN(published) ? {} : { sentTo: published, sentHere: true }),
    ...(proto === 'icmp' ? { echo: true } : port > 0 ? { dport: port } : {}),
  };
  return packet;
}

const shown = ({ resolved: _, own: __, first, last, ...row }: UsedDestination): PreviewDestination => ({
  ...row,
  first: new Date(first).toISOString(),
  last: new Date(last).toISOString(),
  verdict: 'would-deny',
});

const DNS_PORT = 53;

/** Connections that are open now, that the member opened, and that enforce would end. */
export function endedFlows(
  flows: readonly Flow[],
  enforced: AsEnforced,
  describe: (sent: Pick<Sent, 'address' | 'port' | 'proto'>) => Sighting,
  passesAgain: (sighting: Sighting) => boolean,
): readonly Omit<PreviewFlow, 'container'>[] {
  const ended = flows.filter(
    (f) =>
      f.tcp?.closed !== true && f.orig.dport !== DNS_PORT && !enforced.evaluator.keeps(enforced.member, f),
  );
  return ended.map((f) => {
    const proto = PROTOCOL_NAMES[f.proto] ?? String(f.proto);
    const sighting = describe({ address: f.reply.src, port: f.reply.sport ?? 0, proto });
    const { address, port, name, entry } = sighting;
    return { proto, address, port, name, entry, passesAgain: passesAgain(sighting) };
  });
}
