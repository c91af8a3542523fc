import type { DnsService } from '../dns/dns-service.js';
import type { NamesPolicy } from '../dns/names-policy.js';
import type { DockerWatch } from '../docker/watch.js';
import type { HostMode } from '../enforce/host-cgroups.js';
import { EnforcementPass, type PassParts } from '../enforce/pass.js';
import type { Policies } from '../enforce/policies.js';
import type { Quotas } from '../enforce/quotas.js';
import type { Kernel } from '../kernel/kernel.js';
import type { NetnsRules } from '../netns-rules/netns-rules.js';

/** Parts of the engine, some of which are made later than this. */
interface EnforcerParts extends Pick<PassParts, 'applied' | 'shape' | 'threats' | 'bars'> {
  readonly kernel: Kernel;
  readonly docker: DockerWatch;
  readonly policies: Policies;
  readonly quotas: Quotas;
  readonly hostMode: HostMode;
  readonly lan: NetnsRules;
  readonly names: NamesPolicy;
  readonly dns: DnsService;
}

export function makeEnforcer(
  engine: EnforcerParts,
  more: Pick<PassParts, 'foreign' | 'closed' | 'log'>,
): EnforcementPass {
  const { applied, shape, kernel, docker, policies, quotas, hostMode, names, dns, threats, bars } = engine;
  return new EnforcementPass({
    ...more,
    applied,
    shape,
    kernel,
    docker,
    policies,
    quotas,
    hostMode,
    names,
    dns,
    threats,
    bars,
    now: Date.now,
    installInNamespaces: (state) => engine.lan.applied(state),
  });
}
