/** What is counted of a container. allowed, denied and unrecorded are read off rules; the others are added one by one. */
export type Tally = 'allowed' | 'denied' | 'unrecorded' | 'names' | 'threats';
/** [what earlier rules counted, what the rules of now count]. */
type Counted = readonly [base: number, latest: number];
export type TalliesState = Readonly<Record<string, Readonly<Partial<Record<Tally, Counted>>>>>;

/**
 * Totals of each container, by id, over changes of its rules and restarts of the service and of the host. A rule that is laid
 * again counts from zero: a reading that is lower than the one before begins after it.
 */
export class Tallies {
  readonly #of = new Map<string, Map<Tally, Counted>>();
  #version = 0;

  /** Another number after every change. */
  get version(): number {
    return this.#version;
  }

  /** The counter as the kernel has it now; gives by how much the total has grown. */
  read(id: string, tally: Tally, value: number): number {
    const [base, latest] = this.#get(id, tally);
    const grown = value < latest ? value : value - latest;
    this.#set(id, tally, value < latest ? [base + latest, value] : [base, value]);
    return grown;
  }

  add(id: string, tally: Tally, count: number): void {
    const [base, latest] = this.#get(id, tally);
    this.#set(id, tally, [base + count, latest]);
  }

  total(id: string, tally: Tally): number {
    const [base, latest] = this.#get(id, tally);
    return base + latest;
  }

  retain(ids: ReadonlySet<string>): void {
    for (const id of this.#of.keys()) if (!ids.has(id)) this.#of.delete(id);
  }

  snapshot(): TalliesState {
    return Object.fromEntries([...this.#of].map(([id, counts]) => [id, Object.fromEntries(counts)]));
  }

  restore(state: TalliesState): void {
    for (const [id, counts] of Object.entries(state))
      this.#of.set(id, new Map(Object.entries(counts) as [Tally, Counted][]));
  }

  #get(id: string, tally: Tally): Counted {
    return this.#of.get(id)?.get(tally) ?? [0, 0];
  }

  #set(id: string, tally: Tally, counted: Counted): void {
    const before = this.#get(id, tally);
    if (before[0] === counted[0] && before[1] === counted[1]) return;
    const counts = this.#of.get(id) ?? new Map<Tally, Counted>();
    counts.set(tally, counted);
    this.#of.set(id, counts);
    this.#version += 1;
  }
}
