/** What is counted, and how often. */
import type { Mutant } from './mutant.js';

const counted = (test: string) => ({ file: 'test/pure/ruleset/counted.test.ts', test });
const tallied = (test: string) => ({ file: 'test/pure/flows/tallies.test.ts', test });
const suggested = (test: string) => ({ file: 'test/pure/suggest/suggest.test.ts', test });
const [NAMING, TALLIES] = ['src/ruleset/naming.ts', 'src/flows/tallies.ts'];
const SUGGEST = 'src/suggest/suggest.ts';

export const FIGURES: readonly Mutant[] = [
  {
    id: 'figures-left-use',
    what: 'each entry of a target that is left counts the connections of all',
    file: SUGGEST,
    from: '...shownUse(useBy(entry, group)),',
    to: '...shownUse(useOf(group.rows)),',
    killedBy: suggested('of a target that is left, each entry counts what it permits'),
  },
  {
    id: 'figures-own-address',
    what: 'connections of a name to an address of its own resolver count twice',
    file: SUGGEST,
    from: '...{ count: 0, first:',
    to: '...{ count, first:',
    killedBy: suggested('an address that only a resolver of the container gave for a name is shown'),
  },
  {
    id: 'figures-segments',
    what: 'a rate and a quota count a packet of many segments once',
    file: 'src/namespaces/one-namespace.ts',
    from: '  veths.length > 0 &&\n  (limits',
    to: '  veths.length < 0 &&\n  (limits',
    killedBy: { file: 'test/live/limits.test.ts', test: 'counts each segment that a container hands on' },
  },
  {
    id: 'figures-segments-read',
    what: 'datagrams stay in one packet, segments of TCP do not',
    file: 'src/namespaces/netns-tables.ts',
    from: "  'tx-udp-segmentation',\n",
    to: '',
    killedBy: { file: 'test/live/limits.test.ts', test: 'counts each segment that a container hands on' },
  },
  {
    id: 'figures-checked-class',
    what: 'a chain where the check of names begins has no class',
    file: NAMING,
    from: ' || isCheckedChain(prefix, chain)) return',
    to: ') return',
    killedBy: counted('a chain of a container ends in nothing but a goto to a chain with a class'),
  },
  {
    id: 'figures-quota-class',
    what: 'what a spent quota refuses counts as permitted',
    file: NAMING,
    from: "if ([names.no, names.quota, names.many].includes(chain)) return 'refuses';",
    to: "if ([names.no, names.many].includes(chain)) return 'refuses';\n  if (chain === names.quota) return 'permits';",
    killedBy: counted('does with tcp what its class says'),
  },
  {
    id: 'figures-flood-log',
    what: 'what a flood loses is missing nowhere',
    file: NAMING,
    from: 'return [no, flood, many, quota, forged, later, threatNo, threatDrop];',
    to: 'return [no, many, quota, forged, later, threatNo, threatDrop];',
    killedBy: counted('the chains that log and refuse are those whose counters are compared'),
  },
  {
    id: 'figures-refused-twice',
    what: 'a connection that waits for a person counts, and again when it ends',
    file: TALLIES,
    from: "    if (verdict === 'ask') return; // it waits: how it ends is recorded too\n    const tally = this.#change(id);",
    to: "    const tally = this.#change(id);\n    if (verdict === 'ask') {\n      tally.denied += count;\n      return;\n    }",
    killedBy: tallied('each counts once, by whether it passed'),
  },
  {
    id: 'figures-hidden-loss',
    what: 'copies of packets that other rules count hide what is missing later',
    file: TALLIES,
    from: 'this.#times.filter((time) => time >= at)',
    to: '[...this.#times]',
    killedBy: tallied('copies of what other rules count hide nothing later'),
  },
  {
    id: 'figures-late-copy',
    what: 'a copy that comes after the rules were read is forgotten, and its packet counts as lost',
    file: TALLIES,
    from: 'this.#times.filter((time) => time >= at)',
    to: '[] as number[]',
    killedBy: tallied('are those that were left out, whenever the rules are read'),
  },
  {
    id: 'figures-observed-copies',
    what: 'a packet of an observed container has no copy: each counts as lost',
    file: 'src/ruleset/log-words.ts',
    from: 'would: { isOwn: true,',
    to: 'would: { isOwn: false,',
    killedBy: { file: 'test/pure/flows/denials.test.ts', test: 'a packet with the word would is a copy' },
  },
  {
    id: 'figures-datagrams',
    what: 'a connection of QUIC that has ended after its first datagrams is in no record',
    file: 'src/flows/flow-tally.ts',
    from: ' && proto === TCP && ',
    to: ' && ',
    killedBy: {
      file: 'test/pure/flows/flow-tally.test.ts',
      test: 'a flow of datagrams is there once one of them has passed the check',
    },
  },
];
