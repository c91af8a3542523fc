import type { Family } from '../lib/ip.js';
import { memo } from '../lib/memo.js';
import type { TableDesired } from '../ruleset/desired-state.js';
import { chainHashes, chainOf, iptablesRule, TABLE, type TableName } from '../ruleset/render/iptables.js';
import type { Rule } from '../ruleset/rules.js';

/** The programs that read `restoreScript`. */
export const RESTORE: Readonly<Record<Family, string>> = { 4: 'iptables-restore', 6: 'ip6tables-restore' };

/** A rule as `iptables-save` printed it. */
export interface SavedRule {
  /** Without "-A CHAIN ". */
  readonly text: string;
  /** The hash in the comment of a Drawbridge rule. Undefined for rules of other programs. */
  readonly hash: string | undefined;
}
export type SavedTable = ReadonlyMap<string, readonly SavedRule[]>;
export type SavedTables = ReadonlyMap<string, SavedTable>;

/** Reads `iptables-save`: tables → chains → rules. Counters are ignored. */
export function parseSave(text: string, prefix: string): SavedTables {
  const tables = new Map<string, Map<string, SavedRule[]>>();
  let table = new Map<string, SavedRule[]>();
  for (const line of text.split('\n')) {
    if (line.startsWith('*')) {
      table = new Map();
      tables.set(line.slice(1).trim(), table);
    } else if (line.startsWith(':')) table.set(line.slice(1, line.indexOf(' ')), []);
    else if (line.startsWith('-A ')) readRule(table, line, prefix);
  }
  return tables;
}

function readRule(table: Map<string, SavedRule[]>, line: string, prefix: string): void {
  const space = line.indexOf(' ', 3);
  const chain = space === -1 ? line.slice(3) : line.slice(3, space);
  const text = space === -1 ? '' : line.slice(space + 1);
  const rules = table.get(chain) ?? [];
  rules.push({ text, hash: ownHash(text, prefix) });
  table.set(chain, rules);
}

/** The hash in the comment of a saved rule. Returns undefined for rules of other programs. */
export function ownHash(text: string, prefix: string): string | undefined {
  const match = / ?--comment "?([^" ]+)"?/.exec(text);
  const comment = match?.[1];
  return comment?.startsWith(`${prefix}:`) ? comment.slice(prefix.length + 1) : undefined;
}

const saved = memo((hashes: readonly string[]) => hashes.map((hash): SavedRule => ({ text: '', hash })));
/** A chain in the state after it was written: the same object for the same rules. */
export const savedChain = (rules: readonly Rule[], family: Family): readonly SavedRule[] =>
  saved(chainHashes(rules, family));

/** A chain as `iptables-restore` lines, each rule with its hash. */
function renderChain(chain: string, rules: readonly Rule[], family: Family, prefix: string): string[] {
  const hashes = chainHashes(rules, family);
  return rules.map((r, i) => `-A ${chain} ${iptablesRule(r, family, `${prefix}:${hashes[i]}`)}`);
}

export interface TableEdit {
  readonly table: TableName;
  /** Chains to create or refill, with their lines. */
  readonly refill: ReadonlyMap<string, readonly string[]>;
  /** Whole commands on others' chains: "-D DOCKER-USER …", "-I DOCKER-USER 1 …". */
  readonly commands: readonly string[];
  readonly remove: readonly string[];
}

/**
 * One transaction for each table. `:CHAIN -` creates or flushes a chain. Stale chains are flushed first, so that they
 * can be deleted.
 */
export function restoreScript(edits: readonly TableEdit[]): string {
  return edits.map(tableScript).join('');
}

function tableScript(edit: TableEdit): string {
  const declared = [...edit.refill.keys(), ...edit.remove].map((c) => `:${c} - [0:0]`);
  const rules = [...edit.refill.values()].flat();
  const removed = edit.remove.map((c) => `-X ${c}`);
  return `${[`*${edit.table}`, ...declared, ...rules, ...edit.commands, ...removed, 'COMMIT'].join('\n')}\n`;
}
const isEmptyEdit = (e: TableEdit): boolean =>
  e.refill.size === 0 && e.commands.length === 0 && e.remove.length === 0;

/** The edits that take the tables of one family from observed to desired. Empty when there is no difference. */
export function diffFamily(
  desired: readonly TableDesired[],
  observed: SavedTables,
  prefix: string,
): TableEdit[] {
  return desired
    .map((t) => diffTable(t, observed.get(TABLE[t.layer]) ?? new Map(), prefix))
    .filter((e) => !isEmptyEdit(e));
}

function diffTable(desired: TableDesired, observed: SavedTable, prefix: string): TableEdit {
  const refill = new Map<string, readonly string[]>();
  for (const [chain, rules] of desired.chains) {
    if (!isCurrent(observed.get(chain), rules, desired.family))
      refill.set(chain, renderChain(chain, rules, desired.family, prefix));
  }
  const remove = [...observed.keys()].filter((c) => c.startsWith(`${prefix}-`) && !desired.chains.has(c));
  return { table: TABLE[desired.layer], refill, remove, commands: hookCommands(desired, observed, prefix) };
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

/**
 * Drawbridge's jumps: each is installed once, at the head of its chain, those of one chain in their order. Other copies are deleted by
 * their whole text.
 */
function hookCommands(desired: TableDesired, observed: SavedTable, prefix: string): string[] {
  const wanted = hooksByPlace(desired, observed);
  const commands: string[] = [];
  for (const [chain, rules] of observed) {
    if (chain.startsWith(`${prefix}-`)) continue;
    const hooks = wanted.get(chain) ?? [];
    const hashes = chainHashes(hooks, desired.family);
    const own = rules.filter((r) => r.hash !== undefined);
    if (own.length === hooks.length && hashes.every((hash, i) => rules[i]?.hash === hash)) continue;
    commands.push(...own.map((r) => `-D ${chain} ${r.text}`));
    commands.push(...insertions(chain, hooks, desired.family, prefix));
  }
  for (const [chain, hooks] of wanted)
    if (!observed.has(chain)) commands.push(...insertions(chain, hooks, desired.family, prefix));
  return commands;
}

/** The jumps of each chain of another program. */
export function hooksByPlace(desired: TableDesired, observed: SavedTable): Map<string, readonly Rule[]> {
  const places = new Map<string, readonly Rule[]>();
  for (const hook of desired.hooks) {
    const place = placeOf(chainOf(desired.layer, hook), observed);
    places.set(place, [...(places.get(place) ?? []), hook.rule]);
  }
  return places;
}

/** Docker may have no DOCKER-USER in a family (its ip6tables off, not started): then FORWARD itself is the place. */
function placeOf(chain: string, observed: SavedTable): string {
  if (chain !== 'DOCKER-USER') return chain;
  const jumped = observed.get('FORWARD')?.some((r) => /(^| )-j DOCKER-USER$/.test(r.text));
  return observed.has('DOCKER-USER') && jumped ? 'DOCKER-USER' : 'FORWARD';
}

/** Jumps in the state after they were written, with their texts, by which they are deleted. */
export const savedHooks = (hooks: readonly Rule[], family: Family, prefix: string): SavedRule[] =>
  chainHashes(hooks, family).map((hash, i) => ({
    text: iptablesRule(hooks[i] as Rule, family, `${prefix}:${hash}`),
    hash,
  }));

const insertions = (chain: string, hooks: readonly Rule[], family: Family, prefix: string): string[] =>
  savedHooks(hooks, family, prefix).map(({ text }, i) => `-I ${chain} ${i + 1} ${text}`);

/** The edits that remove every chain and jump of Drawbridge from any table. */
export function removalEdits(observed: SavedTables, prefix: string): TableEdit[] {
  return [...observed]
    .map(([table, chains]) => {
      const own = [...chains.keys()].filter((c) => c.startsWith(`${prefix}-`));
      const commands = [...chains]
        .filter(([c]) => !c.startsWith(`${prefix}-`))
        .flatMap(([c, rules]) => rules.filter((r) => r.hash !== undefined).map((r) => `-D ${c} ${r.text}`));
      return { table: table as TableName, refill: new Map(), commands, remove: own };
    })
    .filter((e) => !isEmptyEdit(e));
}
