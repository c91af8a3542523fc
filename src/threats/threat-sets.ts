import type { SetStore } from '../kernel/set-store.js';
import {
  columnCount,
  DIRECTIONS,
  type DirectedColumns,
  type Direction,
  noColumns,
  type SetColumns,
  type ThreatAction,
  type ThreatMembers,
} from '../policy/threat.js';
import { freshSet, THREAT_KINDS, type ThreatKind, threatSet } from '../ruleset/naming.js';
import { THREAT_MEMBERS } from '../ruleset/threat-rules.js';
import { familyOf, isSame, kindOf, moving } from './set-columns.js';

/** The kernel calls for large sets. Each call has taken effect when it returns, or throws. */
export type KernelSetWriter = Pick<SetStore, 'create' | 'fill' | 'header' | 'exchange' | 'destroy'>;
export interface ThreatSetsOptions {
  readonly prefix: string;
  readonly kernel: { readonly sets: KernelSetWriter };
  readonly maxEntries: number;
}

interface Part {
  readonly set: string;
  readonly action: ThreatAction;
  readonly direction: Direction;
  readonly kind: ThreatKind;
  readonly columns: SetColumns;
  readonly count: number;
}
const FAMILIES = ['v4', 'v6'] as const;
const MIN_BUCKETS = 64;
/** A bucket has room for twelve members: with two on average the kernel need not grow the table while it is filled. */
const PER_BUCKET = 2;
const bucketsFor = (count: number): number =>
  Math.max(MIN_BUCKETS, 2 ** Math.ceil(Math.log2(Math.max(count, 1) / PER_BUCKET)));

const none = { v4: noColumns(1), v6: noColumns(4) };
const nowhere: DirectedColumns = { both: none, outbound: none, inbound: none };
export const NO_MEMBERS: ThreatMembers = { block: nowhere, observe: nowhere };
const ACTIONS = ['block', 'observe'] as const;

/** The kernel sets of threats. A fresh set is filled and counted before it is exchanged with the set that the rules match. */
export class ThreatSets {
  readonly #o: ThreatSetsOptions;
  /** Undefined while the sets still have the members of a previous run. */
  #members: ThreatMembers | undefined;
  #translated = 0;
  #partsOf: ThreatMembers | undefined;
  #known: readonly Part[] = [];

  constructor(options: ThreatSetsOptions) {
    this.#o = options;
  }

  get members(): ThreatMembers | undefined {
    return this.#members;
  }

  get entries(): number {
    const all = this.#parts(this.#members ?? NO_MEMBERS).reduce((sum, p) => sum + p.count, 0);
    return all - this.#translated;
  }

  /** Whether the set of that name contains the address. */
  has(set: string, address: string): boolean {
    const part = this.#parts(this.#members ?? NO_MEMBERS).find((p) => p.set === set);
    return part !== undefined && kindOf(part.columns, address) === part.kind;
  }

  /** Resolves when the kernel sets have exactly these members. Rejects when not: then all sets keep their old members. */
  async load(members: ThreatMembers, translated = 0): Promise<void> {
    const parts = this.#parts(members);
    const total = parts.reduce((sum, p) => sum + p.count, 0) - translated;
    if (total > this.#o.maxEntries)
      throw new Error(
        `feeds come to ${total} addresses and networks, threats.maxEntries is ${this.#o.maxEntries}: raise it, or leave a feed out`,
      );
    await this.#replace(await this.#changed(parts));
    this.#members = members;
    this.#translated = translated;
  }

  get names(): readonly string[] {
    return this.#members ? this.#parts(this.#members).map((p) => p.set) : [];
  }

  /** Sets with a number of entries in the kernel that differs from what was loaded. */
  lost(entries: ReadonlyMap<string, number>): readonly string[] {
    if (!this.#members) return [];
    return this.#parts(this.#members)
      .filter((p) => entries.get(p.set) !== p.count)
      .map((p) => p.set);
  }

  /** Fill these sets again with the loaded members. */
  async refill(sets: readonly string[]): Promise<void> {
    if (this.#members) await this.#replace(this.#parts(this.#members).filter((p) => sets.includes(p.set)));
  }

  /** The parts of the same members are kept: they are compared with the kernel twice in each beat. Members do not change. */
  #parts(members: ThreatMembers): readonly Part[] {
    if (this.#partsOf !== members) this.#known = this.#computed(members);
    this.#partsOf = members;
    return this.#known;
  }

  #computed(members: ThreatMembers): readonly Part[] {
    return ACTIONS.flatMap((action) =>
      DIRECTIONS.flatMap((direction) =>
        FAMILIES.flatMap((key) =>
          THREAT_KINDS.map((kind) => {
            const columns = members[action][direction][key];
            const set = threatSet(this.#o.prefix, action, direction, kind, familyOf(columns.words));
            const nets = columns.prefixes.length;
            const count = kind === 'net' ? nets : columnCount(columns) - nets;
            return { set, action, direction, kind, columns, count };
          }),
        ),
      ),
    );
  }

  /** Parts that differ from the kernel's sets. */
  async #changed(parts: readonly Part[]): Promise<Part[]> {
    const changed: Part[] = [];
    for (const part of parts) {
      const before = this.#members && this.#columnsOf(this.#members, part);
      // a set without members is the same set, whatever run has made it
      const isSameAsLoaded =
        part.count === 0 || (before !== undefined && isSame(before, part.columns, part.kind));
      const isLoaded = isSameAsLoaded && (await this.#o.kernel.sets.header(part.set))?.entries === part.count;
      if (!isLoaded) changed.push(part);
    }
    return changed;
  }

  #columnsOf(members: ThreatMembers, { action, direction, columns }: Part): SetColumns {
    return members[action][direction][columns.words === 1 ? 'v4' : 'v6'];
  }

  async #replace(parts: readonly Part[]): Promise<void> {
    const { sets } = this.#o.kernel;
    // Networks first.
    const ordered = (['net', 'ip'] as const).flatMap((kind) => parts.filter((part) => part.kind === kind));
    try {
      for (const part of ordered) await this.#make(part);
      for (const [i, part] of ordered.entries()) await this.#bridge(part, ordered.slice(0, i));
      this.#exchange(ordered);
    } finally {
      for (const part of parts) sets.destroy(freshSet(part.set));
    }
  }

  async #make({ set, kind, columns, count }: Part): Promise<void> {
    const { maxEntries } = this.#o;
    const { sets } = this.#o.kernel;
    const name = freshSet(set);
    sets.destroy(name); // left by a run that ended in the middle
    sets.create({
      name,
      of: THREAT_MEMBERS[kind],
      words: columns.words,
      hashSize: bucketsFor(count),
      maxElements: Math.max(maxEntries, count, 1),
    });
    await sets.fill(name, THREAT_MEMBERS[kind], columns);
    const entries = (await sets.header(name))?.entries ?? 0;
    if (entries !== count) throw new Error(`set ${name} has ${entries} members and should have ${count}`);
  }

  /**
   * Members that move to this set from one that is exchanged earlier are added to this set before the exchange, so that
   * they are never missing. Members that move from a set that is exchanged later are still in that set.
   */
  async #bridge(to: Part, earlier: readonly Part[]): Promise<void> {
    const before = this.#members;
    if (!before || to.action !== 'block') return;
    const { words } = to.columns;
    for (const from of earlier.filter((p) => p.action === 'block' && p.columns.words === words)) {
      const source = { columns: this.#columnsOf(before, from), kind: from.kind };
      const moved = moving(to, this.#columnsOf(before, to), source);
      if (columnCount(moved) > 0) await this.#o.kernel.sets.fill(to.set, THREAT_MEMBERS[to.kind], moved);
    }
  }

  #exchange(parts: readonly Part[]): void {
    const { sets } = this.#o.kernel;
    const done: Part[] = [];
    try {
      for (const part of parts) if (sets.exchange(freshSet(part.set), part.set)) done.push(part);
    } catch (error) {
      for (const part of done.reverse()) sets.exchange(freshSet(part.set), part.set);
      throw error;
    }
  }
}
