/** The version of the threat feeds in force: kernel sets, lookups for DNS and `explain`, deletion of flows that are now blocked. */
import type { FlowBlocklist, FlowTable } from '../kernel/delete-flows.js';
import type { Current } from '../lib/current.js';
import { type Family, parseAddress, parseCidr, type Range, rangeHas } from '../lib/ip.js';
import type { Logger } from '../lib/log.js';
import { Serial } from '../lib/serial.js';
import {
  type CurrentThreats,
  type DirectedColumns,
  type FlowEnd,
  NO_THREATS,
  type ThreatHit,
  type ThreatLook,
  type ThreatVersion,
} from '../policy/threat.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { Flow } from '../ruleset/flow.js';
import { type Addition, addition, columnsFor, kindOf, octetsTest } from './set-columns.js';
import { type KernelSetWriter, NO_MEMBERS, ThreatSets } from './threat-sets.js';

export interface ActiveThreatsOptions {
  readonly prefix: string;
  readonly identityMask: number;
  readonly maxEntries: number;
  readonly kernel: { readonly sets: KernelSetWriter; readonly flows: FlowTable };
  readonly blocklist: Pick<FlowBlocklist, 'block'>;
  readonly applied: Current<AppliedState>;
  /** Called with each new version; resolves when DNS answers that contain names it blocks are not allowed any more. */
  readonly recheckAnswers: (look: ThreatLook) => Promise<void>;
  /** Called when sets were lost and have been filled again. */
  readonly onRepaired: () => void;
  /** Pause after a failed repair. */
  readonly retryMs?: number;
  readonly log: Logger;
}
/** For more new addresses than this, one dump of all flows is cheaper than a filtered dump for each. */
const FEW = 3;
const RETRY_MS = 5_000;
/** For late packets of host-network containers: no rule matches the source address of packets to the host. */
const BLOCK_SECONDS = 86_400;
/** Addresses that one log line names. */
const MAX_LOGGED = 20;

/** Publishes versions of the threat feeds, one at a time. */
export class ActiveThreats {
  readonly #o: ActiveThreatsOptions;
  readonly #sets: ThreatSets;
  #version: ThreatVersion | undefined;
  /** Publications and repairs, one after the other. */
  readonly #changes = new Serial();
  #closed = false;
  #loading = false;
  #loads = 0;
  #repairing = false;
  /** Lost sets that are still to be filled. */
  readonly #pending = new Set<string>();
  #isRequested = false;
  #retryAt = 0;

  constructor(options: ActiveThreatsOptions) {
    this.#o = options;
    this.#sets = new ThreatSets(options);
  }

  readonly look: CurrentThreats = lookupsIn(() => this.#version);

  get #look(): ThreatLook {
    return this.#version?.look ?? NO_THREATS;
  }

  status(): { readonly entries: number; readonly feeds: number } {
    const { names = 0, feeds = 0 } = this.#version ?? {};
    return { entries: this.#sets.entries + names, feeds };
  }

  /** Whether the kernel set of that name contains the address. */
  has(set: string, address: string): boolean {
    return this.#sets.has(set, address);
  }

  /**
   * Resolves when the kernel sets have exactly these members and flows to newly blocked addresses are deleted. Rejects
   * when the sets cannot be loaded: then the version before stays in force as a whole. Calls run one after the other. May
   * be called before the first enforcement pass, so that names and addresses are blocked from the first packet on. Until
   * the first call, the sets that a previous run left in the kernel stay.
   */
  publish(version: ThreatVersion): Promise<void> {
    return this.#queued(() => this.#publish(version));
  }

  /** The number of loads so far; undefined while the sets change. */
  get resting(): number | undefined {
    return this.#loading ? undefined : this.#loads;
  }

  /** The sets with the loaded members. */
  get sets(): readonly string[] {
    return this.#sets.names;
  }

  /** Sets that another process has emptied or destroyed, by the number of entries that the kernel reports for each set. */
  lost(entries: ReadonlyMap<string, number>): readonly string[] {
    return this.#sets.lost(entries);
  }

  /**
   * Fill sets that were lost (or, with `isFirst`, are new), then delete flows that were opened meanwhile. Does not wait.
   * Sets that are requested during a repair, or that it could not fill, are filled after it.
   */
  repair(sets: readonly string[], isFirst = false): void {
    for (const set of sets) this.#pending.add(set);
    this.#isRequested = true;
    if (this.#repairing || this.#closed || performance.now() < this.#retryAt) return;
    const due = [...this.#pending];
    this.#pending.clear();
    this.#isRequested = false;
    this.#repairing = true;
    this.#queued(() => this.#repair(due, isFirst))
      .catch((e: unknown) => this.#repairFailed(due, e))
      .finally(() => {
        this.#repairing = false;
        if (this.#isRequested) this.repair([]);
      });
  }

  /** Wait for the change that is under way; later changes are refused. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#changes.settled();
  }

  #repairFailed(sets: readonly string[], error: unknown): void {
    if (this.#closed) return;
    const { retryMs = RETRY_MS } = this.#o;
    this.#retryAt = performance.now() + retryMs;
    setTimeout(() => this.repair(sets), retryMs + 1).unref();
    this.#o.log.error({ err: String(error), sets }, 'kernel sets of threats cannot be filled again yet');
  }

  async #repair(sets: readonly string[], isFirst: boolean): Promise<void> {
    await this.#change(() => this.#sets.refill(sets));
    await this.#deleteFlows(() => 'many');
    if (sets.length === 0 || isFirst) return;
    this.#o.log.warn({ sets }, 'kernel sets of threats had lost their members: filled again');
    this.#o.onRepaired();
  }

  async #change(work: () => Promise<void>): Promise<void> {
    this.#loading = true;
    try {
      await work();
    } finally {
      this.#loading = false;
      this.#loads += 1;
    }
  }

  #queued(work: () => Promise<void>): Promise<void> {
    return this.#changes.run(() => {
      if (this.#closed) throw new Error('the engine is stopping');
      return work();
    });
  }

  async #publish(version: ThreatVersion): Promise<void> {
    const before = (this.#sets.members ?? NO_MEMBERS).block;
    await this.#change(() => this.#sets.load(version.members, version.translated));
    this.#version = version;
    const after = version.members.block;
    await this.#deleteFlows((end, family) =>
      addition(columnsFor(before, end, family), columnsFor(after, end, family), FEW),
    );
    await this.#o.recheckAnswers(version.look);
    this.#o.log.info(this.status(), 'threat feeds in force');
  }

  async #deleteFlows(added: (end: FlowEnd, family: Family) => Addition): Promise<void> {
    const state = this.#o.applied.value;
    const members = this.#sets.members;
    // without a member no flow leads to one, and two walks of all flows are saved
    if (!state || !members || this.#sets.entries === 0) return;
    const { blocklist, identityMask, kernel } = this.#o;
    const context: DeletionContext = { state, members: members.block, identityMask, blocklist };
    const addresses: string[] = [];
    for (const family of [4, 6] as const) {
      const fresh: Added = { dst: added('dst', family), src: added('src', family) };
      addresses.push(...(await deleteThreatFlows(kernel.flows, context, family, fresh)));
    }
    if (addresses.length === 0) return;
    const to = [...new Set(addresses)]
      .slice(0, MAX_LOGGED)
      .map((address) => `${address} ${this.#feedOf(address)}`);
    this.#o.log.warn({ flows: addresses.length, to }, 'deleted flows to or from addresses of threat feeds');
  }

  #feedOf(address: string): string {
    const hit: ThreatHit | undefined =
      this.#look.blockedAddress(address) ?? this.#look.blockedSource(address);
    return hit ? `(${hit.feed}, ${hit.positions} ${hit.line})` : '';
  }
}

function lookupsIn(version: () => ThreatVersion | undefined): CurrentThreats {
  const look = (): ThreatLook => version()?.look ?? NO_THREATS;
  return {
    get version() {
      return version();
    },
    blockedName: (name) => look().blockedName(name),
    observedName: (name) => look().observedName(name),
    blockedAddress: (text) => look().blockedAddress(text),
    observedAddress: (text) => look().observedAddress(text),
    blockedSource: (text) => look().blockedSource(text),
    observedSource: (text) => look().observedSource(text),
  };
}

/** What decides which flows are deleted. */
interface DeletionContext {
  readonly state: AppliedState;
  readonly members: DirectedColumns;
  readonly identityMask: number;
  /** Blocks packets of the other side, which would re-create a deleted flow. */
  readonly blocklist: Pick<FlowBlocklist, 'block'>;
}
/** Addresses that are blocked now and were not before, as destinations and as sources. */
type Added = Readonly<Record<FlowEnd, Addition>>;

/** Tests for addresses of managed networks: those of containers and of build steps. */
function managedAddressTest({ vethMap }: AppliedState): (address: string) => boolean {
  const ranges: Range[] = [...vethMap.bridges.values()].flatMap((b) =>
    b.network.subnets.flatMap((s) => parseCidr(s) ?? []),
  );
  return (text) => {
    const address = parseAddress(text);
    return address !== undefined && ranges.some((range) => rangeHas(range, address));
  };
}

interface ThreatFlow {
  readonly flow: Flow;
  /** The threat's address. */
  readonly address: string;
  /** The flow of a host-network container, which has no address of its own: its first packet marked the flow. */
  readonly isHosted: boolean;
}

/** Flows that a container opened to a threat, and flows that a threat opened to a container. */
function threatFlows(
  flows: readonly Flow[],
  { state, members, identityMask }: DeletionContext,
): ThreatFlow[] {
  const isManaged = managedAddressTest(state);
  const isBlocked = (end: FlowEnd, family: 4 | 6, address: string): boolean =>
    columnsFor(members, end, family).some((columns) => kindOf(columns, address) !== undefined);
  return flows.flatMap((flow) => {
    const { family, orig, reply, mark } = flow;
    const isHosted = (mark & identityMask) !== 0;
    if (isBlocked('dst', family, reply.src) && (isHosted || isManaged(orig.src)))
      return [{ flow, address: reply.src, isHosted }];
    if (isBlocked('src', family, orig.src) && isManaged(reply.src))
      return [{ flow, address: orig.src, isHosted: false }];
    return [];
  });
}

const FILTERS = {
  dst: (src: string) => ({ reply: { src } }),
  src: (src: string) => ({ orig: { src } }),
} as const;
const ENDS = ['dst', 'src'] as const;

/** Flows of a family to or from the added addresses; for a few addresses the kernel filters the dump itself. */
async function flowsOf(
  table: FlowTable,
  family: 4 | 6,
  added: Added,
  all: DirectedColumns,
): Promise<readonly Flow[]> {
  if (ENDS.some((end) => added[end] === 'many')) {
    const tests = ENDS.filter((end) => added[end] !== 'none').flatMap((end) =>
      columnsFor(all, end, family).map(octetsTest),
    );
    return table.flows(family, {}, (octets, at) => tests.some((test) => test(octets, at)));
  }
  const found: Flow[] = [];
  for (const end of ENDS)
    for (const address of typeof added[end] === 'string' ? [] : added[end])
      found.push(...(await table.flows(family, FILTERS[end](address))));
  return found;
}

/**
 * Delete the flows, and in a second round those of packets that were under way when the rules changed. On bridges nothing
 * re-creates them: the next packet of either side opens a new flow, which the rules evaluate. Packets to the host itself
 * pass no such rule, so those flows are put on the blocklist first. Returns the addresses of the threats.
 */
async function deleteThreatFlows(
  table: FlowTable,
  context: DeletionContext,
  family: 4 | 6,
  added: Added,
): Promise<readonly string[]> {
  const deleted: string[] = [];
  for (let round = 0; round < 2; round++) {
    const found = threatFlows(await flowsOf(table, family, added, context.members), context);
    if (found.length === 0) break;
    const hosted = found.filter((f) => f.isHosted).map((f) => f.flow);
    await context.blocklist.block(hosted, { tcp: BLOCK_SECONDS, others: BLOCK_SECONDS });
    for (const { flow, address } of found) if (table.delete(flow)) deleted.push(address);
  }
  return deleted;
}
