import type { Denials } from '../control/denials.js';
import type { InForce } from '../control/enforcer.js';
import type { LearnedPort } from '../control/kernel-port.js';
import { LanRules } from '../control/lan.js';
import type { LanKernel } from '../control/lan-namespace.js';
import type { Place } from '../desired/closed.js';
import type { LanInput } from '../desired/lan-program.js';
import { identityMark } from '../desired/marks.js';
import type { Shape } from '../desired/state.js';
import type { DockerWatch } from '../docker/watch.js';
import { exec } from '../kernel/exec.js';
import {
  closeLan,
  generationIn,
  lanEnds,
  layLan,
  lookLan,
  putLanMember,
  removeLan,
  takeLanMember,
} from '../kernel/lan-rules.js';
import { Conntrack } from '../kernel/netlink/conntrack.js';
import type { Flow } from '../kernel/netlink/conntrack-codec.js';
import type { ContainerFacts, NetworkFacts } from '../model/container.js';
import type { Policy } from '../model/policy.js';
import type { Logger } from '../ports.js';
import { hasSandbox, isOnLan, type MadeNamespaceDns } from './namespaces.js';
import { DeniedLog } from './packets.js';

export interface LanParts {
  readonly shape: Shape;
  readonly docker: DockerWatch;
  readonly denials: Pick<Denials, 'packet'>;
  readonly learned: LearnedPort;
  readonly namespaces: MadeNamespaceDns;
  readonly state: () => InForce | undefined;
  readonly closed: () => readonly Place[];
  readonly hostAddresses: () => ReadonlySet<string>;
  readonly policyOf: (facts: ContainerFacts) => Policy;
  readonly isLan: (network: NetworkFacts) => boolean;
  readonly onRepair: () => void;
  readonly log: Logger;
}

export function makeLan(parts: LanParts): LanRules<Flow> {
  const { docker, namespaces, learned, log } = parts;
  return new LanRules<Flow>({
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

const everywhere = ({ address, port }: Place, host: ReadonlySet<string>): LanInput['closed'] =>
  [...(address === undefined ? host : [address])].map((a) => ({ address: a, port }));

function lanKernel({ shape, state, denials }: LanParts): LanKernel<Flow> {
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
        const member = state()?.members.get(container);
        if (member) denials.packet({ ...packet, mark: identityMark(shape.marks, member.identity) });
      }),
  };
}
