/**
 * The datagrams of a client of QUIC to one server, from one port: each ClientHello in them must name a permitted host. All packets with a long
 * header come here, as long as the flow exists: a client may open several connections from one port, and begins again after a Retry. Those with
 * a short header come here, too, until the first one was released: they would overtake the end of the handshake, and a server would drop them.
 */
import { MalformedMessage } from './byte-reader.js';
import { MAX_HELLO, readHelloMessage } from './client-hello.js';
import type { NameJudge, Outcome, Refusal, Ruling } from './flow-check.js';
import {
  cryptoFrames,
  type InitialKeys,
  type InitialPacket,
  initialKeys,
  openInitial,
  type QuicPacket,
  readDatagram,
} from './quic-initial.js';
import { Reassembly } from './reassembly.js';

/** Connections of one flow that are remembered: those of a client that tries versions and answers a Retry are few. */
const MAX_CONNECTIONS = 8;
/** Datagrams that wait for the end of a hello, with the data of 0-RTT that come with it. */
const MAX_HELD = 32;
export const QUIC_HELLO_MS = 3_000;

/** One connection, by the keys of its Initial packets. */
interface Connection {
  readonly version: number;
  readonly dcid: Buffer;
  readonly keys: InitialKeys;
  readonly hello: Reassembly;
  allowed: boolean;
}

/** A datagram that waits in the queue of the kernel. */
export interface QueuedDatagram {
  readonly id: number;
  readonly payload: Buffer;
  /** The client's handshake had ended when it was sent, whether or not that was here. */
  readonly isVerified?: boolean;
}
type Allowed = Extract<Ruling, { allow: true }>;

export class QuicFlow {
  readonly #judge: NameJudge;
  #connections: Connection[] = [];
  #held: number[] = [];
  /** The last datagram began with a short header, so that the handshake of the client has ended. */
  #hasEnded = false;
  #since = 0;
  #refusal: Refusal | undefined;

  constructor(judge: NameJudge) {
    this.#judge = judge;
  }

  /** `now`: ms, monotonic, as of `expire`. */
  take({ id, payload, isVerified }: QueuedDatagram, now: number): Outcome {
    if (this.#refusal) return this.#outcome([], [id]);
    const datagram = readDatagram(payload);
    if (datagram.kind === 'refused')
      return this.#refuse(
        quic(datagram.why === 'version' ? `${datagram.detail} cannot be read` : datagram.detail),
        id,
      );
    this.#hasEnded = datagram.packets[0]?.kind === 'short';
    if (this.#hasEnded && isVerified && this.#held.length === 0) return this.#outcome([id]);
    const isKnown = this.#connections.some((c) => c.allowed);
    const initials = datagram.packets.filter((p): p is InitialPacket => p.kind === 'initial');
    if (!isKnown && initials.length === 0 && this.#connections.length === 0)
      return this.#refuse(
        quic(`it begins with ${firstOf(datagram.packets)}, not with an Initial packet`),
        id,
      );
    const rulings: Ruling[] = [];
    for (const packet of initials) {
      const outcome = this.#initial(packet);
      if (outcome === 'unknown' && this.#connections.length > 0) return this.#outcome([], [id]);
      if (outcome === 'unknown') return this.#refuse(quic('its first packet cannot be decrypted'), id);
      if (outcome !== undefined) rulings.push(outcome);
    }
    if (initials.length === datagram.packets.length && rulings.length === 0 && this.#isRepeated())
      return this.#outcome([id]);
    if (this.#held.length === 0) this.#since = now;
    if (this.#held.length >= MAX_HELD) return this.#outcome([], [id]);
    this.#held.push(id);
    return this.#settle(rulings);
  }

  /** Evaluate what waits again: a record that it depends on was looked up. */
  recheck(): Outcome {
    if (this.#refusal) return this.#outcome([]);
    return this.#settle(this.#connections.filter((c) => !c.allowed).flatMap((c) => this.#hello(c) ?? []));
  }

  get isIdle(): boolean {
    return this.#held.length === 0;
  }

  /** A hello that is not complete in time. Undefined while it has time left, or nothing waits. */
  expire(now: number): Outcome | undefined {
    if (this.#held.length === 0 || now - this.#since < QUIC_HELLO_MS) return undefined;
    return this.#refuse(quic('its hello was not complete within 3 s'));
  }

  /** Datagrams go on once every hello that has begun is complete and permitted. */
  #settle(rulings: readonly Ruling[]): Outcome {
    const allowed: Allowed[] = [];
    let awaits: string | undefined;
    for (const ruling of rulings) {
      if (ruling.allow === 'later') awaits = ruling.record;
      else if (ruling.allow) allowed.push(ruling);
      else return this.#refuse(ruling.refusal);
    }
    const isReady = this.#connections.every((c) => c.allowed);
    const release = isReady ? this.#held : [];
    if (isReady) this.#held = [];
    return {
      ...this.#outcome(release),
      ...(allowed.length > 0 ? { allowed } : {}),
      ...(awaits === undefined ? {} : { awaits }),
    };
  }

  /**
   * What has come of hellos that are not complete is the beginning of a permitted one, and nothing waits. After a Retry, clients such as curl
   * send the same hello again, and its rest when the server has acknowledged its beginning.
   */
  #isRepeated(): boolean {
    const open = this.#connections.filter((c) => !c.allowed);
    if (this.#held.length > 0 || open.length === 0) return false;
    return open.every(({ hello }) => {
      const bytes = hello.whole;
      const isBegun = (c: Connection): boolean =>
        c.allowed && c.hello.whole.subarray(0, bytes.length).equals(bytes);
      return !hello.hasGap && this.#connections.some(isBegun);
    });
  }

  /** `unknown`: it was encrypted with keys that no packet has shown. The server may have them, so that it is dropped. */
  #initial(packet: InitialPacket): Ruling | 'unknown' | undefined {
    const opened = this.#open(packet);
    if (!opened) return 'unknown';
    if (this.#connections.length > MAX_CONNECTIONS)
      return refused(`more than ${MAX_CONNECTIONS} connections have begun and are not complete`);
    const { connection, frames } = opened;
    try {
      for (const { offset, data } of cryptoFrames(frames)) {
        const added = connection.hello.add(offset, data);
        if (added === 'conflict') return refused('it sent other bytes in the place of some that it had sent');
        if (added === 'beyond') return refused(`a hello of more than ${MAX_HELLO} bytes`);
      }
    } catch (error) {
      if (!(error instanceof MalformedMessage)) throw error;
      return refused(error.message);
    }
    return this.#hello(connection);
  }

  #hello(connection: Connection): Ruling | undefined {
    const stream = connection.hello.whole;
    // the second hello after a HelloRetryRequest follows the first one in the stream
    for (;;) {
      const rest = stream.subarray(connection.hello.consumed);
      if (rest.length === 0) return undefined;
      const reading = readHelloMessage(rest);
      if (reading.kind === 'more') {
        connection.allowed = false;
        return undefined;
      }
      if (reading.kind === 'refused') return refused(reading.detail);
      const ruling = this.#judge.hello(reading.value);
      connection.allowed = ruling.allow === true;
      if (ruling.allow !== true) return ruling;
      connection.hello.consume(reading.end);
      if (connection.hello.consumed === stream.length) return ruling;
    }
  }

  #open(packet: InitialPacket): { readonly connection: Connection; readonly frames: Buffer } | undefined {
    for (const connection of this.#connections) {
      if (connection.version !== packet.version) continue;
      const frames = openInitial(packet, connection.keys);
      if (frames) return { connection, frames };
    }
    const keys = initialKeys(packet.version, packet.dcid);
    const frames = openInitial(packet, keys);
    if (!frames) return undefined;
    const { version, dcid } = packet;
    const connection = { version, dcid, keys, hello: new Reassembly(MAX_HELLO), allowed: false };
    this.#connections.push(connection);
    // what has begun is kept: without it, its datagrams would count as evaluated
    const oldest = this.#connections.findIndex((c) => c.allowed);
    if (this.#connections.length > MAX_CONNECTIONS && oldest >= 0) this.#connections.splice(oldest, 1);
    return { connection, frames };
  }

  #refuse(refusal: Refusal, ...more: readonly number[]): Outcome {
    this.#refusal = refusal;
    const drop = [...this.#held, ...more];
    this.#held = [];
    return { ...this.#outcome([], drop), refusal };
  }

  #outcome(release: readonly number[], drop: readonly number[] = []): Outcome {
    return { release, drop, state: this.#hasEnded && this.#held.length === 0 ? 'requests' : 'open' };
  }
}

const firstOf = (packets: readonly QuicPacket[]): string =>
  packets[0]?.kind === 'short' ? 'a short header' : `a ${packets[0]?.kind ?? 'missing'} packet`;
const quic = (detail: string): Refusal => ({ reason: 'quic', name: '', detail });
const refused = (detail: string): Ruling => ({ allow: false, refusal: quic(detail) });
