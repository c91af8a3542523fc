import type { DnsService } from '../dns/dns-service.js';
import type { NamesPolicy } from '../dns/names-policy.js';
import { hasReachableResolvers, needsNamespaceDns } from '../docker/resolv-conf.js';
import type { DockerWatch } from '../docker/watch.js';
import { privateName, type Sent } from '../enforce/destination.js';
import type { Policies } from '../enforce/policies.js';
import type { DestinationKind, RecordedRow, RecordingGap, Sighting } from '../enforce/recorded.js';
import type { Recording } from '../enforce/recording.js';
import type { Kernel } from '../kernel/kernel.js';
import type { Current } from '../lib/current.js';
import { formatAddress, PROTOCOL_NAMES, parseAddress } from '../lib/ip.js';
import type { ContainerFacts } from '../policy/container.js';
import { resolveContainer } from '../policy/neighbours.js';
import { ownerKey } from '../policy/own-labels.js';
import type { Mode } from '../policy/policy.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { DesiredState, KernelConfig, Subject } from '../ruleset/desired-state.js';
import type { Flow } from '../ruleset/flow.js';
import { identityMark } from '../ruleset/marks.js';
import { type AsEnforced, asEnforced } from '../ruleset/policy-evaluator.js';
import type { TracePacket } from '../ruleset/trace.js';
import type { ActiveThreats } from '../threats/active-threats.js';

/** A destination that was used while the container was observed, and that mode enforce would deny now. */
interface PreviewDestination {
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
interface PreviewFlow {
  readonly proto: string;
  readonly address: string;
  readonly port: number;
  readonly name: string | null;
  readonly entry: string | null;
  /** New connections to it pass: it was opened before its name was resolved through Drawbridge, or past its rules. */
  readonly passesAgain: boolean;
}
/** What mode enforce would deny, by what was recorded, and what was not recorded. */
export interface PreviewView {
  readonly container: string;
  /** The owner of the record: compose:PROJECT/SERVICE or name:NAME. */
  readonly owner: string;
  readonly mode: Mode;
  /** The mode that is previewed: enforce, unless another was asked for, in which nothing is denied. */
  readonly to: Mode;
  /** Recorded without interruption since then; null: it is not recorded now. */
  readonly recordingSince: string | null;
  /** Before that, oldest first: when the owner ran without being recorded. */
  readonly gaps: readonly RecordingGap[];
  /** Connections that were not recorded: more than the log takes in a second, or than the record keeps. */
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
  readonly docker: DockerWatch;
  readonly policies: Policies;
  readonly names: NamesPolicy;
  readonly dns: DnsService;
  readonly threats: ActiveThreats;
  readonly recording: Recording;
}

/** What mode enforce would deny a container now: destinations that were recorded, and connections that are open. */
export async function previewView(
  parts: PreviewParts,
  c: ContainerFacts,
  wanted: Mode | 'auto',
): Promise<PreviewView> {
  const state = parts.applied.value;
  const { recording } = parts;
  const facts = (c.sharesWith && parts.docker.view().containers.get(c.sharesWith)) || c;
  const owner = ownerKey(facts);
  const member = state?.subjects.get(facts.id);
  const mode = member?.policy.mode ?? parts.policies.policyOf(facts).mode;
  const { since, gaps } = recording.period(owner);
  const isRecorded = mode === 'observe' && member !== undefined;
  const to = wanted === 'auto' ? parts.policies.autoModeOf(facts) : wanted;
  const found = state && member && to === 'enforce' ? await denied(parts, state, member, facts) : NOTHING;
  return {
    container: c.name,
    owner,
    mode,
    to,
    recordingSince: isRecorded && since !== undefined ? new Date(since).toISOString() : null,
    gaps,
    dropped: recording.flows.dropped(owner),
    notRecorded: await notRecorded(parts, facts, member),
    ...found,
  };
}

const NOTHING: Pick<PreviewView, 'destinations' | 'flows'> = { destinations: [], flows: [] };

async function denied(
  parts: PreviewParts,
  state: AppliedState,
  member: Subject,
  facts: ContainerFacts,
): Promise<Pick<PreviewView, 'destinations' | 'flows'>> {
  if (member.policy.mode === 'enforce') return NOTHING;
  const input = previewInput(parts, state, member, facts);
  const flows = await openFlows(parts, member);
  return {
    destinations: wouldDeny(input),
    flows: endedFlows(
      flows,
      input.enforced,
      (sent) => parts.recording.describe(member, facts, sent),
      (sighting) => passes(input, sighting),
    ),
  };
}

function previewInput(
  parts: PreviewParts,
  state: AppliedState,
  member: Subject,
  facts: ContainerFacts,
): PreviewInput {
  const { dns, threats, names } = parts;
  let assumed: { readonly address: string; readonly sets: ReadonlySet<string> } | undefined;
  const learned = (desired: DesiredState, set: string, address: string): boolean => {
    if (desired.sets.get(set)?.isThreats) return threats.has(set, address);
    if (assumed?.address === address && assumed.sets.has(set)) return true;
    return dns.isMember(member.id, set, address);
  };
  return {
    rows: parts.recording.rows(ownerKey(facts)),
    enforced: asEnforced(state, member, {
      shape: parts.shape,
      hostAddresses: parts.kernel.hostAddresses(),
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
async function openFlows({ kernel, shape }: PreviewParts, member: Subject): Promise<readonly Flow[]> {
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
  if (member.policy.mode === 'off') return ['no traffic of this container is recorded in mode off'];
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

interface PreviewInput {
  readonly rows: readonly RecordedRow[];
  readonly enforced: AsEnforced;
  /** Whether enforce would answer the name. */
  readonly answers: (name: string) => boolean;
  /** Evaluates as if the name had just been resolved to the address through Drawbridge. */
  readonly assuming: <T>(name: string, address: string, evaluate: () => T) => T;
  /** Addresses of the neighbours of this name now. */
  readonly neighbours: (name: string) => readonly string[];
}

/** Recorded destinations that the rules and entries of now would deny. */
function wouldDeny(input: PreviewInput): readonly PreviewDestination[] {
  const denied = input.rows.filter((row) => !passes(input, row));
  return denied.flatMap((row) => {
    if (row.proto !== 'dns') return [shown(row)];
    const used = input.rows.filter((r) => r.proto !== 'dns' && r.resolved === row.name);
    if (used.some((r) => r.kind === 'name')) return [];
    // a name of one label that was not connected to: a container that Docker did not have just then
    if (row.entry === null && used.length === 0) return [];
    return [shown(used.length > 0 ? { ...row, entry: privateName(row.name ?? '') } : row)];
  });
}

/** Whether enforce would let this pass. */
function passes(input: PreviewInput, row: Sighting): boolean {
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

const shown = ({ resolved: _, first, last, ...row }: RecordedRow): PreviewDestination => ({
  ...row,
  first: new Date(first).toISOString(),
  last: new Date(last).toISOString(),
  verdict: 'would-deny',
});

const DNS_PORT = 53;

/** Connections that are open now, that the member opened, and that enforce would end. */
function endedFlows(
  flows: readonly Flow[],
  enforced: AsEnforced,
  describe: (sent: Pick<Sent, 'address' | 'port' | 'proto'>) => Sighting,
  passesAgain: (sighting: Sighting) => boolean,
): readonly PreviewFlow[] {
  const ended = flows.filter(
    (f) => f.orig.dport !== DNS_PORT && !enforced.evaluator.keeps(enforced.member, f),
  );
  return ended.map((f) => {
    const proto = PROTOCOL_NAMES[f.proto] ?? String(f.proto);
    const sighting = describe({ address: f.reply.src, port: f.reply.sport ?? 0, proto });
    const { address, port, name, entry } = sighting;
    return { proto, address, port, name, entry, passesAgain: passesAgain(sighting) };
  });
}
