import { isDeepStrictEqual } from 'node:util';
import type { Current } from '../lib/current.js';
import { type Family, networkOf, parseSubnet, type Range } from '../lib/ip.js';
import { memo } from '../lib/memo.js';
import { nat64Ranges, publicRanges } from '../lib/special-use.js';
import {
  type ContainerFacts,
  type DockerView,
  expectedFamilies,
  type NetworkFacts,
  subnetsWithoutGateway,
} from '../policy/container.js';
import { freeNeighbours, resolveContainer } from '../policy/neighbours.js';
import type { Policy } from '../policy/policy.js';
import type { AppliedState, Binding, VethMap } from '../ruleset/applied-state.js';
import { CANARY_ID, canarySubject, vethOf } from '../ruleset/canary-subject.js';
import { planPolicy, planUnattributed } from '../ruleset/deny-plan.js';
import {
  type Bridge,
  type DesiredInput,
  type HostCgroups,
  type HostPlace,
  type KernelConfig,
  keepSubject,
  type NetnsPlace,
  type Subject,
  type Veth,
} from '../ruleset/desired-state.js';
import type { Replaced } from '../ruleset/recompile.js';
import type { ConntrackZones } from './conntrack-zones.js';
import type { Identities } from './identities.js';
import type { RequestLater } from './pass-trigger.js';
import type { Policies, PolicyStamp, ReservedPorts } from './policies.js';
import type { Quotas } from './quotas.js';
import type { VethTable } from './veth-table.js';

export interface InputParts {
  readonly shape: KernelConfig;
  readonly applied: Current<AppliedState>;
  readonly policies: Pick<
    Policies,
    'policyOf' | 'eastWest' | 'isLan' | 'unattributed' | 'stamp' | 'changedSince'
  >;
  readonly quotas: Pick<Quotas, 'limitsOf'>;
  /** Ports that no container may reach. */
  readonly reserved: Pick<ReservedPorts, 'list'>;
  readonly identities: Identities;
  readonly zones: Pick<ConntrackZones, 'has'>;
  readonly vethTable: Pick<VethTable, 'bindings' | 'unattributed'>;
  readonly now: () => number;
}
/** What a pass has found: the view of Docker, the veths and the cgroups of containers in the host's network. */
export interface Found {
  readonly view: DockerView;
  readonly vethMap: VethMap;
  readonly hosts: HostCgroups;
}
interface World extends Omit<InputParts, 'now'>, Found {
  /** Created a short while ago, and expected to start. */
  readonly newcomers: ReadonlySet<string>;
  readonly now: number;
}

/** How long the rules of a departed container stay, so that their removal shares a pass with others'. */
const LINGER_MS = 2_000;
type Departed = ReadonlyMap<string, { readonly subject: Subject; readonly until: number }>;
/** How long a veth counts as new: others that start meanwhile share the pass that completes them. */
export const NEW_MS = 100;

/** Builds the input of the ruleset, and keeps of the passes before what it depends on: newcomers, new veths, departed containers. */
export class InputBuilder {
  readonly #o: InputParts;
  readonly #newcomers = new Newcomers();
  /** By ifindex: until when a veth counts as new (`performance.now`). */
  readonly #newUntil = new Map<number, number>();
  #departed: Departed = new Map();
  /** What the policies of the last input were compiled from. */
  #stamp: PolicyStamp | undefined;

  constructor(parts: InputParts) {
    this.#o = parts;
  }

  /** The input of this pass. Requests later passes for what will change by time alone. */
  build(found: Found, later: RequestLater): DesiredInput {
    this.#stamp = this.#o.policies.stamp();
    const input = this.#present(found, later);
    this.#departed = this.#departedNow(input.subjects);
    if (this.#departed.size > 0) later({ kind: 'departed' }, LINGER_MS);
    return withDeparted(input, this.#departed);
  }

  /**
   * The input of this pass when nothing but policies and quotas can have changed since the last one: what was found is the same.
   * Veths, newcomers and departed containers stay as they are: what changes by time alone requests a pass of its own. Undefined:
   * something that all rules depend on has changed.
   */
  withPolicies({ input, view }: AppliedState): Rebuilt | undefined {
    const { policies, reserved } = this.#o;
    if (planUnattributed(policies.unattributed()).classes !== input.unattributedClasses) return undefined;
    const closed = reserved.list();
    if (closed !== input.closed && !isDeepStrictEqual(closed, input.closed)) return undefined;
    const stamp = policies.stamp();
    const changed = this.#stamp && policies.changedSince(this.#stamp);
    this.#stamp = stamp;
    const places = placesOf(input.subjects);
    const replaced: Replaced[] = [];
    const subjects = [...input.subjects];
    for (const id of changed ? new Set([...changed, ...places.limited]) : places.at.keys()) {
      const at = places.at.get(id);
      const was = at === undefined ? undefined : subjects[at];
      const facts = this.#departed.has(id) ? undefined : view.containers.get(id);
      if (at === undefined || !was || !facts) continue;
      const is = this.#withPolicy(was, facts, view);
      if (is === was) continue;
      replaced.push({ was, is });
      subjects[at] = is;
    }
    if (replaced.length === 0) return { input, replaced };
    return { input: { ...input, subjects }, replaced };
  }

  #withPolicy(was: Subject, c: ContainerFacts, view: DockerView): Subject {
    const policy = this.#o.policies.policyOf(c);
    if (policy === was.policy && !policy.limits) return was;
    const limits = this.#o.quotas.limitsOf(c, policy);
    const { limits: _, denied: __, ...others } = was;
    return keepSubject(was, {
      ...others,
      policy,
      ...planned({ view, shape: this.#o.shape }, c, policy),
      neighbours: freeNeighbours(view, c, this.#o.policies.eastWest),
      ...(limits ? { limits } : {}),
    });
  }

  /** What `build` would return now. It changes nothing that a pass decides by: any client may request a plan, at any rate. */
  preview(found: Found): DesiredInput {
    const input = this.#present(found, () => undefined);
    return withDeparted(input, this.#departedNow(input.subjects));
  }

  #present(found: Found, later: RequestLater): DesiredInput {
    const now = this.#o.now();
    const newcomers = this.#newcomers.of(found.view, now);
    if (newcomers.size > 0) later({ kind: 'newcomers' }, EXPECTED_MS);
    const input = rulesetInput({ ...this.#o, ...found, newcomers, now });
    for (const [veth, until] of this.#newUntil) if (until <= performance.now()) this.#newUntil.delete(veth);
    const present = input.subjects.map((m) => ({ ...m, veths: m.veths.map((p) => this.#withAge(p)) }));
    const subjects = present.map((m) => keepSubject(this.#o.applied.value?.subjects.get(m.id), m));
    return { ...input, subjects, closed: this.#o.reserved.list() };
  }

  /**
   * The first packets of a veth wait for its pass, and those of veths that are bound right behind it for the next: what needs
   * a run of iptables-restore for its addresses comes later.
   */
  #withAge(p: Veth): Veth {
    const now = performance.now();
    const known = this.#o.vethTable.bindings.get(p.ifindex);
    if (known?.ip4 !== p.ip4 || known?.ip6 !== p.ip6) this.#newUntil.set(p.ifindex, now + NEW_MS);
    return (this.#newUntil.get(p.ifindex) ?? now) > now ? { ...p, isNew: true } : p;
  }

  /**
   * A veth that is gone sends nothing, and no other gets its elements: what is left of a container permits nothing for a while
   * (its identity rests longer than that).
   */
  #departedNow(present: readonly Subject[]): Departed {
    const now = this.#o.now();
    const here = new Set(present.map((m) => m.id));
    const gone = [...(this.#o.applied.value?.input.subjects ?? [])]
      .filter((m) => !this.#departed.has(m.id))
      .map((m) => [m.id, { subject: withoutCgroups(m), until: now + LINGER_MS }] as const);
    return new Map([...this.#departed, ...gone].filter(([id, d]) => !here.has(id) && d.until > now));
  }
}

interface Places {
  /** Of each subject in the list, by its id. */
  readonly at: ReadonlyMap<string, number>;
  /** The ids of the subjects with limits. A quota can change a limit while the policy stays the same. */
  readonly limited: readonly string[];
}
const placesOf = memo(
  (subjects: readonly Subject[]): Places => ({
    at: new Map(subjects.map((m, n) => [m.id, n])),
    limited: subjects.filter((m) => m.policy.limits).map((m) => m.id),
  }),
);

interface Rebuilt {
  readonly input: DesiredInput;
  readonly replaced: readonly Replaced[];
}

const withDeparted = (input: DesiredInput, departed: Departed): DesiredInput => ({
  ...input,
  subjects: [...input.subjects, ...[...departed.values()].map((d) => d.subject)],
});

/** A cgroup that has ended would make the rules fail. */
const withoutCgroups = (m: Subject): Subject => (m.host ? { ...m, host: { cgroups: [] } } : m);

/** The input of the ruleset, from Docker, the links and the lists. */
function rulesetInput(w: World): DesiredInput {
  const unattributed = w.policies.unattributed();
  const { classes, denied } = planUnattributed(unattributed);
  return {
    shape: w.shape,
    subjects: subjectsOf(w),
    // Docker lists its networks in no order: the rules must be the same after each start.
    bridges: [...w.vethMap.bridges]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(
        ([name, b]): Bridge => ({
          name,
          mac: b.link.mac,
          veths: b.ports,
          subnets: b.network.subnets.flatMap((s) => networkOf(s)?.text ?? []),
          withoutGateway: { ifindex: b.link.index, subnets: subnetsWithoutGateway(b.network) },
          mixed: b.mixed,
        }),
      ),
    exempt: w.vethMap.exempt,
    unattributed: [...w.vethTable.unattributed],
    unattributedMode: unattributed.mode,
    unattributedClasses: classes,
    ...(denied ? { unattributedDenied: denied } : {}),
    hostNet: w.hosts.net,
    inside: publicSubnets(w.view.networks.values(), nat64Ranges(w.shape.nat64)),
  };
}

function publicSubnets(networks: Iterable<NetworkFacts>, nat64: readonly Range[]): readonly Range[] {
  const subnets = [...networks].flatMap((n) => n.subnets);
  return publicRanges(
    subnets.flatMap((text) => parseSubnet(text) ?? []),
    nat64,
  );
}

/** Containers with a namespace of their own and a place on a managed network. Their chains exist before their veths do. */
function subjectsOf(w: World): Subject[] {
  const bound = new Map<string, Binding[]>();
  for (const b of w.vethMap.bindings.values()) bound.set(b.container, [...(bound.get(b.container) ?? []), b]);
  const managed = new Set([...w.vethMap.bridges.values()].map((b) => b.network.id));
  const present = [...w.view.containers.values()].filter(
    (c) =>
      bound.has(c.id) ||
      isComing(c, managed) ||
      (w.newcomers.has(c.id) && expectedFamilies(c, w.view.networks, managed).size > 0) ||
      lanPlace(w, c) !== undefined ||
      w.hosts.cgroups.has(c.id) ||
      isComingToHost(c, w),
  );
  const { canary } = w.vethMap;
  const kept = [...present.map((c) => c.id), ...(canary ? [CANARY_ID] : []), ...containersOfUnbound(w)];
  w.identities.retain(new Set(kept), w.now);
  const subjects = present.map((c) => subjectOf(w, c, bound.get(c.id) ?? [], managed));
  const identity = canary && w.identities.assign(CANARY_ID, w.now);
  return identity ? [...subjects, canarySubject(canary, identity, bound.get(CANARY_ID) ?? [])] : subjects;
}

/**
 * Containers of veths that are still there, and that Docker has just ended: its report may be of an earlier life, of the same id. With another
 * identity the packets of the veth would be refused between the rules and the bridge table.
 */
function containersOfUnbound({ applied, vethMap }: World): readonly string[] {
  const unbound = new Set(vethMap.unbound.map((v) => v.index));
  const subjects = applied.value?.input.subjects ?? [];
  return subjects.filter((m) => m.veths.some((p) => unbound.has(p.ifindex))).map((m) => m.id);
}

const isComing = (c: ContainerFacts, managed: ReadonlySet<string>): boolean =>
  c.state !== 'exited' && c.endpoints.some((e) => managed.has(e.networkId) && (e.ip4 ?? e.ip6) !== undefined);

/** Undefined: it is on no such network now. */
function lanPlace(w: Pick<World, 'view' | 'policies'>, c: ContainerFacts): NetnsPlace | undefined {
  if (c.state === 'exited' || c.state === 'created' || c.sharesWith !== undefined) return undefined;
  const on = c.endpoints.flatMap((endpoint) => {
    const network = w.view.networks.get(endpoint.networkId);
    return network && w.policies.isLan(network) ? [{ endpoint, network }] : [];
  });
  if (on.length === 0) return undefined;
  return {
    links: on.length,
    addresses: on.flatMap((o) => [o.endpoint.ip4, o.endpoint.ip6].filter((a) => a !== undefined)),
    links6: [...new Set(on.flatMap((o) => o.network.subnets.filter((s) => s.includes(':'))))],
  };
}

/** Between its creation and its start it keeps its place, and so its number. */
const isComingToHost = (c: ContainerFacts, w: World): boolean =>
  c.networkMode === 'host' && (w.view.starting.has(c.id) || w.newcomers.has(c.id));

function subjectOf(
  w: World,
  c: ContainerFacts,
  bindings: readonly Binding[],
  managed: ReadonlySet<string>,
): Subject {
  const policy = w.policies.policyOf(c);
  const limits = w.quotas.limitsOf(c, policy);
  const lan = lanPlace(w, c);
  return {
    id: c.id,
    identity: w.identities.assign(c.id, w.now),
    policy,
    ...planned(w, c, policy),
    neighbours: freeNeighbours(w.view, c, w.policies.eastWest),
    veths: bindings.map(vethOf),
    families: familiesOf(w, c, managed),
    published: c.published.map((p) => ({ proto: p.proto, port: p.containerPort })),
    ...(limits ? { limits } : {}),
    ...(lan ? { lan } : {}),
    ...(c.networkMode === 'host' ? { host: hostPlace(w, c.id) } : {}),
  };
}

const planned = ({ view, shape }: Pick<World, 'view' | 'shape'>, c: ContainerFacts, policy: Policy) =>
  planPolicy(policy, (name) => resolveContainer(view, c, name), shape.names);

function hostPlace({ hosts, zones }: World, id: string): HostPlace {
  const cgroups = hosts.cgroups.get(id) ?? [];
  return { cgroups, zoned: zones.has(cgroups, hosts.late.has(id)) };
}

const BOTH: ReadonlySet<Family> = new Set([4, 6] as const);
function familiesOf(w: World, c: ContainerFacts, managed: ReadonlySet<string>): ReadonlySet<Family> {
  if (c.networkMode === 'host') return BOTH;
  if (c.endpoints.length === 0) return expectedFamilies(c, w.view.networks, managed);
  const families = new Set<Family>();
  for (const e of c.endpoints) {
    if (e.ip4) families.add(4);
    if (e.ip6) families.add(6);
  }
  return families;
}

/** How long a container that was created is expected to start. `docker compose up` starts some seconds after it creates. */
export const EXPECTED_MS = 30_000;

/**
 * Containers that Docker has created and not started yet. Their chains and sets are made before they start: Docker 28
 * attaches a network only after the container's process exists, so that too little time is left for them between the veth
 * and the first packet.
 */
export class Newcomers {
  /** By container: when it was first seen in state "created" (ms since the epoch). */
  readonly #since = new Map<string, number>();

  /** Those first seen at most `EXPECTED_MS` before `now`. */
  of(view: DockerView, now: number): ReadonlySet<string> {
    for (const id of this.#since.keys())
      if (view.containers.get(id)?.state !== 'created') this.#since.delete(id);
    for (const c of view.containers.values())
      if (c.state === 'created' && !this.#since.has(c.id)) this.#since.set(c.id, now);
    return new Set([...this.#since].filter(([, at]) => at + EXPECTED_MS > now).map(([id]) => id));
  }
}
