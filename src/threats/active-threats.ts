import type { FlowBlocklist, FlowTable } from '../kernel/delete-flows.js';
import { type Family, parseAddress, parseCidr, type Range, rangeHas } from '../lib/ip.js';
import type { Logger } from '../lib/log.js';
import {
  type DirectedColumns,
  type FlowEnd,
  NO_THREATS,
  type ThreatHit,
  type ThreatLook,
  type ThreatPublisher,
  type ThreatVersion,
} from '../policy/threat.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { Flow } from '../ruleset/flow.js';
import { type Addition, addition, columnsFor, kindOf, octetsTest } from './set-columns.js';
import { type BigSets, NO_MEMBERS, ThreatSets } from './threat-sets.js';

/** What decides which flows end. */
interface DeletionContext {
  readonly state: AppliedState;
  readonly members: DirectedColumns;
  readonly identityMask: number;
  /** Keeps what the other side sends from making a flow anew that ended. */
  readonly bar: (flows: readonly Flow[]) => Promise<void>;
}
/** What is bad now and was not, as a destination and as a source. */
type Added = Readonly<Record<FlowEnd, Addition>>;

/** Addresses of managed networks: containers', and those of build steps. */
function managedAddressTest({ vethMap: ports }: AppliedState): (address: string) => boolean {
  const ranges: Range[] = [...ports.bridges.values()].flatMap((b) =>
    b.network.subnets.flatMap((s) => parseCidr(s) ?? []),
  );
  return (text) => {
    const address = parseAddress(text);
    return address !== undefined && ranges.some((range) => rangeHas(range, address));
  };
}

interface Found {
  readonly flow: Flow;
  /** The threat's address. */
  readonly end: string;
  /** Of a sender in the host's network, who has no address of its own: its first packet marked the flow. */
  readonly isHosted: boolean;
}

/** Flows that a container opened to a threat, and those that a threat opened to a container. */
function threatFlows(flows: readonly Flow[], { state, members, identityMask }: DeletionContext): Found[] {
  const ours = managedAddressTest(state);
  const isBad = (end: FlowEnd, family: 4 | 6, address: string): boolean =>
    columnsFor(members, end, family).some((columns) => kindOf(columns, address) !== undefined);
  return flows.flatMap((flow) => {
    const { family, orig, reply, mark } = flow;
    const isHosted = (mark & identityMask) !== 0;
    if (isBad('dst', family, reply.src) && (isHosted || ours(orig.src)))
      return [{ flow, end: reply.src, isHosted }];
    if (isBad('src', family, orig.src) && ours(reply.src)) return [{ flow, end: orig.src, isHosted: false }];
    return [];
  });
}

const FILTERS = {
  dst: (src: string) => ({ reply: { src } }),
  src: (src: string) => ({ orig: { src } }),
} as const;
const ENDS = ['dst', 'src'] as const;

/** Flows of a family to or from what was added; the kernel finds those of a few addresses itself. */
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
 * Ends them, and once more what was on its way when the rules changed. On bridges nothing re-creates them: each side's
 * next packet opens a flow, and is judged. What comes to the host itself is the host's, so that is barred. Gives the ends.
 */
async function deleteThreatFlows(
  table: FlowTable,
  doom: DeletionContext,
  family: 4 | 6,
  added: Added,
): Promise<readonly string[]> {
  const ended: string[] = [];
  for (let round = 0; round < 2; round++) {
    const found = threatFlows(await flowsOf(table, family, added, doom.members), doom);
    if (found.length === 0) break;
    await doom.bar(found.filter((f) => f.isHosted).map((f) => f.flow));
    for (const { flow, end } of found) if (table.delete(flow)) ended.push(end);
  }
  return ended;
}

export interface ActiveThreatsOptions {
  readonly prefix: string;
  readonly identityMask: number;
  readonly maxEntries: number;
  readonly kernel: BigSets;
  readonly barrier: Pick<FlowBlocklist, 'block'>;
  readonly flows: FlowTable;
  /** Undefined before the first pass. */
  readonly state: () => AppliedState | undefined;
  /** Resolves when what containers were told of names that are bad now is permitted no more. */
  readonly relearn: (look: ThreatLook) => Promise<void>;
  /** Sets were lost, and are as they should be again. */
  readonly onRepaired: () => void;
  /** From a repair that failed to the next. */
  readonly retryMs?: number;
  readonly log: Logger;
}
/** Above so many new addresses one dump of all flows is cheaper than a filtered one each. */
const FEW = 3;
const RETRY_MS = 5_000;
/** Stragglers of senders in the host's network: no rule judges by source what comes to the host. */
const BLOCK_SECONDS = 86_400;
/** Places that one line of the log names. */
const MAX_LOGGED = 20;

/** What the feeds say, in force: kernel sets, look-ups for DNS and `explain`, and the end of flows to what has become bad. */
export class ActiveThreats implements ThreatPublisher {
  readonly #o: ActiveThreatsOptions;
  readonly #sets: ThreatSets;
  #version: ThreatVersion | undefined;
  #last: Promise<unknown> = Promise.resolve();
  #closed = false;
  #loading = false;
  #loads = 0;
  #repairing = false;
  readonly #owed = new Set<string>();
  #asked = false;
  #retryAt = 0;

  constructor(options: ActiveThreatsOptions) {
    this.#o = options;
    this.#sets = new ThreatSets(options);
  }

  /** The version in force, whichever that is when it is asked. */
  readonly look: ThreatLook = {
    blockedName: (name) => this.#look.blockedName(name),
    observedName: (name) => this.#look.observedName(name),
    blockedAddress: (text) => this.#look.blockedAddress(text),
    observedAddress: (text) => this.#look.observedAddress(text),
    blockedSource: (text) => this.#look.blockedSource(text),
    observedSource: (text) => this.#look.observedSource(text),
  };

  get #look(): ThreatLook {
    return this.#version?.look ?? NO_THREATS;
  }

  status(): { readonly entries: number; readonly feeds: number } {
    const { names = 0, feeds = 0 } = this.#version ?? {};
    return { entries: this.#sets.entries + names, feeds };
  }

  /** Whether the kernel's set of that name holds the address. */
  has(set: string, address: string): boolean {
    return this.#sets.has(set, address);
  }

  publish(version: ThreatVersion): Promise<void> {
    return this.#queued(() => this.#publish(version));
  }

  /** Versions begun and ended so far; undefined while the sets change. */
  get resting(): number | undefined {
    return this.#loading ? undefined : this.#loads;
  }

  /** Sets that somebody has emptied or destroyed, by how many members the kernel says that each has. */
  lost(entries: ReadonlyMap<string, number>): readonly string[] {
    return this.#sets.lost(entries);
  }

  /**
   * Fills sets again that were lost (or, `isFirst`, are new), then ends what was opened meanwhile. Does not wait. What is
   * asked for while that is under way, or has failed, is done after it.
   */
  repair(sets: readonly string[], isFirst = false): void {
    for (const set of sets) this.#owed.add(set);
    this.#asked = true;
    if (this.#repairing || this.#closed || performance.now() < this.#retryAt) return;
    const due = [...this.#owed];
    this.#owed.clear();
    this.#asked = false;
    this.#repairing = true;
    this.#queued(() => this.#repair(due, isFirst))
      .catch((e: unknown) => this.#unrepaired(due, e))
      .finally(() => {
        this.#repairing = false;
        if (this.#asked) this.repair([]);
      });
  }

  #unrepaired(sets: readonly string[], error: unknown): void {
    if (this.#closed) return;
    const { retryMs = RETRY_MS } = this.#o;
    this.#retryAt = performance.now() + retryMs;
    setTimeout(() => this.repair(sets), retryMs + 1).unref();
    this.#o.log.error({ err: String(error), sets }, 'sets of threats cannot be filled again yet');
  }

  async #repair(sets: readonly string[], isFirst: boolean): Promise<void> {
    await this.#change(() => this.#sets.refill(sets));
    await this.#cut(() => 'many');
    if (sets.length === 0 || isFirst) return;
    this.#o.log.warn({ sets }, 'sets of threats had lost their members: filled again');
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

  /** Waits for what is under way; nothing is taken after. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#last;
  }

  #queued(work: () => Promise<void>): Promise<void> {
    const run = this.#last.then(() => {
      if (this.#closed) throw new Error('the engine is stopping');
      return work();
    });
    this.#last = run.catch(() => undefined); // the caller has it from `run`
    return run;
  }

  async #publish(version: ThreatVersion): Promise<void> {
    const before = (this.#sets.members ?? NO_MEMBERS).block;
    await this.#change(() => this.#sets.load(version.members, version.translated));
    this.#version = version;
    const after = version.members.block;
    await this.#cut((end, family) =>
      addition(columnsFor(before, end, family), columnsFor(after, end, family), FEW),
    );
    await this.#o.relearn(version.look);
    this.#o.log.info(this.status(), 'threat feeds in force');
  }

  async #cut(added: (end: FlowEnd, family: Family) => Addition): Promise<void> {
    const state = this.#o.state();
    const members = this.#sets.members;
    if (!state || !members) return;
    const { barrier, identityMask } = this.#o;
    const bar: DeletionContext['bar'] = (flows) =>
      barrier.block(flows, { tcp: BLOCK_SECONDS, others: BLOCK_SECONDS });
    const doom: DeletionContext = { state, members: members.block, identityMask, bar };
    const ended: string[] = [];
    for (const family of [4, 6] as const) {
      const fresh: Added = { dst: added('dst', family), src: added('src', family) };
      ended.push(...(await deleteThreatFlows(this.#o.flows, doom, family, fresh)));
    }
    if (ended.length === 0) return;
    const places = [...new Set(ended)]
      .slice(0, MAX_LOGGED)
      .map((address) => `${address} ${this.#whose(address)}`);
    this.#o.log.warn({ flows: ended.length, to: places }, 'flows ended: threats');
  }

  #whose(address: string): string {
    const hit: ThreatHit | undefined =
      this.#look.blockedAddress(address) ?? this.#look.blockedSource(address);
    return hit ? `(${hit.feed}, ${hit.positions} ${hit.line})` : '';
  }
}
