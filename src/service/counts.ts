import type { InForce } from '../control/enforcer.js';
import { containerChain, errorsChain, limitChain } from '../desired/naming.js';
import { chainHashes, type Rule } from '../desired/rules.js';
import { type ChainCounts, readCounters } from '../kernel/counters.js';
import type { Exec } from '../kernel/exec.js';
import type { Family } from '../model/ip.js';

export interface MemberCounts {
  /** New flows that an entry permitted, and that none did. */
  readonly allowed: number;
  readonly denied: number;
  /** By canonical entry: new flows through the rules that it shares with others of its ports. */
  readonly byEntry: ReadonlyMap<string, number>;
}
const NONE: MemberCounts = { allowed: 0, denied: 0, byEntry: new Map() };

/** New flows by container, from the counters of the rules. Both families together. */
export class Counts {
  readonly #run: Exec;
  readonly #prefix: string;
  readonly #hashes = new WeakMap<readonly Rule[], readonly string[]>();
  #latest: readonly (readonly [Family, ChainCounts])[] = [];

  constructor(run: Exec, prefix: string) {
    this.#run = run;
    this.#prefix = prefix;
  }

  async refresh(): Promise<void> {
    this.#latest = await Promise.all(
      ([4, 6] as const).map(async (f) => [f, await readCounters(this.#run, this.#prefix, f)] as const),
    );
  }

  of(id: string, state: InForce): MemberCounts {
    const chain = containerChain(this.#prefix, id);
    let { allowed, denied } = NONE;
    const byEntry = new Map<string, number>();
    const errors = errorsChain(this.#prefix, id);
    for (const [family, counts] of this.#latest) {
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

  /** What an entry permits is refused all the same while too many connections are open. */
  #refuses(rule: Rule): boolean {
    return rule.then.k === 'goto' && rule.then.chain === `${this.#prefix}-MANY`;
  }

  /** Rules of a chain with what they have counted. Those that were laid after the counters were read have no count yet. */
  #counted(
    state: InForce,
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

const filterChain = (state: InForce, family: Family, chain: string): readonly Rule[] =>
  state.desired.tables.find((t) => t.family === family && t.table === 'filter')?.chains.get(chain) ?? [];
