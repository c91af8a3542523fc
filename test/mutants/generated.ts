/** Rules that the generator of frames must find gone by itself: all layers of each are taken out. */
import type { Mutant } from './mutant.js';

const CHECK = 'src/kernel/frame-checks.ts';
const TABLE = 'src/ruleset/backstop-table.ts';
const PORTS = 'src/ruleset/bridge-table.ts';
const NEIGHBOURS = 'src/ruleset/neighbour-frames.ts';
const killedBy = {
  file: 'test/attacks/generate.test.ts',
  test: 'nothing arrives anywhere that no entry permits',
};

export const GENERATED: readonly Mutant[] = [
  {
    id: 'generated-group',
    what: 'frames to reserved groups reach the host at a port',
    file: CHECK,
    from: "    op.when(0, '==', VETH, 'drop'),\n",
    to: '',
    also: [{ file: TABLE, from: '          ...TO_OTHERS,\n', to: '' }],
    killedBy,
  },
  {
    id: 'generated-late',
    what: 'the kernel writes a checksum behind all rules, where the sender wants it',
    file: CHECK,
    from: '      this.#attach(enforced);\n',
    to: '',
    killedBy,
  },
  {
    id: 'generated-probe',
    what: 'a container probes for the address of the gateway, so that the host does not use it',
    file: NEIGHBOURS,
    from: "      'icmpv6 type 133 ip6 saddr :: accept',\n      ...OWN_PROBE,\n",
    to: "      'icmpv6 type { 133, 135 } ip6 saddr :: accept',\n",
    also: [
      {
        file: NEIGHBOURS,
        from: '      `${PROBE} drop`,\n',
        to: '',
      },
    ],
    killedBy,
  },
  {
    id: 'generated-tag',
    what: 'a frame with a tag without a VLAN reaches the Redis of Drawbridge',
    file: PORTS,
    from: '    PRIORITY_TAGGED,\n',
    to: '',
    killedBy,
  },
  {
    id: 'generated-forged',
    what: 'a refusal goes to the address that a container of the host’s network has chosen as its source',
    file: 'src/ruleset/host-identity.ts',
    from: '[...own, ...forgedSources(shape), ...synData(shape)]',
    to: '[...own, ...synData(shape)]',
    also: [
      {
        file: 'src/ruleset/host-net.ts',
        from: 'return [forged, ...own, opened, ...last];',
        to: 'return [...own, opened, ...last];',
      },
    ],
    killedBy,
  },
];
