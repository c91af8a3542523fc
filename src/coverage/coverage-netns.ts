import type { LanStatus } from '../netns-rules/netns-rules.js';
import type { ContainerFacts, NetworkFacts } from '../policy/container.js';
import type { Finding } from '../policy/finding.js';
import type { Mode } from '../policy/policy.js';

/** Facts about a container on macvlan or ipvlan networks. */
export interface LanFacts {
  readonly isManaged: (network: NetworkFacts) => boolean;
  readonly mode: Mode;
  /** Undefined: no rules are installed inside its network namespace. */
  readonly status: LanStatus | undefined;
  /** The container has a drawbridge.limit. */
  readonly isLimited: boolean;
  /** All containers of its network namespace, itself included. */
  readonly members: readonly ContainerFacts[];
}
type State = Finding['state'];

/** Evaluate one macvlan or ipvlan network of a container. `open`: the state if nothing filters its traffic there. */
export function lanFindings(network: NetworkFacts, open: State, facts: LanFacts): Finding[] {
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
  return [...raw(network, facts), ...(facts.isLimited ? [unlimited(network)] : []), held(say, where)];
}

const held = (say: (state: State, detail: string, remedy: string) => Finding, where: string): Finding =>
  say(
    'enforced',
    `${where}, so rules inside the network namespace of the container filter them. These rules do not know threat feeds: an address that a feed lists can be reached if an address entry of the container covers it. A container that starts while the service is not running has no such rules until the service is back`,
    'use a bridge network if these limits matter',
  );

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
