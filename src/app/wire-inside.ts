import { ContainerNamespaces } from '../dns/container-namespaces.js';
import type { DnsService } from '../dns/dns-service.js';
import { NamespaceDns } from '../dns/namespace-dns.js';
import type { SandboxFolders } from '../dns/sandbox-folders.js';
import type { DockerWatch } from '../docker/watch.js';
import type { LearnedPort } from '../enforce/learned-sets.js';
import type { DeniedLog } from '../enforce/packet-io.js';
import type { Policies } from '../enforce/policies.js';
import type { Kernel } from '../kernel/kernel.js';
import type { SetWriter } from '../kernel/netlink/ipset.js';
import type { ResolverSockets } from '../kernel/resolver-rules.js';
import type { Sandboxes } from '../kernel/sandboxes.js';
import type { Current } from '../lib/current.js';
import type { Logger } from '../lib/log.js';
import { NetnsRules } from '../netns-rules/netns-rules.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { KernelConfig } from '../ruleset/desired-state.js';
import type { ReservedPort } from '../ruleset/reserved-ports.js';

/** Parts of the engine, some of which are made later than this. */
interface InsideParts {
  readonly shape: KernelConfig;
  readonly kernel: Kernel;
  readonly dns: DnsService;
  readonly docker: DockerWatch;
  readonly policies: Policies;
  readonly denials: { packet: ConstructorParameters<typeof DeniedLog>[1] };
  readonly applied: Current<AppliedState>;
  readonly state: AppliedState | undefined;
  lastRepair: string | null;
}
interface Inside {
  readonly namespaceDns: NamespaceDns;
  readonly lan: NetnsRules;
  readonly furnished: (path: string, sockets: ResolverSockets) => void;
  readonly askedBefore: NamespaceDns['askedBefore'];
}

/** What stands inside containers' own namespaces: our resolver, and rules where nothing passes the host. */
export function makeInside(
  engine: InsideParts,
  more: {
    readonly folders: SandboxFolders;
    readonly sandboxes: Sandboxes;
    readonly learned: LearnedPort;
    readonly closed: () => readonly ReservedPort[];
    readonly log: Logger;
  },
): Inside {
  const { kernel, docker, dns, denials, shape } = engine;
  const { policyOf, isManaged, isLan } = engine.policies;
  const { folders, sandboxes, learned, closed, log } = more;
  const onAttached = (): void => void lan.applied();
  const namespaces = new ContainerNamespaces({
    kernel,
    dns,
    docker,
    applied: engine.applied,
    folders,
    sandboxes,
    policyOf,
    isManaged,
    isLan,
  });
  const namespaceDns = new NamespaceDns({ namespaces, onAttached, log });
  const lan: NetnsRules = new NetnsRules({
    shape,
    applied: engine.applied,
    kernel,
    docker,
    policies: engine.policies,
    denials,
    learned,
    namespaces,
    namespaceDns,
    closed,
    onRepair: () => {
      engine.lastRepair = new Date().toISOString();
    },
    log,
  });
  return {
    namespaceDns,
    lan,
    furnished: (path, sockets) => namespaceDns.appeared(path, () => namespaces.prepared(path, sockets)),
    askedBefore: (path, e) => namespaceDns.askedBefore(path, e),
  };
}

/** What the ledger writes on the host is written inside, too, before an answer leaves. */
export function alsoInside(sets: SetWriter, lan: () => SetWriter): SetWriter {
  return {
    add: async (set, address, seconds) => {
      await sets.add(set, address, seconds);
      await lan().add(set, address, seconds);
    },
    remove: async (set, address) => {
      await sets.remove(set, address);
      await lan().remove(set, address);
    },
  };
}
