/** ICMP errors, threats by source, and the place of our jumps. */
import type { Mutant } from './mutant.js';

export const HOST: readonly Mutant[] = [
  {
    id: 'icmp-foreign',
    what: 'an ICMP error about a flow of others passes',
    file: 'src/desired/icmp-errors.ts',
    from: "[...RELATED_ERROR, { k: 'flowSource', direction, address }]",
    to: '[...RELATED_ERROR]',
    killedBy: { file: 'test/attacks/icmp.test.ts', test: 'icmp-foreign-flow', only: true },
  },
  {
    id: 'icmp-long',
    what: 'an ICMP error about an own flow carries what fits into a packet',
    file: 'src/desired/icmp-errors.ts',
    from: "  rule([{ k: 'longer', than: LONGEST_ERROR[family] }], { k: 'goto', chain: names.no }),\n",
    to: '',
    killedBy: { file: 'test/attacks/icmp.test.ts', test: 'icmp-own-long', only: true },
  },
  {
    id: 'icmp-many',
    what: 'ICMP errors about an own flow have no rate',
    file: 'src/desired/icmp-errors.ts',
    from: '...ERROR_RATE }]',
    to: 'perSecond: 10_000, burst: 10_000 }]',
    killedBy: { file: 'test/attacks/icmp.test.ts', test: 'icmp-own-many', only: true },
  },
  {
    id: 'threat-forged',
    what: 'a forged source that is listed makes a neighbour answer to it',
    file: 'src/desired/threats.ts',
    from: "        rule([foreignSource(names, family)], { k: 'jump', chain: names.threatForged }),\n",
    to: '',
    killedBy: { file: 'test/pure/desired/threats.test.ts', test: 'a forged source' },
  },
  {
    id: 'jump-not-first',
    what: 'our jump may stand behind the rules of others',
    file: 'src/kernel/diff-tables.ts',
    from: 'rules[0]?.hash === hashOf(hook, desired.family)',
    to: 'ours[0]?.hash === hashOf(hook, desired.family)',
    killedBy: {
      file: 'test/kernel/dataplane.test.ts',
      test: 'keeps its jump ahead of what others put before it',
    },
  },
];
