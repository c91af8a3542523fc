/** Packets between neighbours, of unknown and unattributed veths, and to where an entry leads. */
import type { Mutant } from './mutant.js';

const FILE = 'src/ruleset/bridge-table.ts';
const BUILDS = 'src/ruleset/bridge-table.ts';
const by = (test: string) => ({ file: 'test/kernel/bridge-rules.test.ts', test, only: true });
const past = (test: string) => ({ file: 'test/kernel/past-bridge.test.ts', test, only: true });
const PROGRAM = 'src/kernel/bridge-program.ts';
const PAST = 'src/kernel/past-bridge.ts';
const OWN = 'of an enforced veth: from its own MAC and addresses';
const rule = (text: string): string => `          '${text}',\n`;
const each = <T extends string>(
  of: readonly T[],
  make: (one: T) => Omit<Mutant, 'file'> & { readonly file?: string },
): readonly Mutant[] => of.map((one) => ({ file: FILE, ...make(one) }));

export const BRIDGE: readonly Mutant[] = [
  {
    id: 'bridge-forged',
    what: 'a forged source is held like a packet of a veth that nobody knows',
    file: FILE,
    from: "    'iif @strict drop',\n    HOLDING_BOUND,\n",
    to: '    HOLDING_BOUND,\n',
    killedBy: by('of an enforced veth: from its own MAC and addresses'),
  },
  {
    id: 'bridge-forged-held',
    what: 'a forged source is held, and then repeated',
    file: FILE,
    from: "    'iif @strict drop',\n    HOLDING_BOUND,\n",
    to: '    HOLDING_BOUND,\n',
    also: [
      {
        file: 'src/enforce/packet-hold.ts',
        from: "return own || policy.mode !== 'enforce' ? ",
        to: "return own || policy.mode !== 'off' ? ",
      },
    ],
    killedBy: {
      file: 'test/pure/enforce/packet-hold.test.ts',
      test: 'of an enforced container with another source is dropped',
    },
  },
  {
    id: 'bridge-other-mac',
    what: 'a frame to the MAC of another bridge is not lifted',
    file: FILE,
    from: rule('iif . ether daddr @bridgemac accept'),
    to: `${rule('iif . ether daddr @bridgemac accept')}${rule('ether daddr 02:42:00:00:00:02 accept')}`,
    killedBy: by(OWN),
  },
  {
    id: 'bridge-bridged',
    what: 'a packet of an unknown veth, held or not, is flooded to neighbours',
    file: FILE,
    from: '          `meta mark & ${hex((marks.unknown | marks.evaluated) >>> 0)} == ${U} drop`,\n',
    to: '',
    killedBy: by('of a veth that nobody knows: to the host'),
  },
  ...each(['4', '6'], (n) => ({
    id: `bridge-repeated-v${n}`,
    what: 'a held packet that is repeated with br_netfilter is flooded to neighbours',
    from: rule(`ether type ip${n === '6' ? '6 ip6' : ' ip'} daddr != @own${n} drop`),
    to: '',
    killedBy: by(`held with br_netfilter, and repeated as a container’s, ip${n}`),
  })),
  {
    id: 'bridge-groups',
    what: 'broadcast and multicast of an enforced container go by way of the host',
    file: FILE,
    from: '          `${GROUP} drop`,\n',
    to: '',
    killedBy: by(OWN),
  },
  {
    id: 'bridge-not-lifted',
    what: 'neighbours speak past the policy of an enforced sender',
    file: FILE,
    from: '          `meta mark & ${E} == ${E} goto route`,\n',
    to: '',
    killedBy: by(OWN),
  },
  ...each(['4', '6'], (n) => ({
    id: `bridge-to-enforced-v${n}`,
    what: 'neighbours speak to an enforced container past the rules of the host',
    from: rule(`ether type ip${n === '6' ? '6 ip6' : ' ip'} daddr @enf${n} goto route`),
    to: '',
    killedBy: by(`packets, ip${n} of others: to enforced containers`),
  })),
  ...each(['4', '6'], (n) => ({
    id: `bridge-closed-v${n}`,
    what: 'neighbours reach the store of Drawbridge at its own address',
    from: rule(`ether type ip${n === '6' ? '6 ip6' : ' ip'} daddr . tcp dport @closed${n} drop`),
    to: '',
    killedBy: by(`packets, ip${n} of others: to enforced containers`),
  })),
  {
    id: 'bridge-delivery',
    what: 'the next holder of an address gets what an entry permits to the one before',
    file: FILE,
    from: "  'ether type { ip, ip6 } drop',\n];",
    to: '];',
    killedBy: by('of the host for an enforced container: an address that is bound'),
  },
  {
    id: 'bridge-delivery-departed',
    what: 'the same while names and entries lead there, too',
    file: FILE,
    from: "  'ether type { ip, ip6 } drop',\n];",
    to: '];',
    also: [
      {
        file: 'src/enforce/veth-table.ts',
        from: 'return this.#gone.size === 0 ? view : this.#strip(view);',
        to: 'return view;',
      },
    ],
    killedBy: {
      file: 'test/attacks/heirs.test.ts',
      test: 'an entry for a neighbour leads to nobody else on its address while Docker does not answer',
    },
  },
  ...each(['4', '6'], (n) => ({
    id: `bridge-delivery-v${n}`,
    what: 'delivery is bound to veths in the other family only',
    from: `  'ether type ip${n === '6' ? '6 ip6' : ' ip'} daddr != @own${n} accept',\n`,
    to: `  'ether type ip${n === '6' ? '6' : ''} accept',\n`,
    killedBy: by(`packets, ip${n} of the host for an enforced container`),
  })),
  {
    id: 'bridge-unknown-other',
    what: 'frames of an unknown veth that are not of IP pass',
    file: FILE,
    from: "goto plain6`,\n    'drop',\n  ];",
    to: "goto plain6`,\n    'accept',\n  ];",
    killedBy: by('of a veth that nobody knows: to the host'),
  },
  {
    id: 'bridge-unknown-many',
    what: 'an unknown veth fills the queue of held packets',
    file: FILE,
    from: '    HOLDING_BOUND,\n',
    to: '',
    killedBy: by('are bounded before they are held'),
  },
  {
    id: 'reports-mac',
    what: 'listener reports pass from the MAC of another',
    file: 'src/ruleset/neighbour-frames.ts',
    from: "  'iif . ether saddr @macs accept',\n  'iif @strict drop',\n",
    to: '',
    killedBy: by('listener reports'),
  },
  {
    id: 'reports-long',
    what: 'listener reports carry what fits into a packet',
    file: 'src/ruleset/neighbour-frames.ts',
    from: '  `meta length > ${LONGEST_REPORT} drop`,\n',
    to: '',
    killedBy: by('listener reports'),
  },
  ...each(
    [
      '    `${ip} saddr @own${n} drop`,\n',
      '    `${ip} saddr != @net${n} drop`,\n',
      '    `iif @spoke${n} drop`,\n',
    ],
    (from) => ({
      id: `build-${from.includes('@own') ? 'container' : from.includes('@net') ? 'outside' : 'second'}`,
      what: 'a build step speaks from an address that is not its own',
      file: BUILDS,
      from,
      to: '',
      killedBy: by('of an unattributed veth: from one address'),
    }),
  ),
  {
    id: 'observed-neighbour-dropped',
    what: 'what is logged between observed neighbours is dropped',
    file: 'src/ruleset/bridge-table.ts',
    from: '{ ${opened} } ${log} accept`',
    to: '{ ${opened} } ${log} drop`',
    killedBy: {
      file: 'test/kernel/bridge-rules.test.ts',
      test: 'what an observed one opens to a neighbour past FORWARD, ip4 is logged, passes',
      only: true,
    },
  },
  {
    id: 'past-fragments',
    what: 'fragments are handed past the bridge, with what is no port compared as one',
    file: PROGRAM,
    from: "    op.when(0, '!=', 0, 'on'),\n    op.load('u16', 0, 2, OFFSET.port),\n",
    to: "    op.load('u16', 0, 2, OFFSET.port),\n",
    killedBy: past('leaves everything else to the rules'),
  },
  {
    id: 'past-dns',
    what: 'queries are handed past the rule that limits them for each veth',
    file: PROGRAM,
    from: "    op.when(0, '==', DNS_PORT, 'on'),\n",
    to: '',
    killedBy: past('leaves everything else to the rules'),
  },
  {
    id: 'past-lease',
    what: 'packets are handed past the bridge when the service has gone',
    file: PROGRAM,
    from: "    op.whenAbove(0, 2, 'on'),\n",
    to: '',
    killedBy: past('hands nothing over before it is told for how long'),
  },
  {
    id: 'past-foreign',
    what: 'packets are handed past the rules that another program has for frames',
    file: 'src/kernel/bridge-hooks.ts',
    from: '  hookOnPorts(foreign, isPort) ??\n',
    to: '',
    killedBy: past('a rule of another program for frames ends it'),
  },
  {
    id: 'past-limit',
    what: 'a veth that gets a limit is still handed past the rule that limits it',
    file: PAST,
    from: '    for (const element of this.#routes.keys()) if (!this.#wanted.has(element)) this.#forget(element);\n',
    to: '',
    killedBy: past('a veth with a limit is not handed past'),
  },
  {
    id: 'past-blocked',
    what: 'a port that its bridge blocks is handed past it',
    file: PAST,
    from: ' || this.#blocked.has(ifindex)',
    to: '',
    killedBy: past('a port that its bridge blocks'),
  },
  {
    id: 'past-former',
    what: 'the program of the run before decides while the first pass changes the rules',
    file: PAST,
    from: '    this.#ingress.removeProgram();\n    if (!this.#o.isWanted)',
    to: '    if (!this.#o.isWanted)',
    killedBy: past('a new start ends the program'),
  },
  {
    id: 'past-busy',
    what: 'a veth gets its ingress discipline while packets are on their way to it, and loses them',
    file: PAST,
    from: 'if (sent === before) this.#quiet',
    to: 'if (before !== undefined) this.#quiet',
    killedBy: past('a veth to which packets are on their way'),
  },
];
