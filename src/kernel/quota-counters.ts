import { BRIDGE_TABLE } from '../ruleset/bridge.js';
import { type Exec, must } from './exec.js';
import { parseObjects } from './nft-objects.js';
import { itemsOf } from './nft-parse.js';

/** Bytes that the kernel has counted for each quota of ours. */
export async function readQuotas(run: Exec): Promise<ReadonlyMap<string, number>> {
  const json = await must(run, 'nft', ['-j', 'list', 'quotas', 'table', 'bridge', BRIDGE_TABLE]);
  return new Map([...parseObjects(itemsOf(json)).allowances].map(([name, q]) => [name, q.used]));
}
