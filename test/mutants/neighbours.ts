/** ARP and neighbour discovery. */
import type { Mutant } from './mutant.js';

export const NEIGHBOURS: readonly Mutant[] = [
  {
    id: 'arp-owner',
    what: 'ARP about the addresses of others passes',
    file: 'src/desired/bridge-neighbours.ts',
    from: "  'iif @strict drop',\n",
    to: "  'iif @strict accept',\n",
    killedBy: { file: 'test/attacks/spoofing.test.ts', test: 'arp-reply', only: true },
  },
  {
    id: 'nd-owner',
    what: 'neighbour discovery about the addresses of others passes',
    file: 'src/desired/bridge-neighbours.ts',
    from: "      'icmpv6 type { 133, 135 } ip6 saddr :: accept',\n      'drop',\n",
    to: "      'icmpv6 type { 133, 135 } ip6 saddr :: accept',\n      'accept',\n",
    killedBy: { file: 'test/attacks/spoofing.test.ts', test: 'nd-advertisement', only: true },
  },
];
