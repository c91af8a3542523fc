/** DNS messages: what clients send, and what upstream resolvers answer. */
import { encode } from 'dns-packet';
import { followChain, maxChain, stripServiceParams } from '../../../src/dns/answer-filter.js';
import {
  denied,
  encodeReply,
  noData,
  parseQuery,
  serverFailure,
  udpLimit,
} from '../../../src/dns/client-query.js';
import { matchAnswer, readAnswer } from '../../../src/dns/exchange.js';
import {
  decodeMessage,
  encodeMessage,
  flag,
  type Message,
  nameToWire,
  readName,
  WireError,
} from '../../../src/dns/wire.js';
import type { Random } from '../random.js';
import { bytes, must, mustEqual, type Target } from '../target.js';

const question = { type: 'A', name: 'www.example.com' } as const;
export const queries: readonly Buffer[] = [
  encode({ type: 'query', id: 1, flags: 0x100, questions: [question] }),
  encode({
    type: 'query',
    id: 2,
    flags: 0x110,
    questions: [{ type: 'AAAA', name: 'Api.Example.Com' }],
    additionals: [
      {
        type: 'OPT',
        name: '.',
        udpPayloadSize: 4096,
        flags: 0x8000,
        flag_do: true,
        extendedRcode: 0,
        ednsVersion: 0,
        options: [],
      },
    ],
  }),
];
export const answers: readonly Buffer[] = [
  encode({
    type: 'response',
    id: 3,
    flags: 0x180,
    questions: [question],
    answers: [
      { type: 'CNAME', name: 'www.example.com', ttl: 300, data: 'edge.example.net' },
      { type: 'A', name: 'edge.example.net', ttl: 60, data: '198.51.100.7' },
      { type: 'AAAA', name: 'edge.example.net', ttl: 60, data: '2001:db8::7' },
      { type: 'TXT', name: 'example.com', ttl: 5, data: [Buffer.from('v=spf1')] },
      { type: 'MX', name: 'example.com', ttl: 5, data: { preference: 10, exchange: 'mail.example.com' } },
    ],
    authorities: [
      {
        type: 'SOA',
        name: 'example.com',
        ttl: 5,
        data: {
          mname: 'a.example.com',
          rname: 'b.example.com',
          serial: 1,
          refresh: 2,
          retry: 3,
          expire: 4,
          minimum: 5,
        },
      },
    ],
  }),
  encode({
    type: 'response',
    id: 4,
    questions: [{ type: 'SRV', name: '_x._tcp.example.com' }],
    answers: [
      {
        type: 'SRV',
        name: '_x._tcp.example.com',
        ttl: 5,
        data: { port: 1, priority: 2, weight: 3, target: 'a.b' },
      },
    ],
  }),
];
export const dnsWords: readonly Buffer[] = [
  Buffer.from([0xc0, 0x0c]),
  Buffer.from([0xc0, 0x00]),
  Buffer.from([0xff, 0xff]),
  Buffer.from([0x3f]),
  Buffer.from([1, 0x2e, 1, 0]),
  Buffer.from([0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]),
  Buffer.from([0xc0, 0x0c, 0, 5, 0, 1, 0, 0, 0, 9, 0, 2, 0xc0, 0x0c]),
  Buffer.from([0xc0, 0x0c, 0, 65, 0, 1, 0, 0, 0, 9, 0, 11, 0, 1, 0, 0, 5, 0, 4, 1, 2, 3, 4]),
  ...bytes('\x07example\x03com\x00', '\x00\x00\x01\x00\x01', '\x00\x00\x1c\x00\x01'),
];

function wireErrorOnly<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    if (error instanceof WireError) return undefined;
    throw error;
  }
}

/** Compression may give a name the letter case of its first appearance. */
function folded({ questions, answers, authorities, additionals, ...rest }: Message): unknown {
  const lower = <T extends { readonly name: string }>(of: readonly T[]): readonly T[] =>
    of.map((one) => ({
      ...one,
      name: one.name.toLowerCase(),
      ...('data' in one && Buffer.isBuffer(one.data)
        ? { data: one.data.toString('latin1').toLowerCase() }
        : {}),
    }));
  return {
    ...rest,
    questions: lower(questions),
    answers: lower(answers),
    authorities: lower(authorities),
    additionals: lower(additionals),
  };
}

/** What we write ourselves has one question at most. */
function stable(message: Message): void {
  if (message.questions.length > 1) return;
  const written = encodeMessage(message);
  const again = decodeMessage(written);
  if ((again.flags & flag.TC) === (message.flags & flag.TC))
    mustEqual(folded(again), folded(message), 'a message changes when it is written and read again');
  must(
    encodeMessage(message, 512).length <= Math.max(512, 300 + (message.edns?.options.length ?? 0)),
    'over 512',
  );
}

function chains(message: Message): void {
  for (const { name, type } of message.questions.slice(0, 2)) {
    const lower = name.toLowerCase();
    const chain = followChain(lower, type, message.answers);
    must(chain.names.length <= maxChain && chain.names[0] === lower, 'a chain that is too long or not ours');
    must(
      chain.records.every((r) => message.answers.includes(r)),
      'a chain with records of its own making',
    );
  }
}

function services(message: Message): void {
  for (const { data } of message.answers) {
    const stripped = stripServiceParams(data);
    if (stripped === undefined) continue;
    must(stripped.length <= data.length, 'stripped parameters are longer');
    mustEqual(stripServiceParams(stripped), stripped, 'stripping leaves something to strip');
  }
}

function asQuery(input: Buffer): void {
  const parsed = parseQuery(input);
  if (!parsed.ok) {
    if (parsed.reply !== undefined)
      must((parsed.reply.readUInt16BE(2) & flag.QR) !== 0, 'a reply that is a query');
    return;
  }
  const { query } = parsed;
  must(nameToWire(query.asked).length <= 255, 'a name that is too long was read');
  for (const reply of [denied(query, 'x'.repeat(300)), noData(query), serverFailure(14, 'why')]) {
    const limit = udpLimit(query);
    const written = encodeReply(query, reply, limit);
    must(written.length <= limit, `a reply of ${written.length} bytes to a client that takes ${limit}`);
    const read = decodeMessage(written);
    must(read.id === query.id && read.questions[0]?.name === query.asked, 'a reply to another question');
    must((read.flags & 0xf) === reply.rcode, 'another response code');
  }
}

function check(input: Buffer): void {
  asQuery(input);
  wireErrorOnly(() => readName(input, 0));
  for (const sent of queries) {
    const sameId = Buffer.from(input);
    if (sameId.length >= 2) sent.copy(sameId, 0, 0, 2);
    matchAnswer(sent, sameId);
  }
  const message = wireErrorOnly(() => decodeMessage(input));
  mustEqual(readAnswer(input) === undefined, message === undefined, 'two readers do not agree');
  if (message === undefined) return;
  stable(message);
  chains(message);
  services(message);
}

/** A header with small counts and the sections made of words, so that the record reader is reached. */
function generate(random: Random): Buffer {
  const header = Buffer.alloc(12);
  header.writeUInt16BE(random.below(65_536), 0);
  header.writeUInt16BE(random.pick([0x100, 0x8180, 0x8583, 0x8400]), 2);
  for (let i = 0; i < 4; i++) header.writeUInt16BE(random.below(4), 4 + 2 * i);
  const parts = Array.from({ length: random.below(12) }, () => random.pick(dnsWords));
  return Buffer.concat([header, ...parts]);
}

export const dns: Target = {
  name: 'dns',
  corpus: [...queries, ...answers],
  words: dnsWords,
  maxLength: 65_535,
  generate,
  check,
};
