import type { CoverageInput } from '../control/coverage.js';
import type { ContainerFacts } from '../model/container.js';
import type { Policy } from '../model/policy.js';
import type { Engine } from './engine.js';

/** All that is known about a container's coverage now. */
export function coverageInput(engine: Engine, c: ContainerFacts, policy: Policy): CoverageInput {
  const view = engine.docker.view();
  const { host, engine: daemon, managed, own } = engine.hostWatch;
  const holder = (c.sharesWith && view.containers.get(c.sharesWith)) || c;
  const attached = engine.namespaceDns.isAttached(holder.id);
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
      namespaceDns: attached ? 'attached' : hostAsked ? 'failed' : 'none',
      resolvers: host?.resolvers ?? [],
    },
    own,
    isStore: (engine.state?.input.closed ?? []).some((place) => place.container === c.id),
    isSelf: c.id === engine.hostMode.self,
    host,
    engine: daemon,
    failure: engine.shape.failure,
  };
}
