/** The DNS server's way from the socket to the answer, with an upstream that answers whatever it likes. */
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { followChain } from '../../../src/dns/answer-filter.js';
import { parseQuery, udpLimit } from '../../../src/dns/client-query.js';
import { rcode } from '../../../src/dns/dns-constants.js';
import { serveStream } from '../../../src/dns/dns-server.js';
import { type Question, readAnswer } from '../../../src/dns/exchange.js';
import type { Journal } from '../../../src/dns/journal.js';
import { KeptReplies } from '../../../src/dns/kept-replies.js';
import { Ledger } from '../../../src/dns/ledger.js';
import type { QueryPolicy } from '../../../src/dns/names-policy.js';
import type { Passthrough } from '../../../src/dns/passthrough.js';
import { QueryPipeline } from '../../../src/dns/query-pipeline.js';
import { Recorder } from '../../../src/dns/recorder.js';
import { Resolvers } from '../../../src/dns/resolvers.js';
import type { Answer, Upstream } from '../../../src/dns/upstream.js';
import { NoAnswerError } from '../../../src/dns/upstream-servers.js';
import { decodeMessage, flag, recordAddress } from '../../../src/dns/wire.js';
import { NO_THREATS } from '../../../src/policy/threat.js';
import { must, mustEqual, type Target } from '../target.js';
import { answers, dnsWords, queries } from './dns.js';

/** Between the query and what the upstream answers to it. */
const MARK = Buffer.from('\0DB>');
const ALLOWED = new Set(['www.example.com', 'api.example.com', '_x._tcp.example.com']);
const LOCAL = '10.1.0.5';

const policy: QueryPolicy = {
  containerAt: () => 'c',
  awaitClient: async () => 'c',
  awaitContainer: async () => true,
  awaitNetworks: async () => true,
  mode: () => 'enforce',
  deniedName: () => undefined,
  decide: (_, name) => ({
    allow: ALLOWED.has(name),
    entries: [],
    sets: ALLOWED.has(name) ? [{ v4: 's4', v6: 's6' }] : [],
    allowPrivate: false,
  }),
  coversAddress: () => false,
  directResolvers: () => undefined,
  localName: (_, name) => (name === 'db' ? [LOCAL] : undefined),
  localAddress: (_, address) => (address === LOCAL ? 'db' : undefined),
  hostAddresses: () => new Set(['203.0.113.77']),
  inside: () => [],
  searchDomains: () => ['lan', 'example.com'],
  threats: NO_THREATS,
  nat64: undefined,
  revision: 1,
};
const quiet = { debug() {}, info() {}, warn() {} };

/** What one query did. */
class Trial {
  readonly inKernel = new Set<string>();
  readonly #answer: Buffer;

  constructor(answer: Buffer) {
    this.#answer = answer;
  }

  async handle(message: Buffer, transport: 'udp' | 'tcp'): Promise<Buffer | undefined> {
    const failures: unknown[] = [];
    const log = { ...quiet, error: (told: object) => void failures.push(told) };
    const resolvers = new Resolvers({ upstreams: ['192.0.2.1'], zones: {}, isOwn: () => false, log });
    const recorder = new Recorder({
      policy,
      resolvers,
      ledger: new Ledger(),
      journal: { append() {} } as unknown as Journal,
      sets: {
        add: async (set, address) => void this.inKernel.add(`${set} ${address}`),
        addAll: async (set, members) => {
          for (const [address] of members) this.inKernel.add(`${set} ${address}`);
        },
        repeated: () => undefined,
        remove: async () => {},
      },
      log,
      minTtl: 5,
      maxTtl: 86_400,
      grace: 3600,
      now: () => 0,
    });
    const upstream = { resolve: async (q: Question) => this.#resolve(q) } as unknown as Upstream;
    const passthrough = { direct: async () => 'own' } as unknown as Passthrough;
    const kept = new KeptReplies({ repeated: () => undefined });
    const parts = { policy, upstream, recorder, passthrough, resolvers, kept, log };
    const pipeline = new QueryPipeline({ ...parts, ttl: 5, onEvent: () => {} });
    const client = { address: '172.18.0.2', port: 4000 };
    const reply = await pipeline.handle({
      message,
      transport,
      client,
      receivedAt: 0,
      server: { address: '::1', port: 53 },
    });
    mustEqual(failures, [], 'a query failed inside');
    return reply;
  }

  #resolve(q: Question): Answer {
    must(ALLOWED.has(q.name), `${JSON.stringify(q.name)} was asked of an upstream`);
    const message = readAnswer(this.#answer);
    if (message === undefined) throw new NoAnswerError('nothing usable');
    const { records } = followChain(q.name, q.type, message.answers);
    const { authorities, flags } = message;
    const authentic = (flags & flag.AD) !== 0;
    return { rcode: flags & 0xf, records, authorities, authentic, freshUntil: 0 };
  }
}

/** No address reaches the container before the kernel holds it, and none of the private ones ever. */
function told(reply: Buffer, trial: Trial, name: string): void {
  const read = decodeMessage(reply);
  if (name === 'db' || name === 'localhost' || name.endsWith('.localhost')) return;
  if (!ALLOWED.has(name))
    must(
      read.answers.every((r) => r.data.equals(Buffer.from('\x02db\0'))),
      'a denied name is answered',
    );
  for (const record of read.answers) {
    const address = recordAddress(record);
    if (address === undefined) continue;
    must(trial.inKernel.has(`s${address.includes(':') ? 6 : 4} ${address}`), `${address} was told too early`);
    must(
      !/^(127|10|192\.168|169\.254)\.|^(::1|f[cd]|fe80)/.test(address),
      `${address} was told, and is private`,
    );
    must(address !== '203.0.113.77', "the host's own address was told");
  }
}

async function asked(query: Buffer, answer: Buffer): Promise<void> {
  const parsed = parseQuery(query);
  for (const transport of ['udp', 'tcp'] as const) {
    const trial = new Trial(answer);
    const reply = await trial.handle(query, transport);
    must(parsed.ok ? reply !== undefined : true, 'a query without an answer');
    if (reply === undefined || !parsed.ok) continue;
    if (transport === 'udp') must(reply.length <= udpLimit(parsed.query), 'a reply that is too long');
    must(reply.readUInt16BE(0) === parsed.query.id, 'an answer with another id');
    told(reply, trial, parsed.query.name);
    const { flags } = decodeMessage(reply);
    const plain = parsed.query.class === 1 && (parsed.query.type < 128 || parsed.query.type > 255);
    if (plain && /^[a-z.]+\.evil\.example$/.test(parsed.query.name))
      must((flags & 0xf) === rcode.NXDOMAIN, 'a denied name exists');
  }
}

class Pipe extends Duplex {
  readonly sent: Buffer[] = [];
  override _read(): void {}
  override _write(chunk: Buffer, _: BufferEncoding, done: () => void): void {
    this.sent.push(chunk);
    done();
  }
  setTimeout(): this {
    return this;
  }
}

/** Bytes of the whole messages at the front. */
function framed(input: Buffer): number {
  let at = 0;
  while (at + 2 <= input.length && at + 2 + input.readUInt16BE(at) <= input.length)
    at += 2 + input.readUInt16BE(at);
  return at;
}

async function streamed(input: Buffer): Promise<void> {
  const pipe = new Pipe();
  serveStream(pipe as unknown as Socket, async (message) => message);
  const cut = [0, input.length >> 2, input.length >> 1, input.length];
  const end = once(pipe, 'finish');
  for (const [i, from] of cut.entries()) if (i < 3) pipe.push(input.subarray(from, cut[i + 1]));
  pipe.push(null);
  await end;
  mustEqual(Buffer.concat(pipe.sent), input.subarray(0, framed(input)), 'messages of a stream were lost');
  pipe.destroy();
}

async function check(input: Buffer): Promise<void> {
  const at = input.indexOf(MARK);
  const query = at < 0 ? input : input.subarray(0, at);
  await asked(query, at < 0 ? input : input.subarray(at + MARK.length));
  await streamed(input.subarray(0, 8192));
}

const frame = (message: Buffer): Buffer => {
  const length = Buffer.alloc(2);
  length.writeUInt16BE(message.length);
  return Buffer.concat([length, message]);
};

export const server: Target = {
  name: 'server',
  corpus: [
    ...queries.flatMap((query) => answers.map((answer) => Buffer.concat([query, MARK, answer]))),
    Buffer.concat(queries.map(frame)),
    Buffer.concat([Buffer.alloc(2), ...queries.map(frame)]),
  ],
  words: [
    ...dnsWords,
    MARK,
    Buffer.from('\x03www\x04evil\x07example\0'),
    Buffer.from('\x02db\0'),
    Buffer.from([0, 1]),
  ],
  maxLength: 65_535,
  check,
};
