import type { ContainerFacts } from '../model/container.js';
import type { Finding } from '../model/finding.js';
import type { Mode } from '../model/policy.js';
import type { HostSenders } from './host-senders.js';

/** What is known of a container in the host's network. */
export interface HostNetworkFacts {
  /** Undefined: nobody has looked yet. */
  readonly senders: HostSenders | undefined;
  readonly mode: Mode;
  /** Why our resolver does not stand for it. */
  readonly noResolver: string | undefined;
}
type Privileges = NonNullable<ContainerFacts['privileges']>;

/**
 * @param holder the container that is in the host's network
 * @param c itself, or one that shares its network: with powers of its own
 */
export function hostNetworkFindings(
  holder: ContainerFacts,
  c: ContainerFacts,
  { senders, mode, noResolver }: HostNetworkFacts,
): Finding[] {
  const why = senders ? senders.open.get(holder.id) : 'it has not been looked at yet';
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
    'it uses the host network and is told from the host by its cgroup: whatever listens on the host, its own ports too, it reaches only by host: entries; abstract unix sockets of the host are open to it',
  remedy: 'give it a bridge network where it can do without the host’s',
};

const NO_BACKSTOP: Finding = {
  code: 'host-network-backstop',
  state: 'enforced',
  detail:
    'it uses the host network, and nft on this host cannot ask for the cgroup of a sender: whoever flushes every table of iptables at once leaves it open until the repair, within a second',
  remedy: 'use Linux 5.13 or newer, with the cgroup hierarchy at /sys/fs/cgroup',
};

const notHeld = (why: string): Finding => ({
  code: 'host-network',
  state: 'unenforced',
  detail: `it uses the host network, and nothing tells its traffic from the host’s own: ${why}`,
  remedy: 'give it a bridge network',
});

const LATE: Readonly<Record<'shared' | 'unseen', Finding>> = {
  shared: {
    code: 'host-network-start',
    state: 'partial',
    detail:
      'it uses the host network and Docker puts it beside the host’s own processes: what it sent in its first moments, before its rule stood, was not held',
    remedy:
      'give Docker a cgroup of its own: "cgroup-parent": "/docker" in /etc/docker/daemon.json ("containers.slice" with the systemd driver), restart Docker and recreate it',
  },
  unseen: {
    code: 'host-network-start',
    state: 'partial',
    detail:
      'it uses the host network and was started before Drawbridge knew where Docker puts containers: what it had sent before was not held',
    remedy: 'restart it',
  },
};

/** In the host's network its capabilities are over the host's network. */
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
        detail: 'it uses the host network with the capability NET_ADMIN: it can change our rules',
        remedy: 'take NET_ADMIN out of its cap_add, or give it a bridge network',
      },
    ];
  if (!has('NET_RAW')) return [];
  return [
    {
      code: 'host-net-raw',
      state: 'partial',
      detail:
        'it uses the host network with the capability NET_RAW (Docker gives it to every container): frames of its own making leave beside every rule',
      remedy: 'start it with --cap-drop NET_RAW (cap_drop: [NET_RAW])',
    },
  ];
}

const noNames = (why: string): Finding => ({
  code: 'host-network-names',
  state: 'enforced',
  detail: `our resolver does not stand for it, so its names get no answer: ${why}`,
  remedy: 'free that port, or see the log',
});

const UNSEEN_NAMES: Finding = {
  code: 'host-network-names',
  state: 'enforced',
  detail:
    'while it is observed in the host network its names are asked of the host’s resolver: entries by name cannot be told in what it reaches',
  remedy: '',
};
