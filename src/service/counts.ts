import type { InForce } from '../control/enforcer.js';
import { containerChain, limitChain } from '../desired/naming.js';
import type { Rule } from '../desired/rules.js';
import { type ChainCounts, readCounters } from '../kernel/counters.js';
import type { Exec } from '../kernel/exec.js';

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
  #latest: readonly (readonly [4 | 6, ChainCounts])[] = [];

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
    for (const [family, counts] of this.#latest) {
      const rules = filterChain(state, family, chain);
      for (const [i, packets] of (counts.get(chain) ?? []).entries()) {
        const rule = rules[i];
        if (rule?.then.k !== 'goto') continue;
        if (isPermit(rule.then.chain, this.#prefix, id)) allowed += packets;
        else denied += packets;
        for (const entry of rule.why ?? []) byEntry.set(entry, (byEntry.get(entry) ?? 0) + packets);
      }
      const over = this.#overLimit(id, counts, filterChain(state, family, limitChain(this.#prefix, id)));
      allowed -= over;
      denied += over;
    }
    return { allowed, denied, byEntry };
  }

  /** What an entry permits is refused all the same while too many connections are open. */
  #overLimit(id: string, counts: ChainCounts, rules: readonly Rule[]): number {
    const refusing = `${this.#prefix}-MANY`;
    return (counts.get(limitChain(this.#prefix, id)) ?? [])
      .filter((_, i) => rules[i]?.then.k === 'goto' && rules[i].then.chain === refusing)
      .reduce((sum, packets) => sum + packets, 0);
  }
}

const isPermit = (chain: string, prefix: string, id: string): boolean =>
  [`${prefix}-OK`, `${prefix}-BOUND`, limitChain(prefix, id)].includes(chain);

const filterChain = (state: InForce, family: 4 | 6, chain: string): readonly Rule[] =>
  state.desired.tables.find((t) => t.family === family && t.table === 'filter')?.chains.get(chain) ?? [];
