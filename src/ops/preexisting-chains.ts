import { type Exec, must } from '../kernel/exec.js';

/** Chains of the iptables tables by "family table", as they stood before we came: what was not there goes at teardown. */
export type Found = Readonly<Record<string, readonly string[]>>;

interface JsonChain {
  readonly family?: unknown;
  readonly table?: unknown;
  readonly name?: unknown;
}
const TABLES = new Set(['raw', 'mangle', 'nat', 'filter', 'security']);

export async function readChains(run: Exec): Promise<Found> {
  const root: unknown = JSON.parse(await must(run, 'nft', ['-j', 'list', 'chains']));
  const items = (root as { nftables?: readonly { chain?: JsonChain }[] }).nftables ?? [];
  const found: Record<string, string[]> = {};
  for (const { chain } of items) {
    if (
      chain === undefined ||
      (chain.family !== 'ip' && chain.family !== 'ip6') ||
      !TABLES.has(String(chain.table))
    )
      continue;
    const table = `${chain.family} ${String(chain.table)}`;
    found[table] = [...(found[table] ?? []), String(chain.name)];
  }
  return found;
}

/** True when nothing of ours stands: then what is there is what was found. */
export const isUntouched = (found: Found, prefix: string): boolean =>
  !Object.values(found).some((chains) => chains.some((c) => c.startsWith(`${prefix}-`)));

/** Base chains and tables that we made iptables create, in the order in which they can be deleted. */
export function leftovers(
  now: Found,
  before: Found,
): { chains: readonly string[]; tables: readonly string[] } {
  const chains: string[] = [];
  const tables: string[] = [];
  for (const [table, names] of Object.entries(now)) {
    const old = before[table];
    if (old === undefined) tables.push(table);
    else chains.push(...names.filter((n) => !old.includes(n)).map((n) => `${table} ${n}`));
  }
  return { chains, tables };
}
