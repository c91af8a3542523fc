/** Rules inside the namespaces of containers on macvlan and ipvlan networks. */
import type { Mutant } from './mutant.js';

const FILE = 'src/ruleset/netns-program.ts';
const by = (test: string) => ({ file: 'test/attacks/macvlan.test.ts', test, only: true });

const inside = {
  file: 'test/kernel/namespaces/lan-rules.test.ts',
  test: 'from an address that is not local',
  only: true,
};

export const LAN: readonly Mutant[] = [
  {
    id: 'lan-neighbour-length',
    what: 'neighbour discovery carries data behind it',
    file: FILE,
    from: '...[64, 72].flatMap',
    to: '...[64, 72, 80, 104].flatMap',
    killedBy: { ...inside, test: 'in its honest lengths alone' },
  },
  {
    id: 'lan-forged-judged',
    what: 'a packet with a forged source is evaluated as any other',
    file: FILE,
    from: "    'fib saddr type != local goto forged',\n    `${bit",
    to: '    `${bit',
    killedBy: inside,
  },
  {
    id: 'lan-forged-leaving',
    what: 'what was permitted leaves with a forged source',
    file: FILE,
    from: "        ...leaving('ct state new fib saddr type != local drop'),\n",
    to: '',
    killedBy: inside,
  },
  {
    id: 'lan-forged-refused',
    what: 'a refusal goes to a forged source',
    file: FILE,
    from: "[logging(shape), 'fib saddr type != local drop', ",
    to: '[logging(shape), ',
    killedBy: inside,
  },
  {
    id: 'lan-hop-by-hop',
    what: 'hop-by-hop options pass',
    file: FILE,
    from: "['hbh', 'rt', 'dst', 'mh'].map",
    to: "['rt', 'dst', 'mh'].map",
    killedBy: by('macvlan-hop-by-hop'),
  },
  {
    id: 'lan-routing',
    what: 'routing headers pass',
    file: FILE,
    from: "['hbh', 'rt', 'dst', 'mh'].map",
    to: "['hbh', 'dst', 'mh'].map",
    killedBy: by('macvlan-routing'),
  },
  {
    id: 'lan-destination',
    what: 'destination options pass, also behind the header of a whole fragment',
    file: FILE,
    from: "['hbh', 'rt', 'dst', 'mh'].map",
    to: "['hbh', 'rt', 'mh'].map",
    killedBy: by('macvlan-destination'),
  },
  {
    id: 'lan-behind-fragment',
    what: 'destination options pass behind the header of a whole fragment',
    file: FILE,
    from: "['hbh', 'rt', 'dst', 'mh'].map",
    to: "['mh'].map",
    killedBy: by('macvlan-behind-fragment'),
  },
  {
    id: 'lan-options',
    what: 'IPv4 options pass',
    file: FILE,
    from: "    'ip hdrlength > 5 goto denied',\n",
    to: '',
    killedBy: by('macvlan-options'),
  },
  {
    id: 'lan-forged',
    what: 'forged sources pass to permitted destinations',
    file: FILE,
    from: "    'fib saddr type != local goto forged',\n    `${bit",
    to: '    `${bit',
    also: [
      { file: FILE, from: "        ...leaving('ct state new fib saddr type != local drop'),\n", to: '' },
    ],
    killedBy: by('macvlan-forged-permitted'),
  },
  {
    id: 'lan-frames',
    what: 'frames of packet sockets pass',
    file: FILE,
    from: 'priority 0; policy drop`',
    to: 'priority 0; policy accept`',
    killedBy: by('macvlan-packet'),
  },
];
