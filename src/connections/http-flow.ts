/** One TCP connection to port 80: every request on it must name a permitted host. */
import {
  type Decision,
  distance,
  type FlowState,
  type NameJudge,
  type Outcome,
  type Refusal,
  type Ruling,
  type Segment,
} from './flow-check.js';
import { type Framing, type ReaderPlace, type RequestHead, RequestReader } from './http-requests.js';
import { HELLO_MS } from './tls-flow.js';

/** Segments that wait for others before them, or for the end of a head. */
const MAX_HELD = 256;
/** Bytes of heads and of sizes of chunks that are kept to compare what is sent again, each stretch of them with its cost in memory. */
const MAX_KEPT = 32 * 1024;
const STRETCH_COST = 128;

/** Content of a request may pass once this much of it has come, so that no head alone changes the kernel, and while at least `LEAST` bytes are left. */
const BEGUN = 1024 * 1024;
const LEAST = 4 * 1024 * 1024;
/** Longer than any packet: with BIG TCP a packet of IPv6 may have 512 KiB (GSO_MAX_SIZE). */
const LARGEST_SEGMENT = 1024 * 1024;
/** Less than half of the sequence numbers. */
const MOST_PASSABLE = 2 ** 30;
/** Of the client's stream: the sequence number of its first byte (32 bits), and the number of bytes. */
export interface Passable {
  readonly seq: number;
  readonly length: number;
}

/** As it was sent: parts of it may have been there before. */
interface HeldSegment {
  readonly id: number;
  readonly offset: number;
  readonly payload: Buffer;
  readonly isLast?: boolean | undefined;
}
/** What a flow with the same start goes on from. */
export interface HttpPlace {
  readonly reader: ReaderPlace;
  readonly requests: number;
  readonly kept: readonly Framing[];
  readonly floor: number;
  readonly acknowledged: number;
  readonly serverStart?: number | undefined;
}
type Allowed = Extract<Ruling, { allow: true }>;

export class HttpFlow {
  readonly #judge: NameJudge;
  readonly #reader: RequestReader;
  readonly #start: number;
  /** Offset of the next byte to read. It grows without bound; sequence numbers are compared with its low bits. */
  #next = 0;
  /** Offset at which the client has ended its stream. */
  #end = Number.POSITIVE_INFINITY;
  /** Offset behind the last byte that was released. */
  #released = 0;
  /** Read and not released: the end of the head is not there yet. In order. */
  #undecided: HeldSegment[] = [];
  /** Segments behind a gap. */
  #ahead: HeldSegment[] = [];
  #kept: Framing[] = [];
  #keptBytes = 0;
  /** What comes before it and is sent again can no longer be compared. */
  #floor = 0;
  #since = 0;
  #now = 0;
  #requests = 0;
  /** A request for WebSocket was released: the server's answer decides what follows. */
  #upgrade: 'none' | 'asked' | 'done' = 'none';
  #serverStart: number | undefined;
  /** The last byte of the server that the client has acknowledged. */
  #acknowledged = 0;
  #answer = Buffer.alloc(0);
  #refusal: Refusal | undefined;

  /** `port`: the one that the connection goes to. `start`: the sequence number of the client's first byte. */
  constructor(judge: NameJudge, port: number, start: number, from?: HttpPlace) {
    this.#judge = judge;
    this.#start = start;
    this.#reader = new RequestReader(port, from?.reader);
    if (!from) return;
    this.#next = from.reader.at;
    this.#released = from.reader.at;
    this.#requests = from.requests;
    this.#keep(from.kept);
    this.#floor = from.floor;
    this.#acknowledged = from.acknowledged;
    this.#serverStart = from.serverStart;
  }

  /** Undefined: something waits, or what follows depends on the server. */
  get place(): HttpPlace | undefined {
    const reader = this.#reader.place;
    if (!reader || this.#refusal || this.#waiting > 0 || this.#upgrade !== 'none') return undefined;
    const [requests, kept, floor] = [this.#requests, this.#kept, this.#floor];
    return {
      reader,
      requests,
      kept,
      floor,
      acknowledged: this.#acknowledged,
      serverStart: this.#serverStart,
    };
  }

  take(segment: Segment, now: number): Outcome {
    if (this.#refusal) return this.#outcome([], [segment.id]);
    if (this.#upgrade === 'done') return this.#outcome([segment.id]);
    if (segment.from === 'server') return this.#fromServer(segment);
    this.#now = now;
    if (this.#waiting === 0) this.#since = now;
    return this.#fromClient(segment);
  }

  get state(): FlowState {
    if (this.#upgrade === 'done') return 'verified';
    return this.#upgrade === 'asked' ? 'open' : 'requests';
  }

  /** Refuse the flow for something that is not in the bytes of the client; `segment`: of this one, which is not evaluated. */
  refuse(detail: string, segment?: Pick<Segment, 'id' | 'ack'>): Outcome {
    this.#serverStart ??= segment?.ack;
    return this.#refuse(host(detail), ...(segment ? [segment.id] : []));
  }

  /** Nothing waits, and the next bytes begin a request. */
  get isIdle(): boolean {
    return this.#waiting === 0 && this.#reader.isBetweenRequests;
  }

  /** What may pass without being read: content that is large, and has begun to come. Not its end, behind which the next head begins. */
  get passable(): Passable | undefined {
    const { left, come } = this.#reader.content ?? { left: 0, come: 0 };
    if (this.#refusal || this.#waiting > 0 || come < BEGUN || left < LEAST) return undefined;
    return {
      seq: (this.#start + this.#next) >>> 0,
      length: Math.min(left - LARGEST_SEGMENT, MOST_PASSABLE),
    };
  }

  expire(now: number): Outcome | undefined {
    if (this.#refusal || this.#waiting === 0) return undefined;
    if (now - this.#since < HELLO_MS) return undefined;
    return this.#refuse(
      host('the head of a request, or the first line of its body, was not complete within 3 s'),
    );
  }

  get #waiting(): number {
    return this.#undecided.length + this.#ahead.length;
  }

  /**
   * Whether the server may learn now that the client's stream ends at a sequence number. Of a head that is not whole it learns it with the
   * last byte: there are servers that take for a head what has come before the end.
   */
  mayEnd(seq: number): boolean {
    const offset = this.#offsetOf(seq);
    return offset <= (this.#waiting > 0 ? this.#released : this.#next) || this.#passed(offset);
  }

  /** The stream may be longer than 2^31 bytes: offsets are counted from the next byte. */
  #offsetOf(seq: number): number {
    return this.#next + distance(seq, (this.#start + this.#next) | 0);
  }

  #fromClient({ id, seq, ack, payload, isLast }: Segment): Outcome {
    this.#serverStart ??= ack;
    this.#acknowledged = ack;
    const offset = this.#offsetOf(seq);
    if (offset < 0) return this.#refuse(host('it sent bytes before its first request'), id);
    if (this.#upgrade === 'asked' && offset + payload.length > this.#next)
      return this.#refuse(host('it sent more before the server had agreed to WebSocket'), id);
    if (offset > this.#next && !this.#passed(offset)) return this.#hold({ id, offset, payload, isLast });
    const again = payload.subarray(0, this.#next - offset);
    if (!this.#isSame(offset, again))
      return this.#refuse(host('it sent other bytes in the place of some that it had sent'), id);
    if (again.length === payload.length)
      return offset + payload.length > this.#released ? this.#outcome([], [id]) : this.#outcome([id]);
    return this.#read({ id, offset, payload, isLast });
  }

  /** Bytes of content before this offset need not be read: where it ends is known. They pass in the kernel, or come later. */
  #passed(offset: number): boolean {
    if (this.#waiting > 0 || !this.#reader.skip(offset - this.#next)) return false;
    this.#next = offset;
    return true;
  }

  #hold(segment: HeldSegment): Outcome {
    const isKnown = this.#ahead.some((h) => h.offset === segment.offset && h.payload.equals(segment.payload));
    if (isKnown || this.#waiting >= MAX_HELD) return this.#outcome([], [segment.id]);
    this.#ahead = [...this.#ahead, segment].sort((a, b) => a.offset - b.offset);
    return this.#outcome([]);
  }

  /** Reads a segment that has the next byte, and those that follow it. */
  #read(first: HeldSegment): Outcome {
    const allowed: Allowed[] = [];
    const drop: number[] = [];
    for (let segment: HeldSegment | undefined = first; segment; segment = this.#follower(drop)) {
      if (segment === REFUSED)
        return this.#refuse(host('it sent other bytes in the place of some that it had sent'), ...drop);
      const fresh = segment.payload.subarray(this.#next - segment.offset);
      this.#undecided.push(segment);
      this.#next += fresh.length;
      if (segment.isLast) this.#end = Math.min(this.#end, segment.offset + segment.payload.length);
      if (this.#next > this.#end)
        return this.#refuse(host('it sent more behind the end of its stream'), ...drop);
      for (const event of this.#reader.read(fresh)) {
        if (event.kind === 'refused')
          return this.#refuse(
            host(event.why === 'malformed' ? `a malformed request: ${event.detail}` : event.detail),
            ...drop,
          );
        const ruling = this.#request(event.head);
        if (!ruling.allow) return this.#refuse(ruling.refusal, ...drop);
        allowed.push(ruling);
      }
      this.#keep(this.#reader.takeFraming());
    }
    if (this.#upgrade === 'asked' && !this.#reader.isBetweenRequests)
      return this.#refuse(host('it sent more before the server had agreed to WebSocket'), ...drop);
    const release = this.#decided();
    if (this.#waiting > MAX_HELD)
      return this.#refuse(host(`a head in more than ${MAX_HELD} segments`), ...release, ...drop);
    const permitted = allowed.length > 0 ? { allowed } : {};
    return { ...this.#outcome(release, drop), ...permitted };
  }

  /** Takes the segments of which all bytes are decided. */
  #decided(): number[] {
    const to = this.#reader.decidedTo;
    const waits = this.#undecided.findIndex(({ offset, payload }) => offset + payload.length > to);
    const taken = this.#undecided.splice(0, waits < 0 ? this.#undecided.length : waits);
    const last = taken.at(-1);
    if (last === undefined) return [];
    this.#released = last.offset + last.payload.length;
    this.#since = this.#now;
    return taken.map(({ id }) => id);
  }

  /** The segment that goes on where the last one ended; parts of it that are known are compared. */
  #follower(drop: number[]): HeldSegment | undefined {
    for (;;) {
      const [next, ...rest] = this.#ahead;
      if (!next || next.offset > this.#next) return undefined;
      this.#ahead = rest;
      const again = next.payload.subarray(0, this.#next - next.offset);
      if (!this.#isSame(next.offset, again)) {
        drop.push(next.id);
        return REFUSED;
      }
      if (again.length < next.payload.length) return next;
      drop.push(next.id);
    }
  }

  #request(head: RequestHead): Decision {
    const ruling = this.#judge.request(head.host);
    this.#requests += 1;
    if (this.#upgrade === 'asked')
      return { allow: false, refusal: host('it sent more before the server had agreed to WebSocket') };
    if (!ruling.allow || !head.isUpgrade) return ruling;
    if (this.#requests > 1)
      return { allow: false, refusal: host('WebSocket on a connection that had other requests before') };
    this.#upgrade = 'asked';
    return ruling;
  }

  #keep(framing: readonly Framing[]): void {
    for (const piece of framing) {
      this.#kept.push(piece);
      this.#keptBytes += piece.bytes.length + STRETCH_COST;
    }
    while (this.#keptBytes > MAX_KEPT) {
      const oldest = this.#kept.shift();
      if (!oldest) return;
      this.#keptBytes -= oldest.bytes.length + STRETCH_COST;
      this.#floor = oldest.at + oldest.bytes.length;
    }
  }

  /** Whether bytes that are sent again are those that were read, as far as they decide where requests begin. */
  #isSame(offset: number, bytes: Buffer): boolean {
    if (bytes.length === 0) return true;
    if (offset < this.#floor) return false;
    const end = offset + bytes.length;
    return this.#kept.every((piece) => {
      const [low, high] = [Math.max(piece.at, offset), Math.min(piece.at + piece.bytes.length, end)];
      if (low >= high) return true;
      return piece.bytes
        .subarray(low - piece.at, high - piece.at)
        .equals(bytes.subarray(low - offset, high - offset));
    });
  }

  /** The status line after a request for WebSocket. */
  #fromServer({ id, seq, payload }: Segment): Outcome {
    if (this.#upgrade !== 'asked') return this.#outcome([id]);
    const at = distance(seq, this.#serverStart ?? seq);
    if (at <= this.#answer.length && at >= 0)
      this.#answer = Buffer.concat([
        this.#answer.subarray(0, at),
        payload.subarray(0, STATUS_BYTES),
      ]).subarray(0, STATUS_BYTES);
    if (this.#answer.length < STATUS_BYTES) return this.#outcome([id]);
    this.#upgrade = /^HTTP\/1\.1 101 /.test(this.#answer.toString('latin1')) ? 'done' : 'none';
    return this.#outcome([id]);
  }

  #refuse(refusal: Refusal, ...more: readonly number[]): Outcome {
    this.#refusal = refusal;
    const drop = [...this.#undecided, ...this.#ahead].map(({ id }) => id);
    this.#undecided = [];
    this.#ahead = [];
    return { ...this.#outcome([], [...drop, ...more]), refusal, ...this.#expected() };
  }

  #expected(): Pick<Outcome, 'expected'> {
    if (this.#serverStart === undefined) return {};
    const byServer = (this.#start + this.#released) >>> 0;
    return { expected: { byServer, byClient: this.#acknowledged } };
  }

  #outcome(release: readonly number[], drop: readonly number[] = []): Outcome {
    return { release, drop, state: this.state };
  }
}

const STATUS_BYTES = 'HTTP/1.1 101 '.length;
const REFUSED: HeldSegment = { id: -1, offset: -1, payload: Buffer.alloc(0) };

const host = (detail: string): Refusal => ({ reason: 'host', name: '', detail });
