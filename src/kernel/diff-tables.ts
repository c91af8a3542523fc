import type { Family } from '../lib/ip.js';
import { chainHashes, type Rule, renderRule } from '../ruleset/rules.js';
import type { Hook, TableDesired } from '../ruleset/state.js';
import {
  isEmptyEdit,
  renderChain,
  type SavedRule,
  type SavedTable,
  type SavedTables,
  savedChain,
  type TableEdit,
  withComment,
} from './iptables-text.js';

/** What one family's tables need so that they hold what is desired. Empty: nothing to do. */
export function diffFamily(
  desired: readonly TableDesired[],
  observed: SavedTables,
  prefix: string,
): TableEdit[] {
  return desired
    .map((t) => diffTable(t, observed.get(t.table) ?? new Map(), prefix))
    .filter((e) => !isEmptyEdit(e));
}

function diffTable(desired: TableDesired, observed: SavedTable, prefix: string): TableEdit {
  const refill = new Map<string, readonly string[]>();
  for (const [chain, rules] of desired.chains) {
    if (!isCurrent(observed.get(chain), rules, desired.family))
      refill.set(chain, renderChain(chain, rules, desired.family, prefix));
  }
  const remove = [...observed.keys()].filter((c) => c.startsWith(`${prefix}-`) && !desired.chains.has(c));
  return { table: desired.table, refill, remove, commands: hookCommands(desired, observed, prefix) };
}

function isCurrent(
  observed: readonly SavedRule[] | undefined,
  rules: readonly Rule[],
  family: Family,
): boolean {
  const wanted = savedChain(rules, family);
  if (observed === wanted) return true;
  return observed?.length === wanted.length && wanted.every((r, i) => r.hash === observed[i]?.hash);
}

/** Our jumps: at the head of their chains, once; deleted by whole text wherever else they stand. */
function hookCommands(desired: TableDesired, observed: SavedTable, prefix: string): string[] {
  const wanted = new Map(desired.hooks.map((h) => [placeOf(h, observed), h]));
  const commands: string[] = [];
  for (const [chain, rules] of observed) {
    if (chain.startsWith(`${prefix}-`)) continue;
    const hook = wanted.get(chain);
    const ours = rules.filter((r) => r.hash !== undefined);
    if (hook && ours.length === 1 && rules[0]?.hash === hashOf(hook, desired.family)) continue;
    commands.push(...ours.map((r) => `-D ${chain} ${r.text}`));
    if (hook) commands.push(insertion(chain, hook, desired.family, prefix));
  }
  for (const [chain, hook] of wanted)
    if (!observed.has(chain)) commands.push(insertion(chain, hook, desired.family, prefix));
  return commands;
}

/** Docker may have no DOCKER-USER in a family (its ip6tables off, not started): then FORWARD itself is the place. */
export function placeOf(hook: Hook, observed: SavedTable): string {
  if (hook.chain !== 'DOCKER-USER') return hook.chain;
  const jumped = observed.get('FORWARD')?.some((r) => /(^| )-j DOCKER-USER$/.test(r.text));
  return observed.has('DOCKER-USER') && jumped ? 'DOCKER-USER' : 'FORWARD';
}

const hashOf = (hook: Hook, family: Family): string => chainHashes([hook.rule], family)[0] as string;
const insertion = (chain: string, hook: Hook, family: Family, prefix: string): string =>
  `-I ${chain} 1 ${withComment(renderRule(hook.rule, family), prefix, hashOf(hook, family))}`;

/** What remains to be undone: every chain and jump of ours, in any table. */
export function removalEdits(observed: SavedTables, prefix: string): TableEdit[] {
  return [...observed]
    .map(([table, chains]) => {
      const own = [...chains.keys()].filter((c) => c.startsWith(`${prefix}-`));
      const commands = [...chains]
        .filter(([c]) => !c.startsWith(`${prefix}-`))
        .flatMap(([c, rules]) => rules.filter((r) => r.hash !== undefined).map((r) => `-D ${c} ${r.text}`));
      return { table: table as TableEdit['table'], refill: new Map(), commands, remove: own };
    })
    .filter((e) => !isEmptyEdit(e));
}
