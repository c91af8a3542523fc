import type { Family } from '../lib/ip.js';
import { type Reading, SharedRead, type Turns } from '../lib/shared-read.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import { isContainerId } from '../ruleset/canary-subject.js';
import { containerChain, handedTo, hostChain, limitChain, refusingChains } from '../ruleset/naming.js';
import { chainHashes } from '../ruleset/render/iptables.js';
import type { Rule } from '../ruleset/rules.js';
import { asReader, type Exec } from './exec.js';
import { ownHash } from './iptables-text.js';
import type { RuleCounter } from './netlink/netlink-codec.js';
import type { NftElements } from './netlink/nft-codec.js';
import { savedRules } from './read-rules.js';

/** What some rules have counted. `grown`: since the reading before; undefined: this is the first one. */
export interface RuleCount {
  readonly sum: number;
  readonly grown: number | undefined;
}
/** Packets that rules have counted, and of which their log has copies. */
export interface RuleCounts {
  /** By container: those that its own rules have refused; of an observed one, those that enforce would refuse. */
  readonly own: ReadonlyMap<string, RuleCount>;
  /** Of all containers: those that were refused, whatever refused them. */
  readonly refused: RuleCount;
}
type Latest = readonly (readonly [Family, ChainCounts])[];
/** By family and chain, as the reading before has found it. */
type Before = Map<string, number> | undefined;
const MAX_AGE_MS = 1_000;
const REFUSALS: readonly string[] = ['drop', 'reject'];

interface CounterSource {
  readonly exec: Exec;
  readonly kernel: Pick<NftElements, 'counters'>;
  /** With iptables-legacy the rules are not in nf_tables, and `iptables-save` reads their counters. */
  readonly hostMode: { readonly isLegacy: boolean };
}

/** Refused packets, from the counters of the rules. Both families together. */
export class Counts {
  readonly #prefix: string;
  readonly #read: SharedRead<Latest>;
  #latest: Reading<Latest> = { value: [], at: 0 };
  #before: Before;

  constructor({ exec, kernel, hostMode }: CounterSource, prefix: string, turns: Turns) {
    this.#prefix = prefix;
    const nft = { 4: new NftCounters(kernel, prefix, 4), 6: new NftCounters(kernel, prefix, 6) };
    const read = (family: Family): Promise<ChainCounts> =>
      hostMode.isLegacy ? readCounters(exec, prefix, family) : nft[family].read();
    this.#read = new SharedRead({
      read: async () => [
        [4, await read(4)],
        [6, await read(6)],
      ],
      maxAgeMs: MAX_AGE_MS,
      gapMs: MAX_AGE_MS,
      turns,
    });
  }

  /** The same objects in the same order: of each container the same was counted as before. */
  get values(): readonly unknown[] {
    return this.#latest.value.map(([, counts]) => counts);
  }

  /** When the counters that are shown were read (ms since the epoch); 0: not yet. */
  get at(): number {
    return this.#latest.at;
  }

  /**
   * Reads the counters unless they were read within the last second. Concurrent callers share one reading. With
   * `mayBeOld`, the last reading is enough while many callers wait for a new one; `at` is its time.
   */
  async refresh(mayBeOld = false): Promise<void> {
    this.#latest = await (mayBeOld ? this.#read.getInCrowd() : this.#read.get());
  }

  /** Of the last reading, in the state that was applied then. Call it once for each reading. */
  of(state: AppliedState): RuleCounts {
    const before = this.#before;
    this.#before = new Map();
    const ids = [...state.subjects.keys()].filter(isContainerId);
    const own = new Map(ids.map((id) => [id, this.#ofContainer(id, state, before)] as const));
    const refused = refusingChains(this.#prefix);
    return { own, refused: this.#count(state, refused, before, ({ then }) => REFUSALS.includes(then.k)) };
  }

  #ofContainer(id: string, state: AppliedState, before: Before): RuleCount {
    const chains = [containerChain, limitChain, hostChain].map((chain) => chain(this.#prefix, id));
    return this.#count(state, chains, before, ({ then }) => {
      const to = then.k === 'goto' ? handedTo(this.#prefix, then.chain) : undefined;
      return to === 'refuses' || to === 'observes';
    });
  }

  /** A chain is installed as a whole, and its rules count from zero then; the other chains go on. */
  #count(
    state: AppliedState,
    chains: readonly string[],
    before: Before,
    isCounted: (rule: Rule) => boolean,
  ): RuleCount {
    let [sum, grown] = [0, 0];
    for (const [family, counts] of this.#latest.value)
      for (const chain of chains) {
        const rules = this.#counted(state, family, chain, counts);
        const now = rules.reduce((all, [rule, packets]) => all + (isCounted(rule) ? packets : 0), 0);
        const last = before?.get(`${family} ${chain}`) ?? 0;
        this.#before?.set(`${family} ${chain}`, now);
        sum += now;
        grown += now < last ? now : now - last;
      }
    return { sum, grown: before && grown };
  }

  /** Rules of a chain with their counters. Rules that were added after the counters were read have a count of 0. */
  #counted(
    state: AppliedState,
    family: Family,
    chain: string,
    counts: ChainCounts,
  ): readonly (readonly [Rule, number])[] {
    const rules = filterChain(state, family, chain);
    const packets = counts.get(chain);
    if (!packets) return [];
    const hashes = chainHashes(rules, family);
    return rules.map((rule, i) => [rule, packets.get(hashes[i] ?? '') ?? 0] as const);
  }
}

const filterChain = (state: AppliedState, family: Family, chain: string): readonly Rule[] =>
  state.desired.tables.find((t) => t.family === family && t.layer === 'verdict')?.chains.get(chain) ?? [];

/** Packets that each rule has seen, of one family: chain → hash of the rule (ruleset/render/iptables `chainHashes`) → packets. */
type ChainCounts = ReadonlyMap<string, ReadonlyMap<string, number>>;

/** Prefixes of the chains that are read: those with containers' own rules, and those that refuse. */
const chainsRead = (prefix: string): readonly string[] => [
  ...['c', 'l', 'h'].map((kind) => `${prefix}-${kind}-`),
  ...refusingChains(prefix),
];

/** Gathers counters by chain and hash. Rules of other programs have no hash, and are left out. */
class Counters {
  readonly all = new Map<string, Map<string, number>>();

  put(chain: string, hash: string | undefined, packets: number): void {
    if (hash === undefined) return;
    const rules = this.all.get(chain) ?? new Map<string, number>();
    rules.set(hash, packets);
    this.all.set(chain, rules);
  }
}

/**
 * Reads the counters of iptables-nft, of one family, over netlink, without a process. While all rules are as they were, it returns the same
 * object: then the dump has returned the same bytes.
 */
export class NftCounters {
  readonly #kernel: CounterSource['kernel'];
  readonly #family: Family;
  readonly #prefix: string;
  #rules: readonly RuleCounter[] = [];
  #counts: ChainCounts = new Map();

  constructor(kernel: CounterSource['kernel'], prefix: string, family: Family) {
    this.#kernel = kernel;
    this.#family = family;
    this.#prefix = prefix;
  }

  /** Rejects with NetlinkError. */
  async read(): Promise<ChainCounts> {
    const rules = await this.#kernel.counters(this.#family, chainsRead(this.#prefix));
    const isSame = rules.length === this.#rules.length && rules.every((rule, n) => rule === this.#rules[n]);
    if (!isSame) this.#counts = this.#gathered(rules);
    this.#rules = rules;
    return this.#counts;
  }

  #gathered(rules: readonly RuleCounter[]): ChainCounts {
    const [counters, tag] = [new Counters(), `${this.#prefix}:`];
    for (const { chain, comment, packets } of rules)
      counters.put(chain, comment.startsWith(tag) ? comment.slice(tag.length) : undefined, packets);
    return counters.all;
  }
}

/** Reads the counters of iptables, legacy or not. Rejects with KernelError when `iptables-save` fails. */
export async function readCounters(exec: Exec, prefix: string, family: Family): Promise<ChainCounts> {
  const text = await savedRules(asReader(exec), family, ['-c', '-t', 'filter']);
  const own = chainsRead(prefix);
  const counters = new Counters();
  for (const line of text.split('\n')) {
    const [, packets, chain] = /^\[(\d+):\d+\] -A (\S+)/.exec(line) ?? [];
    if (!packets || !chain || !own.some((start) => chain.startsWith(start))) continue;
    counters.put(chain, ownHash(line, prefix), Number(packets));
  }
  return counters.all;
}
