import type { NamespaceDns } from '../dns/namespace-dns.js';
import type { DockerWatch } from '../docker/watch.js';
import type { HostMode } from '../enforce/host-cgroups.js';
import type { Policies } from '../enforce/policies.js';
import type { Current } from '../lib/current.js';
import type { NetnsRules } from '../netns-rules/netns-rules.js';
import type { ContainerFacts } from '../policy/container.js';
import { type Coverage, type Finding, findingText, worstFirst, worstOf } from '../policy/finding.js';
import type { Policy } from '../policy/policy.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { KernelConfig } from '../ruleset/desired-state.js';
import {
  limitFindings,
  type NameFacts,
  nameFindings,
  type PidPeer,
  pidFindings,
  powerFindings,
  relayFindings,
  type StoreFacts,
  storeFindings,
} from './container-findings.js';
import { type DeviceFacts, deviceFindings } from './device-findings.js';
import { type HostInput, hostFindings } from './host-findings.js';
import type { HostWatch } from './host-watch.js';
import { type MountsKnown, mountFindings } from './mount-findings.js';
import { type NetworkPlace, networkFindings } from './network-findings.js';
import type { OwnPlaces } from './sensitive-places.js';

export interface CoverageInput extends NetworkPlace, HostInput, StoreFacts {
  readonly container: ContainerFacts;
  readonly policy: Policy;
  readonly names: NameFacts;
  readonly own: OwnPlaces;
  /** Undefined: the mounts are not read, and the paths that Docker lists are compared as text. */
  readonly mounts?: MountsKnown;
  readonly devices?: DeviceFacts;
  /** PID mode of the container that owns the shared PID namespace; undefined: the container has its own namespace. */
  readonly pidMode?: string;
  /** Containers that share its PID namespace and have another policy. */
  readonly pidPeers?: readonly PidPeer[];
  /** It is the container that Drawbridge itself runs in. */
  readonly isSelf: boolean;
}

/** Return whether the policy can be enforced completely for this container, and everything that its operator should know. */
export function coverageOf(input: CoverageInput): Coverage {
  const findings = allFindings(input);
  return { state: worstOf(findings), reasons: findings.map(findingText) };
}

/** What was found about the container, the worst first, and then what its policy notes: it weakens nothing. */
export const allFindings = (input: CoverageInput): readonly Finding[] => [
  ...worstFirst(coverageFindings(input)),
  ...noteFindings(input.policy),
];

/** The notes of a policy (labels that do not parse, lists that do not exist) as findings. */
const noteFindings = ({ notes }: Pick<Policy, 'notes'>): readonly Finding[] =>
  notes.map(({ detail, remedy, code = 'policy-note' }) => ({ code, state: 'enforced', detail, remedy }));

/** Everything found about the container itself, and of the host what weakens it. */
export function coverageFindings(input: CoverageInput): Finding[] {
  const { container: c, policy, names } = input;
  if (input.isSelf) return [SELF];
  const host = hostFindings(input).filter((f) => f.state !== 'enforced');
  return [
    ...networkFindings(c, input),
    ...storeFindings(c, input),
    ...(c.privileges ? privilegeFindings(input, c.privileges) : [NOT_INSPECTED]),
    ...pidFindings(policy.mode, input.pidPeers ?? []),
    ...(policy.mode === 'enforce' ? nameFindings(names) : []),
    ...relayFindings(c, policy),
    ...limitFindings(c, policy),
    ...host,
  ];
}

const privilegeFindings = (
  { container, own, mounts, devices, pidMode }: CoverageInput,
  p: NonNullable<ContainerFacts['privileges']>,
): Finding[] => [
  ...powerFindings(p, pidMode),
  ...deviceFindings(p, devices ?? { drivers: undefined, nodes: [] }),
  ...mountFindings(container, own, mounts),
];

/** Drawbridge's own container needs the privileges to change all rules, so they are not listed one by one. */
const SELF: Finding = {
  code: 'itself',
  state: 'unenforced',
  detail:
    'this container is Drawbridge itself: it is trusted like root on the host, and no policy applies to it',
  remedy: 'nothing to do; to avoid this, run the service on the host',
};

const NOT_INSPECTED: Finding = {
  code: 'not-inspected',
  state: 'partial',
  detail: 'the privileges and mounts of the container have not been read from Docker yet',
  remedy: 'check again in a moment; if this remains, see docker inspect',
};

/** The parts of the service from which the coverage of a container is computed. */
export interface CoverageParts {
  readonly applied: Current<AppliedState>;
  readonly shape: KernelConfig;
  readonly docker: DockerWatch;
  readonly policies: Policies;
  readonly namespaceDns: NamespaceDns;
  readonly hostMode: HostMode;
  readonly lan: NetnsRules;
  readonly hostWatch: HostWatch;
}

/** All that is known about a container's coverage now. */
export function coverageInput(parts: CoverageParts, c: ContainerFacts, policy: Policy): CoverageInput {
  const input = withoutPeers(parts, c, policy);
  return { ...input, ...pidNamespace(parts, c, input.holder) };
}

/** Containers with another policy in the same PID namespace: each can see the processes of the others. */
function pidNamespace(
  parts: CoverageParts,
  c: ContainerFacts,
  holder: ContainerFacts,
): Pick<CoverageInput, 'pidMode' | 'pidPeers'> {
  const { containers } = parts.docker.view();
  const root = pidRoot(c, containers);
  const pidPeers = (groupsOf(containers).byPid.get(root.id) ?? [])
    .filter((x) => x.id !== c.id && (x.sharesWith ?? x.id) !== holder.id)
    .map((x): PidPeer => {
      const owner = (x.sharesWith && containers.get(x.sharesWith)) || x;
      const policy = parts.policies.policyOf(owner);
      const network = worstOf(networkFindings(x, withoutPeers(parts, x, policy)));
      return { name: x.name, mode: policy.mode, network };
    });
  return { pidMode: root.privileges?.pidMode ?? '', pidPeers };
}

interface Groups {
  /** Containers in one network namespace, by the container that owns it. */
  readonly byNetwork: ReadonlyMap<string, readonly ContainerFacts[]>;
  /** Containers that are up in one PID namespace, by the container that owns it. */
  readonly byPid: ReadonlyMap<string, readonly ContainerFacts[]>;
}
type Containers = ReadonlyMap<string, ContainerFacts>;
const groups = new WeakMap<Containers, Groups>();

/** Who shares a namespace: found once for each view of Docker, which never changes, so that it is not searched for each container. */
function groupsOf(containers: Containers): Groups {
  const known = groups.get(containers);
  if (known) return known;
  const byNetwork = new Map<string, ContainerFacts[]>();
  const byPid = new Map<string, ContainerFacts[]>();
  const add = (to: Map<string, ContainerFacts[]>, key: string, c: ContainerFacts): unknown =>
    to.get(key)?.push(c) ?? to.set(key, [c]);
  for (const c of containers.values()) {
    add(byNetwork, c.id, c);
    if (c.sharesWith !== undefined && c.sharesWith !== c.id) add(byNetwork, c.sharesWith, c);
    if (isUp(c)) add(byPid, pidRoot(c, containers).id, c);
  }
  const found = { byNetwork, byPid };
  groups.set(containers, found);
  return found;
}

const CONTAINER = 'container:';
const isUp = (c: ContainerFacts): boolean => c.state !== 'exited' && c.state !== 'created';

/** The container that owns its PID namespace. Docker writes the full id of that container. */
function pidRoot(c: ContainerFacts, containers: Containers): ContainerFacts {
  let at = c;
  for (let i = 0; i < MOST_STEPS; i++) {
    const mode = at.privileges?.pidMode ?? '';
    const next = mode.startsWith(CONTAINER) ? containers.get(mode.slice(CONTAINER.length)) : undefined;
    if (!next) return at;
    at = next;
  }
  return at;
}
const MOST_STEPS = 10;
const NONE: readonly never[] = [];

function withoutPeers(parts: CoverageParts, c: ContainerFacts, policy: Policy): CoverageInput {
  const view = parts.docker.view();
  const { host, engine: daemon, managed, own } = parts.hostWatch;
  const holder = (c.sharesWith && view.containers.get(c.sharesWith)) || c;
  const mounts = parts.hostWatch.mounts.mountsOf(c);
  const hostAsked = parts.namespaceDns.hostAsked(holder.id);
  return {
    container: c,
    holder,
    policy,
    networks: view.networks,
    managed,
    hostNetwork: {
      senders: parts.applied.value?.hosts,
      mode: policy.mode,
      noResolver: parts.hostMode.resolvers.failed.get(holder.id),
    },
    lan: {
      isManaged: parts.policies.isLan,
      mode: policy.mode,
      status: parts.lan.status(holder.id),
      isLimited: policy.limits !== undefined,
      members: groupsOf(view.containers).byNetwork.get(holder.id) ?? NONE,
    },
    names: {
      hostAsked,
      namespaceDns: parts.namespaceDns.status(holder.id),
      resolvers: host?.resolvers ?? [],
    },
    own,
    isStore: (parts.applied.value?.input.closed ?? []).some((place) => place.container === c.id),
    ...(mounts && { mounts }),
    devices: parts.hostWatch.mounts.devicesOf(c),
    isSelf: c.id === parts.hostMode.self,
    host,
    engine: daemon,
    failure: parts.shape.failure,
  };
}
