import type { ContainerFacts } from '../policy/container.js';
import type { Finding } from '../policy/finding.js';
import type { Mode } from '../policy/policy.js';
import type { HostCgroups } from '../ruleset/desired-state.js';

/** Facts about a container in the host network. */
export interface HostNetworkFacts {
  /** Undefined: the cgroups have not been read yet. */
  readonly senders: HostCgroups | undefined;
  readonly mode: Mode;
  /** Why Drawbridge's resolver does not serve the container; undefined: it does. */
  readonly noResolver: string | undefined;
}
type Privileges = NonNullable<ContainerFacts['privileges']>;

/**
 * @param holder the container that is in the host network
 * @param c the same container, or one that shares its network namespace and has capabilities of its own
 */
export function hostNetworkFindings(
  holder: ContainerFacts,
  c: ContainerFacts,
  { senders, mode, noResolver }: HostNetworkFacts,
): Finding[] {
  const why = senders ? senders.open.get(holder.id) : 'its cgroup has not been read yet';
  if (why !== undefined) return [notHeld(why)];
  const late = senders?.late.get(holder.id);
  return [
    ...(late ? [LATE[late]] : []),
    ...(c.privileges ? powers(c.privileges) : []),
    ...(mode === 'enforce' && noResolver !== undefined ? [noNames(noResolver)] : []),
    ...(mode === 'observe' ? [UNSEEN_NAMES] : []),
    ...(senders?.net.gates.some((g) => g.nft === undefined) ? [NO_BACKSTOP] : []),
    HELD,
  ];
}

const HELD: Finding = {
  code: 'host-network',
  state: 'enforced',
  detail:
    'the container uses the host network and is identified by its cgroup: it reaches services that listen on the host, its own included, only by host: entries. Abstract unix sockets of the host are open to it',
  remedy: 'use a bridge network if the container does not need the host network',
};

const NO_BACKSTOP: Finding = {
  code: 'host-network-backstop',
  state: 'enforced',
  detail:
    'the container uses the host network, and nft on this host cannot match the cgroup of a sender: if another process flushes all iptables tables at once, its traffic is not filtered until Drawbridge has repaired the rules, within a second',
  remedy: 'use Linux 5.13 or newer, with the cgroup hierarchy mounted at /sys/fs/cgroup',
};

const notHeld = (why: string): Finding => ({
  code: 'host-network',
  state: 'unenforced',
  detail: `the container uses the host network, and Drawbridge cannot distinguish its traffic from that of the host: ${why}`,
  remedy: 'use a bridge network',
});

const LATE: Readonly<Record<'shared' | 'unseen', Finding>> = {
  shared: {
    code: 'host-network-start',
    state: 'partial',
    detail:
      'the container uses the host network, and Docker put it into a cgroup that also has processes of the host: what it sent before the rule for its own cgroup was installed was not filtered',
    remedy:
      'give Docker a cgroup of its own: set "cgroup-parent": "/docker" in /etc/docker/daemon.json ("containers.slice" with the systemd driver), restart Docker and recreate the container',
  },
  unseen: {
    code: 'host-network-start',
    state: 'partial',
    detail:
      'the container uses the host network and was started before Drawbridge knew the cgroup in which Docker creates containers: what it sent before the rule was installed was not filtered',
    remedy: 'restart the container',
  },
};

/** In the host network, capabilities of the container apply to the network namespace of the host. */
function powers(p: Privileges): Finding[] {
  const has = (name: string): boolean => {
    const isIn = (list: readonly string[]): boolean => list.includes(name) || list.includes('ALL');
    return p.privileged || isIn(p.capAdd) || (name === 'NET_RAW' && !isIn(p.capDrop ?? []));
  };
  if (has('NET_ADMIN'))
    return [
      {
        code: 'host-net-admin',
        state: 'unenforced',
        detail:
          'the container uses the host network with the capability NET_ADMIN: it can change the rules of Drawbridge',
        remedy: 'remove NET_ADMIN from its cap_add, or use a bridge network',
      },
    ];
  if (!has('NET_RAW')) return [];
  return [
    {
      code: 'host-net-raw',
      state: 'partial',
      detail:
        'the container uses the host network with the capability NET_RAW (Docker gives it to every container by default): frames that it sends through packet sockets pass no rule',
      remedy: 'start the container with --cap-drop NET_RAW (cap_drop: [NET_RAW])',
    },
  ];
}

const noNames = (why: string): Finding => ({
  code: 'host-network-names',
  state: 'enforced',
  detail: `the resolver of Drawbridge cannot serve the container, so its DNS queries get no answer: ${why}`,
  remedy: 'free that port, or see the log',
});

const UNSEEN_NAMES: Finding = {
  code: 'host-network-names',
  state: 'enforced',
  detail:
    'the container is observed in the host network, where its DNS queries go to the resolver of the host: Drawbridge cannot show which of its connections an entry by name would allow',
  remedy: '',
};
