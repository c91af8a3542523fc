/** Streams as a network delivers them, and what a server makes of the packets that a flow has released. */
import type { Decision, NameJudge, Outcome } from '../../src/connections/flow-check.js';
import type { Random } from './random.js';
import { must } from './target.js';

export const GOOD = 'good.example';

const rule = (asked: Parameters<NameJudge['request']>[0]): Decision =>
  asked.kind === 'name' && asked.name === GOOD
    ? { allow: true, name: GOOD, entry: GOOD }
    : { allow: false, refusal: { reason: 'host', name: '', detail: 'no' } };
/** Permits one name. */
export const ONE_NAME: NameJudge = { hello: ({ name }) => rule(name), request: rule };

export interface Sent {
  readonly offset: number;
  readonly bytes: Buffer;
}

/** A stream in at most so many pieces. */
export function cut(stream: Buffer, random: Random, most: number): Sent[] {
  const cuts = new Set([0, stream.length]);
  for (let n = random.below(most); n > 0; n--)
    cuts.add(
      random.chance(2) ? random.below(stream.length + 1) : random.below(Math.min(64, stream.length + 1)),
    );
  const sorted = [...cuts].sort((a, b) => a - b);
  return sorted
    .slice(1)
    .map((end, n) => ({ offset: sorted[n] ?? 0, bytes: stream.subarray(sorted[n], end) }));
}

/** Some pieces once more, whole, in part, or together with what is next to them. */
export function repeated(stream: Buffer, sent: readonly Sent[], random: Random): Sent[] {
  return sent.flatMap((piece) => {
    if (!random.chance(4)) return [piece];
    const from = Math.max(0, piece.offset - random.below(20));
    const to = Math.min(piece.offset + piece.bytes.length, from + 1 + random.below(60));
    return [piece, { offset: from, bytes: stream.subarray(from, to) }].filter(
      ({ bytes }) => bytes.length > 0,
    );
  });
}

export function shuffled<T>(items: readonly T[], random: Random): T[] {
  return items
    .map((item) => ({ item, key: random.next() }))
    .sort((a, b) => a.key - b.key)
    .map(({ item }) => item);
}

/** The stream of a server that keeps the first, or the last, of several bytes for one place. */
export class ServerView {
  readonly #first = Buffer.alloc(MAX_VIEW);
  readonly #last = Buffer.alloc(MAX_VIEW);
  readonly #has = new Uint8Array(MAX_VIEW);
  #end = 0;

  arrive({ offset, bytes }: Sent): void {
    for (let n = 0; n < bytes.length && offset + n < MAX_VIEW; n++) {
      const at = offset + n;
      this.#last[at] = bytes[n] as number;
      if (this.#has[at] === 0) this.#first[at] = bytes[n] as number;
      this.#has[at] = 1;
    }
    while (this.#has[this.#end] === 1) this.#end += 1;
  }

  /** The bytes from the start to the first gap, in both readings. */
  get streams(): readonly Buffer[] {
    return [this.#first.subarray(0, this.#end), this.#last.subarray(0, this.#end)];
  }
}
const MAX_VIEW = 1 << 15;

/** Takes the outcomes of one flow: every packet that was taken is released or dropped once, and none after a refusal. */
export class Ledger {
  readonly released: number[] = [];
  readonly #dropped = new Set<number>();
  readonly allowed: string[] = [];
  isRefused = false;
  #taken = 0;

  /** The identity of the next packet. */
  next(): number {
    return this.#taken++;
  }

  /** Returns what was released just now. */
  note({ release, drop, refusal, allowed }: Outcome): readonly number[] {
    must(!this.isRefused || release.length === 0, 'a packet was released after the refusal');
    must(refusal === undefined || release.length === 0, 'a packet was released with the refusal');
    for (const id of [...release, ...drop]) {
      must(id < this.#taken, `packet ${id} was never taken`);
      must(!this.released.includes(id) && !this.#dropped.has(id), `packet ${id} was settled twice`);
      if (release.includes(id)) this.released.push(id);
      else this.#dropped.add(id);
    }
    for (const { name } of allowed ?? []) this.allowed.push(name);
    this.isRefused ||= refusal !== undefined;
    return release;
  }

  /** After the time for a hello has passed, nothing waits. */
  settled(): void {
    must(this.released.length + this.#dropped.size === this.#taken, 'a packet still waits');
  }
}
