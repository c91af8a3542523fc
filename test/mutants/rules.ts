/** Rules in the tables of the host. */
import type { Mutant } from './mutant.js';

const attack = (file: string, test: string) => ({ file: `test/attacks/${file}.test.ts`, test, only: true });
const asked = (file: string, test: string) => ({ file: `test/pure/${file}.test.ts`, test });
const observed = (test: string) => ({ file: 'test/pure/ruleset/observed.test.ts', test });

export const RULES: readonly Mutant[] = [
  {
    id: 'backstop-extensions',
    what: 'a segment routing header in a flow with our resolver leads out through the host',
    file: 'src/ruleset/backstop-table.ts',
    from: ", 'ip6 nexthdr { 0, 43, 51, 60 }'",
    to: '',
    killedBy: attack('extensions', 'ext-segments-through-dns'),
  },
  {
    id: 'backstop-behind-fragment',
    what: 'the same behind the header of a whole fragment',
    file: 'src/ruleset/backstop-table.ts',
    from: ", 'ip6 nexthdr { 0, 43, 51, 60 }'",
    to: '',
    killedBy: attack('extensions', 'ext-segments-behind-fragment'),
  },
  {
    id: 'backstop-options',
    what: 'a source route in a flow with our resolver leads out through the host',
    file: 'src/ruleset/backstop-table.ts',
    from: "'ip hdrlength != 5', ",
    to: '',
    killedBy: attack('extensions', 'option-route-through-dns'),
  },
  {
    id: 'bound-open',
    what: 'a container that has too many open connections opens more',
    file: 'src/ruleset/verdict-chains.ts',
    from: "        rule([isFull], { k: 'goto', chain: names.count }),\n",
    to: '',
    killedBy: {
      file: 'test/pure/ruleset/limits.test.ts',
      test: 'open connections of every container are counted by a random sample, and all of a source that has too many',
    },
  },
  {
    id: 'observed-host-log',
    what: 'what an observed container opens on the host is not recorded: enforcing it cuts what no preview has listed',
    file: 'src/ruleset/constant-chains.ts',
    from: 'mask: (marks.redirect | marks.enforced) >>> 0',
    to: 'mask: marks.all',
    killedBy: observed('if and only if enforce would deny it'),
  },
  {
    id: 'observed-host-denied',
    what: 'an observed container is refused services of the host in a family in which it has no address yet',
    file: 'src/ruleset/compile.ts',
    from: 'maskTree(leaves, marks, names.observedHost, [])',
    to: "maskTree(leaves, marks, names.observedHost, [rule([], { k: 'goto', chain: names.no })])",
    killedBy: observed('in a family that its rules do not have'),
  },
  {
    id: 'ask-again',
    what: 'a packet about which a person was asked waits again, for ever',
    file: 'src/ruleset/verdict-chains.ts',
    from: "            { k: 'mark', value: 0, mask: marks.redirect },\n            { k: 'ct', states: ['NEW'] },",
    to: "            { k: 'ct', states: ['NEW'] },",
    killedBy: asked('ruleset/ask-rules', 'comes again, and is denied unless a rule permits it by then'),
  },
  {
    id: 'ask-denied',
    what: 'a person may allow what a deny entry covers',
    file: 'src/ask/asked-places.ts',
    from: '  if (policy.denied?.some((pe) => coversEntry(pe.entry, entry))) return undefined;\n',
    to: '',
    killedBy: asked('ask/asks', 'to what a deny entry covers is denied at once'),
  },
  {
    id: 'ask-token',
    what: 'an approval counts for a request that has changed since it was shown',
    file: 'src/ask/asks.ts',
    from: 'tokenOf(request, container) !== decision.token',
    to: "decision.token === ''",
    killedBy: asked('ask/asks', 'counts only for what was shown'),
  },
  {
    id: 'ask-heir',
    what: 'a packet of a container that is gone is evaluated as one of the container that has its identity now',
    file: 'src/ask/asks.ts',
    from: "outcome === 'gone' || ",
    to: '',
    killedBy: asked('ask/asks', 'of a container that is gone is dropped'),
    also: [
      {
        file: 'src/ask/asks.ts',
        from: "this.#subject(identity)?.id !== subject.id) this.#queue?.verdict(id, 'drop');",
        to: "identity < 0) this.#queue?.verdict(id, 'drop');",
      },
    ],
  },
];
