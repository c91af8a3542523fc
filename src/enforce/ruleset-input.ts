import { type Family, networkOf, parseSubnet, publicRanges, type Range } from '../lib/ip.js';
import { nat64Ranges } from '../lib/special-use.js';
import type { ContainerFacts, DockerView, NetworkFacts } from '../policy/container.js';
import { subnetsWithoutGateway } from '../policy/gateways.js';
import { type EastWest, freeNeighbours, resolveContainer } from '../policy/neighbours.js';
import type { Mode, Policy, PolicyEntry } from '../policy/policy.js';
import type { Binding, VethMap } from '../ruleset/bindings.js';
import { planClasses } from '../ruleset/classes.js';
import type {
  Bridge,
  Cgroup,
  DesiredInput,
  HostCgroups,
  HostPlace,
  KernelConfig,
  NetnsPlace,
  Subject,
  SubjectLimits,
  Veth,
} from '../ruleset/state.js';
import type { Identities } from './identities.js';
import { expectedFamilies } from './newcomers.js';

export interface WorldInput {
  readonly view: DockerView;
  readonly ports: VethMap;
  readonly identities: Identities;
  readonly policyOf: (c: ContainerFacts) => Policy;
  readonly limitsOf: (c: ContainerFacts, policy: Policy) => SubjectLimits | undefined;
  readonly eastWest: EastWest;
  /** Held by rules inside the namespaces of its containers. */
  readonly isLan: (n: NetworkFacts) => boolean;
  readonly shape: KernelConfig;
  readonly unattributed: readonly number[];
  readonly unattributedPolicy: { readonly mode: Mode; readonly entries: readonly PolicyEntry[] };
  readonly hosts: HostCgroups;
  readonly zones: { has(cgroups: readonly Cgroup[], isLate: boolean): boolean };
  /** Created a short while ago, and expected to start. */
  readonly newcomers: ReadonlySet<string>;
  readonly now: number;
}

/** What the kernel should know, from what Docker, the links and the lists say. */
export function rulesetInput(w: WorldInput): DesiredInput {
  const members = membersOf(w);
  return {
    shape: w.shape,
    subjects: members,
    bridges: [...w.ports.bridges].map(
      ([name, b]): Bridge => ({
        name,
        mac: b.link.mac,
        veths: b.ports,
        subnets: b.network.subnets.flatMap((s) => networkOf(s)?.text ?? []),
        withoutGateway: { ifindex: b.link.index, subnets: subnetsWithoutGateway(b.network) },
        mixed: b.mixed,
      }),
    ),
    exempt: w.ports.exempt,
    unattributed: w.unattributed,
    unattributedMode: w.unattributedPolicy.mode,
    unattributedClasses: planClasses(w.unattributedPolicy.entries, () => []),
    hostNet: w.hosts.net,
    inside: publicSubnets(w.view.networks.values(), nat64Ranges(w.shape.nat64)),
  };
}

const publicSubnets = (networks: Iterable<NetworkFacts>, nat64: readonly Range[]): readonly Range[] =>
  publicRanges(
    [...networks].flatMap((n) => n.subnets.flatMap((text) => parseSubnet(text) ?? [])),
    nat64,
  );

/** Containers with a namespace of their own and a place on a managed network. Their chains stand before their ports do. */
function membersOf(w: WorldInput): Subject[] {
  const bound = new Map<string, Binding[]>();
  for (const b of w.ports.bindings.values()) bound.set(b.container, [...(bound.get(b.container) ?? []), b]);
  const managed = new Set([...w.ports.bridges.values()].map((b) => b.network.id));
  const present = [...w.view.containers.values()].filter(
    (c) =>
      bound.has(c.id) ||
      isComing(c, managed) ||
      (w.newcomers.has(c.id) && expectedFamilies(c, w.view.networks, managed).size > 0) ||
      lanPlace(w, c) !== undefined ||
      w.hosts.cgroups.has(c.id) ||
      isComingToHost(c, w),
  );
  w.identities.retain(new Set(present.map((c) => c.id)), w.now);
  return present.map((c) => memberOf(w, c, bound.get(c.id) ?? [], managed));
}

const isComing = (c: ContainerFacts, managed: ReadonlySet<string>): boolean =>
  c.state !== 'exited' && c.endpoints.some((e) => managed.has(e.networkId) && (e.ip4 ?? e.ip6) !== undefined);

/** Undefined: it is on no such network now. */
function lanPlace(w: Pick<WorldInput, 'view' | 'isLan'>, c: ContainerFacts): NetnsPlace | undefined {
  if (c.state === 'exited' || c.state === 'created' || c.sharesWith !== undefined) return undefined;
  const on = c.endpoints.flatMap((endpoint) => {
    const network = w.view.networks.get(endpoint.networkId);
    return network && w.isLan(network) ? [{ endpoint, network }] : [];
  });
  if (on.length === 0) return undefined;
  return {
    links: on.length,
    addresses: on.flatMap((o) => [o.endpoint.ip4, o.endpoint.ip6].filter((a) => a !== undefined)),
    links6: [...new Set(on.flatMap((o) => o.network.subnets.filter((s) => s.includes(':'))))],
  };
}

/** Between its creation and its start it keeps its place, and so its number. */
const isComingToHost = (c: ContainerFacts, w: WorldInput): boolean =>
  c.networkMode === 'host' && (w.view.starting.has(c.id) || w.newcomers.has(c.id));

function memberOf(
  w: WorldInput,
  c: ContainerFacts,
  bindings: readonly Binding[],
  managed: ReadonlySet<string>,
): Subject {
  const policy = w.policyOf(c);
  const limits = w.limitsOf(c, policy);
  const lan = lanPlace(w, c);
  return {
    id: c.id,
    identity: w.identities.assign(c.id, w.now),
    policy,
    classes: planClasses(policy.entries, (name) => resolveContainer(w.view, c, name)),
    neighbours: freeNeighbours(w.view, c, w.eastWest),
    veths: bindings.map(portOf),
    families: familiesOf(w, c, managed),
    published: c.published.map((p) => ({ proto: p.proto, port: p.containerPort })),
    ...(limits ? { limits } : {}),
    ...(lan ? { lan } : {}),
    ...(c.networkMode === 'host' ? { host: hostPlace(w, c.id) } : {}),
  };
}

function hostPlace({ hosts, zones }: WorldInput, id: string): HostPlace {
  const cgroups = hosts.cgroups.get(id) ?? [];
  return { cgroups, zoned: zones.has(cgroups, hosts.late.has(id)) };
}

const BOTH: ReadonlySet<Family> = new Set([4, 6] as const);
function familiesOf(w: WorldInput, c: ContainerFacts, managed: ReadonlySet<string>): ReadonlySet<Family> {
  if (c.networkMode === 'host') return BOTH;
  if (c.endpoints.length === 0) return expectedFamilies(c, w.view.networks, managed);
  const families = new Set<Family>();
  for (const e of c.endpoints) {
    if (e.ip4) families.add(4);
    if (e.ip6) families.add(6);
  }
  return families;
}

const portOf = (b: Binding): Veth => ({
  ifindex: b.ifindex,
  mac: b.mac,
  bridge: b.bridge,
  ...(b.ip4 ? { ip4: b.ip4 } : {}),
  ...(b.ip6 ? { ip6: b.ip6 } : {}),
});
