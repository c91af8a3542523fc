import type { Family } from '../lib/ip.js';
import { chainHashes, type Rule, renderRule } from '../ruleset/rules.js';
import type { TableName } from '../ruleset/state.js';

/** A rule as `iptables-save` printed it. */
export interface SavedRule {
  /** Without "-A CHAIN ". */
  readonly text: string;
  /** Our hash, when the rule is ours. */
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

/** The hash in the comment of a saved rule; undefined: the rule is not ours. */
export function ownHash(text: string, prefix: string): string | undefined {
  const match = / ?--comment "?([^" ]+)"?/.exec(text);
  const comment = match?.[1];
  return comment?.startsWith(`${prefix}:`) ? comment.slice(prefix.length + 1) : undefined;
}

const saved: Readonly<Record<Family, WeakMap<readonly Rule[], readonly SavedRule[]>>> = {
  4: new WeakMap(),
  6: new WeakMap(),
};
/** A chain of ours as it is known to be installed: the same object for the same rules. */
export function savedChain(rules: readonly Rule[], family: Family): readonly SavedRule[] {
  const known =
    saved[family].get(rules) ?? chainHashes(rules, family).map((hash): SavedRule => ({ text: '', hash }));
  saved[family].set(rules, known);
  return known;
}

/** A chain as `iptables-restore` lines, each rule with its hash. */
export function renderChain(chain: string, rules: readonly Rule[], family: Family, prefix: string): string[] {
  const hashes = chainHashes(rules, family);
  return rules.map(
    (r, i) => `-A ${chain} ${withComment(renderRule(r, family), prefix, hashes[i] as string)}`,
  );
}

/** Before the target, where iptables-save prints it too. */
export function withComment(text: string, prefix: string, hash: string): string {
  return `-m comment --comment ${prefix}:${hash} ${text}`;
}

export interface TableEdit {
  readonly table: TableName;
  /** Chains to create or refill, with their lines. */
  readonly refill: ReadonlyMap<string, readonly string[]>;
  /** Whole commands on others' chains: "-D DOCKER-USER …", "-I DOCKER-USER 1 …". */
  readonly commands: readonly string[];
  readonly remove: readonly string[];
}

/** One transaction a table. `:CHAIN -` creates or flushes; stale chains are emptied first, so that they can go. */
export function restoreScript(edits: readonly TableEdit[]): string {
  return edits.map(tableScript).join('');
}

function tableScript(edit: TableEdit): string {
  const declared = [...edit.refill.keys(), ...edit.remove].map((c) => `:${c} - [0:0]`);
  const rules = [...edit.refill.values()].flat();
  const removed = edit.remove.map((c) => `-X ${c}`);
  return `${[`*${edit.table}`, ...declared, ...rules, ...edit.commands, ...removed, 'COMMIT'].join('\n')}\n`;
}
export const isEmptyEdit = (e: TableEdit): boolean =>
  e.refill.size === 0 && e.commands.length === 0 && e.remove.length === 0;
