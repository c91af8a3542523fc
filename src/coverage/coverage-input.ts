import type { NamespaceDns } from '../dns/namespace-resolvers.js';
import type { DockerWatch } from '../docker/watch.js';
import type { HostMode } from '../enforce/host-cgroups.js';
import type { Policies } from '../enforce/policies.js';
import type { Current } from '../lib/current.js';
import type { NetnsRules } from '../netns-rules/netns-rules.js';
import type { ContainerFacts } from '../policy/container.js';
import { worstOf } from '../policy/finding.js';
import type { Policy } from '../policy/policy.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { KernelConfig } from '../ruleset/desired-state.js';
import type { CoverageInput } from './coverage.js';
import type { HostWatch } from './host-watch.js';

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

/** Whose processes it sees, of those that another policy evaluates. */
function pidNamespace(
  parts: CoverageParts,
  c: ContainerFacts,
  holder: ContainerFacts,
): Pick<CoverageInput, 'pidMode' | 'pidPeers'> {
  const { containers } = parts.docker.view();
  const root = pidRoot(c, containers);
  const pidPeers = [...containers.values()]
    .filter((x) => x.id !== c.id && isUp(x) && pidRoot(x, containers).id === root.id)
    .filter((x) => (x.sharesWith ?? x.id) !== holder.id)
    .map((x): PidPeer => {
      const owner = (x.sharesWith && containers.get(x.sharesWith)) || x;
      const policy = parts.policies.policyOf(owner);
      const network = worstOf(networkFindings(x, withoutPeers(parts, x, policy)));
      return { name: x.name, mode: policy.mode, network };
    });
  return { pidMode: root.privileges?.pidMode ?? '', pidPeers };
}

const CONTAINER = 'container:';
const isUp = (c: ContainerFacts): boolean => c.state !== 'exited' && c.state !== 'created';

/** The container whose PID namespace it is in. Docker writes the other's full id. */
function pidRoot(c: ContainerFacts, containers: ReadonlyMap<string, ContainerFacts>): ContainerFacts {
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
      members: [...view.containers.values()].filter((x) => x.id === holder.id || x.sharesWith === holder.id),
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
