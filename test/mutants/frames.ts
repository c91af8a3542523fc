/** What a packet is when it leaves, and what reaches the host past the rules for frames. */
import type { Mutant } from './mutant.js';

const CHECK = 'src/kernel/frame-checks.ts';
const TABLE = 'src/ruleset/backstop-table.ts';
const PORTS = 'src/ruleset/bridge-table.ts';
const NEIGHBOURS = 'src/ruleset/neighbour-frames.ts';
const QUEUE = 'src/connections/connection-checks.ts';
const by = (test: string) => ({ file: 'test/kernel/frame-check.test.ts', test, only: true });
const layers = (test: string) => ({ file: 'test/kernel/layers.test.ts', test, only: true });
const check = (id: string, what: string, from: string, to: string, test: string): Mutant => ({
  id,
  what,
  file: CHECK,
  from,
  to,
  killedBy: by(test),
});

export const FRAMES: readonly Mutant[] = [
  check(
    'frame-start',
    'a checksum may begin anywhere',
    "    op.whenDiffers(0, 7, 'drop'),\n",
    '',
    'a checksum of other bytes, at the same distance does not',
  ),
  check(
    'frame-place',
    'a checksum may be written anywhere behind the header of IP',
    "      op.when(2, '!=', checksum, 'drop'),\n",
    '',
    'a checksum in the port does not',
  ),
  check(
    'frame-protocol',
    'a checksum of a protocol that has none is written',
    "      `not ${number}`,\n    ]),\n\n    'drop',\n",
    "      `not ${number}`,\n    ]),\n    op.jump('accept'),\n\n    'drop',\n",
    'a checksum of a protocol that has none does not',
  ),
  check(
    'frame-fragment',
    'a checksum is written into a fragment of IPv4',
    "          op.when(2, '==', 0, 'linear'),\n          ...whenPartial('drop'),\n",
    "          op.when(2, '==', 0, 'linear'),\n",
    'a checksum in a fragment does not',
  ),
  check(
    'frame-length',
    'a packet that tells no length passes',
    "    op.when(0, '!=', 0, 'protocol'),\n",
    "    op.jump('protocol'),\n",
    'a segment whose header of IP tells no length, which the kernel takes from the buffer does not pass',
  ),
  check(
    'frame-group',
    'frames to reserved groups reach the host at a port',
    "    op.when(0, '==', VETH, 'drop'),\n",
    '',
    'frames of other to reserved groups do not reach the host',
  ),
  {
    id: 'first-group',
    what: 'the same by the rules, where the kernel has no such programs',
    file: TABLE,
    from: "[['first', [TO_RESERVED_GROUP]] as [",
    to: "[['first', []] as [",
    killedBy: layers('is dropped before all rules (own)'),
  },
  {
    id: 'first-kept',
    what: 'the rules leave them to programs that end with the service',
    file: 'src/enforce/host-cgroups.ts',
    from: 'framesChecked: kernel.frames.state.isKept',
    to: 'framesChecked: kernel.frames.state.isOn',
    killedBy: {
      file: 'test/pure/enforce/host-cgroups.test.ts',
      test: 'programs that check frames stand in for the rule only if they outlive the service',
    },
  },
  {
    id: 'first-group-arp',
    what: 'the same for ARP',
    file: TABLE,
    from: "rules: new Map([['first', [TO_RESERVED_GROUP]]]),",
    to: "rules: new Map([['first', []]]),",
    killedBy: layers('is dropped before all rules (own)'),
  },
  {
    id: 'input-group',
    what: 'what is for the host in a frame for a group comes to its programs, when the first chain is emptied',
    file: TABLE,
    from: '          ...TO_OTHERS,\n',
    to: '',
    killedBy: layers('is dropped on its way into the host, too (own)'),
  },
  {
    id: 'port-options',
    what: 'a program of the host reads packets with options before they are evaluated',
    file: PORTS,
    from: "others, 'ip hdrlength != 5 drop', ",
    to: 'others, ',
    killedBy: layers('fragments of an enforced container are bounded, and options are dropped'),
  },
  {
    id: 'port-fragments',
    what: 'one container fills the memory in which fragments wait',
    file: PORTS,
    from: ', `ip frag-off & 0x3fff != 0 ${FRAGMENTS}`',
    to: '',
    killedBy: layers('fragments of an enforced container are bounded, and options are dropped'),
  },
  {
    id: 'port-fragments-routed',
    what: 'the same by the rule for the most frequent packet',
    file: PORTS,
    from: ' @nh,48,16 & 0x3fff == 0 @th,16,16',
    to: ' @th,16,16',
    killedBy: layers('fragments of an enforced container are bounded, and options are dropped'),
  },
  {
    id: 'first-mptcp',
    what: 'client and server agree on Multipath TCP, by which the server orders what was read in another order',
    file: 'src/ruleset/checked-flows.ts',
    from: "? ['mptcp', 'fastopen'].map(",
    to: "? ['fastopen'].map(",
    killedBy: layers('leaves without Multipath TCP and Fast Open, where nft can take options out'),
  },
  {
    id: 'multipath',
    what: 'the same, and the check reads segments of Multipath TCP in the order of TCP',
    file: 'src/ruleset/checked-flows.ts',
    from: "? ['mptcp', 'fastopen'].map(",
    to: "? ['fastopen'].map(",
    also: [
      {
        file: 'src/connections/tcp-segment.ts',
        from: "    if (kind === OPTION.multipath) return 'an option of Multipath TCP, by which a server orders its content';\n",
        to: '',
      },
    ],
    killedBy: { file: 'test/attacks/generate-streams.test.ts', test: 'name-multipath v4', only: true },
  },
  {
    id: 'frame-any',
    what: 'the kernel writes a checksum behind all rules, into the port of a datagram',
    file: CHECK,
    from: '      this.#attach(enforced);\n',
    to: '',
    killedBy: { file: 'test/attacks/generate.test.ts', test: 'held named late-port v4', only: true },
  },
  {
    id: 'port-as-enforced',
    what: 'an observed container asks the resolver as an enforced one',
    file: PORTS,
    from: "    'ether type ip ip saddr @enf4 drop',\n",
    to: '',
    killedBy: {
      file: 'test/kernel/bridge-rules.test.ts',
      test: 'of others: to enforced containers by way of the host, to what is closed not at all',
      only: true,
    },
  },
  {
    id: 'arp-unknown-data',
    what: 'a container sends data behind ARP before its veth is known',
    file: NEIGHBOURS,
    from: '  LOOSE,\n  `meta length > ${ARP_LENGTH} drop`,\n',
    to: '  LOOSE,\n',
    killedBy: {
      file: 'test/kernel/bridge-rules.test.ts',
      test: 'ARP of others: no address',
      only: true,
    },
  },
  {
    id: 'port-tag',
    what: 'a frame with a tag without a VLAN passes the rules for packets, and its receiver takes it as one',
    file: PORTS,
    from: '    PRIORITY_TAGGED,\n',
    to: '',
    killedBy: {
      file: 'test/kernel/bridge-rules.test.ts',
      test: 'of others: to enforced containers by way of the host, to what is closed not at all',
      only: true,
    },
  },
  {
    id: 'release-as-read',
    what: 'a packet is released with what its sender has written into it since it was read',
    file: QUEUE,
    from: 'const content = this.#isFromClient(packet) ? packet.payload : undefined;',
    to: 'const content = undefined;',
    killedBy: {
      file: 'test/pure/connections/connection-checks.test.ts',
      test: 'with the bytes that were read',
    },
  },
  {
    id: 'refused-state',
    what: 'a datagram that is refused has the state of its flow in its mark, like one that is released',
    file: QUEUE,
    from: '((packet.mark & ~(this.#o.shape.marks.check?.mask ?? 0)) | refusedBits(this.#o.shape))',
    to: '(packet.mark | refusedBits(this.#o.shape))',
    killedBy: {
      file: 'test/pure/connections/connection-checks.test.ts',
      test: 'a refused datagram has no state',
    },
  },
  {
    id: 'refused-released',
    what: 'what is refused, and has a state in its mark, passes as released',
    file: 'src/ruleset/verdict-chains.ts',
    from: 'mask: refusedBits({ marks }) }',
    to: 'mask: marks.held }',
    killedBy: {
      file: 'test/pure/ruleset/name-checks.test.ts',
      test: 'that the service refuses does not go on',
    },
  },
  {
    id: 'outward-redirected',
    what: 'a socket of the host’s network that is bound to a device takes a redirected question out through it',
    file: TABLE,
    from: "  'ct state new fib daddr type local drop',\n",
    to: '',
    killedBy: {
      file: 'test/kernel/host-net.test.ts',
      test: 'a question that is redirected to the resolver stays in the host',
    },
  },
  {
    id: 'first-byte',
    what: 'the first byte of a datagram may be another one when it leaves',
    file: 'src/ruleset/checked-flows.ts',
    from: 'meta length < ${TWO_HELLOS} ${KEPT_FIRST} @th,64,2 1',
    to: 'meta length < ${TWO_HELLOS} @th,64,2 1',
    killedBy: {
      file: 'test/kernel/late-writes.test.ts',
      test: 'of a flow of QUIC, the first byte leaves that was read',
      only: true,
    },
  },
];
