import type { ContainerFacts, NetworkFacts } from '../model/container.js';
import type { Finding } from '../model/finding.js';
import type { Mode } from '../model/policy.js';
import type { LanStatus } from './lan.js';

/** What is known of a container on macvlan or ipvlan networks. */
export interface LanFacts {
  readonly isManaged: (network: NetworkFacts) => boolean;
  readonly mode: Mode;
  /** Undefined: nothing is laid inside its namespace. */
  readonly status: LanStatus | undefined;
  /** It has a drawbridge.limit. */
  readonly isLimited: boolean;
  /** All that live in its namespace, itself among them. */
  readonly members: readonly ContainerFacts[];
}
type State = Finding['state'];

/** Why its traffic on one such network is held, or is not. `open`: what it is where nothing holds it. */
export function lanFindings(network: NetworkFacts, open: State, facts: LanFacts): Finding[] {
  const code = `${network.driver}-network`;
  const where = `network ${network.name} is ${network.driver}: what leaves there never passes the host`;
  const say = (state: State, detail: string, remedy: string): Finding => ({ code, state, detail, remedy });
  if (!facts.isManaged(network))
    return [
      say(
        open,
        `${where}, and it is not managed`,
        'take it out of networks.ignore, or into networks.manage, of the configuration',
      ),
    ];
  if (facts.mode !== 'enforce')
    return [
      say(
        open,
        `${where}; in mode ${facts.mode} it is neither seen nor kept from threats`,
        'enforce it: then rules inside its own namespace hold it; or use a bridge network',
      ),
    ];
  const mighty = facts.members.find(mayChangeRules);
  if (mighty)
    return [
      say(
        open,
        `${where}, and with NET_ADMIN ${mighty.name} can take away the rules inside its own namespace`,
        `take NET_ADMIN (or privileged) from ${mighty.name}, or use a bridge network`,
      ),
    ];
  const failure = facts.status ? facts.status.failure : 'its namespace is not known yet';
  if (failure !== undefined)
    return [
      say(
        open,
        `${where}, and rules inside its own namespace do not stand: ${failure}`,
        'look again in a moment; if it stays so, see the log',
      ),
    ];
  return [...raw(network, facts), ...(facts.isLimited ? [unlimited(network)] : []), held(say, where)];
}

const held = (say: (state: State, detail: string, remedy: string) => Finding, where: string): Finding =>
  say(
    'enforced',
    `${where}, but by the rules inside its own namespace. Those know no feeds: an address that a feed lists is open where one of its address entries covers it. And what starts while the service is away has no such rules until it is back`,
    'use a bridge network where that matters',
  );

const unlimited = (network: NetworkFacts): Finding => ({
  code: `limit-${network.driver}-network`,
  state: 'partial',
  detail: `its drawbridge.limit is not held on network ${network.name}: what leaves there passes no port to count at`,
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
          ? `with NET_RAW (Docker gives it to every container) ${sender.name} may send through AF_XDP sockets, which go around the rules inside its namespace on network ${network.name}`
          : `with NET_RAW (Docker gives it to every container) ${sender.name} may send through packet sockets, which are not held on network ${network.name}: ${frames}`,
      remedy: 'start it with --cap-drop NET_RAW (cap_drop: [NET_RAW])',
    },
  ];
}

function has({ privileges: p }: ContainerFacts, name: string): boolean {
  if (!p) return false; // said as not inspected
  const isIn = (list: readonly string[]): boolean => list.includes(name) || list.includes('ALL');
  return p.privileged || isIn(p.capAdd) || (name === 'NET_RAW' && !isIn(p.capDrop ?? []));
}
const mayChangeRules = (c: ContainerFacts): boolean => has(c, 'NET_ADMIN');
