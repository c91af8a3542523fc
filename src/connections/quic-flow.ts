/**
 * The datagrams of a client of QUIC to one server, from one port: each ClientHello in them must name a permitted host. All packets with a long
 * header come here, as long as the flow exists: a client may open several connections from one port, and begins again after a Retry. Those with
 * a short header come here, too, until the first one was released: they would overtake the end of the handshake, and a server would drop them.
 * What can be read of nobody but a server of QUIC goes on once such a server has answered a hello: something else at its address and port might
 * read it in another way. Until then the datagrams of the server come here as well.
 */
import { MalformedMessage } from './byte-reader.js';
import { MAX_HELLO, readHelloMessage } from './client-hello.js';
import type { NameJudge, Outcome, Refusal, Ruling } from './flow-check.js';
import {
  cryptoFrames,
  type InitialKeys,
  type InitialPacket,
  initialKeys,
  initialsOfServer,
  openInitial,
  type QuicPacket,
  readDatagram,
} from './quic-initial.js';
import { Reassembly } from './reassembly.js';

/** The bytes of this many connections of one flow are kept: a client that tries versions and answers a Retry has few. */
const MAX_CONNECTIONS = 8;
/** Connections before them, of a client that opens one after the other from the same port. */
const MAX_PAST = 1_024;
/** Datagrams that wait for the end of a hello, with the data of 0-RTT that come with it. */
const MAX_HELD = 32;
export const QUIC_HELLO_MS = 3_000;

/** One connection, by the destination of its first packet, from which the keys of its Initial packets derive. */
interface Connection {
  readonly dcid: Buffer;
  /** By version; of those in `versions` a packet was opened. */
  readonly keys: Map<number, InitialKeys>;
  readonly versions: Set<number>;
  /** The largest packet number so far. */
  largest: number | undefined;
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
  /** Destination IDs of connections that are no longer kept: conflicting bytes of them could not be recognized. */
  readonly #past = new Set<string>();
  #held: number[] = [];
  /** The last datagram began with a short header, so that the handshake of the client has ended. */
  #hasEnded = false;
  /** A server of QUIC has answered a hello of this flow. */
  #isAnswered = false;
  #since = 0;
  #refusal: Refusal | undefined;

  constructor(judge: NameJudge) {
    this.#judge = judge;
  }

  /** `now`: ms, monotonic, as of `expire`. */
  take({ id, payload, isVerified }: QueuedDatagram, now: number): Outcome {
    if (this.#refusal) return { ...this.#outcome([], [id]), isRefused: true };
    const datagram = readDatagram(payload);
    if (datagram.kind === 'refused')
      return this.#refuse(
        quic(datagram.why === 'version' ? `${datagram.detail} cannot be read` : datagram.detail),
        id,
      );
    if (datagram.packets.some((p) => p.kind === 'short' && p.isOfGoogle)) return this.#outcome([], [id]);
    // the kernel has this state of a flow that was answered and is forgotten here
    if (isVerified) this.#isAnswered = true;
    const early = datagram.packets.find((p) => p.kind === 'short' || p.kind === 'handshake');
    if (early && !this.#isAnswered && this.#connections.length > 0)
      return this.#refuse(
        quic(`it goes on with ${firstOf([early])} before a server of QUIC has answered`),
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
    if (!this.#makeRoom()) return this.#refuse(quic('it opens too many connections from one port'), id);
    if (initials.length === datagram.packets.length && rulings.length === 0 && this.#isRepeated())
      return this.#outcome([id]);
    if (this.#held.length === 0) this.#since = now;
    if (this.#held.length >= MAX_HELD)
      return this.#refuse(quic('too many datagrams before its hello was complete'), id);
    this.#held.push(id);
    return this.#settle(rulings);
  }

  /** A datagram of the server, which goes on unless the flow is refused. */
  answer({ id, payload }: QueuedDatagram): Outcome {
    if (this.#refusal) return this.#outcome([], [id]);
    this.#isAnswered ||= initialsOfServer(payload).some((p) => this.#connections.some((c) => isHello(c, p)));
    return this.#outcome([id]);
  }

  /** Refuse the flow for something that is not in the bytes of this datagram. */
  refuse(detail: string, { id }: Pick<QueuedDatagram, 'id'>): Outcome {
    return this.#refuse(quic(detail), id);
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
    if (this.#isInOtherVersion(packet))
      return refused('it begins again in another version with the same connection ID');
    const opened = this.#open(packet);
    if (!opened) return 'unknown';
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
      if (rest.length === 0) {
        // bytes behind a gap are those of another hello that has begun
        connection.allowed &&= !connection.hello.hasGap;
        return undefined;
      }
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
      if (connection.hello.consumed === stream.length) {
        connection.allowed = !connection.hello.hasGap;
        return ruling;
      }
    }
  }

  /**
   * A server may answer in another version (RFC 9368 2.3): the client then takes it, with the destination that the server has chosen, and the
   * stream goes on. With the same destination it would be a stream of its own, of which a server that negotiates versions reads a part.
   */
  #isInOtherVersion({ version, dcid }: InitialPacket): boolean {
    return this.#connections.some((c) => c.dcid.equals(dcid) && !c.versions.has(version));
  }

  #open(packet: InitialPacket): { readonly connection: Connection; readonly frames: Buffer } | undefined {
    const { dcid } = packet;
    for (const connection of this.#connections) {
      const frames = openWith(connection, packet);
      if (frames) return { connection, frames };
    }
    if (this.#past.has(dcid.toString('hex'))) return undefined;
    const connection: Connection = {
      dcid: Buffer.from(dcid),
      keys: new Map(),
      versions: new Set(),
      largest: undefined,
      hello: new Reassembly(MAX_HELLO),
      allowed: false,
    };
    const frames = openWith(connection, packet);
    if (!frames) return undefined;
    this.#connections.push(connection);
    return { connection, frames };
  }

  /** Forget the oldest connections with a permitted hello. Return false when too many are left. */
  #makeRoom(): boolean {
    while (this.#connections.length > MAX_CONNECTIONS) {
      const past = this.#connections.find((c) => c.allowed);
      if (!past || this.#past.size >= MAX_PAST) return false;
      this.#connections = this.#connections.filter((c) => c !== past);
      this.#past.add(past.dcid.toString('hex'));
    }
    return true;
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

/** The frames of a packet, if it is one of this connection. */
function openWith(connection: Connection, packet: InitialPacket): Buffer | undefined {
  const { keys, versions, dcid } = connection;
  const { version } = packet;
  const known = keys.get(version) ?? initialKeys(version, dcid);
  keys.set(version, known);
  const opened = openInitial(packet, known, connection.largest);
  if (!opened) return undefined;
  versions.add(version);
  connection.largest = Math.max(connection.largest ?? 0, opened.number);
  return opened.frames;
}

const SERVER_HELLO = 2;
/** Whether it has the beginning of a ServerHello for this connection. Its keys derive from the destination that the client has chosen. */
function isHello({ dcid }: Connection, packet: InitialPacket): boolean {
  const opened = openInitial(packet, initialKeys(packet.version, dcid, 'server'), undefined);
  try {
    return cryptoFrames(opened?.frames ?? NONE).some(
      ({ offset, data }) => offset === 0 && data[0] === SERVER_HELLO,
    );
  } catch (error) {
    if (!(error instanceof MalformedMessage)) throw error;
    return false;
  }
}

const NONE = Buffer.alloc(0);
const firstOf = (packets: readonly QuicPacket[]): string =>
  packets[0]?.kind === 'short' ? 'a short header' : `a ${packets[0]?.kind ?? 'missing'} packet`;
const quic = (detail: string): Refusal => ({ reason: 'quic', name: '', detail });
const refused = (detail: string): Ruling => ({ allow: false, refusal: quic(detail) });
