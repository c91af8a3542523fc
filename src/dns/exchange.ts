/** One packet to one server and its answer back: UDP from a fresh random port each time, or TCP. */

import { randomBytes, randomInt } from 'node:crypto';
import { createSocket, type RemoteInfo, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { closeSync, readFileSync } from 'node:fs';
import { Socket as TcpSocket } from 'node:net';
import type { Server } from '../lib/dns-server-address.js';
import { familyOf } from '../lib/ip.js';
import { errorCode, errorText } from '../lib/problem.js';
import { classIn, rcode } from './dns-constants.js';
import {
  decodeMessage,
  encodeMessage,
  flag,
  headerBytes,
  type Message,
  readName,
  WireError,
} from './wire.js';

/**
 * Source ports of our own queries. They lie below those that the kernel gives to sockets (ip_local_port_range): a container
 * in the host's network has the host's address, and a socket of that container with the port of one of our queries would find the
 * flow established in the connection table.
 */

export type Outcome =
  | { readonly kind: 'answer'; readonly answer: Buffer }
  /** The question of the answer differs from the sent one in letter case only. */
  | { readonly kind: 'case'; readonly answer: Buffer }
  | { readonly kind: 'timeout' }
  | { readonly kind: 'unreachable'; readonly detail: string };

/** Wrong answers that are read before the exchange is given up as under attack. */
const maxForeign = 1000;

function fromServer(server: Server, from: RemoteInfo): boolean {
  return from.port === server.port && from.address === server.address;
}

/** Ends the exchanges of one question. An AbortSignal would take a tenth of the processor time of a query. */
export class Unneeded {
  readonly #open = new Set<() => void>();
  isSo = false;

  end(): void {
    this.isSo = true;
    for (const close of this.#open) close();
  }
  /** `close` is called at the end, unless it is removed before. */
  add(close: () => void): void {
    this.#open.add(close);
  }
  remove(close: () => void): void {
    this.#open.delete(close);
  }
}

/** How long an exchange waits for its answer. */
export interface Wait {
  readonly ms: number;
  /** Ends it before: the answer is not needed any more. */
  readonly unneeded?: Unneeded;
  /** By UDP: when the same packet is sent again, from the same port, ms after the first. */
  readonly repeatMs?: readonly number[];
}

/**
 * Sends `packet` by UDP; answers from elsewhere, with another id or question are passed over. Never rejects.
 *
 * @param open a bound socket, one for each exchange: where it was opened is where the packet leaves.
 */
export async function exchangeUdp(
  server: Server,
  packet: Buffer,
  wait: Wait,
  open: () => Promise<Socket> = () => openQuerySocket(familyOf(server.address) === 4 ? 4 : 6),
): Promise<Outcome> {
  try {
    return await ask(await open(), server, packet, wait);
  } catch (e) {
    return unreachable(e);
  }
}

function unreachable(e: unknown): Outcome {
  return { kind: 'unreachable', detail: errorText(e) };
}

/** Runs `work`; what it throws is the outcome. Node calls it from its event loop, where an error would end the process. */
function attempt(finish: (outcome: Outcome) => void, work: () => void): void {
  try {
    work();
  } catch (e) {
    finish(unreachable(e));
  }
}

function ask(socket: Socket, server: Server, packet: Buffer, wait: Wait): Promise<Outcome> {
  return new Promise((resolve) => {
    if (wait.unneeded?.isSo) {
      socket.close();
      resolve({ kind: 'timeout' });
      return;
    }
    let foreign = 0;
    const close = (): void => {
      socket.removeAllListeners().on('error', () => undefined);
      socket.close();
    };
    const send = (): void =>
      attempt(finish, () => socket.send(packet, (error) => error && finish(unreachable(error))));
    const finish = ending(wait, resolve, close, send);
    socket.on('error', (error) => finish(unreachable(error)));
    socket.on('message', (answer, from) =>
      attempt(finish, () => {
        const match = fromServer(server, from) ? matchAnswer(packet, answer) : 'foreign';
        if (match !== 'foreign') finish({ kind: match === 'ours' ? 'answer' : 'case', answer });
        else if (++foreign >= maxForeign) finish(unreachable(`${foreign} forged answers`));
      }),
    );
    // No callback of `connect`: Node calls that one with the error, too, and `send` throws where the socket is not connected.
    socket.on('connect', send);
    // Connected: the kernel drops what comes from elsewhere, and reports a closed port at once.
    attempt(finish, () => socket.connect(server.port, server.address));
  });
}

/**
 * Returns what is called with the outcome: the answer or an error. It is called here at the time limit, and when the answer is not needed any more. It
 * works once, and closes what the exchange has open. One timer is set at a time, because each query sets it.
 */
function ending(
  { ms, unneeded, repeatMs = [] }: Wait,
  resolve: (outcome: Outcome) => void,
  close: () => void,
  repeat: () => void = () => undefined,
): (outcome: Outcome) => void {
  let isOver = false;
  const finish = (outcome: Outcome): void => {
    if (isOver) return;
    isOver = true;
    clearTimeout(timer);
    unneeded?.remove(late);
    close();
    resolve(outcome);
  };
  const late = (): void => finish({ kind: 'timeout' });
  let repeated = 0;
  let timer: NodeJS.Timeout;
  const wait = (from: number): void => {
    const next = repeatMs[repeated] ?? ms;
    timer = setTimeout(next < ms ? again : late, Math.min(next, ms) - from);
  };
  const again = (): void => {
    const at = repeatMs[repeated++] ?? ms;
    repeat();
    if (!isOver) wait(at);
  };
  wait(0);
  unneeded?.add(late);
  return finish;
}

function framed(packet: Buffer): Buffer {
  const length = Buffer.alloc(2);
  length.writeUInt16BE(packet.length);
  return Buffer.concat([length, packet]);
}

/** Sends `packet` over a TCP connection of its own. Never rejects. */
export function exchangeTcp(server: Server, packet: Buffer, wait: Wait): Promise<Outcome> {
  if (wait.unneeded?.isSo) return Promise.resolve({ kind: 'timeout' });
  return new Promise((resolve) => {
    const socket = new TcpSocket();
    let received: Buffer = Buffer.alloc(0);
    const finish = ending(wait, resolve, () => socket.destroy());
    socket.on('connect', () => socket.write(framed(packet)));
    socket.on('error', (error) => finish(unreachable(error)));
    socket.on('close', () => finish(unreachable('connection closed without an answer')));
    socket.on('data', (chunk) =>
      attempt(finish, () => {
        received = Buffer.concat([received, chunk]);
        const size = received.length < 2 ? Number.POSITIVE_INFINITY : 2 + received.readUInt16BE(0);
        if (received.length < size) return;
        const answer = received.subarray(2, size);
        const match = matchAnswer(packet, answer);
        if (match === 'foreign') finish(unreachable('answer to another question'));
        else finish({ kind: match === 'ours' ? 'answer' : 'case', answer });
      }),
    );
    attempt(finish, () => socket.connect({ host: server.address, port: server.port }));
  });
}

const LOWEST = 10_240;
/** Fewer ports than this would be guessed too easily (RFC 5452 4.5): then the kernel chooses. */
const FEWEST = 8_192;
const TRIES = 8;

/** First port that the kernel gives by itself in this network namespace. */
function firstEphemeral(): number {
  try {
    return Number(/^\d+/.exec(readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'utf8'))?.[0] ?? 0);
  } catch {
    return 0; // unknown: the kernel chooses the port
  }
}
const end = firstEphemeral();
const isWide = end - LOWEST >= FEWEST;

function bind(family: 4 | 6, port: number): Promise<Socket> {
  const socket = createSocket(family === 4 ? { type: 'udp4' } : { type: 'udp6', ipv6Only: true });
  return new Promise((resolve, reject) => {
    socket.once('error', (error) => {
      socket.close();
      reject(error);
    });
    socket.bind({ port, exclusive: true }, () => {
      socket.removeAllListeners('error');
      resolve(socket);
    });
  });
}

/** Open a UDP socket at a random free port. Rejects with the system's error. */
async function openQuerySocket(family: 4 | 6): Promise<Socket> {
  for (let n = 0; isWide && n < TRIES; n++) {
    try {
      return await bind(family, randomInt(LOWEST, end));
    } catch (e) {
      if (errorCode(e) !== 'EADDRINUSE') throw e;
    }
  }
  return bind(family, 0);
}

export interface Question {
  /** Lower case. */
  readonly name: string;
  readonly type: number;
  readonly dnssecOk: boolean;
  readonly checkingDisabled: boolean;
  readonly authenticData: boolean;
}
interface Outgoing {
  readonly packet: Buffer;
  readonly id: number;
}
/** `case`: all fits but the letters' case (draft-vixie-dnsext-dns0x20): forged, or a server that does not echo it. */
type Match = 'ours' | 'case' | 'foreign';

const udpSize = 1232;

/** Random case on the letters of a name: bits that a blind forger has to guess. */
function mixCase(name: string): string {
  const bits = randomBytes(32);
  return name.replace(/[a-z]/g, (c, i: number) =>
    (bits[(i >> 3) & 31] ?? 0) & (1 << (i & 7)) ? c.toUpperCase() : c,
  );
}

/** Builds a query with a random id. Nothing of the client's own options (ECS, cookies) is carried over. */
export function buildQuery(
  q: Question,
  options: { readonly mixedCase: boolean; readonly edns: boolean },
): Outgoing {
  const id = randomInt(0x10000);
  const message: Message = {
    id,
    flags: flag.RD | (q.checkingDisabled ? flag.CD : 0) | (q.authenticData ? flag.AD : 0),
    questions: [{ name: options.mixedCase ? mixCase(q.name) : q.name, type: q.type, class: classIn }],
    answers: [],
    authorities: [],
    additionals: [],
  };
  const edns = {
    size: udpSize,
    version: 0,
    dnssecOk: q.dnssecOk,
    extendedRcode: 0,
    options: Buffer.alloc(0),
  };
  return { id, packet: encodeMessage(options.edns ? { ...message, edns } : message) };
}

function questionOf(packet: Buffer): { name: string; rest: Buffer } {
  const { name, next } = readName(packet, headerBytes);
  return { name, rest: packet.subarray(next, next + 4) };
}

/** Compares id and question of an answer with what was sent; the source was checked by the caller. */
export function matchAnswer(sent: Buffer, answer: Buffer): Match {
  if (answer.length < headerBytes || answer.readUInt16BE(0) !== sent.readUInt16BE(0)) return 'foreign';
  if ((answer.readUInt16BE(2) & flag.QR) === 0) return 'foreign';
  // Servers that understand nothing of a query may leave the question out.
  if (answer.readUInt16BE(4) === 0) return isBareRefusal(answer) ? 'ours' : 'foreign';
  try {
    const ours = questionOf(sent);
    const theirs = questionOf(answer);
    if (!ours.rest.equals(theirs.rest)) return 'foreign';
    if (ours.name === theirs.name) return 'ours';
    return ours.name.toLowerCase() === theirs.name.toLowerCase() ? 'case' : 'foreign';
  } catch (error) {
    if (error instanceof WireError) return 'foreign';
    throw error;
  }
}

function isBareRefusal(answer: Buffer): boolean {
  const code = answer.readUInt16BE(2) & 0x0f;
  return code === rcode.FORMERR || code === rcode.NOTIMP || code === rcode.SERVFAIL || code === rcode.REFUSED;
}

/** The answer decoded; undefined: malformed. */
export function readAnswer(answer: Buffer): Message | undefined {
  try {
    return decodeMessage(answer);
  } catch (error) {
    if (error instanceof WireError) return undefined;
    throw error;
  }
}

/** As long as common stub resolvers wait (resolv.conf(5), timeout). */
const relayWait: Wait = { ms: 5000 };
/** Each takes a socket; beyond this, queries are lost as on a busy line. */
const maxRelays = 1000;
let relays = 0;

/**
 * The server's answer, bytes unchanged but for the id, which is random on the way out. Undefined: none came; the client
 * finds out by its own time-out, as it would have without us.
 */
export async function relay(
  server: Server,
  query: Buffer,
  transport: 'udp' | 'tcp',
): Promise<Buffer | undefined> {
  return relayed(query, (out) => (transport === 'udp' ? exchangeUdp : exchangeTcp)(server, out, relayWait));
}

/** The same by UDP, from the network namespace in which `openFd` opens a bound socket. */
export async function relayFrom(
  openFd: () => number,
  server: Server,
  query: Buffer,
): Promise<Buffer | undefined> {
  return relayed(query, (out) => exchangeUdp(server, out, relayWait, () => socketOf(openFd())));
}

/** Takes over the descriptor of a bound socket, which is closed also when that fails. */
async function socketOf(fd: number): Promise<Socket> {
  const socket = createSocket('udp4');
  try {
    const bound = once(socket, 'listening');
    socket.bind({ fd });
    await bound;
    return socket;
  } catch (e) {
    socket.close();
    closeSync(fd);
    throw e;
  }
}

async function relayed(
  query: Buffer,
  exchange: (out: Buffer) => Promise<Outcome>,
): Promise<Buffer | undefined> {
  if (relays >= maxRelays || query.length < 2) return undefined;
  const out = Buffer.from(query);
  out.writeUInt16BE(randomInt(0x10000), 0);
  relays++;
  const outcome = await exchange(out).finally(() => relays--);
  // The client decides whether it accepts an answer that does not echo the letter case.
  if (outcome.kind !== 'answer' && outcome.kind !== 'case') return undefined;
  const answer = Buffer.from(outcome.answer);
  query.copy(answer, 0, 0, 2);
  return answer;
}

/** The same over several servers, the first that answers. */
export async function relayToAny(
  servers: readonly Server[],
  query: Buffer,
  transport: 'udp' | 'tcp',
): Promise<Buffer | undefined> {
  for (const server of servers.slice(0, 3)) {
    const answer = await relay(server, query, transport);
    if (answer !== undefined) return answer;
  }
  return undefined;
}
