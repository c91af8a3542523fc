/** Replies that are made here, and their size. */
import { addressRecord } from './address.js';
import { denied, encodeReply, noData, type Query, type Reply, udpLimit } from './codec.js';
import type { OwnAnswer } from './decide.js';
import type { Ask } from './request.js';
import { classIn, extendedError, rcode, type } from './types.js';
import { nameToWire } from './wire-name.js';

/** Neighbours come and go: seconds. */
const localTtl = 5;
const tcpLimit = 65_535;

/** The bytes of a reply, cut to what the client takes over its transport. */
export function encodeFor(ask: Ask, query: Query, reply: Reply): Buffer {
  return encodeReply(query, reply, ask.transport === 'udp' ? udpLimit(query) : tcpLimit);
}

/** What every action but asking upstream comes to. */
export function replyFor(query: Query, action: OwnAnswer): Reply {
  switch (action.kind) {
    case 'deny':
      return denied(query, action.reason);
    case 'refuse':
      return { rcode: action.rcode, extendedError: { code: extendedError.PROHIBITED, text: action.reason } };
    case 'pointer': {
      const data = nameToWire(action.name);
      const record = { name: query.asked, type: type.PTR, class: classIn, ttl: localTtl, data };
      return { rcode: rcode.NOERROR, authoritative: true, answers: [record] };
    }
    case 'addresses': {
      const answers = action.addresses.flatMap((a) => addressRecord(query.asked, a, localTtl) ?? []);
      return answers.length === 0 ? noData(query) : { rcode: rcode.NOERROR, authoritative: true, answers };
    }
  }
}
