import type { Marks } from '../desired/marks.js';
import type { DenialEvent, NameEvent } from '../ports.js';

/** A packet that a rule logged. */
export interface LoggedFacts {
  readonly prefix: string;
  readonly mark: number;
  readonly proto: string;
  readonly src: string;
  readonly dst: string;
  readonly dport: number;
}
export interface DenialsOptions {
  readonly marks: Marks;
  readonly containerOf: (identity: number, src: string) => string | undefined;
  readonly namesOf: (container: string, address: string) => readonly string[];
  readonly now: () => number;
}

const KEPT_PER_CONTAINER = 200;
const MAX_CONTAINERS = 2_000;

/** What was denied lately, bounded for each container, and how often. Each is joined with the name that was told for it. */
export class Denials {
  readonly #o: DenialsOptions;
  readonly #kept = new Map<string, DenialEvent[]>();
  readonly #dnsDenied = new Map<string, number>();
  readonly #listeners = new Set<(e: DenialEvent) => void>();

  constructor(options: DenialsOptions) {
    this.#o = options;
  }

  packet(p: LoggedFacts): void {
    const { marks } = this.#o;
    const container = this.#o.containerOf((p.mark & marks.identity) >>> marks.shift, p.src);
    if (container === undefined) return;
    const would = p.prefix.endsWith(':would');
    this.#add({
      time: new Date(this.#o.now()).toISOString(),
      container,
      verdict: would ? 'would-deny' : 'deny',
      proto: p.proto,
      address: p.dst,
      port: p.dport,
      name: this.#o.namesOf(container, p.dst)[0] ?? null,
      reason: would ? 'no entry permits it (observed, so it passed)' : 'no entry permits it',
    });
  }

  name(e: NameEvent): void {
    if (e.verdict === 'allow') return;
    if (e.verdict === 'deny') this.#dnsDenied.set(e.container, (this.#dnsDenied.get(e.container) ?? 0) + 1);
    this.#add({
      time: new Date(this.#o.now()).toISOString(),
      container: e.container,
      verdict: e.verdict === 'error' ? 'deny' : e.verdict,
      proto: 'dns',
      address: '',
      port: 53,
      name: e.name,
      reason: e.reason,
    });
  }

  namesDenied(container: string): number {
    return this.#dnsDenied.get(container) ?? 0;
  }

  /** Newest first. */
  recent(container: string | undefined, limit: number): DenialEvent[] {
    const all = container === undefined ? [...this.#kept.values()].flat() : (this.#kept.get(container) ?? []);
    return [...all].sort((a, b) => (a.time < b.time ? 1 : -1)).slice(0, limit);
  }

  onEvent(listener: (e: DenialEvent) => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  retain(containers: ReadonlySet<string>): void {
    for (const map of [this.#kept, this.#dnsDenied])
      for (const id of map.keys()) if (!containers.has(id)) map.delete(id);
  }

  #add(e: DenialEvent): void {
    const events = this.#kept.get(e.container) ?? [];
    if (!this.#kept.has(e.container) && this.#kept.size >= MAX_CONTAINERS) return;
    events.push(e);
    if (events.length > KEPT_PER_CONTAINER) events.splice(0, events.length - KEPT_PER_CONTAINER);
    this.#kept.set(e.container, events);
    for (const listener of this.#listeners) listener(e);
  }
}
