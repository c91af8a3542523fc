import type { HostLink } from '../ruleset/bindings.js';
import type { BridgeDesired, DesiredState } from '../ruleset/state.js';
import type { FlowTable } from './delete-flows.js';
import type { SocketEnds } from './sockets.js';

export interface KernelSnapshot {
  readonly bridge: BridgeDesired;
  /** By path. */
  readonly hostMarks: ReadonlyMap<string, number>;
  readonly hostGates: readonly { readonly path: string }[];
  /** Cgroups whose datagrams have a zone of conntrack, by path. */
  readonly hostZones: ReadonlySet<string>;
}
/** The kernel as the control room uses it; made of the kernel room's parts at the composition root. */
export interface KernelPort {
  links(known: ReadonlySet<number>): Promise<readonly HostLink[]>;
  /** For taking over after a restart: elements of the bridge table as they stand, and the mark of each cgroup. */
  standing(): Promise<KernelSnapshot>;
  /** `beforeBinding` runs beside the rules and ends before any port gets its identity. */
  apply(
    desired: DesiredState,
    beforeBinding: () => Promise<void>,
  ): Promise<{ readonly changed: boolean; readonly refill: readonly string[]; readonly repaired: boolean }>;
  /** Somebody may have changed something: the next apply looks first. */
  invalidate(): void;
  readonly flows: FlowTable;
  /** TCP and UDP sockets of the host that were made in these cgroups (paths). */
  sockets(cgroups: readonly string[]): Promise<readonly SocketEnds[]>;
  /** Members of a learned set with the seconds they have left; undefined: no such set. */
  members(set: string): Promise<ReadonlyMap<string, number> | undefined>;
  add(set: string, address: string, seconds: number): Promise<void>;
  remove(set: string, address: string): Promise<void>;
  /** Members of hash:ip,port,ip for `seconds`. */
  addCut(set: string, members: readonly string[], seconds: number): Promise<void>;
  removeCut(set: string, members: readonly string[]): Promise<void>;
  hostAddresses(): ReadonlySet<string>;
}

/** The ledger as the control room uses it: what the learned sets of a container should hold, until when (ms). */
export interface LearnedPort {
  wanted(container: string): ReadonlyMap<string, ReadonlyMap<string, number>>;
  has(container: string, set: string, address: string): boolean;
}
