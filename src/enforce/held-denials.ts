import { parseAddress } from '../lib/ip.js';
import { addressesOn } from '../policy/neighbours.js';
import type { Subject } from '../ruleset/desired-state.js';
import { mayReach } from '../ruleset/policy-evaluator.js';
import type { DenialEvent } from './denials.js';
import { AWAY_MS, type FormerPlace, type NeighbourChanges } from './neighbour-changes.js';

export interface HeldParts {
  readonly changes: Pick<NeighbourChanges, 'justLeft' | 'hasJustJoined' | 'returned'>;
  readonly subject: (container: string) => Subject | undefined;
  /** Suffixes that a resolver of the container adds to names. */
  readonly searchDomains: (container: string) => readonly string[];
  /** ms since the epoch. */
  readonly now: () => number;
}
interface Held {
  readonly event: DenialEvent;
  /** Undefined: the address is that of a neighbour that has just come. */
  readonly place: FormerPlace | undefined;
  readonly until: number;
  readonly tell: (event: DenialEvent) => void;
}

const CHECK_MS = 1_000;
/** More are told at once. */
const MOST = 4_096;

/**
 * Denials that are no news yet: of the name, or the address, of a neighbour that is being recreated. The packet was dropped and the query
 * has its answer. If the neighbour is back in time, and may be reached, they are not told; otherwise they are, with the reason.
 */
export class HeldDenials {
  readonly #o: HeldParts;
  readonly #held = new Set<Held>();
  #timer: NodeJS.Timeout | undefined;

  constructor(parts: HeldParts) {
    this.#o = parts;
  }

  /** False: it is to be told now. */
  take(event: DenialEvent, tell: (event: DenialEvent) => void): boolean {
    const isNews = event.verdict !== 'deny' && event.verdict !== 'would-deny';
    if (isNews || event.decidedBy || this.#held.size >= MOST) return false;
    const { container, address } = event;
    const names = this.#namesIn(event);
    const place = this.#o.changes.justLeft(container, (p) =>
      event.proto === 'dns' ? names.some((name) => p.names.has(name)) : p.addresses.includes(address),
    );
    const isNew = event.proto !== 'dns' && this.#o.changes.hasJustJoined(container, address);
    if (!place && !isNew) return false;
    const until = (place?.left ?? this.#o.now()) + AWAY_MS;
    this.#held.add({ event, place, until, tell });
    this.#timer ??= setTimeout(() => this.#tick(), CHECK_MS).unref();
    return true;
  }

  /** Tell those whose time is over, and forget those whose neighbour is back. */
  check(): void {
    const now = this.#o.now();
    for (const held of this.#held) {
      const isBack = this.#isBack(held);
      if (!isBack && now < held.until) continue;
      this.#held.delete(held);
      if (isBack) continue;
      const { event, place, tell } = held;
      const left = place && `; ${place.label} left this network at ${new Date(place.left).toISOString()}`;
      tell({ ...event, reason: `${event.reason}${left ?? ''}` });
    }
  }

  #tick(): void {
    this.check();
    this.#timer = this.#held.size > 0 ? setTimeout(() => this.#tick(), CHECK_MS).unref() : undefined;
  }

  /** The name, and the name without each suffix that the resolver of the container adds. */
  #namesIn({ container, name, proto }: DenialEvent): readonly string[] {
    if (name === null || proto !== 'dns') return [];
    const without = this.#o
      .searchDomains(container)
      .flatMap((suffix) =>
        suffix !== '' && name.endsWith(`.${suffix}`) ? [name.slice(0, -suffix.length - 1)] : [],
      );
    return [name, ...without];
  }

  #isBack({ event, place }: Held): boolean {
    const subject = this.#o.subject(event.container);
    const reaches = (address: string): boolean =>
      subject !== undefined && mayReach(subject, { dst: address, proto: event.proto, dport: event.port });
    if (!place) return reaches(event.address);
    const back = this.#o.changes.returned(place);
    if (event.proto === 'dns') return back.length > 0;
    const family = parseAddress(event.address)?.family;
    return back.some((c) =>
      addressesOn(c, place.networkId).some((a) => parseAddress(a)?.family === family && reaches(a)),
    );
  }
}
