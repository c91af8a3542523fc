import { hasSandbox, isOnLan, type MadeNamespaceDns } from '../dns/container-namespaces.js';
import type { DockerWatch } from '../docker/watch.js';
import type { Denials } from '../enforce/denials.js';
import type { LearnedPort } from '../enforce/learned-sets.js';
import { DeniedLog } from '../enforce/packet-io.js';
import { exec } from '../kernel/exec.js';
import { Conntrack } from '../kernel/netlink/conntrack.js';
import {
  closeLan,
  generationIn,
  lanEnds,
  layLan,
  lookLan,
  putLanMember,
  removeLan,
  takeLanMember,
} from '../kernel/netns-tables.js';
import type { Logger } from '../lib/log.js';
import { NetnsRules } from '../netns-rules/netns-rules.js';
import type { ContainerFacts, NetworkFacts } from '../policy/container.js';
import type { Policy } from '../policy/policy.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { KernelConfig } from '../ruleset/desired-state.js';
import { identityMark } from '../ruleset/marks.js';
import type { LanInput } from '../ruleset/netns-program.js';
import type { ReservedPort } from '../ruleset/reserved-ports.js';

export interface LanParts {
  readonly shape: KernelConfig;
  readonly docker: DockerWatch;
  readonly denials: Pick<Denials, 'packet'>;
  readonly learned: LearnedPort;
  readonly namespaces: MadeNamespaceDns;
  readonly state: () => AppliedState | undefined;
  readonly closed: () => readonly ReservedPort[];
  readonly hostAddresses: () => ReadonlySet<string>;
  readonly policyOf: (facts: ContainerFacts) => Policy;
  readonly isLan: (network: NetworkFacts) => boolean;
  readonly onRepair: () => void;
  readonly log: Logger;
}

export function makeLan(parts: LanParts): NetnsRules {
  const { docker, namespaces, learned, log } = parts;
  return new NetnsRules({
    kernel: lanKernel(parts),
    learned,
    pathOf: namespaces.pathOf,
    resolverAt: namespaces.resolverAt,
    closed: () => parts.closed().flatMap((place) => everywhere(place, parts.hostAddresses())),
    isNeeded: () => [...docker.view().networks.values()].some(parts.isLan),
    awaited: () =>
      [...docker.view().containers.values()]
        .filter(
          (c) => (c.state === 'starting' || c.state === 'running') && !hasSandbox(c) && isOnLan(parts, c.id),
        )
        .map((c) => ({ ...c, isEnforced: () => parts.policyOf(c).mode === 'enforce' })),
    joiners: () =>
      [...docker.view().containers.values()]
        .filter((c) => hasSandbox(c) && c.networkMode !== 'host' && c.sharesWith === undefined)
        .map((c) => ({
          id: c.id,
          path: c.privileges?.sandboxKey ?? '',
          isEnforced: () => parts.policyOf(c).mode === 'enforce',
        })),
    askAgain: (network) =>
      void docker
        .inspectNetwork(network)
        .catch((e: unknown) =>
          log.debug({ network, err: String(e) }, 'a new namespace stays closed until Docker answers'),
        ),
    onClaim: (id, path) => namespaces.service.claimed(id, path),
    onRepair: parts.onRepair,
    log,
  });
}

const everywhere = ({ address, port }: ReservedPort, host: ReadonlySet<string>): LanInput['closed'] =>
  [...(address === undefined ? host : [address])].map((a) => ({ address: a, port }));

function lanKernel({ shape, state, denials }: LanParts): LanKernel {
  return {
    close: closeLan,
    lay: (path, program) => layLan(exec, path, program),
    look: (path) => lookLan(exec, path),
    generation: generationIn,
    remove: removeLan,
    put: putLanMember,
    take: takeLanMember,
    ends: lanEnds,
    flows: (namespace) => new Conntrack({ namespace }),
    follow: (namespace, container) =>
      new DeniedLog({ group: shape.logGroup, namespace }, (packet) => {
        const member = state()?.subjects.get(container);
        if (member) denials.packet({ ...packet, mark: identityMark(shape.marks, member.identity) });
      }),
  };
}
