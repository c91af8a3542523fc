import { allFindings, coverageInput, placeOf } from '../coverage/coverage.js';
import type { ExplainParts } from '../coverage/explain.js';
import type { Overrides } from '../enforce/policies.js';
import type { Quotas } from '../enforce/quotas.js';
import type { ContainerTally, Tallies } from '../flows/tallies.js';
import type { Counts } from '../kernel/counts.js';
import { formatAddress } from '../lib/ip.js';
import type { ContainerFacts } from '../policy/container.js';
import { sourceText } from '../policy/deny-entries.js';
import { findingText, worstOf } from '../policy/finding.js';
import { limitsText } from '../policy/limits.js';
import { addressesOn, resolveContainer } from '../policy/neighbours.js';
import { COMPOSE_PROJECT, COMPOSE_SERVICE, idKey, ownerKey, ownLabel } from '../policy/own-labels.js';
import type { Grant, ModeSource, PolicyEntry } from '../policy/policy.js';
import { pauseOf } from '../policy/policy.js';
import type { PreviewParts } from '../suggest/preview.js';
import type { ContainerBody, GrantBody } from './schemas.js';

/** The parts of the service from which the view of a container is computed. */
export interface ContainerParts extends ExplainParts, PreviewParts {
  readonly counts: Counts;
  readonly quotas: Quotas;
  readonly tallies: Pick<Tallies, 'of'>;
}

export const grantBody = (grant: Grant): GrantBody => ({ ...grant, expires: grant.expires ?? null });

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
    modeFrom: modeText(policy.modeSource),
    modeSource: sourceView(policy.modeSource),
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
    pausedUntil: policy.modeSource.kind === 'pause' ? (pauseOf(overrides, holder.id)?.expires ?? null) : null,
    limits: policy.limits ? limitsText(policy.limits) : null,
    quota: quotaView(parts, holder.id),
    allowed,
    denied,
    wouldDeny,
  };
}

/** A source of a mode in a word, as scripts compare it. */
export const modeText = (s: ModeSource): string => (s.kind === 'claim' ? `claim:${s.name}` : s.kind);

export const sourceView = <K extends string>(s: { readonly kind: K; readonly name?: string }) => ({
  kind: s.kind,
  name: s.name ?? null,
});

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
  grants.filter((g) => g.owner === ownerKey(c) || g.owner === idKey(c.id));

function entryView(
  parts: ContainerParts,
  id: string,
  pe: PolicyEntry,
  tallies: ContainerTally['entries'],
): ContainerBody['entries'][number] {
  return {
    entry: pe.entry.canonical,
    from: sourceText(pe.source),
    source: sourceView(pe.source),
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
