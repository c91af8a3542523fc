import type { NamesPolicy } from '../dns/policy.js';
import type { DockerWatch } from '../docker/watch.js';
import type { HostMode } from '../enforce/host-mode.js';
import { EnforcementPass, type EnforcerOptions } from '../enforce/pass.js';
import type { Policies } from '../enforce/policies.js';
import type { Quotas } from '../enforce/quota-service.js';
import type { Reconciler } from '../enforce/reconciler.js';
import type { Kernel } from '../kernel/kernel.js';
import type { NetnsRules } from '../netns-rules/netns-rules.js';
import type { AppliedState } from '../ruleset/applied-state.js';

type Options = EnforcerOptions;

/** On a bridge with other ports than veths, one that belongs to no container may be an uplink with many MACs behind it. */
function vethsOf({ vethMap: ports, desired }: AppliedState): Parameters<Kernel['holdVeths']>[0] {
  const mixed = new Set([...ports.bridges.values()].flatMap((b) => (b.mixed ? b.link.index : [])));
  return {
    bound: [...ports.bindings.values()].map(({ ifindex: index, mac }) => ({ index, mac })),
    others: ports.unbound.flatMap(({ index, master, peerMac: mac }) =>
      mac === undefined || master === undefined || mixed.has(master) ? [] : [{ index, master, mac }],
    ),
    isEnforced: (ifindex) => desired.bridge.strict.has(ifindex),
  };
}
/** Parts of the engine, some of which are made later than this. */
interface EnforcerParts extends Pick<Options, 'applied' | 'shape' | 'threats' | 'bars'> {
  readonly kernel: Kernel;
  readonly docker: DockerWatch;
  readonly policies: Policies;
  readonly quotas: Quotas;
  readonly hostMode: HostMode;
  readonly reconciler: Reconciler;
  readonly lan: NetnsRules;
  readonly names: NamesPolicy;
}

export function makeEnforcer(
  engine: EnforcerParts,
  more: Pick<Options, 'foreign' | 'closed' | 'learned' | 'onTakeOver' | 'onApplied' | 'log'>,
): EnforcementPass {
  const { shape, kernel, docker, policies, quotas, hostMode, threats, bars } = engine;
  return new EnforcementPass({
    ...more,
    applied: engine.applied,
    shape,
    kernel,
    bars,
    threats,
    view: () => docker.view(),
    policyOf: policies.policyOf,
    limitsOf: quotas.limitsOf,
    eastWest: policies.eastWest,
    isManaged: policies.isManaged,
    isLan: policies.isLan,
    unattributed: policies.unattributed,
    hosts: hostMode.senders,
    beforeRules: async (input) => {
      await kernel.routeNeighbours(input.bridges);
      await hostMode.resolvers.sync(input);
    },
    now: Date.now,
    lookAgain: (reason, ms) => engine.reconciler.later(reason, ms),
    onStanding: (state) => engine.names.applied(state),
    inside: async (state) => {
      kernel.holdVeths(vethsOf(state));
      await kernel.removeSurplusRoutes();
      await engine.lan.applied(state);
    },
  });
}
