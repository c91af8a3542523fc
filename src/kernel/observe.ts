import { BRIDGE_TABLE } from '../desired/bridge.js';
import type { Family } from '../model/ip.js';
import { type Exec, must } from './exec.js';
import { parseSetSave, type SavedSet } from './ipset-text.js';
import { parseSave, type SavedTables } from './iptables-text.js';
import { type IndexOf, parseBridge } from './nft-parse.js';
import { EMPTY_BRIDGE, type ObservedBridge } from './nft-text.js';

/** What of ours, and around ours, the kernel holds. */
export interface Observed {
  readonly tables: ReadonlyMap<Family, SavedTables>;
  readonly sets: ReadonlyMap<string, SavedSet>;
  readonly bridge: ObservedBridge;
}
export const SAVE: Readonly<Record<Family, string>> = { 4: 'iptables-save', 6: 'ip6tables-save' };
export const RESTORE: Readonly<Record<Family, string>> = { 4: 'iptables-restore', 6: 'ip6tables-restore' };

/** Reads everything. Any tool that fails fails the whole: a half view would be taken for the truth. */
export async function observe(run: Exec, prefix: string, indexOf: IndexOf): Promise<Observed> {
  const [v4, v6, sets, bridge] = await Promise.all([
    must(run, SAVE[4], []),
    must(run, SAVE[6], []),
    must(run, 'ipset', ['save']),
    observeBridge(run, indexOf),
  ]);
  return {
    tables: new Map([
      [4, parseSave(v4, prefix)],
      [6, parseSave(v6, prefix)],
    ]),
    sets: parseSetSave(sets, prefix),
    bridge,
  };
}

async function observeBridge(run: Exec, indexOf: IndexOf): Promise<ObservedBridge> {
  const tables = await must(run, 'nft', ['list', 'tables', 'bridge']);
  if (!tables.split('\n').includes(`table bridge ${BRIDGE_TABLE}`))
    return { exists: false, rules: [], elements: EMPTY_BRIDGE };
  return parseBridge(await must(run, 'nft', ['-j', 'list', 'table', 'bridge', BRIDGE_TABLE]), indexOf);
}
