/** Queries as clients send them, and the replies that are made here rather than fetched. */
import { classIn, extendedError, rcode, type } from './dns-constants.js';
import type { NameEvent } from './names-policy.js';
import type { Permission } from './recorder.js';
import {
  decodeMessage,
  type Edns,
  encodeMessage,
  flag,
  headerBytes,
  type Message,
  nameToWire,
  type ResourceRecord,
  WireError,
} from './wire.js';

export interface Query {
  readonly id: number;
  /** Lower case, no trailing dot, root ''. */
  readonly name: string;
  /** As asked; clients that randomise case want it back. */
  readonly asked: string;
  readonly type: number;
  readonly class: number;
  readonly recursionDesired: boolean;
  readonly authenticData: boolean;
  readonly checkingDisabled: boolean;
  readonly edns?: { readonly size: number; readonly dnssecOk: boolean };
}
/** A query of the controller itself on behalf of a container. */
export const queryFor = (name: string, asked: number): Query => ({
  id: 0,
  name,
  asked: name,
  type: asked,
  class: classIn,
  recursionDesired: true,
  authenticData: false,
  checkingDisabled: false,
});
/** A refusal has a reply where the sender may receive one; anything else is dropped (a reply to a reply would loop). */
export type ParsedQuery =
  | { readonly ok: true; readonly query: Query }
  | { readonly ok: false; readonly why: string; readonly reply?: Buffer };

export interface Reply {
  readonly rcode: number;
  readonly authoritative?: boolean;
  readonly authentic?: boolean;
  readonly answers?: readonly ResourceRecord[];
  readonly authorities?: readonly ResourceRecord[];
  /** RFC 8914: INFO-CODE and text; only sent to clients that speak EDNS. */
  readonly extendedError?: { readonly code: number; readonly text: string };
  /** The bytes may be sent again to the same client; undefined: every query is answered by all steps. */
  readonly basis?: ReplyBasis | undefined;
}

/** What decisions and routes depend on. The same object as long as nothing of it changes. */
export interface Revision {
  readonly policy: number | string;
  readonly resolvers: number;
}

/** What a reply that may be sent again depends on. */
export interface ReplyBasis {
  /** Taken before the decision that the reply follows from. */
  readonly revision: Revision;
  /** ms, monotonic: before the upstream's answer was taken from the cache, or fetched. */
  readonly madeAt: number;
  /** Until then (ms, monotonic) the upstream's answer is cached. */
  readonly freshUntil: number;
  readonly permission: Permission;
  readonly event: NameEvent;
}

/** No useful query is longer (RFC 6891 6.2.5). */
export const maxQuery = 4096;
/** UDP replies stay below the smallest common path MTU, as DNS Flag Day 2020 has it. */
export const maxUdp = 1232;
const minUdp = 512;
/** Seconds that a client may remember a denial: short, since a policy may change at any time. */
const denialTtl = 5;

function headerReply(msg: Buffer, code: number): Buffer {
  const reply = Buffer.alloc(headerBytes);
  msg.copy(reply, 0, 0, 3);
  reply[2] = ((reply[2] ?? 0) & 0x79) | 0x80;
  reply[3] = 0x80 | code;
  return reply;
}

/** Parses what a client sent. Never throws. */
export function parseQuery(msg: Buffer): ParsedQuery {
  if (msg.length < headerBytes) return { ok: false, why: 'shorter than a header' };
  const flags = msg.readUInt16BE(2);
  if (flags & flag.QR) return { ok: false, why: 'a response, not a query' };
  if (flags & 0x7800) return { ok: false, why: 'opcode is not QUERY', reply: headerReply(msg, rcode.NOTIMP) };
  if (msg.length > maxQuery)
    return { ok: false, why: 'query too long', reply: headerReply(msg, rcode.FORMERR) };
  try {
    return checkQuery(msg, decodeMessage(msg));
  } catch (error) {
    if (!(error instanceof WireError)) throw error;
    return { ok: false, why: error.message, reply: headerReply(msg, rcode.FORMERR) };
  }
}

function checkQuery(msg: Buffer, message: Message): ParsedQuery {
  const question = message.questions[0];
  if (question === undefined || message.questions.length !== 1) {
    return { ok: false, why: 'not exactly one question', reply: headerReply(msg, rcode.FORMERR) };
  }
  const edns = message.edns && { size: message.edns.size, dnssecOk: message.edns.dnssecOk };
  const base: Query = {
    id: message.id,
    name: question.name.toLowerCase(),
    asked: question.name,
    type: question.type,
    class: question.class,
    recursionDesired: (message.flags & flag.RD) !== 0,
    authenticData: (message.flags & flag.AD) !== 0,
    checkingDisabled: (message.flags & flag.CD) !== 0,
  };
  const query: Query = edns === undefined ? base : { ...base, edns };
  if (message.edns !== undefined && message.edns.version > 0) {
    return { ok: false, why: 'EDNS version', reply: encodeReply(query, { rcode: rcode.BADVERS }, maxUdp) };
  }
  return { ok: true, query };
}

/** Largest reply in bytes that this client takes over UDP (RFC 6891 6.2.3). */
export function udpLimit(query: Query): number {
  return Math.min(Math.max(query.edns?.size ?? minUdp, minUdp), maxUdp);
}

function replyEdns(query: Query, reply: Reply): Edns | undefined {
  if (query.edns === undefined) return undefined;
  let options = Buffer.alloc(0);
  if (reply.extendedError !== undefined) {
    const text = Buffer.from(reply.extendedError.text.slice(0, 200), 'utf8');
    options = Buffer.alloc(6);
    options.writeUInt16BE(15, 0);
    options.writeUInt16BE(2 + text.length, 2);
    options.writeUInt16BE(reply.extendedError.code, 4);
    options = Buffer.concat([options, text]);
  }
  const { dnssecOk } = query.edns;
  return { size: maxUdp, version: 0, dnssecOk, extendedRcode: reply.rcode >> 4, options };
}

/** Encodes a reply to `query`, at most `limit` bytes (65,535 over TCP). */
export function encodeReply(query: Query, reply: Reply, limit: number): Buffer {
  const edns = replyEdns(query, reply);
  const message: Message = {
    id: query.id,
    flags:
      flag.QR |
      flag.RA |
      (query.recursionDesired ? flag.RD : 0) |
      (query.checkingDisabled ? flag.CD : 0) |
      (reply.authoritative ? flag.AA : 0) |
      (reply.authentic ? flag.AD : 0) |
      (reply.rcode & 0x0f),
    questions: [{ name: query.asked, type: query.type, class: query.class }],
    answers: reply.answers ?? [],
    authorities: reply.authorities ?? [],
    additionals: [],
  };
  return encodeMessage(edns === undefined ? message : { ...message, edns }, limit);
}

/** SOA that lets clients remember a denial for 5 s (RFC 2308 section 3); its owner is the name's parent. */
function denialSoa(name: string): ResourceRecord {
  const dot = name.indexOf('.');
  const numbers = Buffer.alloc(20);
  [1, 3600, 600, 86_400, denialTtl].forEach((n, i) => {
    numbers.writeUInt32BE(n, 4 * i);
  });
  const data = Buffer.concat([
    nameToWire('drawbridge.invalid'),
    nameToWire('policy.drawbridge.invalid'),
    numbers,
  ]);
  return { name: dot < 0 ? '' : name.slice(dot + 1), type: type.SOA, class: classIn, ttl: denialTtl, data };
}

/** The name does not exist for this client: NXDOMAIN, AA, SOA, EDE 18. */
export function denied(query: Query, text: string): Reply {
  return {
    rcode: rcode.NXDOMAIN,
    authoritative: true,
    authorities: [denialSoa(query.name)],
    extendedError: { code: extendedError.PROHIBITED, text },
  };
}

/** The name exists, the type does not. `text`: what was withheld, if anything. */
export function noData(query: Query, text?: string): Reply {
  const base: Reply = { rcode: rcode.NOERROR, authoritative: true, authorities: [denialSoa(query.name)] };
  return text === undefined ? base : { ...base, extendedError: { code: extendedError.PROHIBITED, text } };
}

/** We could not find out; the client may try again. */
export function serverFailure(code: number, text: string): Reply {
  return { rcode: rcode.SERVFAIL, extendedError: { code, text } };
}

/** One query as the server received it. */
export interface ClientRequest {
  readonly message: Buffer;
  readonly transport: 'udp' | 'tcp';
  readonly client: { readonly address: string; readonly port: number };
  /** When it was received, or its connection accepted (ms, monotonic). */
  readonly receivedAt: number;
  /** Our end. */
  readonly server: { readonly address: string; readonly port: number };
  /** Set when the socket is inside the network namespace of a container: then the socket identifies the client. */
  readonly container?: string;
}

/** How long an client, or its networks, may take to become known, ms. */
export const awaitMs = 2000;

const tcpLimit = 65_535;

/** The bytes of a reply, cut to what the client takes over its transport. */
export function encodeFor(request: ClientRequest, query: Query, reply: Reply): Buffer {
  return encodeReply(query, reply, request.transport === 'udp' ? udpLimit(query) : tcpLimit);
}
