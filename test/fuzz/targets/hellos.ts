/** ClientHellos in records of TLS, as a connection over TCP carries them. An input is four bytes of a seed, and a stream. */
import {
  type AskedName,
  asksForAnotherHello,
  readHelloRecords,
} from '../../../src/connections/client-hello.js';
import { HELLO_MS, TlsFlow } from '../../../src/connections/tls-flow.js';
import {
  earlyData,
  encryptedHello,
  extension,
  helloFor,
  helloMessage,
  padding,
  records,
  serverNames,
} from '../../pure/connections/hello-maker.js';
import { cut, GOOD, Ledger, ONE_NAME, repeated, type Sent, ServerView, shuffled } from '../flow-model.js';
import { Random } from '../random.js';
import { bytes, must, mustEqual, type Target } from '../target.js';

export interface PlainHello {
  readonly end: number;
  readonly name: string | undefined;
  readonly ech: number | undefined;
  readonly early: boolean;
}

/** Another reader of a handshake message, without a check that it does not need. Undefined: it is not whole, or no hello. */
export function plainMessage(m: Buffer): Omit<PlainHello, 'end'> | undefined {
  if (m[0] !== 1 || m.length < 4 || m.length < 4 + m.readUIntBE(1, 3)) return undefined;
  const end = 4 + m.readUIntBE(1, 3);
  try {
    let at = 38;
    at += 1 + m.readUInt8(at);
    at += 2 + m.readUInt16BE(at);
    at += 1 + m.readUInt8(at);
    const found = new Map<number, Buffer>();
    for (at += 2; at < end; at += 4 + m.readUInt16BE(at + 2))
      found.set(m.readUInt16BE(at), m.subarray(at + 4, at + 4 + m.readUInt16BE(at + 2)));
    const names = found.get(0);
    return {
      name: names?.subarray(5, 5 + names.readUInt16BE(3)).toString('latin1'),
      ech: found.get(0xfe0d)?.readUInt8(5),
      early: found.has(42),
    };
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}

/** The same for a stream of records. */
function plainStream(stream: Buffer): PlainHello | undefined {
  const gathered = Buffer.alloc(stream.length);
  let length = 0;
  for (let at = 0; at + 5 <= stream.length && stream[at] === 22; ) {
    const end = at + 5 + stream.readUInt16BE(at + 3);
    if (end > stream.length) return undefined;
    length += stream.copy(gathered, length, at + 5, end);
    const message = plainMessage(gathered.subarray(0, length));
    if (message) return { ...message, end };
    at = end;
  }
  return undefined;
}

export function mustBeTheName(asked: AskedName, plain: string | undefined): void {
  if (asked.kind === 'none') must(plain === undefined, `no name was read, where there is ${plain}`);
  if (asked.kind === 'name')
    must(asked.name === plain?.toLowerCase(), `${asked.name} was read, not ${plain}`);
}

function reading(stream: Buffer, random: Random): void {
  const whole = readHelloRecords(stream);
  const plain = plainStream(stream);
  if (whole.kind === 'read') {
    must(plain !== undefined, 'a hello was read that is none');
    mustBeTheName(whole.value.name, plain.name);
    mustEqual(
      [whole.value.encrypted?.configId, whole.value.hasEarlyData, whole.end],
      [plain.ech, plain.early, plain.end],
      'two readers do not agree',
    );
  } else if (whole.kind === 'more')
    must(plain === undefined && whole.need > stream.length, 'more than a whole hello');
  const steps = Array.from({ length: 8 }, () => random.below(stream.length + 1)).sort((a, b) => a - b);
  for (const length of steps) {
    const part = readHelloRecords(stream.subarray(0, length));
    if (part.kind === 'refused')
      must(whole.kind === 'refused', 'a prefix was refused, and the whole was not');
    else if (part.kind === 'read') mustEqual(part, whole, 'more bytes changed what was read');
    else if (whole.kind === 'read')
      must(length < whole.end && part.need <= whole.end, 'it waits for too much');
  }
}

interface Run {
  readonly isRefused: boolean;
  readonly names: readonly string[];
}
const ISN = 0xffff_ff80;

/** Whatever was released, the server reads no other name in it; and nothing of the hello goes before all of it was there. */
function deliver(sent: readonly Sent[], helloEnd: number | undefined): Run {
  const flow = new TlsFlow(ONE_NAME, ISN);
  const [ledger, server, seen] = [new Ledger(), new ServerView(), new ServerView()];
  for (const { offset, bytes: payload } of sent) {
    const id = ledger.next();
    seen.arrive({ offset, bytes: payload });
    const outcome = flow.take({ id, from: 'client', seq: (ISN + offset) >>> 0, ack: 1, payload }, 0);
    for (const released of ledger.note(outcome)) {
      const segment = sent[released] as Sent;
      if (helloEnd !== undefined && segment.offset < helloEnd)
        must(
          (seen.streams[0]?.length ?? 0) >= helloEnd,
          'a part of a hello was released before the whole was there',
        );
      server.arrive(segment);
    }
    for (const stream of server.streams) {
      const name = plainStream(stream)?.name;
      must(name === undefined || name.toLowerCase() === GOOD, `the server reads the name ${name}`);
    }
  }
  const late = flow.expire(HELLO_MS);
  if (late) ledger.note(late);
  ledger.settled();
  return { isRefused: ledger.isRefused, names: ledger.allowed };
}

/** What is wrong behind a permitted hello may be in a segment of its own. */
function mustBeTheSame(run: Run, reference: Run, what: string): void {
  if (run.isRefused && reference.isRefused) return;
  mustEqual(run, reference, what);
}

function flows(stream: Buffer, random: Random): void {
  if (stream.length === 0 || stream.length > 30_000) return;
  const whole = readHelloRecords(stream);
  const end = whole.kind === 'read' ? whole.end : undefined;
  const reference = deliver([{ offset: 0, bytes: stream }], end);
  const pieces = cut(stream, random, 30);
  const inOrder = deliver(repeated(stream, pieces, random), end);
  mustBeTheSame(inOrder, reference, 'the verdict depends on the segments');
  const disorder = shuffled(repeated(stream, pieces, random), random);
  mustBeTheSame(deliver(disorder, end), reference, 'the verdict depends on the order of the segments');
  // other bytes in some places, which the server may keep
  const forged = shuffled([...pieces, ...cut(other(stream, random), random, 10)], random);
  deliver(forged.slice(0, 60), undefined);
}

/** The same stream with another name, or with a few other bytes. */
function other(stream: Buffer, random: Random): Buffer {
  const copy = Buffer.from(stream);
  const at = copy.indexOf(GOOD);
  if (at >= 0 && random.chance(2)) copy.write('evil.example', at, 'latin1');
  else for (let n = random.below(4); n >= 0; n--) copy[random.below(copy.length)] = random.below(256);
  return copy;
}

function check(input: Buffer): void {
  const random = new Random(input.length < 4 ? 0 : input.readUInt32BE(0));
  const stream = input.subarray(4);
  reading(stream, random);
  flows(stream, random);
  asksForAnotherHello(stream);
}

const EXTENSIONS = [
  () => serverNames(GOOD),
  () => serverNames(GOOD),
  () => serverNames('Good.Example'),
  () => serverNames('evil.example'),
  () => serverNames('192.0.2.1'),
  () => serverNames(GOOD, 'evil.example'),
  () => encryptedHello(7),
  () => earlyData,
  (random: Random) => padding(random.below(2_000)),
  (random: Random) => extension(random.below(70), Buffer.alloc(random.below(40), random.below(256))),
];
export const someHello = (random: Random): Buffer =>
  helloMessage(...Array.from({ length: 1 + random.below(4) }, () => random.pick(EXTENSIONS)(random)));

function generate(random: Random): Buffer {
  const message = someHello(random);
  const seed = Buffer.alloc(4);
  seed.writeUInt32BE(random.next());
  const size = random.pick([16_384, 16_384, 512, 100, 1 + random.below(60)]);
  const more = random.pick([
    Buffer.alloc(0),
    Buffer.alloc(0),
    records(Buffer.alloc(random.below(3_000), 8), 900, 23),
  ]);
  return Buffer.concat([seed, records(message, size), more]);
}

export const hellos: Target = {
  name: 'hellos',
  corpus: [
    helloFor(GOOD),
    helloFor(GOOD, encryptedHello(3), padding(1_200)),
    helloFor('evil.example', earlyData),
    records(helloMessage(serverNames(GOOD)), 40),
    Buffer.concat([helloFor(GOOD), Buffer.from('140303000101', 'hex'), helloFor('evil.example')]),
  ].map((stream, n) => Buffer.concat([Buffer.from([0, 0, 0, n]), stream])),
  words: [
    ...bytes(GOOD, 'evil.example', '\x16\x03\x01', '\x01\x00\x01', '\0\0', '\x17\x03\x03\0\x02'),
    Buffer.from([0xfe, 0x0d]),
    helloFor('evil.example'),
  ],
  maxLength: 20_000,
  generate,
  check,
};
