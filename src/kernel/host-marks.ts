import type { Names } from '../ruleset/naming.js';
import type { SavedTables } from './iptables-text.js';

/** What the rules that stand say of senders in the host's network. */
export interface HostSaid {
  /** The mark of each cgroup, by path. */
  readonly hostMarks: ReadonlyMap<string, number>;
  readonly hostGates: readonly { readonly path: string }[];
  /** Cgroups whose datagrams have a zone of conntrack, by path. */
  readonly hostZones: ReadonlySet<string>;
}

export function hostSaid(tables: SavedTables | undefined, names: Names): HostSaid {
  const mangle = tables?.get('mangle');
  const marks = new Map<string, number>();
  for (const { text } of mangle?.get(names.hostWho) ?? []) {
    const [, path, mark] = /--path "?([^" ]+)"? .*--set-x?mark (0x[0-9a-f]+)/.exec(text) ?? [];
    if (path !== undefined) marks.set(path, Number(mark));
  }
  const gates = (mangle?.get(names.hostMark) ?? [])
    .filter((r) => r.text.includes(`-g ${names.hostOwn}`))
    .flatMap((r) => /--path "?([^" ]+)"?/.exec(r.text)?.[1] ?? []);
  const zoned = (tables?.get('raw')?.get(names.hostZone) ?? [])
    .filter((r) => r.text.includes('--zone-orig'))
    .flatMap((r) => /--path "?([^" ]+)"?/.exec(r.text)?.[1] ?? []);
  return { hostMarks: marks, hostGates: gates.map((path) => ({ path })), hostZones: new Set(zoned) };
}
