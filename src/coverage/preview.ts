import type { Engine } from '../app/engine.js';
import { hasReachableResolvers, needsNamespaceDns } from '../docker/resolv.js';
import type { PreviewView } from '../enforce/preview-types.js';
import { formatAddress } from '../lib/ip.js';
import type { ContainerFacts } from '../policy/container.js';
import { resolveContainer } from '../policy/neighbours.js';
import { ownerKey } from '../policy/owner.js';
import type { Mode } from '../policy/policy.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import { asEnforced } from '../ruleset/as-enforced.js';
import type { Flow } from '../ruleset/flow.js';
import { identityMark } from '../ruleset/marks.js';
import type { DesiredState, Subject } from '../ruleset/state.js';
import { endedFlows, type PreviewInput, passes, wouldDeny } from './preview-evaluate.js';

/** What mode enforce would deny a container now: destinations that were recorded, and connections that are open. */
export async function previewView(
  engine: Engine,
  c: ContainerFacts,
  wanted: Mode | 'auto',
): Promise<PreviewView> {
  const { state, recording } = engine;
  const facts = (c.sharesWith && engine.docker.view().containers.get(c.sharesWith)) || c;
  const owner = ownerKey(facts);
  const member = state?.subjects.get(facts.id);
  const mode = member?.policy.mode ?? engine.policies.policyOf(facts).mode;
  const { since, gaps } = recording.period(owner);
  const isRecorded = mode === 'observe' && member !== undefined;
  const to = wanted === 'auto' ? engine.policies.autoModeOf(facts) : wanted;
  const found = state && member && to === 'enforce' ? await denied(engine, state, member, facts) : NOTHING;
  return {
    container: c.name,
    owner,
    mode,
    to,
    recordingSince: isRecorded && since !== undefined ? new Date(since).toISOString() : null,
    gaps,
    dropped: recording.flows.dropped(owner),
    notRecorded: await notRecorded(engine, facts, member),
    ...found,
  };
}

const NOTHING: Pick<PreviewView, 'destinations' | 'flows'> = { destinations: [], flows: [] };

async function denied(
  engine: Engine,
  state: AppliedState,
  member: Subject,
  facts: ContainerFacts,
): Promise<Pick<PreviewView, 'destinations' | 'flows'>> {
  if (member.policy.mode === 'enforce') return NOTHING;
  const input = previewInput(engine, state, member, facts);
  const flows = await openFlows(engine, member);
  return {
    destinations: wouldDeny(input),
    flows: endedFlows(
      flows,
      input.enforced,
      (sent) => engine.recording.describe(member, facts, sent),
      (sighting) => passes(input, sighting),
    ),
  };
}

function previewInput(
  engine: Engine,
  state: AppliedState,
  member: Subject,
  facts: ContainerFacts,
): PreviewInput {
  const { dns, threats, names } = engine;
  let assumed: { readonly address: string; readonly sets: ReadonlySet<string> } | undefined;
  const learned = (desired: DesiredState, set: string, address: string): boolean => {
    if (desired.sets.get(set)?.isThreats) return threats.has(set, address);
    if (assumed?.address === address && assumed.sets.has(set)) return true;
    return dns.isMember(member.id, set, address);
  };
  return {
    rows: engine.recording.rows(ownerKey(facts)),
    enforced: asEnforced(state, member, {
      shape: engine.shape,
      hostAddresses: engine.kernel.hostAddresses(),
      learned,
    }),
    answers: (name) => names.decide(member.id, name).allow,
    assuming: (name, address, evaluate) => {
      const sets = dns.setsOf(member.id)(name, address);
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
async function openFlows({ kernel, shape }: Engine, member: Subject): Promise<readonly Flow[]> {
  const { marks } = shape;
  const own = member.veths.flatMap((p) => [p.ip4, p.ip6].filter((a) => a !== undefined));
  const filters = member.host
    ? ([4, 6] as const).map((family) => ({
        family,
        filter: { mark: { value: identityMark(marks, member.identity), mask: marks.identity } },
      }))
    : own.map((src) => ({
        family: src.includes(':') ? (6 as const) : (4 as const),
        filter: { orig: { src } },
      }));
  return (await Promise.all(filters.map((f) => kernel.flows.flows(f.family, f.filter)))).flat();
}

/** What cannot be recorded of this container, as sentences. */
async function notRecorded(
  engine: Engine,
  facts: ContainerFacts,
  member: Subject | undefined,
): Promise<readonly string[]> {
  const { networks } = engine.docker.view();
  const on = facts.endpoints.flatMap((e) => networks.get(e.networkId) ?? []);
  const unseen = on
    .filter((n) => !engine.policies.isManaged(n))
    .map((n) =>
      engine.policies.isLan(n)
        ? `traffic on the network ${n.name} is not recorded: it is ${n.driver}, whose traffic does not pass the host`
        : `traffic on the network ${n.name} is not recorded: it is not managed`,
    );
  if (!member)
    return [...unseen, 'no traffic of this container is recorded: it is on no managed network now'];
  if (member.policy.mode === 'enforce') return ['it is enforced: what is denied is in its flows'];
  if (member.policy.mode === 'off') return ['no traffic of this container is recorded in mode off'];
  const names = await namesNotSeen(engine, facts, member);
  return [
    ...unseen,
    ...names,
    'to neighbours on the same bridge, 20 new destinations a second are recorded at most, and others are not counted; multicast, broadcast, protocols other than TCP, UDP and ICMP echo, and connections that are open now are not recorded',
  ];
}

async function namesNotSeen(engine: Engine, facts: ContainerFacts, member: Subject): Promise<string[]> {
  if (member.host)
    return [
      'names that it resolves are not recorded, because it is in the network of the host: destinations are listed by address',
    ];
  if (hasReachableResolvers(facts.privileges?.dns ?? [])) return [];
  const resolver = await engine.docker.resolver(facts.id).catch(() => undefined);
  if (resolver && !needsNamespaceDns(resolver)) return [];
  return [
    'names that it resolves may not be recorded, because Docker asks resolvers for it from the host: such destinations are listed by address. With "dns: [ADDRESS OF YOUR RESOLVER]" on its compose service, and recreated, names are recorded',
  ];
}
