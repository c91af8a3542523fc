import type { Family } from '../model/ip.js';
import { type Exec, must } from './exec.js';
import { SAVE } from './observe.js';

/** First packets that each rule of containers' own chains has seen: chain → counts in rule order. Both families added up by caller. */
export type ChainCounts = ReadonlyMap<string, readonly number[]>;

export async function readCounters(run: Exec, prefix: string, family: Family): Promise<ChainCounts> {
  const text = await must(run, SAVE[family], ['-c', '-t', 'filter']);
  const ours = [`${prefix}-c-`, `${prefix}-l-`];
  const counts = new Map<string, number[]>();
  for (const line of text.split('\n')) {
    const found = /^\[(\d+):\d+\] -A (\S+)/.exec(line);
    const [, packets, chain] = found ?? [];
    if (!packets || !chain || !ours.some((start) => chain.startsWith(start))) continue;
    const rules = counts.get(chain) ?? [];
    rules.push(Number(packets));
    counts.set(chain, rules);
  }
  return counts;
}
