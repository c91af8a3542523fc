import type { FrameCheckState } from '../kernel/frame-checks.js';
import type { LanStatus } from '../namespaces/netns-rules.js';
import { type ContainerFacts, isWithoutGateway, type NetworkFacts } from '../policy/container.js';
import type { Finding } from '../policy/finding.js';
import type { Mode } from '../policy/policy.js';
import type { HostCgroups } from '../ruleset/desired-state.js';

export interface NetworkPlace {
  /** The container that owns its network namespace: itself, unless it shares that of another container. */
  readonly holder: ContainerFacts;
  readonly networks: ReadonlyMap<string, NetworkFacts>;
  /** Ids of the networks with a managed bridge. */
  readonly managed: ReadonlySet<string>;
  readonly hostNetwork: HostNetworkFacts;
  readonly lan: LanFacts;
  readonly frames: FrameCheckState;
}

/** Why traffic of these drivers does not pass the FORWARD chain of the host. */
const DRIVERS: Readonly<Record<string, string>> = {
  overlay:
    'endpoints of it, on any host of the swarm, are reached without evaluation; what leaves the swarm goes through docker_gwbridge and is evaluated there',
};

/** A container may be on networks of which the rules do not evaluate the traffic: these are the reasons that coverage gives. */
export function networkFindings(c: ContainerFacts, place: NetworkPlace): Finding[] {
  const { holder } = place;
  const shared = holder.id === c.id ? [] : [sharedWith(c, holder)];
  if (holder.networkMode === 'host') return [...shared, ...hostNetworkFindings(holder, c, place.hostNetwork)];
  const isBridged = holder.endpoints.some((e) => place.managed.has(e.networkId));
  return [
    ...shared,
    ...holder.endpoints.flatMap((e) => networkFinding(e.networkId, place)),
    ...(isBridged && place.lan.mode === 'enforce' ? bridgedFrames(place) : []),
  ];
}

/** Undefined when frames are checked before all rules, also while the service does not run. */
export function frameFinding({
  isOn,
  isKept,
  why = '',
}: FrameCheckState): Omit<Finding, 'state'> | undefined {
  if (isOn && isKept) return undefined;
  return {
    code: 'frames',
    detail: isOn
      ? `frames of containers with NET_RAW are checked before all rules only while the service runs: ${why}`
      : `frames are not checked before all rules: a container with NET_RAW chooses into which segments the kernel cuts what it sends, and where checksums of these are written behind the last rule, so that other bytes can arrive than were evaluated: ${why}`,
    remedy: isOn
      ? 'mount that file system (systemd does), or start the containers with --cap-drop NET_RAW'
      : 'use Linux 6.4 or newer with CONFIG_NETFILTER_BPF_LINK and CONFIG_DEBUG_INFO_BTF (Debian 13 has them), or start the containers with --cap-drop NET_RAW',
  };
}

function bridgedFrames({ frames, lan }: NetworkPlace): Finding[] {
  const found = lan.members.some((c) => has(c, 'NET_RAW')) ? frameFinding(frames) : undefined;
  return found ? [{ state: 'partial', ...found }] : [];
}

/** Its own labels have no effect; the policy of the holder is enforced. */
const sharedWith = (c: ContainerFacts, holder: ContainerFacts): Finding => ({
  code: 'shared-network',
  state: Object.keys(c.labels).some((l) => l.startsWith('drawbridge.')) ? 'partial' : 'enforced',
  detail: `the container shares the network namespace of ${holder.name}: the policy of that container applies, and its own labels have no effect`,
  remedy: `set the policy on ${holder.name}`,
});

function networkFinding(id: string, { networks, managed, lan }: NetworkPlace): Finding[] {
  const network = networks.get(id);
  if (!network) return [];
  if (managed.has(id)) return withoutGateway(network);
  // On an internal network and on an overlay only other members are reached.
  const state = network.internal || network.driver === 'overlay' ? 'partial' : 'unenforced';
  if (network.driver === 'macvlan' || network.driver === 'ipvlan') return lanFindings(network, state, lan);
  const why = DRIVERS[network.driver];
  if (why !== undefined)
    return [
      {
        code: `${network.driver}-network`,
        state,
        detail: `network ${network.name} is ${network.driver}: ${why}`,
        remedy: 'use a bridge network',
      },
    ];
  if (network.driver === 'bridge')
    return [
      {
        code: 'unmanaged-network',
        state,
        detail: `network ${network.name} is not managed: traffic through it is not filtered`,
        remedy: 'remove the network from networks.ignore of the configuration, or add it to networks.manage',
      },
    ];
  if (network.driver === 'null' || network.driver === 'none') return [];
  return [
    {
      code: 'unknown-network',
      state,
      detail: `network ${network.name} has the driver ${network.driver}: Drawbridge does not know where its traffic passes, and does not filter it`,
      remedy: 'use a bridge network',
    },
  ];
}

/**
 * Packets between neighbours are routed by the host. Docker disables IPv6 on a bridge of the gateway mode "isolated"
 * (disable_ipv6), so that the host drops what the bridge table lifts. Over IPv4 policy routes lead to the neighbours.
 */
function withoutGateway(network: NetworkFacts): Finding[] {
  if (!isWithoutGateway(network, 6) || !network.ipv6) return [];
  return [
    {
      code: 'no-gateway',
      state: 'enforced',
      detail: `Docker disables IPv6 on the bridge of network ${network.name}: enforced containers there reach no neighbour over IPv6, with or without an entry`,
      remedy:
        'create the network without the gateway mode "isolated" of IPv6, or without --ipv6, or exclude it from enforcement with networks.ignore of the configuration',
    },
  ];
}

/** Facts about a container in the host network. */
interface HostNetworkFacts {
  /** Undefined: the cgroups have not been read yet. */
  readonly senders: HostCgroups | undefined;
  readonly mode: Mode;
  /** Why Drawbridge's resolver does not serve the container; undefined: it does. */
  readonly noResolver: string | undefined;
  /** Kinds of sockets that send past the rules for the host's network. */
  readonly unseenSockets?: readonly string[];
}

/**
 * @param holder the container that is in the host network
 * @param c the same container, or one that shares its network namespace and has capabilities of its own
 */
function hostNetworkFindings(
  holder: ContainerFacts,
  c: ContainerFacts,
  { senders, mode, noResolver, unseenSockets = [] }: HostNetworkFacts,
): Finding[] {
  const why = senders ? senders.open.get(holder.id) : 'its cgroup has not been read yet';
  if (why !== undefined) return [notHeld(why)];
  const late = senders?.late.get(holder.id);
  return [
    ...(late ? [LATE[late]] : []),
    ...powers(c),
    ...(mode === 'enforce' && unseenSockets.length > 0 ? [unseen(unseenSockets)] : []),
    ...(mode === 'enforce' && noResolver !== undefined ? [noNames(noResolver)] : []),
    ...(mode === 'observe' ? [UNSEEN_NAMES] : []),
    ...(senders?.net.gates.some((g) => g.nft === undefined) ? [NO_BACKSTOP] : []),
    HELD,
  ];
}

const unseen = (kinds: readonly string[]): Finding => ({
  code: 'host-network-sockets',
  state: 'partial',
  detail: `the container uses the host network, and the kernel has sockets whose packets are not IP packets of their sender: ${kinds.join(', ')}. Without any capability it can send by them, past all rules`,
  remedy:
    'use a bridge network, or unload the module and keep it from being loaded (modprobe.d: install NAME /bin/false)',
});

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
      'the container uses the host network and was started before Drawbridge knew the cgroup in which Docker creates containers, such as the first one of a new --cgroup-parent: what it sent before the rule was installed was not filtered',
    remedy:
      'restart the container; before the first one of another --cgroup-parent, start a container on a bridge network there',
  },
};

/** In the host network, capabilities of the container apply to the network namespace of the host. */
function powers(c: ContainerFacts): Finding[] {
  if (has(c, 'NET_ADMIN'))
    return [
      {
        code: 'host-net-admin',
        state: 'unenforced',
        detail:
          'the container uses the host network with the capability NET_ADMIN: it can change the rules of Drawbridge',
        remedy: 'remove NET_ADMIN from its cap_add, or use a bridge network',
      },
    ];
  if (!has(c, 'NET_RAW')) return [];
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

/** Facts about a container on macvlan or ipvlan networks. */
export interface LanFacts {
  readonly isManaged: (network: NetworkFacts) => boolean;
  readonly mode: Mode;
  /** Undefined: no rules are installed inside its network namespace. */
  readonly status: LanStatus | undefined;
  /** The container has a drawbridge.limit. */
  readonly isLimited: boolean;
  /** A person is asked about what its policy does not permit. */
  readonly isAsking?: boolean;
  /** All containers of its network namespace, itself included. */
  readonly members: readonly ContainerFacts[];
}
type State = Finding['state'];

/** Evaluate one macvlan or ipvlan network of a container. `open`: the state if nothing filters its traffic there. */
function lanFindings(network: NetworkFacts, open: State, facts: LanFacts): Finding[] {
  const code = `${network.driver}-network`;
  const where = `network ${network.name} is ${network.driver}: its packets do not pass the rules of the host`;
  const say = (state: State, detail: string, remedy: string): Finding => ({ code, state, detail, remedy });
  if (!facts.isManaged(network))
    return [
      say(
        open,
        `${where}, and the network is not managed, so nothing is filtered on it`,
        'remove the network from networks.ignore of the configuration, or add it to networks.manage',
      ),
    ];
  if (facts.mode !== 'enforce')
    return [
      say(
        open,
        `${where}, and in mode ${facts.mode} no rules are installed inside the container: its traffic there is neither recorded nor blocked, threats included`,
        'enforce the container, so that rules are installed inside its own network namespace, or use a bridge network',
      ),
    ];
  const mighty = facts.members.find(mayChangeRules);
  if (mighty)
    return [
      say(
        open,
        `${where}, and ${mighty.name} has NET_ADMIN: it can remove the rules inside its own network namespace`,
        `remove NET_ADMIN (or privileged) from ${mighty.name}, or use a bridge network`,
      ),
    ];
  const failure = facts.status ? facts.status.failure : 'its network namespace is not known yet';
  if (failure !== undefined)
    return [
      say(
        open,
        `${where}, and the rules inside its own network namespace are not installed: ${failure}`,
        'check again in a moment; if this remains, see the log',
      ),
    ];
  return [
    ...raw(network, facts),
    ...(facts.isLimited ? [unlimited(network)] : []),
    ...(facts.isAsking ? [namesOnly(network)] : []),
    held(say, where),
  ];
}

const held = (say: (state: State, detail: string, remedy: string) => Finding, where: string): Finding =>
  say(
    'enforced',
    `${where}, so rules inside the network namespace of the container filter them. These rules do not know threat feeds: an address that a feed lists can be reached if an address entry of the container covers it. A container that starts while the service is not running has no such rules until the service is back`,
    'use a bridge network if these limits matter',
  );

/** A queue belongs to one network namespace, and the service has those of the host. */
const namesOnly = (network: NetworkFacts): Finding => ({
  code: `ask-${network.driver}-network`,
  state: 'enforced',
  detail: `on network ${network.name} a person is asked about names only (drawbridge.ask): an address that no entry permits is denied at once`,
  remedy: 'use a bridge network',
});

const unlimited = (network: NetworkFacts): Finding => ({
  code: `limit-${network.driver}-network`,
  state: 'partial',
  detail: `its drawbridge.limit is not enforced on network ${network.name}: the host has no veth there on which it could count`,
  remedy: 'use a bridge network',
});

function raw(network: NetworkFacts, { members, status }: LanFacts): Finding[] {
  const sender = members.find((c) => has(c, 'NET_RAW'));
  if (!sender) return [];
  const frames = status?.frames;
  return [
    {
      code: `${network.driver}-net-raw`,
      state: 'partial',
      detail:
        frames === undefined
          ? `${sender.name} has NET_RAW (Docker gives it to every container by default): it can send on network ${network.name} through AF_XDP sockets, which bypass the rules inside its network namespace`
          : `${sender.name} has NET_RAW (Docker gives it to every container by default): it can send on network ${network.name} through packet sockets, which are not filtered there: ${frames}`,
      remedy: 'start the container with --cap-drop NET_RAW (cap_drop: [NET_RAW])',
    },
  ];
}

function has({ privileges: p }: ContainerFacts, name: string): boolean {
  if (!p) return false; // reported as not inspected
  const isIn = (list: readonly string[]): boolean => list.includes(name) || list.includes('ALL');
  return p.privileged || isIn(p.capAdd) || (name === 'NET_RAW' && !isIn(p.capDrop ?? []));
}
const mayChangeRules = (c: ContainerFacts): boolean => has(c, 'NET_ADMIN');
