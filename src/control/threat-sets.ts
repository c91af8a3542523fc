import { freshSet, THREAT_KINDS, type ThreatKind, threatSet } from '../desired/naming.js';
import {
  columnCount,
  noColumns,
  type SetColumns,
  type ThreatAction,
  type ThreatMembers,
} from '../model/threat.js';
import { familyOf, holderOf, isSame, movedOut } from './threat-columns.js';

/** Big sets of the kernel: every call has happened when it returns, or throws. */
export interface BigSets {
  create(set: {
    readonly name: string;
    readonly type: 'hash:ip' | 'hash:net';
    readonly words: 1 | 4;
    readonly hashSize: number;
    readonly maxElements: number;
  }): void;
  fill(set: string, type: 'hash:ip' | 'hash:net', columns: SetColumns): Promise<void>;
  header(set: string): Promise<{ readonly entries: number } | undefined>;
  /** Puts one set in the other's place, whose contents are under its name then; false: there was no other. */
  exchange(fresh: string, set: string): boolean;
  /** False: there was none. */
  destroy(set: string): boolean;
}
export interface ThreatSetsOptions {
  readonly prefix: string;
  readonly kernel: BigSets;
  readonly maxEntries: number;
}

interface Part {
  readonly set: string;
  readonly action: ThreatAction;
  readonly kind: ThreatKind;
  readonly columns: SetColumns;
  readonly count: number;
}
const FAMILIES = ['v4', 'v6'] as const;
const MIN_BUCKETS = 64;
const TYPES = { ip: 'hash:ip', net: 'hash:net' } as const;
/** A bucket takes twelve: with two on average the kernel needs not grow the table while it is filled. */
const PER_BUCKET = 2;
const bucketsFor = (count: number): number =>
  Math.max(MIN_BUCKETS, 2 ** Math.ceil(Math.log2(Math.max(count, 1) / PER_BUCKET)));

const none = { v4: noColumns(1), v6: noColumns(4) };
export const NO_MEMBERS: ThreatMembers = { block: none, observe: none };

/** The sets of threats: a fresh one is filled, counted, and only then takes the place of the one that rules look into. */
export class ThreatSets {
  readonly #o: ThreatSetsOptions;
  /** Undefined: what an earlier run left stands. */
  #members: ThreatMembers | undefined;

  constructor(options: ThreatSetsOptions) {
    this.#o = options;
  }

  get members(): ThreatMembers | undefined {
    return this.#members;
  }

  get entries(): number {
    return this.#parts(this.#members ?? NO_MEMBERS).reduce((sum, p) => sum + p.count, 0);
  }

  /** Whether the set of that name holds the address. */
  has(set: string, address: string): boolean {
    const part = this.#parts(this.#members ?? NO_MEMBERS).find((p) => p.set === set);
    return part !== undefined && holderOf(part.columns, address) === part.kind;
  }

  /** Resolves when the kernel holds exactly these; else throws, and all that stood before stands. */
  async load(members: ThreatMembers): Promise<void> {
    const parts = this.#parts(members);
    const total = parts.reduce((sum, p) => sum + p.count, 0);
    if (total > this.#o.maxEntries)
      throw new Error(
        `feeds come to ${total} addresses and networks, threats.maxEntries is ${this.#o.maxEntries}: raise it, or leave a feed out`,
      );
    await this.#replace(await this.#changed(parts), members);
    this.#members = members;
  }

  /** Sets that do not hold what was loaded, by what the kernel says of them. */
  lost(entries: ReadonlyMap<string, number>): readonly string[] {
    if (!this.#members) return [];
    return this.#parts(this.#members)
      .filter((p) => entries.get(p.set) !== p.count)
      .map((p) => p.set);
  }

  /** Fills these again, with what was loaded. */
  async refill(sets: readonly string[]): Promise<void> {
    const members = this.#members;
    if (members)
      await this.#replace(
        this.#parts(members).filter((p) => sets.includes(p.set)),
        members,
      );
  }

  #parts(members: ThreatMembers): Part[] {
    return (['block', 'observe'] as const).flatMap((action) =>
      FAMILIES.flatMap((key) =>
        THREAT_KINDS.map((kind) => {
          const columns = members[action][key];
          const set = threatSet(this.#o.prefix, action, kind, familyOf(columns.words));
          const nets = columns.prefixes.length;
          return { set, action, kind, columns, count: kind === 'net' ? nets : columnCount(columns) - nets };
        }),
      ),
    );
  }

  /** What is not in the kernel as it is already. */
  async #changed(parts: readonly Part[]): Promise<Part[]> {
    const changed: Part[] = [];
    for (const part of parts) {
      const before = this.#members && this.#columnsOf(this.#members, part);
      const stands =
        before !== undefined &&
        isSame(before, part.columns, part.kind) &&
        (await this.#o.kernel.header(part.set))?.entries === part.count;
      if (!stands) changed.push(part);
    }
    return changed;
  }

  #columnsOf(members: ThreatMembers, { action, columns }: Part): SetColumns {
    return members[action][columns.words === 1 ? 'v4' : 'v6'];
  }

  async #replace(parts: readonly Part[], members: ThreatMembers): Promise<void> {
    const { kernel } = this.#o;
    try {
      for (const part of parts) await this.#make(part);
      await this.#bridge(parts, members);
      this.#exchange(parts);
    } finally {
      for (const part of parts) kernel.destroy(freshSet(part.set));
    }
  }

  async #make({ set, kind, columns, count }: Part): Promise<void> {
    const { kernel, maxEntries } = this.#o;
    const name = freshSet(set);
    kernel.destroy(name); // of a run that ended in the middle
    kernel.create({
      name,
      type: TYPES[kind],
      words: columns.words,
      hashSize: bucketsFor(count),
      maxElements: Math.max(maxEntries, count, 1),
    });
    await kernel.fill(name, TYPES[kind], columns);
    const held = (await kernel.header(name))?.entries ?? 0;
    if (held !== count) throw new Error(`set ${name} holds ${held} members and should hold ${count}`);
  }

  /**
   * Networks are exchanged before single addresses, so what moves from these to those is never left out; what moves the
   * other way stands as a single address already.
   */
  async #bridge(parts: readonly Part[], members: ThreatMembers): Promise<void> {
    const before = this.#members;
    if (!before) return;
    for (const part of parts.filter((p) => p.kind === 'ip' && p.action === 'block')) {
      const singles = movedOut(this.#columnsOf(before, part), this.#columnsOf(members, part));
      const moved = { ...noColumns(part.columns.words), singles };
      if (singles.length > 0) await this.#o.kernel.fill(part.set, 'hash:ip', moved);
    }
  }

  #exchange(parts: readonly Part[]): void {
    const { kernel } = this.#o;
    const done: Part[] = [];
    try {
      for (const part of [...parts].sort((a, b) => (a.kind < b.kind ? 1 : -1)))
        if (kernel.exchange(freshSet(part.set), part.set)) done.push(part);
    } catch (error) {
      for (const part of done.reverse()) kernel.exchange(freshSet(part.set), part.set);
      throw error;
    }
  }
}
