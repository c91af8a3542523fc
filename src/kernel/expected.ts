import type { Family } from '../lib/ip.js';
import { backstopProgram } from '../ruleset/backstop-table.js';
import { bridgeProgram } from '../ruleset/bridge.js';
import { chainHashes } from '../ruleset/rules.js';
import type { DesiredState, KernelConfig, TableDesired } from '../ruleset/state.js';
import { placeOf } from './diff-tables.js';
import { savedSet } from './ipset-text.js';
import { type SavedRule, type SavedTable, type SavedTables, savedChain } from './iptables-text.js';
import { programTags } from './nft-program.js';
import type { Observed } from './read-rules.js';

/** What the kernel holds after a plan has run without error: spares reading it back after every change. */
export function expectedAfter(shape: KernelConfig, desired: DesiredState, before: Observed): Observed {
  return {
    tables: new Map(([4, 6] as const).map((f) => [f, tablesAfter(f, desired, before, shape.prefix)])),
    sets: new Map([...desired.sets].map(([name, s]) => [name, savedSet(s)])),
    bridge: {
      exists: true,
      rules: programTags(shape, bridgeProgram(shape)),
      elements: desired.bridge,
    },
    backstop: { exists: true, rules: programTags(shape, backstopProgram(shape, desired.hostNet)) },
  };
}

function tablesAfter(family: Family, desired: DesiredState, before: Observed, prefix: string): SavedTables {
  const tables = new Map(before.tables.get(family) ?? []);
  for (const t of desired.tables.filter((d) => d.family === family))
    tables.set(t.table, tableAfter(t, tables.get(t.table) ?? new Map(), prefix));
  return tables;
}

function tableAfter(t: TableDesired, before: SavedTable, prefix: string): SavedTable {
  const foreign = [...before].filter(([c]) => !c.startsWith(`${prefix}-`));
  const after = new Map<string, readonly SavedRule[]>(
    foreign.map(([c, rules]) => [c, rules.filter((r) => r.hash === undefined)]),
  );
  for (const hook of t.hooks) {
    const place = placeOf(hook, before);
    after.set(place, [
      { text: '', hash: chainHashes([hook.rule], t.family)[0] },
      ...(after.get(place) ?? []),
    ]);
  }
  for (const [chain, rules] of t.chains) after.set(chain, savedChain(rules, t.family));
  return after;
}
