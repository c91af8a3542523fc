import type { Engine } from '../app/engine.js';
import type { ContainerFacts } from '../policy/container.js';
import { worstOf } from '../policy/finding.js';
import type { Policy } from '../policy/policy.js';
import type { CoverageInput } from './coverage.js';
import { networkFindings } from './coverage-networks.js';
import type { PidPeer } from './coverage-pid.js';

/** All that is known about a container's coverage now. */
export function coverageInput(engine: Engine, c: ContainerFacts, policy: Policy): CoverageInput {
  const input = withoutPeers(engine, c, policy);
  return { ...input, ...pidNamespace(engine, c, input.holder) };
}

/** Whose processes it sees, of those that another policy evaluates. */
function pidNamespace(
  engine: Engine,
  c: ContainerFacts,
  holder: ContainerFacts,
): Pick<CoverageInput, 'pidMode' | 'pidPeers'> {
  const { containers } = engine.docker.view();
  const root = pidRoot(c, containers);
  const pidPeers = [...containers.values()]
    .filter((x) => x.id !== c.id && isUp(x) && pidRoot(x, containers).id === root.id)
    .filter((x) => (x.sharesWith ?? x.id) !== holder.id)
    .map((x): PidPeer => {
      const owner = (x.sharesWith && containers.get(x.sharesWith)) || x;
      const policy = engine.policies.policyOf(owner);
      const network = worstOf(networkFindings(x, withoutPeers(engine, x, policy)));
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

function withoutPeers(engine: Engine, c: ContainerFacts, policy: Policy): CoverageInput {
  const view = engine.docker.view();
  const { host, engine: daemon, managed, own } = engine.hostWatch;
  const holder = (c.sharesWith && view.containers.get(c.sharesWith)) || c;
  const mounts = engine.hostWatch.mounts.mountsOf(c);
  const hostAsked = engine.namespaceDns.hostAsked(holder.id);
  return {
    container: c,
    holder,
    policy,
    networks: view.networks,
    managed,
    hostNetwork: {
      senders: engine.state?.hosts,
      mode: policy.mode,
      noResolver: engine.hostMode.resolvers.failed.get(holder.id),
    },
    lan: {
      isManaged: engine.policies.isLan,
      mode: policy.mode,
      status: engine.lan.status(holder.id),
      isLimited: policy.limits !== undefined,
      members: [...view.containers.values()].filter((x) => x.id === holder.id || x.sharesWith === holder.id),
    },
    names: {
      hostAsked,
      namespaceDns: engine.namespaceDns.status(holder.id),
      resolvers: host?.resolvers ?? [],
    },
    own,
    isStore: (engine.state?.input.closed ?? []).some((place) => place.container === c.id),
    ...(mounts && { mounts }),
    devices: engine.hostWatch.mounts.devicesOf(c),
    isSelf: c.id === engine.hostMode.self,
    host,
    engine: daemon,
    failure: engine.shape.failure,
  };
}
