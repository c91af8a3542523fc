/** Datagrams of QUIC. An input is four bytes of a seed, and the message that CRYPTO frames carry. */
import { MalformedMessage } from '../../../src/connections/byte-reader.js';
import { readHelloMessage } from '../../../src/connections/client-hello.js';
import { QUIC_HELLO_MS, QuicFlow } from '../../../src/connections/quic-flow.js';
import { cryptoFrames, readDatagram } from '../../../src/connections/quic-initial.js';
import {
  cryptoFrame,
  helloMessage,
  initialPacket,
  padding,
  serverNames,
} from '../../pure/connections/hello-maker.js';
import { cut, GOOD, Ledger, ONE_NAME, repeated, type Sent, ServerView, shuffled } from '../flow-model.js';
import { Random } from '../random.js';
import { bytes, must, mustEqual, type Target } from '../target.js';
import { mustBeTheName, plainMessage, someHello } from './hellos.js';

const V2 = 0x6b3343cf;
interface Datagram {
  readonly dcid: number;
  readonly version: number;
  readonly frames: readonly Sent[];
}

const idOf = (n: number): Buffer => Buffer.alloc(8, n + 1);
const filler = (random: Random): Buffer =>
  random.pick([Buffer.alloc(0), Buffer.alloc(1 + random.below(9)), Buffer.from([1])]);

function seal({ dcid, version, frames }: Datagram, number: number, random: Random): Buffer {
  const content = frames.flatMap(({ offset, bytes: data }) => [filler(random), cryptoFrame(offset, data)]);
  return initialPacket({
    dcid: idOf(dcid),
    version,
    number,
    frames: Buffer.concat([...content, filler(random)]),
  });
}

/** The frames of one message in several datagrams. */
function pack(message: Buffer, dcid: number, version: number, random: Random): Datagram[] {
  const frames = shuffled(repeated(message, cut(message, random, 8), random), random);
  const datagrams: Datagram[] = [];
  while (frames.length > 0) datagrams.push({ dcid, version, frames: frames.splice(0, 1 + random.below(4)) });
  return datagrams;
}

interface Run {
  readonly isRefused: boolean;
  readonly names: readonly string[];
}

/** Whatever was released, no server reads another name in it. */
function deliver(datagrams: readonly Datagram[], random: Random): Run {
  const flow = new QuicFlow(ONE_NAME);
  const ledger = new Ledger();
  const servers = new Map<string, ServerView>();
  for (const [number, datagram] of datagrams.entries()) {
    const id = ledger.next();
    const outcome = flow.take({ id, payload: seal(datagram, number, random) }, 0);
    for (const released of ledger.note(outcome)) {
      const { dcid, version, frames } = datagrams[released] as Datagram;
      const key = `${dcid} ${version}`;
      const server = servers.get(key) ?? new ServerView();
      servers.set(key, server);
      for (const frame of frames) server.arrive(frame);
      for (const stream of server.streams) {
        const name = plainMessage(stream)?.name;
        must(name === undefined || name.toLowerCase() === GOOD, `the server reads the name ${name}`);
      }
    }
  }
  const late = flow.expire(QUIC_HELLO_MS);
  if (late) ledger.note(late);
  ledger.settled();
  return { isRefused: ledger.isRefused, names: ledger.allowed };
}

function raw(input: Buffer): void {
  readDatagram(input);
  const outcome = new QuicFlow(ONE_NAME).take({ id: 0, payload: input }, 0);
  must(
    outcome.release.length === 0 || outcome.allowed !== undefined,
    'a datagram was released without a hello',
  );
  try {
    cryptoFrames(input);
  } catch (error) {
    if (!(error instanceof MalformedMessage)) throw error;
  }
  const sealed = new QuicFlow(ONE_NAME).take(
    { id: 0, payload: initialPacket({ dcid: idOf(0), frames: input }) },
    0,
  );
  must(sealed.release.length === 0 || sealed.allowed !== undefined, 'frames were released without a hello');
}

function check(input: Buffer): void {
  const random = new Random(input.length < 4 ? 0 : input.readUInt32BE(0));
  const message = input.subarray(4);
  raw(message);
  const whole = readHelloMessage(message);
  if (whole.kind === 'read') {
    const plain = plainMessage(message);
    must(plain !== undefined, 'a hello was read that is none');
    mustBeTheName(whole.value.name, plain.name);
  }
  if (message.length === 0) return;
  const version = random.pick([1, 1, V2]);
  const packed = pack(message, 0, version, random);
  if (packed.length > 30) return;
  const [one, other] = [deliver(packed, random), deliver(shuffled(packed, random), random)];
  mustEqual(other.isRefused, one.isRefused, 'the verdict depends on the order of the datagrams');
  if (whole.kind === 'read' && whole.end === message.length)
    mustEqual(
      one.isRefused,
      whole.value.name.kind !== 'name' || whole.value.name.name !== GOOD,
      'another verdict',
    );
  several(message, random);
}

/** Several connections from one port, whose datagrams come in any order, some with other bytes. */
function several(message: Buffer, random: Random): void {
  const swapped = Buffer.from(message.toString('latin1').replace(GOOD, 'evil.example'), 'latin1');
  const all = Array.from({ length: 1 + random.below(12) }, (_, n) =>
    pack(
      random.pick([message, message, SHORT, swapped]),
      random.below(n + 1),
      random.pick([1, 1, 1, V2]),
      random,
    ),
  ).flat();
  deliver((random.chance(2) ? all : shuffled(all, random)).slice(0, 40), random);
  forgotten(message, swapped, random);
}

/** A part of one hello, many other connections, and parts of another hello for the same connection. */
function forgotten(message: Buffer, swapped: Buffer, random: Random): void {
  const at = random.below(message.length);
  const part = (of: Buffer, from: number, to?: number): Datagram => ({
    dcid: 0,
    version: 1,
    frames: [{ offset: from, bytes: of.subarray(from, to) }],
  });
  const others = Array.from(
    { length: random.below(20) },
    (_, n) => pack(SHORT, n + 1, 1, random)[0] as Datagram,
  );
  const fillers = random.chance(2)
    ? others
    : others.map((o) => ({ ...o, frames: [{ offset: 0, bytes: SHORT }] }));
  const begin = shuffled([part(random.pick([message, swapped]), 0, at), ...fillers], random);
  deliver(
    [...begin, ...shuffled([part(message, at), part(message, 0, at), part(swapped, at)], random)],
    random,
  );
}
const SHORT = helloMessage(serverNames(GOOD));

function generate(random: Random): Buffer {
  const seed = Buffer.alloc(4);
  seed.writeUInt32BE(random.next());
  const hello = helloMessage(serverNames(GOOD), padding(random.below(1_000)));
  return Buffer.concat([seed, random.chance(2) ? hello : someHello(random)]);
}

const corpus = [
  helloMessage(serverNames(GOOD)),
  helloMessage(serverNames(GOOD), padding(1_200)),
  helloMessage(serverNames('evil.example'), padding(300)),
  initialPacket({ dcid: idOf(0), frames: cryptoFrame(0, SHORT) }),
  Buffer.concat([SHORT, SHORT]),
];
export const datagrams: Target = {
  name: 'datagrams',
  corpus: corpus.map((message, n) => Buffer.concat([Buffer.from([0, 0, 1, n]), message])),
  words: [
    ...bytes(GOOD, 'evil.example', '\x06\x00\x40', '\x02\0\0\0\0', '\x1c\0\0\0'),
    Buffer.from('c000000001', 'hex'),
  ],
  maxLength: 4_000,
  generate,
  check,
};
