import type { Family } from '../lib/ip.js';
import { type Reading, SharedRead, type Turns } from '../lib/shared-read.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import { containerChain, errorsChain, hostChain, limitChain } from '../ruleset/naming.js';
import { chainHashes, type Rule } from '../ruleset/rules.js';
import { asReader, type Exec } from './exec.js';
import { ownHash } from './iptables-text.js';
import type { RuleCounter } from './netlink/netlink-codec.js';
import type { NftElements } from './netlink/nft-codec.js';
import { savedRules } from './read-rules.js';

export interface MemberCounts {
  /** New flows that an entry permitted, and that none did. */
  readonly allowed: number;
  readonly denied: number;
  /**
   * New flows by canonical entry. Entries that share a port class share their rules, so that each of them has the sum.
   */
  readonly byEntry: ReadonlyMap<string, number>;
}
type Latest = readonly (readonly [Family, ChainCounts])[];
const MAX_AGE_MS = 1_000;
const NONE: MemberCounts = { allowed: 0, denied: 0, byEntry: new Map() };

interface CounterSource {
  readonly exec: Exec;
  readonly kernel: Pick<NftElements, 'counters'>;
  /** With iptables-legacy the rules are not in nf_tables, and `iptables-save` reads their counters. */
  readonly hostMode: { readonly isLegacy: boolean };
}

/** New flows by container, from the counters of the rules. Both families together. */
export class Counts {
  readonly #prefix: string;
  readonly #read: SharedRead<Latest>;
  readonly #hashes = new WeakMap<readonly Rule[], readonly string[]>();
  #latest: Reading<Latest> = { value: [], at: 0 };

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

  of(id: string, state: AppliedState): MemberCounts {
    const chain = containerChain(this.#prefix, id);
    let { allowed, denied } = NONE;
    const byEntry = new Map<string, number>();
    const errors = errorsChain(this.#prefix, id);
    for (const [family, counts] of this.#latest.value) {
      for (const [rule, packets] of this.#counted(state, family, chain, counts)) {
        // an ICMP error opens no flow
        if (rule.then.k !== 'goto' || rule.then.chain === errors) continue;
        if (isPermit(rule.then.chain, this.#prefix, id)) allowed += packets;
        else denied += packets;
        for (const entry of rule.why ?? []) byEntry.set(entry, (byEntry.get(entry) ?? 0) + packets);
      }
      const limits = this.#counted(state, family, limitChain(this.#prefix, id), counts);
      const over = limits.reduce((sum, [rule, packets]) => sum + (this.#refuses(rule) ? packets : 0), 0);
      allowed -= over;
      denied += over;
    }
    return { allowed, denied, byEntry };
  }

  /** New flows of an observed container that passed without being logged: more of them in a second than the log takes. */
  unrecorded(id: string, state: AppliedState): number {
    const chains = [containerChain(this.#prefix, id), hostChain(this.#prefix, id)];
    let passed = 0;
    for (const [family, counts] of this.#latest.value)
      for (const [rule, packets] of chains.flatMap((c) => this.#counted(state, family, c, counts))) {
        if (rule.then.k === 'nflog') passed -= packets;
        else if (rule.then.k === 'goto' && rule.then.chain === `${this.#prefix}-OBSERVE`) passed += packets;
      }
    return Math.max(0, passed);
  }

  /** A flow that an entry permits is refused while too many connections are open. */
  #refuses(rule: Rule): boolean {
    return rule.then.k === 'goto' && rule.then.chain === `${this.#prefix}-MANY`;
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
    const hashes = this.#hashes.get(rules) ?? chainHashes(rules, family);
    this.#hashes.set(rules, hashes);
    return rules.map((rule, i) => [rule, packets.get(hashes[i] ?? '') ?? 0] as const);
  }
}

const isPermit = (chain: string, prefix: string, id: string): boolean =>
  [`${prefix}-OK`, `${prefix}-BOUND`, limitChain(prefix, id)].includes(chain);

const filterChain = (state: AppliedState, family: Family, chain: string): readonly Rule[] =>
  state.desired.tables.find((t) => t.family === family && t.table === 'filter')?.chains.get(chain) ?? [];

/**
 * Packets that each rule of containers' own chains has seen, of one family: chain → hash of the rule (ruleset/rules
 * `chainHashes`) → packets. Each is the first of its flow.
 */
type ChainCounts = ReadonlyMap<string, ReadonlyMap<string, number>>;

/** The chains with containers' own rules. */
const ownChains = (prefix: string): readonly string[] => [`${prefix}-c-`, `${prefix}-l-`, `${prefix}-h-`];

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
    const rules = await this.#kernel.counters(this.#family, ownChains(this.#prefix));
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
  const own = ownChains(prefix);
  const counters = new Counters();
  for (const line of text.split('\n')) {
    const [, packets, chain] = /^\[(\d+):\d+\] -A (\S+)/.exec(line) ?? [];
    if (!packets || !chain || !own.some((start) => chain.startsWith(start))) continue;
    counters.put(chain, ownHash(line, prefix), Number(packets));
  }
  return counters.all;
}
