import type { NameDecision } from '../dns/names-policy.js';
import type { NameMatch } from '../lib/dns-name.js';
import { type Address, formatAddress, parseAddress } from '../lib/ip.js';
import type { Lockdown, Pause } from '../policy/emergency.js';
import type { DestEntry } from '../policy/entry.js';
import type { Verdict } from '../policy/finding.js';
import type { ThreatLook } from '../policy/threat.js';
import type { Subject } from '../ruleset/desired-state.js';
import type { PolicyEvaluator } from '../ruleset/policy-evaluator.js';
import type { TracePacket } from '../ruleset/trace.js';

export interface ExplainView {
  readonly container: string;
  readonly to: string;
  readonly verdict: Verdict;
  readonly reason: string;
  readonly entry: string | null;
  readonly list: string | null;
  readonly feed: string | null;
  readonly remedy: string | null;
  /** How to permit it for good: a label or a list entry. */
  readonly lasting: string | null;
  /** What permitting it would open beyond the destination. */
  readonly warning: string | null;
  /** Why a denial may not hold for this container; null: its coverage is full, or the verdict is allow. */
  readonly coverage: string | null;
  /** The rules a packet meets, in order, as rendered. */
  readonly trace: readonly string[];
}

export interface ExplainInput {
  readonly member: Subject;
  readonly name: string;
  readonly to: string;
  readonly dest: DestEntry;
  readonly evaluator: PolicyEvaluator;
  /** The same under mode enforce, for a member that is observed. */
  readonly enforced?: { readonly member: Subject; readonly evaluator: PolicyEvaluator };
  readonly threats: ThreatLook;
  readonly decide: (name: string) => NameDecision;
  /** Addresses that were resolved for the container by matching names, and that it may still use. */
  readonly resolvedFor: (names: NameTarget) => readonly string[];
  readonly hostAddress: string | undefined;
  readonly neighbours: (name: string) => readonly string[];
  /** The lockdown of all containers, and the pause of this one that ends last. */
  readonly emergency?: { readonly lockdown?: Lockdown | undefined; readonly pause?: Pause | undefined };
}

type NameTarget = { readonly match: NameMatch; readonly name: string };

export type View = Omit<ExplainView, 'container' | 'to' | 'feed' | 'lasting' | 'warning' | 'coverage'> &
  Partial<Pick<ExplainView, 'feed' | 'lasting' | 'warning'>>;

const DEFAULT_PORT = 443;
const DNS_PORT = 53;

export const addressOf = ({ target }: DestEntry): string | undefined =>
  target.kind === 'address' ? formatAddress(target.range.family, target.range.lo) : undefined;

/** The packet that would open a connection there; undefined: it is no address. */
export function packetTo(input: ExplainInput, address: string): TracePacket | undefined {
  const parsed: Address | undefined = parseAddress(address);
  if (!parsed) return undefined;
  const { proto, port } = wanted(input.dest);
  const own = input.member.veths[0];
  return input.evaluator.sentBy(input.member, {
    family: parsed.family,
    proto,
    src: (parsed.family === 4 ? own?.ip4 : own?.ip6) ?? '',
    dst: address,
    states: ['NEW'],
    syn: proto === 'tcp',
    ...(proto === 'icmp' ? { echo: true } : { dport: port }),
  });
}

/** Without port or protocol: tcp/443. */
export function wanted(dest: DestEntry): { proto: TracePacket['proto']; port: number } {
  const port = dest.ports[0]?.lo ?? DEFAULT_PORT;
  const p = dest.proto;
  if (p === undefined || p === 'tcp' || p === 'tcp+udp') return { proto: 'tcp', port };
  if (p === 'udp' || p === 'icmp') return { proto: p, port };
  const numbers: Record<string, number> = { sctp: 132, gre: 47, esp: 50 };
  return { proto: numbers[p] ?? Number(p.slice('ip-'.length)), port };
}

export function isDnsPort(dest: DestEntry): boolean {
  const { proto, port } = wanted(dest);
  return port === DNS_PORT && (proto === 'tcp' || proto === 'udp');
}
