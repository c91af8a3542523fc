import type { NameDecision } from '../dns/names-policy.js';
import type { FormerPlace } from '../enforce/neighbour-changes.js';
import type { AddressHolder } from '../flows/destination.js';
import type { NameMatch } from '../lib/dns-name.js';
import { type Address, formatAddress, parseAddress } from '../lib/ip.js';
import { metadataIn, metadataName } from '../lib/special-use.js';
import { durationText } from '../lib/units.js';
import type { DestEntry } from '../policy/entry.js';
import type { Verdict } from '../policy/finding.js';
import type { Lockdown, Pause } from '../policy/policy.js';
import { BROKEN_LABEL } from '../policy/policy.js';
import { riskOfName, riskOfRange } from '../policy/risk.js';
import type { ThreatLook } from '../policy/threat.js';
import type { Subject } from '../ruleset/desired-state.js';
import type { PolicyEvaluator } from '../ruleset/policy-evaluator.js';
import type { TracePacket } from '../ruleset/trace.js';

/** Remedies for a denial. Each text is complete, also for destinations that cannot be permitted. */
export interface Remedy {
  readonly remedy: string;
  /** How to permit it for good, where that is possible. */
  readonly lasting: string | null;
  /** What permitting it would open beyond the destination. */
  readonly warning: string | null;
}
const FOR = '1h';

const only = (remedy: string, warning: string | null = null): Remedy => ({ remedy, lasting: null, warning });

/** @param address where the denied packet goes, as far as it is known */
export function remedyOf(input: ExplainInput, address = addressOf(input.dest)): Remedy {
  const { dest, member, name } = input;
  if (member.policy.notes.some((note) => note.code === BROKEN_LABEL))
    return only(
      `correct the label that does not parse (drawbridge inspect ${name}) and recreate the container: until then no entry and no grant counts`,
    );
  const { against } = member.policy;
  const metadata = metadataOf(dest, address);
  if (metadata !== undefined)
    return only(
      'leave it denied; give the container credentials of its own instead',
      `this is ${metadata}: a container that reaches it can take the credentials and the role of the host. No command is offered here on purpose; an entry for it must be written by hand`,
    );
  const isHost = address !== undefined && input.evaluator.isHost(address);
  if (isDnsPort(dest)) return dnsRemedy(input, isHost);
  const holder =
    dest.target.kind === 'address' && address !== undefined ? input.holderOf(address) : undefined;
  if (holder === 'self') return only(`this is an address of ${name} itself: nothing needs to be permitted`);
  if (holder === 'none')
    return only(
      'no container has this address now, and the next one that gets it may be any other: permit the container that is meant, as container:NAME:PORT',
    );
  const entry = isHost ? hostEntry(dest) : holder ? neighbourEntry(dest, holder.neighbour) : input.to;
  return against ? permitInList(against.list, entry) : permit(name, entry);
}

/** The metadata service of a cloud at this destination; undefined: none is known. */
export function metadataOf(
  { target }: Pick<DestEntry, 'target'>,
  address: string | undefined,
): string | undefined {
  if (target.kind === 'name') {
    const named = metadataName(target.name);
    if (named !== undefined) return named;
  }
  if (target.kind === 'address') return metadataIn(target.range);
  const at = address === undefined ? undefined : parseAddress(address);
  return at && metadataIn({ family: at.family, lo: at.value, hi: at.value });
}

/** What is known of those that receive data at a name; null: nothing. */
export function receivers({ dest: { target } }: Pick<ExplainInput, 'dest'>): string | null {
  if (target.kind === 'address') {
    const shared = riskOfRange(target.range);
    return shared ? `many parties have addresses there: ${shared.reason}` : null;
  }
  const risk = target.kind === 'name' ? riskOfName(target.name) : undefined;
  if (!risk) return null;
  return risk.hasTenants
    ? `the name belongs to one customer of ${risk.pattern}: ${risk.reason}`
    : `anyone can receive data there: ${risk.reason}`;
}

/** Port 53 reaches Drawbridge, unless an address entry with dns=direct covers it. */
function dnsRemedy({ dest, name, to }: ExplainInput, isHost: boolean): Remedy {
  if (dest.target.kind !== 'address' || isHost)
    return only(
      'this cannot be permitted: port 53 of an enforced container always reaches Drawbridge, which answers for the names of its policy. Only an entry with the address of a resolver outside this host leads past it, as in "192.0.2.53:53/udp dns=direct"',
    );
  const entry = dest.flags.includes('dns=direct') ? to : `${to} dns=direct`;
  return {
    ...permit(name, entry),
    warning:
      'Drawbridge does not see the queries that go there directly: names that the policy denies get an answer, and data can leave in queries. Without this entry the container has DNS through Drawbridge already',
  };
}

function hostEntry(dest: DestEntry): string {
  const { proto, port } = wanted(dest);
  if (proto === 'icmp') return 'host/icmp';
  return proto === 'tcp' ? `host:${port}` : `host:${port}/${proto}`;
}

const neighbourEntry = (dest: DestEntry, neighbour: string): string =>
  `container:${neighbour}${hostEntry(dest).slice('host'.length)}`;

/** A neighbour of this name left a moment ago; empty: none did. */
export function goneText(
  { former }: Pick<ExplainInput, 'former'>,
  to: { name?: string; address?: string },
): string {
  const gone = former(to);
  if (!gone) return '';
  const what = `${gone.label} is being recreated, or was removed: it left the network ${durationText(Math.max(1_000, Math.round((Date.now() - gone.left) / 1_000) * 1_000))} ago`;
  return to.address === undefined ? `; ${what}` : `; this was its address: ${what}`;
}

const permit = (name: string, entry: string): Remedy => ({
  remedy: `drawbridge allow ${name} ${quoted(entry)} --for ${FOR}`,
  lasting: `label drawbridge.allow: ${quoted(entry)} on the container (compose: labels of the service), or an entry in one of its lists`,
  warning: null,
});

/** Grants do not count while a list is evaluated. */
const permitInList = (list: string, entry: string): Remedy =>
  only(`drawbridge lists add ${list} ${quoted(entry)}, or write the entry into the file of the list`);

/** What limits the verdict: a trial that ends, or a list that is evaluated in place of the policy. */
export function modeNote({ member: { policy } }: ExplainInput, { verdict, entry }: View): string {
  if (policy.modeSource.kind === 'api' && policy.trialUntil !== undefined && verdict === 'deny')
    return `; it is enforced on trial until ${policy.trialUntil}`;
  const isEvaluated = policy.mode === 'observe' && policy.against && verdict === 'allow' && entry !== null;
  return isEvaluated ? `; the list ${policy.against?.list} is evaluated in place of its policy` : '';
}

/** A shell would split at a blank, and a "*" may be replaced. */
const quoted = (entry: string): string => (/[\s*]/.test(entry) ? `"${entry}"` : entry);

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
  /** The container that has an address in a network of Docker now. Undefined: the address is in none of them. */
  readonly holderOf: (address: string) => AddressHolder | undefined;
  /** The neighbour that had the name or the address, and left a moment ago. */
  readonly former: (to: {
    readonly name?: string;
    readonly address?: string;
  }) => Pick<FormerPlace, 'label' | 'left'> | undefined;
  /** The lockdown of all containers, and the pause of this one that ends last. */
  readonly emergency?: { readonly lockdown?: Lockdown | undefined; readonly pause?: Pause | undefined };
}

type NameTarget = { readonly match: NameMatch; readonly name: string };

export type View = Omit<ExplainView, 'container' | 'to' | 'feed' | 'lasting' | 'warning' | 'coverage'> &
  Partial<Pick<ExplainView, 'feed' | 'lasting' | 'warning'>>;

const DEFAULT_PORT = 443;
const [DNS_PORT, HTTP_PORT] = [53, 80];

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

/** Of an enforced container about which a person is asked. `other`: it is denied for another reason than that no entry permits it. */
export function askText({ member: { policy } }: ExplainInput, other?: string): string {
  if (policy.askMs === undefined || policy.mode !== 'enforce' || other !== undefined) return '';
  return `. Before that a person is asked, for ${durationText(policy.askMs)} (drawbridge ask)`;
}

/** How names of connections to the port are checked. */
export function checkText(proto: TracePacket['proto'], port: number | undefined): string {
  if (proto === 'udp') return 'checked by the server name in the hello of QUIC';
  if (port === HTTP_PORT)
    return 'checked by the Host of each request: what is not HTTP needs the flag tls=off';
  return 'checked by the server name in the hello of TLS: what is not TLS needs the flag tls=off';
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
