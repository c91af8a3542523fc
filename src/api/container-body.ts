import { allFindings, type CoverageParts, coverageInput } from '../coverage/coverage.js';
import { explain } from '../coverage/explain.js';
import type { ExplainView } from '../coverage/explain-request.js';
import { enforcedAs } from '../coverage/would-deny.js';
import type { NeighbourChanges } from '../enforce/neighbour-changes.js';
import type { Overrides } from '../enforce/policies.js';
import type { Quotas } from '../enforce/quotas.js';
import { holderOf } from '../flows/destination.js';
import type { ContainerTally, Tallies } from '../flows/tallies.js';
import type { Counts } from '../kernel/counts.js';
import { formatAddress } from '../lib/ip.js';
import { RefusedError } from '../lib/problem.js';
import type { ContainerFacts } from '../policy/container.js';
import { sourceText } from '../policy/deny-entries.js';
import { isDest, parseEntry } from '../policy/entry-parse.js';
import { type Finding, findingText, worstOf } from '../policy/finding.js';
import { readLabels } from '../policy/labels.js';
import { limitsText } from '../policy/limits.js';
import { addressesOn, resolveContainer } from '../policy/neighbours.js';
import { COMPOSE_PROJECT, COMPOSE_SERVICE, ownerKey, ownLabel } from '../policy/own-labels.js';
import type { Grant, Mode, Policy, PolicyEntry } from '../policy/policy.js';
import { type Emergency, pauseOf } from '../policy/policy.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { Recorded } from '../suggest/needs.js';
import { placesOf } from '../suggest/places.js';
import type { PresentPolicy, SuggestOptions } from '../suggest/present.js';
import { notRecorded, type PreviewParts } from '../suggest/preview.js';
import { type Suggestion, suggest } from '../suggest/suggest.js';
import type { ContainerBody, GrantBody } from './schemas.js';

/** The parts of the service from which the view of a container is computed. */
export interface ContainerParts extends CoverageParts, PreviewParts {
  readonly counts: Counts;
  readonly neighbours: Pick<NeighbourChanges, 'justLeft'>;
  readonly quotas: Quotas;
  readonly tallies: Pick<Tallies, 'of'>;
}

export const grantBody = (grant: Grant): GrantBody => ({ ...grant, expires: grant.expires ?? null });

/** The container that owns the network namespace, and the policy that applies there. */
function placeOf(parts: CoverageParts, c: ContainerFacts): { holder: ContainerFacts; policy: Policy } {
  const holder = c.sharesWith ? (parts.docker.view().containers.get(c.sharesWith) ?? c) : c;
  const policy = parts.applied.value?.subjects.get(holder.id)?.policy ?? parts.policies.policyOf(holder);
  return { holder, policy };
}

/** What a host counts of each of its containers. */
export function containerState(
  parts: CoverageParts,
  c: ContainerFacts,
): { readonly mode: Mode; readonly findings: readonly Finding[] } {
  const { policy } = placeOf(parts, c);
  return { mode: policy.mode, findings: allFindings(coverageInput(parts, c, policy)) };
}

/** A container as the API shows it. */
export function containerBody(parts: ContainerParts, overrides: Overrides, c: ContainerFacts): ContainerBody {
  const { holder, policy } = placeOf(parts, c);
  const { allowed, denied, wouldDeny, entries } = parts.tallies.of(holder.id);
  const findings = allFindings(coverageInput(parts, c, policy));
  return {
    id: c.id,
    name: c.name,
    image: c.image,
    mode: policy.mode,
    modeFrom: policy.modeFrom,
    coverage: { state: worstOf(findings), reasons: findings.map(findingText) },
    findings,
    compose: composeOf(c),
    addresses: c.endpoints.flatMap((e) => addressesOn(c, e.networkId)),
    lists: policy.lists,
    entries: [...policy.entries, ...(policy.denied ?? [])].map((e) =>
      entryView(parts, holder.id, e, entries),
    ),
    grants: grantsOf(overrides.grants, holder).map(grantBody),
    trialUntil: policy.trialUntil ?? null,
    against: policy.against ?? null,
    pausedUntil: policy.modeFrom === 'pause' ? (pauseOf(overrides, holder.id)?.expires ?? null) : null,
    limits: policy.limits ? limitsText(policy.limits) : null,
    quota: quotaView(parts, holder.id),
    allowed,
    denied,
    wouldDeny,
  };
}

/** Labels that come with the image do not count: an image could take the name of another service. */
function composeOf(c: ContainerFacts): ContainerBody['compose'] {
  const [project, service] = [ownLabel(c, COMPOSE_PROJECT), ownLabel(c, COMPOSE_SERVICE)];
  return project && service ? { project, service } : null;
}

function quotaView(parts: ContainerParts, id: string): ContainerBody['quota'] {
  const m = parts.applied.value?.subjects.get(id);
  const quota = m?.limits?.quota;
  if (!m || !quota) return null;
  const { bytes, spent: reached } = quota;
  return { bytes, used: parts.quotas.usedOf(m), reached, until: new Date(quota.until).toISOString() };
}

const grantsOf = (grants: readonly Grant[], c: ContainerFacts): Grant[] =>
  grants.filter((g) => g.owner === ownerKey(c) || g.owner === `id:${c.id}`);

function entryView(
  parts: ContainerParts,
  id: string,
  pe: PolicyEntry,
  tallies: ContainerTally['entries'],
): ContainerBody['entries'][number] {
  return {
    entry: pe.entry.canonical,
    from: sourceText(pe.source),
    addresses: addressesOf(parts, id, pe),
    ...(tallies.get(pe.entry.canonical) ?? { count: 0, packets: 0, bytes: 0 }),
  };
}

/** The current addresses of an entry: learned addresses of a name, or neighbours of a container entry. */
function addressesOf(parts: ContainerParts, id: string, pe: PolicyEntry): readonly string[] {
  const target = pe.entry.target;
  const state = parts.applied.value;
  const self = state?.view.containers.get(id);
  if (target.kind === 'container' && state && self)
    return resolveContainer(state.view, self, target.name).map((r) => formatAddress(r.family, r.lo));
  if (target.kind !== 'name') return [];
  return parts.dns.addressesFor(id, target);
}

/** In the host's network the host is reached there as anywhere. */
const LOOPBACK = '127.0.0.1';

export function explainBody(
  parts: ContainerParts,
  emergency: Emergency,
  c: ContainerFacts,
  to: string,
): ExplainView {
  const parsed = parseEntry(to);
  if (!parsed.ok)
    throw new RefusedError({
      kind: 'invalid',
      problems: parsed.problems.map((p) => ({ ...p, pointer: '/to' })),
    });
  const state = parts.applied.value;
  const id = c.sharesWith ?? c.id;
  const member = state?.subjects.get(id);
  if (!isDest(parsed.value))
    throw new RefusedError({
      kind: 'invalid',
      problems: [
        { detail: `${to} is a list, not a destination`, remedy: 'name an address or a name', pointer: '/to' },
      ],
    });
  if (parsed.value.deny)
    throw new RefusedError({
      kind: 'invalid',
      problems: [
        { detail: `${to} is a deny entry, not a destination`, remedy: 'leave out the !', pointer: '/to' },
      ],
    });
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
    dest: parsed.value,
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
function gapsOf(parts: ContainerParts, c: ContainerFacts, policy: Policy): string | null {
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

/** What is asked of the record of one owner. */
export interface SuggestionRequest {
  /** The container of the owner that exists, or the name by which it was asked for. */
  readonly container: ContainerFacts | string;
  readonly record: Recorded;
  readonly options: SuggestOptions;
  /** ms since the epoch. */
  readonly now: number;
}

/** What the container was seen to use, as a policy. */
export async function suggestionBody(
  parts: ContainerParts,
  { lists }: Pick<Overrides, 'lists'>,
  { container, record, options, now }: SuggestionRequest,
): Promise<Suggestion> {
  const facts = typeof container === 'string' ? undefined : placeOf(parts, container);
  const member = facts && parts.applied.value?.subjects.get(facts.holder.id);
  return suggest({
    container: typeof container === 'string' ? container : container.name,
    record,
    places: placesOf(parts, member, facts?.holder, record.seen),
    policy: facts && presentPolicy(facts),
    // A pause ends, and the labels of a container that is gone are not known: neither shows that the service is observed.
    mode: facts && facts.policy.modeFrom !== 'pause' ? facts.policy.mode : 'enforce',
    lists,
    notRecorded: facts ? await notRecorded(parts, facts.holder, member) : [],
    now,
    options,
  });
}

function presentPolicy({ holder, policy }: ReturnType<typeof placeOf>): PresentPolicy {
  // Labels of the image stay with it: they are not repeated, whether they are trusted or not.
  const intent = readLabels(holder, []);
  const named = intent.allow.flatMap((entry) => (isDest(entry) ? [] : [entry.list]));
  return { entries: policy.entries, denied: policy.denied ?? [], lists: [...intent.lists, ...named] };
}
