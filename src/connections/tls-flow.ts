/** The check of one TCP connection: its ClientHello must name a permitted host. Nothing of a hello is released before all of it was evaluated. */
import { asksForAnotherHello, CONTENT, MAX_HELLO, readHelloRecords } from './client-hello.js';
import {
  distance,
  type FlowState,
  type NameJudge,
  type Outcome,
  type Refusal,
  type Ruling,
  type Segment,
} from './flow-check.js';
import { Reassembly } from './reassembly.js';

/**
 * Bytes that a client may send before its server has answered: a hello, and data of 0-RTT, of which servers accept some 16,000
 * (max_early_data_size of OpenSSL, BoringSSL and nginx).
 */
const MAX_CLIENT = 4 * MAX_HELLO;
/** Of the server's answer: a HelloRetryRequest and the beginning of what follows it. */
const MAX_SERVER = 8_192;
const RECORD_HEADER = 5;
/** A client sends a hello at once. More segments than fit in its first flight come from a sender that wants them to be many. */
const MAX_HELD = 64;
/** From the first segment until a hello must be complete. */
export const HELLO_MS = 3_000;

interface HeldSegment {
  readonly id: number;
  readonly end: number;
}
/** What both sides have sent and received so far. */
export interface Exchanged {
  readonly client: Buffer;
  readonly server: Buffer;
  readonly serverStart: number | undefined;
}

export class TlsFlow {
  readonly #judge: NameJudge;
  /** Since when segments wait, while some do. */
  #since = 0;
  /** Sequence numbers of the first bytes of both sides. */
  readonly #start: number;
  #serverStart: number | undefined;
  readonly #client = new Reassembly(MAX_CLIENT);
  readonly #server = new Reassembly(MAX_SERVER);
  #held: HeldSegment[] = [];
  /** All bytes before this offset are decided, and those of a skipped record after it. */
  #decided = 0;
  #skip = 0;
  /** Hellos that were permitted, and records of the server that answer them. */
  #hellos = 0;
  #isRetry = false;
  #isVerified = false;
  #isReleased = false;
  #releasedTo = 0;
  #refusal: Refusal | undefined;

  /** `start`: the sequence number of the client's first byte, which follows that of its SYN. */
  constructor(judge: NameJudge, start: number) {
    this.#judge = judge;
    this.#start = start;
  }

  /** `now`: ms, monotonic, as of `expire`. */
  take(segment: Segment, now: number): Outcome {
    if (this.#held.length === 0) this.#since = now;
    if (this.#refusal) return this.#outcome([], [segment.id]);
    if (this.#isVerified) return this.#outcome([segment.id]);
    return segment.from === 'client' ? this.#fromClient(segment) : this.#fromServer(segment);
  }

  get state(): FlowState {
    if (this.#isVerified) return 'verified';
    return this.#isAnswerable ? 'requests' : 'open';
  }

  /** For a flow with the same start that goes on from there. Undefined: the check is over. */
  get exchanged(): Exchanged | undefined {
    if (this.#refusal || this.#isVerified) return undefined;
    const client = this.#client.whole.subarray(0, this.#releasedTo);
    return { client, server: this.#server.whole, serverStart: this.#serverStart };
  }

  /** Nothing of the client waits, and the next answer of the server ends the check if it is a ServerHello: the kernel reads that itself. */
  get #isAnswerable(): boolean {
    return this.#held.length === 0 && this.#hellos > (this.#isRetry ? 1 : 0);
  }

  /** Refuse the flow for something that is not in the bytes of the client; `segment`: of this one, which is not evaluated. */
  refuse(detail: string, segment?: Pick<Segment, 'id' | 'ack'>): Outcome {
    this.#serverStart ??= segment?.ack;
    return this.#refuse(notTls(detail), ...(segment ? [segment.id] : []));
  }

  /** Nothing more is expected of it soon: it may be forgotten when it is not used. */
  get isIdle(): boolean {
    return this.#held.length === 0;
  }

  /** Refuse a flow that is not complete in time. Undefined while it has time left, or nothing waits. */
  expire(now: number): Outcome | undefined {
    if (this.#refusal || this.#held.length === 0) return undefined;
    if (now - this.#since < HELLO_MS) return undefined;
    if (this.#hellos > 0 && !this.#isRetry) return this.#expireRest();
    return this.#refuse(
      notTls('its hello was not complete within 3 s: it needs an answer to go on, or is cut short'),
    );
  }

  /** Behind a permitted hello: the server may have answered in the kernel meanwhile, and the client sends again what is missing. */
  #expireRest(): Outcome {
    const drop = this.#held.map(({ id }) => id);
    this.#held = [];
    return this.#outcome([], drop);
  }

  /** Evaluate what waits again: a record that it depends on was looked up. */
  recheck(): Outcome {
    return this.#refusal || this.#isVerified ? this.#outcome([]) : this.#decide();
  }

  #fromClient({ id, seq, ack, payload }: Segment): Outcome {
    this.#serverStart ??= ack;
    const offset = distance(seq, this.#start);
    const added = this.#client.add(offset, payload);
    const end = offset + payload.length;
    if (added === 'conflict')
      return this.#refuse(notTls('it sent other bytes in the place of some that it had sent'), id);
    if (added === 'beyond')
      return this.#refuse(
        notTls(
          offset < 0 ? 'it sent bytes before its hello' : 'it sent too much before the server had answered',
        ),
        id,
      );
    if (added === 'known' && end <= this.#decided) return this.#outcome([id]);
    if (added === 'known') return this.#outcome([], [id]);
    this.#held.push({ id, end });
    if (this.#held.length > MAX_HELD)
      return this.#refuse(notTls(`its hello is in more than ${MAX_HELD} segments`));
    return this.#decide();
  }

  #decide(): Outcome {
    const allowed: Extract<Ruling, { allow: true }>[] = [];
    const stream = this.#client.whole;
    for (let steps = 0; this.#decided < stream.length && steps <= MAX_CLIENT; steps++) {
      const taken = Math.min(this.#skip, stream.length - this.#decided);
      this.#decided += taken;
      this.#skip -= taken;
      if (taken > 0) continue;
      const type = stream[this.#decided];
      if (this.#hellos === 0 || type === CONTENT.handshake) {
        const reading = readHelloRecords(stream.subarray(this.#decided));
        if (reading.kind === 'more') break;
        if (reading.kind === 'refused')
          return this.#refuse(
            notTls(
              reading.why === 'malformed' ? `its hello is malformed: ${reading.detail}` : reading.detail,
            ),
          );
        const ruling = this.#judge.hello(reading.value);
        if (ruling.allow === 'later') return { ...this.#releaseDecided(allowed), awaits: ruling.record };
        if (!ruling.allow) return this.#refuse(ruling.refusal);
        allowed.push(ruling);
        this.#hellos += 1;
        this.#decided += reading.end;
      } else {
        if (!SKIPPED.has(type as number))
          return this.#refuse(notTls(`a record of type ${type} after its hello`));
        if (stream.length < this.#decided + RECORD_HEADER) break;
        this.#skip = RECORD_HEADER + stream.readUInt16BE(this.#decided + 3);
      }
    }
    return this.#releaseDecided(allowed);
  }

  #releaseDecided(allowed: readonly Extract<Ruling, { allow: true }>[]): Outcome {
    const ready = this.#held.filter(({ end }) => end <= this.#decided).sort((a, b) => a.end - b.end);
    this.#held = this.#held.filter(({ end }) => end > this.#decided);
    const last = ready.at(-1);
    if (last) {
      this.#isReleased = true;
      this.#releasedTo = Math.max(this.#releasedTo, last.end);
    }
    const release = ready.map(({ id }) => id);
    return allowed.length > 0 ? { release, drop: [], state: this.state, allowed } : this.#outcome(release);
  }

  #fromServer({ id, seq, payload }: Segment): Outcome {
    if (this.#hellos === 0)
      return this.#refuse(notTls('the server sent first, which no server of TLS does'), id);
    const offset = distance(seq, this.#serverStart ?? seq);
    const room = payload.subarray(0, Math.max(0, MAX_SERVER - offset));
    // what the server has sent before is another hello's answer, and its bytes are of no interest
    if (offset >= 0 && room.length > 0 && this.#server.add(offset, room) === 'conflict')
      return this.#refuse(notTls('the server sent other bytes in the place of some that it had sent'), id);
    const answers = answersOf(this.#server.whole);
    this.#isRetry = answers.asksAgain;
    this.#isVerified = !this.#isRetry ? answers.count > 0 : answers.count > 1 && this.#hellos > 1;
    if (!this.#isVerified) return this.#outcome([id]);
    const rest = this.#held.map((h) => h.id);
    this.#held = [];
    return this.#outcome([id, ...rest]);
  }

  #refuse(refusal: Refusal, ...more: readonly number[]): Outcome {
    this.#refusal = refusal;
    const drop = [...this.#held.map(({ id }) => id), ...more];
    this.#held = [];
    return { ...this.#outcome([], drop), refusal, ...this.#expected() };
  }

  /** What was released has arrived. */
  #expected(): Pick<Outcome, 'expected'> {
    if (this.#serverStart === undefined) return {};
    const byServer = (this.#start + (this.#isReleased ? this.#releasedTo : 0)) >>> 0;
    return { expected: { byServer, byClient: (this.#serverStart + this.#server.whole.length) >>> 0 } };
  }

  #outcome(release: readonly number[], drop: readonly number[] = []): Outcome {
    return { release, drop, state: this.state };
  }
}

const ALERT = 21;
/** Records of a client that may follow its hello before the server's answer: of 0-RTT, for old routers, and an end. */
const SKIPPED: ReadonlySet<number> = new Set([CONTENT.changeCipherSpec, ALERT, CONTENT.applicationData]);

const notTls = (detail: string): Refusal => ({ reason: 'not-tls', name: '', detail });

/** How many messages the server has begun to answer with, without changes of the cipher, and whether the first one asks for another hello. */
function answersOf(stream: Buffer): { readonly count: number; readonly asksAgain: boolean } {
  const asks = asksForAnotherHello(stream);
  if (asks === undefined) return { count: 0, asksAgain: false };
  if (!asks) return { count: 1, asksAgain: false };
  let count = 0;
  for (let at = 0; at < stream.length; ) {
    if (stream[at] !== CONTENT.changeCipherSpec) count += 1;
    if (stream.length < at + RECORD_HEADER) break;
    at += RECORD_HEADER + stream.readUInt16BE(at + 3);
  }
  return { count, asksAgain: true };
}
