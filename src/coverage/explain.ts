import type { DnsService } from '../dns/dns-service.js';
import type { NamesPolicy } from '../dns/names-policy.js';
import type { NeighbourChanges } from '../enforce/neighbour-changes.js';
import { holderOf } from '../flows/destination.js';
import { formatAddress, parseAddress, rangeHas } from '../lib/ip.js';
import { type Problem, RefusedError } from '../lib/problem.js';
import { TUNNELS, tunnelOf } from '../lib/special-use.js';
import type { ContainerFacts } from '../policy/container.js';
import { denialRemedy, denialText, listOf, sourceText } from '../policy/deny-entries.js';
import type { DestEntry } from '../policy/entry.js';
import { isDest, parseEntry } from '../policy/entry-parse.js';
import { classHas } from '../policy/entry-ports.js';
import { resolveContainer } from '../policy/neighbours.js';
import type { Emergency, Pause, Policy, PolicyEntry } from '../policy/policy.js';
import { pauseOf } from '../policy/policy.js';
import { hitText, type ThreatHit } from '../policy/threat.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import { denialIn } from '../ruleset/deny-plan.js';
import type { Subject } from '../ruleset/desired-state.js';
import { CLOSED_WHY } from '../ruleset/reserved-ports.js';
import { THREAT_WHY } from '../ruleset/threat-rules.js';
import type { TracePacket, TraceResult } from '../ruleset/trace.js';
import type { ActiveThreats } from '../threats/active-threats.js';
import { allFindings, type CoverageParts, coverageInput } from './coverage.js';
import {
  addressOf,
  askText,
  checkText,
  type ExplainInput,
  type ExplainView,
  goneText,
  isDnsPort,
  modeNote,
  packetTo,
  type Remedy,
  receivers,
  remedyOf,
  type View,
  wanted,
} from './explain-request.js';
import { enforcedAs } from './would-deny.js';

const NOTHING_MORE = { feed: null, lasting: null, warning: null, coverage: null } as const;

/** Explain the verdict on a new connection: by the installed rules, with the entry that decides and a remedy. */
export function explain(input: ExplainInput): ExplainView {
  const view =
    closedView(input) ??
    threatView(input) ??
    lockedView(input) ??
    spentView(input) ??
    (input.member.policy.mode === 'off' ? offView() : byMode(input));
  const warning = view.warning ?? (view.verdict === 'threat' ? null : receivers(input));
  const reason = `${view.reason}${modeNote(input, view)}`;
  return { container: input.name, to: input.to, ...NOTHING_MORE, ...view, reason, warning };
}

/** An observed container passes; what enforce would do is evaluated by the rules that enforce would install now. */
function byMode(input: ExplainInput): View {
  const { enforced } = input;
  if (!enforced) return byTarget(input);
  const as = { ...input, ...enforced };
  const view = spentView(as) ?? byTarget(as);
  const { trace } = byTarget(input);
  if (view.verdict !== 'deny') return { ...view, trace };
  return { ...view, verdict: 'allow', reason: `${passing(input)} ${view.reason}`, trace };
}

/** In every mode: Drawbridge's own ports. */
function closedView(input: ExplainInput): View | undefined {
  const { target } = input.dest;
  const address = target.kind === 'host' ? input.hostAddress : addressOf(input.dest);
  const packet = address === undefined ? undefined : packetTo(input, address);
  if (!packet) return undefined;
  const { steps } = input.evaluator.evaluate(packet);
  if (!steps.some((s) => s.rule.why?.includes(CLOSED_WHY))) return undefined;
  const reason = "it is Drawbridge's own, its API or its Redis: no container reaches it";
  return { ...nothing(reason), trace: steps.map((s) => s.text) };
}

/** In a lockdown no entry has an effect, also none that is added. */
function lockedView(input: ExplainInput): View | undefined {
  const { policy } = input.member;
  if (policy.modeSource.kind !== 'lockdown') return undefined;
  const { since, by } = input.emergency?.lockdown ?? {};
  const when = since === undefined ? '' : ` since ${since} by ${by}`;
  const address = addressOf(input.dest);
  const packet = address === undefined ? undefined : packetTo(input, address);
  const trace = packet ? input.evaluator.evaluate(packet).steps.map((s) => s.text) : [];
  return {
    ...nothing(`a lockdown is on${when}: no container reaches anything, whatever its entries`),
    remedy:
      'drawbridge lockdown --off ends it for all containers; an entry or a grant has no effect until then',
    trace,
  };
}

/** With a spent quota no entry has an effect. */
function spentView(input: ExplainInput): View | undefined {
  const { policy, limits } = input.member;
  if (policy.mode !== 'enforce' || !limits?.quota?.spent) return undefined;
  const address = addressOf(input.dest);
  const packet = address === undefined ? undefined : packetTo(input, address);
  const trace = packet ? input.evaluator.evaluate(packet).steps.map((s) => s.text) : [];
  return { ...nothing(limits.quota.reached), remedy: MORE_QUOTA, trace };
}
const MORE_QUOTA = 'wait, or give it a larger quota in drawbridge.limit and recreate it';

const offView = (): View => ({
  verdict: 'allow',
  reason: 'the container is in mode off: only threats are blocked',
  entry: null,
  list: null,
  remedy: null,
  trace: [],
});

function byTarget(input: ExplainInput): View {
  const target = input.dest.target;
  if (isAnsweredHere(input)) return denied(input, DNS_HERE, []);
  switch (target.kind) {
    case 'name':
      return byName(input, target.name);
    case 'address':
      return byAddress(input, formatAddress(target.range.family, target.range.lo));
    case 'host':
      return input.hostAddress ? byAddress(input, input.hostAddress) : nothing('the host has no address');
    case 'container': {
      const address = input.neighbours(target.name)[0];
      return address
        ? byAddress(input, address)
        : nothing(`no container ${target.name} on a network both share${goneText(input, target)}`);
    }
    case 'any':
      return nothing('"any" is not a destination: name an address or a name');
  }
}

const DNS_HERE = 'port 53 goes to Drawbridge only';

/** nat redirects port 53 of enforced containers before any rule for a name or for the host is reached. */
function isAnsweredHere({ dest, member, evaluator }: ExplainInput): boolean {
  if (member.policy.mode !== 'enforce' || !isDnsPort(dest)) return false;
  const address = addressOf(dest);
  return (
    dest.target.kind === 'name' ||
    dest.target.kind === 'host' ||
    (address !== undefined && evaluator.isHost(address))
  );
}

const nothing = (reason: string): View => ({
  verdict: 'deny',
  reason,
  entry: null,
  list: null,
  remedy: null,
  trace: [],
});

/** Evaluate the DNS query first, then the rules for a resolved address. */
function byName(input: ExplainInput, name: string): View {
  const decision = input.decide(name);
  if (decision.deniedBy) return deniedByEntry(decision.deniedBy, `${decision.reason}: ${NOT_RESOLVED}`, []);
  const asked = (): string => askText(input, decision.reason);
  if (!decision.allow)
    return denied(input, `no entry allows the name ${name}: ${NOT_RESOLVED}${asked()}`, []);
  const { proto, port } = wanted(input.dest);
  const refusing =
    proto === 'tcp' || proto === 'udp' ? input.member.denied?.names.on(name, proto, port) : undefined;
  if (refusing) return deniedByEntry(refusing, denialText(refusing), []);
  const resolved = input.resolvedFor({ match: 'exact', name })[0];
  if (resolved !== undefined) return byAddress(input, resolved, decision.entries);
  const serving = decision.entries.find((e) => permitsPort(input.member, e, proto, port));
  if (!serving) return denied(input, `${name} is permitted, but not on ${proto}/${port}`, []);
  return allowed(
    serving,
    `${name} is permitted. It has not been resolved yet; its addresses are permitted when it is${byWhat(input, proto, port)}`,
    [],
  );
}

function byWhat({ member, enforced }: ExplainInput, proto: TracePacket['proto'], port: number): string {
  const isChecked =
    hasCheckedPlace(member) && member.classes.some((c) => c.isChecked && classHas(c, String(proto), port));
  return isChecked ? `; ${checkText(proto, port)}${unseen(enforced)}` : ` (${BY_ADDRESS})`;
}

const BY_ADDRESS = 'by address only';
/** Names are checked of enforced containers, on bridges and in the host's network: not in namespaces with a macvlan or ipvlan network. */
const hasCheckedPlace = ({ policy, lan }: Subject): boolean => policy.mode === 'enforce' && lan === undefined;

function permitsPort(
  member: Subject,
  entry: PolicyEntry,
  proto: TracePacket['proto'],
  port: number,
): boolean {
  const classes = member.classes.filter((c) =>
    c.names.some((n) => n.entry.canonical === entry.entry.canonical),
  );
  return classes.some((c) => classHas(c, String(proto), port));
}

function byAddress(input: ExplainInput, address: string, resolved?: readonly PolicyEntry[]): View {
  const packet = packetTo(input, address);
  if (!packet) return nothing(`${address} is not an address`);
  const result = input.evaluator.evaluate(packet);
  const steps = result.steps.map((s) => s.text);
  const why = new Set(result.steps.flatMap((s) => s.rule.why ?? []));
  const denial = denialIn(input.member.denied, why, packet.dst);
  if (denial && !input.evaluator.permits(packet)) return deniedByEntry(denial, denialText(denial), steps);
  if (!input.evaluator.permits(packet)) {
    const asked = result.verdict === 'queue' ? askText(input) : '';
    return denied(
      input,
      `${deniedBy(result, packet)}${asked}${goneText(input, { address })}`,
      steps,
      address,
    );
  }
  const entry = decidingEntry(input, result, packet.dst, resolved ?? []);
  if (!entry)
    return {
      verdict: 'allow',
      reason: passReason(result),
      entry: null,
      list: null,
      remedy: null,
      trace: steps,
    };
  return allowed(entry, reasonOf(input, result, packet, resolved ? address : undefined), steps);
}

/** By what a connection is checked. `resolved`: the address to which its name has resolved. */
function reasonOf(
  { evaluator, member, enforced }: ExplainInput,
  result: TraceResult,
  packet: TracePacket,
  resolved: string | undefined,
): string {
  const { proto, dport } = packet;
  const is = resolved === undefined ? 'an entry permits it' : `the name resolved to ${resolved}`;
  const isFree = evaluator.addressPermits(member, packet) !== undefined;
  const names = isFree ? `, any name but those that deny entries cover (${deniedNames(member)})` : '';
  if (evaluator.isCheckedByName(result) && hasCheckedPlace(member))
    return `${is}; ${checkText(proto, dport)}${names}${unseen(enforced)}`;
  const isNamed = (member.denied?.names.entries.length ?? 0) > 0;
  if (resolved === undefined && isNamed)
    return `${is}; the name of the connection is not checked, so that deny entries for names (${deniedNames(member)}) count in DNS only`;
  return resolved === undefined
    ? is
    : `${is}; checked ${BY_ADDRESS}, so that other sites there are reached, too`;
}

const MOST_NAMED = 5;
function deniedNames({ denied }: Subject): string {
  const names = (denied?.names.entries ?? []).map((pe) => pe.entry.canonical);
  const more = names.length > MOST_NAMED ? `, and ${names.length - MOST_NAMED} more` : '';
  return `${names.slice(0, MOST_NAMED).join(', ')}${more}`;
}

/** Of an observed container: how enforce would evaluate its connections. */
const unseen = (enforced: ExplainInput['enforced']): string =>
  enforced
    ? '. This is what enforce checks: the names that connections ask for are not seen while the container is observed'
    : '';

/** One rule implements all entries with the same ports. Find the entry that leads to this address. */
function decidingEntry(
  input: ExplainInput,
  result: TraceResult,
  address: string,
  resolved: readonly PolicyEntry[],
): PolicyEntry | undefined {
  const why = new Set(result.steps.flatMap((s) => s.rule.why ?? []));
  const value = parseAddress(address);
  const leading = input.member.classes.flatMap((c) => [
    ...c.statics.filter((s) => value !== undefined && rangeHas(s.range, value)).map((s) => s.entry),
    ...c.host,
    ...c.names.filter((n) => isResolved(input, n, address)),
    ...c.any,
  ]);
  return [...resolved, ...leading].find((e) => why.has(e.entry.canonical));
}

function isResolved(input: ExplainInput, { entry }: PolicyEntry, address: string): boolean {
  return entry.target.kind === 'name' && input.resolvedFor(entry.target).includes(address);
}

const passing = ({ name, member, emergency }: ExplainInput): string =>
  member.policy.modeSource.kind === 'pause'
    ? `${pausedUntil(emergency?.pause)}: it passes; without the pause it is denied:`
    : `it is allowed only while ${name} is in mode observe; ${member.policy.against ? `the list ${member.policy.against.list}, which is evaluated in place of its policy, denies it` : 'enforce would deny it'}:`;

const pausedUntil = (pause: Pause | undefined): string =>
  `the container is paused${pause ? ` until ${pause.expires} by ${pause.by}` : ''}`;

function passReason(result: TraceResult): string {
  if (result.steps.some((s) => s.rule.why?.includes('eastWest')))
    return 'containers of its compose project reach each other (eastWest)';
  return 'it is answered by Drawbridge itself';
}

const deniedBy = (result: TraceResult, packet: TracePacket): string =>
  result.steps.some((s) => s.rule.why?.includes('dns'))
    ? DNS_HERE
    : `no entry permits ${packet.dst} on ${packet.proto}${packet.dport === undefined ? '' : `/${packet.dport}`}`;

function allowed(pe: PolicyEntry, reason: string, trace: readonly string[]): View {
  return {
    verdict: 'allow',
    reason: `${reason} (${sourceText(pe.source)})`,
    entry: pe.entry.canonical,
    list: listOf(pe.source),
    remedy: null,
    trace,
  };
}

const NOT_RESOLVED = 'DNS answers NXDOMAIN, and the query is not forwarded';

/** A deny entry beats all entries that permit: none is offered. */
const deniedByEntry = (pe: PolicyEntry, reason: string, trace: readonly string[]): View => ({
  verdict: 'deny',
  reason,
  entry: pe.entry.canonical,
  list: listOf(pe.source),
  remedy: denialRemedy(pe),
  trace,
});

function denied(input: ExplainInput, reason: string, trace: readonly string[], address?: string): View {
  const { remedy, lasting, warning }: Remedy = remedyOf(input, address);
  return {
    verdict: 'deny',
    reason,
    entry: null,
    list: null,
    remedy,
    lasting,
    warning,
    trace,
  };
}

/** In every mode: names that a feed lists (except in mode off, where DNS is not filtered), and addresses, resolved ones included. */
function threatView(input: ExplainInput): View | undefined {
  const { target } = input.dest;
  const { threats, member } = input;
  if (target.kind === 'name') {
    const hit = member.policy.mode === 'off' ? undefined : threats.blockedName(target.name);
    if (hit) return threat(hit, target.name, 'DNS answers NXDOMAIN, and the query is not forwarded', []);
  }
  const address =
    target.kind === 'name'
      ? input.resolvedFor({ match: 'exact', name: target.name })[0]
      : addressOf(input.dest);
  const packet = address === undefined ? undefined : packetTo(input, address);
  const steps = packet ? input.evaluator.evaluate(packet).steps : [];
  const isRefused = steps.some((s) => s.rule.why?.includes(THREAT_WHY));
  if (!isRefused || address === undefined) return undefined;
  const hit = threats.blockedAddress(address);
  if (!hit)
    return tunnelView(
      address,
      steps.map((s) => s.text),
    );
  return threat(
    hit,
    address,
    'no container reaches it, whatever its entries',
    steps.map((s) => s.text),
  );
}

/** Closed as a whole: no feed lists the address. */
function tunnelView(address: string, trace: readonly string[]): View | undefined {
  const value = parseAddress(address);
  const tunnel = value?.family === 6 ? tunnelOf(value.value) : undefined;
  if (tunnel === undefined) return undefined;
  const except = `add { to: "${TUNNELS[tunnel]}", reason: … } to threats.exceptions`;
  return {
    verdict: 'threat',
    reason: `a ${tunnel} address carries an IPv4 address that no kernel set can compare with the threat feeds: such addresses are closed while there are feeds`,
    entry: null,
    list: null,
    remedy:
      tunnel === 'ISATAP'
        ? 'use the IPv4 address itself, or another IPv6 address'
        : `if it must be reached, ${except}, and send the service SIGHUP`,
    trace,
  };
}

const threat = (hit: ThreatHit, to: string, what: string, trace: readonly string[]): View => ({
  verdict: 'threat',
  reason: `${hitText(hit)}: ${what}`,
  entry: null,
  list: null,
  feed: hit.feed,
  remedy: `if it must be reached, add an exception with a reason to the configuration, threats.exceptions: [ { to: "${to}", reason: … } ], and send the service SIGHUP`,
  trace,
});

/** The parts of the service from which a verdict is explained. */
export interface ExplainParts extends CoverageParts {
  readonly names: NamesPolicy;
  readonly dns: DnsService;
  readonly threats: ActiveThreats;
  readonly neighbours: Pick<NeighbourChanges, 'justLeft'>;
}

/** In the host's network the host is reached there as anywhere. */
const LOOPBACK = '127.0.0.1';

/** Explain the verdict on a new connection of the container to `to`. Throws RefusedError if `to` is no destination or the container has no place. */
export function explainContainer(
  parts: ExplainParts,
  emergency: Emergency,
  c: ContainerFacts,
  to: string,
): ExplainView {
  const dest = destinationOf(to);
  const state = parts.applied.value;
  const id = c.sharesWith ?? c.id;
  const member = state?.subjects.get(id);
  if (!state || !member)
    throw new RefusedError({
      kind: 'conflict',
      detail: `${c.name} has no place on a managed network now: there is nothing to explain`,
      remedy: 'start it, or see its coverage in drawbridge ps',
    });
  const self = state.view.containers.get(id);
  const enforced = member.policy.mode === 'observe' ? enforcedAs(parts, state, member) : undefined;
  const view = explain({
    member,
    ...(enforced ? { enforced } : {}),
    name: c.name,
    to,
    dest,
    evaluator: state.evaluator,
    threats: parts.threats.look,
    decide: (name) => parts.names.decide(id, name),
    resolvedFor: (names) => parts.dns.addressesFor(id, names),
    emergency: { lockdown: emergency.lockdown, pause: pauseOf(emergency, id) },
    hostAddress: member.host ? LOOPBACK : hostAddress(state, member.veths[0]?.bridge),
    holderOf: (address) => (self ? holderOf(state.view, self, address) : undefined),
    former: ({ name, address }) =>
      parts.neighbours.justLeft(id, (p) =>
        name === undefined ? p.addresses.includes(address ?? '') : p.names.has(name.toLowerCase()),
      ),
    neighbours: (name) =>
      self ? resolveContainer(state.view, self, name).map((r) => formatAddress(r.family, r.lo)) : [],
  });
  return view.verdict === 'allow' ? view : { ...view, coverage: gapsOf(parts, c, member.policy) };
}

/** Why what is denied may be reached all the same. */
function gapsOf(parts: CoverageParts, c: ContainerFacts, policy: Policy): string | null {
  const findings = allFindings(coverageInput(parts, c, policy));
  const gaps = findings.filter((f) => f.state !== 'enforced');
  const [worst] = gaps;
  if (!worst) return null;
  const more = gaps.length > 1 ? `, and ${gaps.length - 1} more (drawbridge inspect ${c.name})` : '';
  return `coverage of ${c.name} is ${worst.state}: ${worst.detail}${more}`;
}

/** The gateway: the host's address that the container knows. */
function hostAddress(state: AppliedState, bridge: string | undefined): string | undefined {
  const network = bridge === undefined ? undefined : state.vethMap.bridges.get(bridge)?.network;
  return network?.gateways[0];
}

function destinationOf(to: string): DestEntry {
  const parsed = parseEntry(to);
  if (!parsed.ok) throw invalid(parsed.problems);
  if (!isDest(parsed.value))
    throw invalid([{ detail: `${to} is a list, not a destination`, remedy: 'name an address or a name' }]);
  if (parsed.value.deny)
    throw invalid([{ detail: `${to} is a deny entry, not a destination`, remedy: 'leave out the !' }]);
  return parsed.value;
}

const invalid = (problems: readonly Problem[]): RefusedError =>
  new RefusedError({ kind: 'invalid', problems: problems.map((p) => ({ ...p, pointer: '/to' })) });
