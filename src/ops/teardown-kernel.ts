import { type Exec, must } from '../kernel/exec.js';
import { removalEdits, restoreScript } from '../kernel/iptables-text.js';
import { type Observed, observe, RESTORE, setNames } from '../kernel/read-rules.js';
import { BACKSTOP_TABLE } from '../ruleset/backstop-table.js';
import { BRIDGE_TABLE } from '../ruleset/bridge-table.js';
import { type Found, leftovers, readChains } from './preexisting-chains.js';

const BUILTIN = new Set(['PREROUTING', 'INPUT', 'FORWARD', 'OUTPUT', 'POSTROUTING']);

/**
 * Takes every trace of ours out of the rules, sets and bridge table. `before`: what stood when we came; base chains and
 * tables that iptables made for us go too, when they are empty. Returns what was removed, for people.
 */
export async function teardownRules(
  run: Exec,
  prefix: string,
  before: Found | undefined,
): Promise<readonly string[]> {
  const observed = await observe(run, prefix, () => undefined);
  const removed = await removeChains(run, prefix, observed);
  if (observed.bridge.exists) {
    await must(run, 'nft', ['delete', 'table', 'bridge', BRIDGE_TABLE]);
    removed.push(`table bridge ${BRIDGE_TABLE}`);
  }
  if (observed.backstop.exists) {
    await must(run, 'nft', ['delete', 'table', ...BACKSTOP_TABLE.split(' ')]);
    removed.push(`table ${BACKSTOP_TABLE}`);
  }
  removed.push(...(await removeSets(run, prefix, observed)));
  if (before) removed.push(...(await removeLeftovers(run, before)));
  return removed;
}

/** Chains, jumps and sets that bear another prefix than ours does now; the tables without a prefix stay. */
export async function teardownPrefix(run: Exec, prefix: string): Promise<readonly string[]> {
  const observed = await observe(run, prefix, () => undefined);
  return [...(await removeChains(run, prefix, observed)), ...(await removeSets(run, prefix, observed))];
}

async function removeChains(run: Exec, prefix: string, { tables }: Observed): Promise<string[]> {
  const removed: string[] = [];
  for (const family of [4, 6] as const) {
    const edits = removalEdits(tables.get(family) ?? new Map(), prefix);
    if (edits.length === 0) continue;
    await must(run, RESTORE[family], ['--noflush', '-w', '10'], { input: restoreScript(edits) });
    removed.push(...edits.flatMap((e) => e.remove.map((c) => `IPv${family} ${e.table} chain ${c}`)));
  }
  return removed;
}

async function removeSets(run: Exec, prefix: string, { sets }: Observed): Promise<string[]> {
  const { fresh, record } = await setNames(run, prefix);
  const names = [...sets.keys(), ...fresh, ...record];
  if (names.length === 0) return [];
  await must(run, 'ipset', ['restore'], { input: names.map((s) => `destroy ${s}\n`).join('') });
  return [`${names.length} sets`];
}

async function removeLeftovers(run: Exec, before: Found): Promise<string[]> {
  const { chains, tables } = leftovers(await readChains(run), before);
  const removed: string[] = [];
  for (const table of tables)
    if (await isBare(run, ['table', ...table.split(' ')])) removed.push(await remove(run, 'table', table));
  for (const chain of chains) {
    const isOurs = BUILTIN.has(chain.split(' ')[2] ?? '');
    if (isOurs && (await isBare(run, ['chain', ...chain.split(' ')])))
      removed.push(await remove(run, 'chain', chain));
  }
  return removed;
}

async function remove(run: Exec, kind: 'table' | 'chain', what: string): Promise<string> {
  await must(run, 'nft', ['delete', kind, ...what.split(' ')]);
  return `${kind} ${what}`;
}

/** Only base chains that accept, and no rule in them. */
async function isBare(run: Exec, what: readonly string[]): Promise<boolean> {
  const root: unknown = JSON.parse(await must(run, 'nft', ['-j', 'list', ...what]));
  const items = (root as { nftables?: readonly Record<string, { policy?: string }>[] }).nftables ?? [];
  const chains = items.flatMap((i) => (i.chain ? [i.chain] : []));
  return (
    items.every((i) => i.rule === undefined) &&
    chains.every((c) => c.policy === undefined || c.policy === 'accept')
  );
}
