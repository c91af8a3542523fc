import {
  endedFlows,
  enforcedAs,
  type PreviewDestination,
  type PreviewFlow,
  type PreviewInput,
  passes,
  type UsedDestination,
  wouldDeny,
} from '../coverage/would-deny.js';
import type { DnsService } from '../dns/dns-service.js';
import type { NameDecision, NamesPolicy } from '../dns/names-policy.js';
import type { Policies } from '../enforce/policies.js';
import { addressEntry, type Destinations } from '../flows/destination.js';
import type { OwnAddress } from '../flows/flow-record.js';
import type { Kernel } from '../kernel/kernel.js';
import type { Current } from '../lib/current.js';
import { familyOf, formatAddress } from '../lib/ip.js';
import type { ContainerFacts } from '../policy/container.js';
import type { Engine } from '../policy/engine.js';
import { hasReachableResolvers, needsNamespaceDns } from '../policy/engine.js';
import { resolveContainer } from '../policy/neighbours.js';
import { ownerKey } from '../policy/own-labels.js';
import type { Mode, Policy } from '../policy/policy.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import { planPolicy } from '../ruleset/deny-plan.js';
import type { KernelConfig, Subject } from '../ruleset/desired-state.js';
import type { Flow } from '../ruleset/flow.js';
import { identityMark } from '../ruleset/marks.js';
import type { ActiveThreats } from '../threats/active-threats.js';
import { byText, iso, type Recorded, type Row, shownGap, usedRows } from './needs.js';
import { placesOf } from './places.js';

/** What mode enforce would deny, by what was recorded, and what was not recorded. */
export interface PreviewView {
  readonly container: string;
  /** All that have this owner and run here: the mode applies to each of them. */
  readonly containers: readonly string[];
  /** The owner of the record: compose:PROJECT/SERVICE or name:NAME. */
  readonly owner: string;
  readonly mode: Mode;
  /** The mode that is previewed: enforce, unless another was asked for, in which nothing is denied. */
  readonly to: Mode;
  /** The list by which the destinations are evaluated in place of the policy; null: the policy counts. */
  readonly against: string | null;
  /** Recorded without interruption since then; null: it is not recorded now. */
  readonly recordingSince: string | null;
  /** Before that, oldest first: when the owner ran without being recorded. */
  readonly gaps: readonly { readonly from: string; readonly to: string; readonly reason: string }[];
  /** Connections that are in no record. */
  readonly dropped: number;
  /** Traffic that cannot be recorded, as sentences. */
  readonly notRecorded: readonly string[];
  /** The most recent first. */
  readonly destinations: readonly PreviewDestination[];
  readonly flows: readonly PreviewFlow[];
}

/** The parts of the service that a preview reads. */
export interface PreviewParts {
  readonly applied: Current<AppliedState>;
  readonly shape: KernelConfig;
  readonly kernel: Kernel;
  readonly docker: Engine;
  readonly policies: Policies;
  readonly names: NamesPolicy;
  readonly dns: DnsService;
  readonly threats: ActiveThreats;
  readonly destinations: Pick<Destinations, 'describe'>;
}

/** The mode that is previewed. `against`: a list in place of the policy. */
export interface PreviewRequest {
  readonly mode: Mode | 'auto';
  readonly against?: string | undefined;
}

/** One container of the owner, as it is now. */
interface Sibling {
  readonly facts: ContainerFacts;
  readonly member: Subject | undefined;
  /** That is in force. */
  readonly policy: Policy;
}

/**
 * What mode enforce, or a candidate list, would deny now: destinations that were recorded, and connections that are open. `record`: of the
 * owner, as a suggestion reads it; undefined: there is none.
 */
export async function previewView(
  parts: PreviewParts,
  facts: ContainerFacts,
  wanted: PreviewRequest,
  record: Recorded | undefined,
): Promise<PreviewView> {
  const siblings = siblingsOf(parts, facts);
  const own = siblings.find((s) => s.facts.id === facts.id);
  const policy = own?.policy ?? parts.policies.policyOf(facts);
  const to = wanted.mode === 'auto' ? parts.policies.policyAs(facts, undefined).mode : wanted.mode;
  const shows = to === 'enforce' || wanted.against !== undefined;
  const rows = usedDestinations(parts, own?.member, facts, record);
  const found = shows ? await Promise.all(siblings.map((s) => denied(parts, s, wanted, rows))) : [];
  const notes = await Promise.all(siblings.map((s) => notRecorded(parts, s.facts, s.member)));
  const gaps = (record?.gaps ?? []).map(shownGap);
  const began = gaps.at(-1)?.to ?? (typeof record?.since === 'number' ? iso(record.since) : null);
  return {
    container: facts.name,
    containers: siblings.map((s) => s.facts.name),
    owner: ownerKey(facts),
    mode: policy.mode,
    to,
    against: wanted.against ?? null,
    recordingSince: own?.member ? began : null,
    gaps,
    dropped: record?.dropped ?? 0,
    notRecorded: [...new Set([...notes.flat(), ...differing(siblings)])],
    destinations: unionOf(found.map((f) => f.destinations)),
    flows: found.flatMap((f) => f.flows),
  };
}

/** One for each entry, the most recent first: a name on 80 and 443, from whatever address, is one destination. */
function usedDestinations(
  parts: PreviewParts,
  member: Subject | undefined,
  facts: ContainerFacts,
  record: Recorded | undefined,
): readonly UsedDestination[] {
  const { seen = [], own = [] } = record ?? {};
  const places = placesOf(parts, member, facts, seen);
  const used = new Map<string, UsedDestination>();
  const { rows } = usedRows(seen, places, Number.NEGATIVE_INFINITY);
  for (const found of rows) {
    const { place, title, name, address, port, proto, verdict, first, last, count } = found;
    if (place.free || verdict === 'threat') continue;
    const entry = place.warning === null ? place.entry : null;
    const key = `${proto === 'dns' ? 'dns ' : ''}${entry ?? `${title} ${proto}`}`;
    const known = used.get(key);
    const resolved = place.kind === 'neighbour' ? null : name;
    const row = { entry, kind: place.kind, name: place.name, resolved, address, port, proto };
    used.set(key, {
      ...(known && known.last > last ? known : row),
      first: Math.min(first, known?.first ?? first),
      last: Math.max(last, known?.last ?? last),
      count: count + (known?.count ?? 0),
      own: [...(known?.own ?? []), ...(place.kind === 'name' ? ownAddresses(own, found) : [])],
    });
  }
  return [...used].sort(([a, x], [b, y]) => y.last - x.last || byText(a, b)).map(([, row]) => row);
}

const ownAddresses = (own: readonly OwnAddress[], row: Row): readonly UsedDestination[] =>
  own
    .filter(({ name, port, proto }) => name === row.name && port === row.port && proto === row.proto)
    .map((found) => ({
      ...found,
      entry: addressEntry(found.address, found.port, found.proto),
      kind: 'address',
      resolved: null,
    }));

/** The containers with the same owner: the record and the mode belong to all of them. */
function siblingsOf({ docker, applied, policies }: PreviewParts, facts: ContainerFacts): readonly Sibling[] {
  const owner = ownerKey(facts);
  return [...docker.view().containers.values()]
    .filter((c) => c.id === facts.id || (isRunning(c) && c.sharesWith === undefined && ownerKey(c) === owner))
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .map((c) => {
      const member = applied.value?.subjects.get(c.id);
      return { facts: c, member, policy: member?.policy ?? policies.policyOf(c) };
    });
}

const isRunning = ({ state }: ContainerFacts): boolean => state !== 'exited' && state !== 'created';

/** Destinations of one owner are the same rows for each of its containers. */
function unionOf(all: readonly (readonly PreviewDestination[])[]): readonly PreviewDestination[] {
  const [first = [], ...others] = all;
  if (others.length === 0) return first;
  const union = new Map(all.flat().map((d) => [JSON.stringify(d), d]));
  return [...union.values()].sort((a, b) => (a.last < b.last ? 1 : -1));
}

function differing(siblings: readonly Sibling[]): readonly string[] {
  if (new Set(siblings.map((s) => policyText(s.policy))).size < 2) return [];
  return [
    'the containers of this owner have different policies: what is denied to one of them at least is listed',
  ];
}

const policyText = ({ entries, denied = [] }: Policy): string =>
  JSON.stringify([...entries, ...denied].map((pe) => pe.entry.canonical).sort());

const NOTHING: Pick<PreviewView, 'destinations' | 'flows'> = { destinations: [], flows: [] };

async function denied(
  parts: PreviewParts,
  { facts, member: now }: Sibling,
  wanted: PreviewRequest,
  rows: readonly UsedDestination[],
): Promise<Pick<PreviewView, 'destinations' | 'flows'>> {
  const state = parts.applied.value;
  if (!state || !now || (now.policy.mode === 'enforce' && wanted.against === undefined)) return NOTHING;
  const member = subjectAs(parts, state, now, facts, wanted);
  const input = previewInput(parts, state, member, facts, rows);
  const destinations = wouldDeny(input);
  if (wanted.against !== undefined) return { destinations, flows: [] };
  const flows = endedFlows(
    await openFlows(parts, member),
    input.enforced,
    (sent) => parts.destinations.describe(member, facts, sent),
    (sighting) => passes(input, sighting),
  );
  return { destinations, flows: flows.map((f) => ({ ...f, container: facts.name })) };
}

/** The subject with the policy that is previewed: its own where a list is evaluated now, or the list where its own counts now. */
function subjectAs(
  { policies, shape }: PreviewParts,
  { view }: AppliedState,
  now: Subject,
  facts: ContainerFacts,
  { against }: PreviewRequest,
): Subject {
  if (now.policy.against?.list === against) return now;
  const { denied: _, ...others } = now;
  const policy = policies.policyAs(
    facts,
    against === undefined ? { mode: 'enforce' } : { mode: 'observe', against: { list: against, since: '' } },
  );
  return {
    ...others,
    policy,
    ...planPolicy(policy, (name) => resolveContainer(view, facts, name), shape.names),
  };
}

function previewInput(
  parts: PreviewParts,
  state: AppliedState,
  member: Subject,
  facts: ContainerFacts,
  rows: readonly UsedDestination[],
): PreviewInput {
  const { dns, names } = parts;
  const decide = (name: string): NameDecision => names.decideAs(member, name);
  let assumed: { readonly address: string; readonly sets: ReadonlySet<string> } | undefined;
  const isAssumed = (set: string, address: string): boolean =>
    assumed?.address === address && assumed.sets.has(set);
  return {
    rows,
    enforced: enforcedAs(parts, state, member, { decide, isAssumed }),
    answers: (name) => decide(name).allow,
    assuming: (name, address, evaluate) => {
      const sets = dns.setsOf(member.id, decide)(name, address);
      assumed = { address, sets: new Set(sets.flatMap((s) => [s.v4, s.v6])) };
      try {
        return evaluate();
      } finally {
        assumed = undefined;
      }
    },
    neighbours: (name) => resolveContainer(state.view, facts, name).map((r) => formatAddress(r.family, r.lo)),
  };
}

/** By its addresses, or by its mark where it shares those of the host. Neighbours of one bridge speak past conntrack. */
async function openFlows({ kernel, shape }: PreviewParts, member: Subject): Promise<readonly Flow[]> {
  const { marks } = shape;
  const own = member.veths.flatMap((p) => [p.ip4, p.ip6].filter((a) => a !== undefined));
  const filters = member.host
    ? ([4, 6] as const).map((family) => ({
        family,
        filter: { mark: { value: identityMark(marks, member.identity), mask: marks.identity } },
      }))
    : own.map((src) => ({
        family: familyOf(src),
        filter: { orig: { src } },
      }));
  return (await Promise.all(filters.map((f) => kernel.flows.flows(f.family, f.filter)))).flat();
}

/** What cannot be recorded of this container, as sentences. */
export async function notRecorded(
  parts: PreviewParts,
  facts: ContainerFacts,
  member: Subject | undefined,
): Promise<readonly string[]> {
  const { networks } = parts.docker.view();
  const on = facts.endpoints.flatMap((e) => networks.get(e.networkId) ?? []);
  const unseen = on
    .filter((n) => !parts.policies.isManaged(n))
    .map((n) =>
      parts.policies.isLan(n)
        ? `traffic on the network ${n.name} is not recorded: it is ${n.driver}, whose traffic does not pass the host`
        : `traffic on the network ${n.name} is not recorded: it is not managed`,
    );
  if (!member)
    return [...unseen, 'no traffic of this container is recorded: it is on no managed network now'];
  if (member.policy.mode === 'enforce') return ['it is enforced: what is denied is in its flows'];
  const names = await namesNotSeen(parts, facts, member);
  return [
    ...unseen,
    ...namesNotChecked(member, parts.shape),
    ...names,
    'to neighbours on the same bridge, 20 new destinations a second are recorded at most, and others are not counted; multicast, broadcast, protocols other than TCP, UDP and ICMP echo, and connections that are open now are not recorded',
  ];
}

/** Connections are checked by name only while their container is enforced, so that what was recorded shows their addresses. */
export function namesNotChecked(
  { lan }: Pick<Subject, 'lan'>,
  { names, marks }: Pick<KernelConfig, 'names' | 'marks'>,
): readonly string[] {
  if (!names.verify || !marks.check || lan) return [];
  return [
    `the names that its connections ask for are not seen while it is observed: what enforcing blocks is listed by address. Enforced, a connection that only a name entry permits, on TCP and UDP ports ${names.ports.join(', ')} and TCP port 80, is blocked too if it asks for a name that no entry permits`,
  ];
}

async function namesNotSeen(parts: PreviewParts, facts: ContainerFacts, member: Subject): Promise<string[]> {
  if (member.host)
    return [
      'names that it resolves are not recorded, because it is in the network of the host: destinations are listed by address',
    ];
  if (hasReachableResolvers(facts.privileges?.dns ?? [])) return [];
  const resolver = await parts.docker.resolver(facts.id).catch(() => undefined);
  if (resolver && !needsNamespaceDns(resolver)) return [];
  return [
    'names that it resolves may not be recorded, because Docker asks resolvers for it from the host: such destinations are listed by address. With "dns: [ADDRESS OF YOUR RESOLVER]" on its compose service, and recreated, names are recorded',
  ];
}
