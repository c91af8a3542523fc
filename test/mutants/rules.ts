/** Rules in the tables of the host. */
import type { Mutant } from './mutant.js';

const attack = (file: string, test: string) => ({ file: `test/attacks/${file}.test.ts`, test, only: true });

export const RULES: readonly Mutant[] = [
  {
    id: 'backstop-extensions',
    what: 'a segment routing header in a flow with our resolver leads out through the host',
    file: 'src/desired/backstop-table.ts',
    from: ", 'ip6 nexthdr { 0, 43, 51, 60 }'",
    to: '',
    killedBy: attack('extensions', 'ext-segments-through-dns'),
  },
  {
    id: 'backstop-behind-fragment',
    what: 'the same behind the header of a whole fragment',
    file: 'src/desired/backstop-table.ts',
    from: ", 'ip6 nexthdr { 0, 43, 51, 60 }'",
    to: '',
    killedBy: attack('extensions', 'ext-segments-behind-fragment'),
  },
  {
    id: 'backstop-options',
    what: 'a source route in a flow with our resolver leads out through the host',
    file: 'src/desired/backstop-table.ts',
    from: "'ip hdrlength != 5', ",
    to: '',
    killedBy: attack('extensions', 'option-route-through-dns'),
  },
];
