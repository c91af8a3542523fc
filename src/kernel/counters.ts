import type { Family } from '../lib/ip.js';
import type { Exec } from './exec.js';
import { ownHash } from './iptables-text.js';
import { savedRules } from './read-rules.js';

/**
 * Packets that each rule of containers' own chains has seen, of one family: chain → hash of the rule (ruleset/rules
 * `chainHashes`) → packets. Each is the first of its flow.
 */
export type ChainCounts = ReadonlyMap<string, ReadonlyMap<string, number>>;

/** Reads the counters of the kernel. Rejects with KernelError when `iptables-save` fails. */
export async function readCounters(run: Exec, prefix: string, family: Family): Promise<ChainCounts> {
  const text = await savedRules(run, family, ['-c', '-t', 'filter']);
  const ours = [`${prefix}-c-`, `${prefix}-l-`, `${prefix}-h-`];
  const counts = new Map<string, Map<string, number>>();
  for (const line of text.split('\n')) {
    const [, packets, chain] = /^\[(\d+):\d+\] -A (\S+)/.exec(line) ?? [];
    if (!packets || !chain || !ours.some((start) => chain.startsWith(start))) continue;
    const hash = ownHash(line, prefix);
    if (hash === undefined) continue;
    const rules = counts.get(chain) ?? new Map<string, number>();
    rules.set(hash, Number(packets));
    counts.set(chain, rules);
  }
  return counts;
}
