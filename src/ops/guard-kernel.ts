import { Dataplane } from '../kernel/dataplane.js';
import { type Exec, must } from '../kernel/exec.js';
import type { SavedTable } from '../kernel/iptables-text.js';
import type { IndexOf } from '../kernel/nft-parse.js';
import type { Observed } from '../kernel/read-rules.js';
import { BRIDGE_TABLE } from '../ruleset/bridge-table.js';
import type { DesiredState, KernelConfig } from '../ruleset/desired-state.js';

/** Lays `base` unless ours stands already, whatever it is: then nothing is touched. Throws KernelError. */
export async function layBase(
  run: Exec,
  shape: KernelConfig,
  base: DesiredState,
  indexOf: IndexOf,
): Promise<'laid' | 'stands'> {
  const plane = new Dataplane(run, shape, indexOf);
  if (stands(base, await plane.read())) return 'stands';
  await plane.apply(base);
  return 'laid';
}

/** Every hook has a jump of ours and the bridge table has a program: the service's last state, or a guard's. */
function stands(base: DesiredState, observed: Observed): boolean {
  if (!observed.bridge.exists || observed.bridge.rules.length === 0) return false;
  return base.tables.every(({ family, table, hooks }) => {
    const saved: SavedTable = observed.tables.get(family)?.get(table) ?? new Map();
    // Docker puts its own jumps before ours when it starts: then the security table holds until the service is there.
    return hooks.every((h) =>
      [h.chain, 'FORWARD'].some((c) => saved.get(c)?.some((r) => r.hash !== undefined)),
    );
  });
}

/** Some state of Drawbridge is installed in this network namespace, under any prefix: the bridge table has none. */
export async function hasBridgeTable(run: Exec): Promise<boolean> {
  const tables = await must(run, 'nft', ['list', 'tables']);
  return tables.split('\n').includes(`table bridge ${BRIDGE_TABLE}`);
}
