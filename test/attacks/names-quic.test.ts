/** Datagrams to udp/443 that open a connection of QUIC for a name that is not permitted, or hide that they do. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Lab } from '../lab/lab.js';
import { startDaemon, waitFor } from '../lab/process.js';
import {
  cryptoFrame,
  helloMessage,
  initialPacket,
  padding,
  serverNames,
} from '../pure/connections/hello-maker.js';
import { BOTH, GOOD, type NameAttack, namesSuite, SHARED, type Try } from './names.js';
import type { Family } from './report.js';
import { bytes, u8, u16, u32 } from './wire.js';

const V4: readonly Family[] = ['v4'];
const NAME = 'each hello in Initial packets must name what an entry permits on the port';
const HELD = 'a datagram goes on once every hello that has begun is complete and permitted';
const FIRST = 'a flow that does not begin with an Initial packet is refused';
const V2 = 0x6b3343cf;

const idOf = (t: Try, n = 0): Buffer => createHash('sha256').update(`${t.tag} ${n}`).digest().subarray(0, 8);
const helloOf = (name: string, bytesOfPadding = 0): Buffer =>
  helloMessage(serverNames(name), padding(bytesOfPadding));
type Spec = Partial<Parameters<typeof initialPacket>[0]>;
const initial = (t: Try, frames: Buffer, more: Spec = {}): Buffer =>
  initialPacket({ dcid: idOf(t), frames, ...more });
const evil = (t: Try, more: Spec = {}): Buffer => initial(t, cryptoFrame(0, helloOf(t.evil)), more);
const good = (t: Try, more: Spec = {}): Buffer => initial(t, cryptoFrame(0, helloOf(GOOD)), more);
/** A packet with a long header that only the server can read. */
const sealed = (t: Try, type: 1 | 2, dcid: Buffer, version = 1): Buffer => {
  const content = createHash('sha512').update(`${t.tag} sealed`).digest();
  return bytes(
    u8(0xc0 | (type << 4)),
    u32(version),
    u8(8),
    dcid,
    u8(8),
    Buffer.alloc(8, 3),
    u8(0x40, content.length),
    content,
  );
};
const short = (t: Try, dcid = idOf(t)): Buffer =>
  bytes(u8(0x41), dcid, createHash('sha512').update(`${t.tag} short`).digest());

type Sending = (t: Try, port: number) => unknown;
const quic = (o: Omit<NameAttack, 'attack' | 'arrived'>, send: Sending): NameAttack => ({
  ...o,
  attack: async (t) => send(t, t.nextPort()),
  arrived: (t) => t.datagramsArrived(),
});
const permitted = (t: Try, port: number, payload = good(t)): void =>
  t.datagram(port, payload, { isForbidden: false });

const udpChecksum =
  (t: Try, value: number) =>
  (packet: Buffer): Buffer => {
    const out = Buffer.from(packet);
    out.writeUInt16BE(value, (t.isV4 ? 20 : 40) + 6);
    return out;
  };
const names: readonly NameAttack[] = [
  quic(
    {
      id: 'quic-other-site',
      title: 'another server name in an Initial packet',
      families: BOTH,
      stoppedBy: NAME,
    },
    (t, port) => t.datagram(port, evil(t)),
  ),
  quic({ id: 'quic-v2', title: 'the same in version 2', families: BOTH, stoppedBy: NAME }, (t, port) =>
    t.datagram(port, evil(t, { version: V2 })),
  ),
  quic({ id: 'quic-none', title: 'no server name', families: V4, stoppedBy: NAME }, (t, port) =>
    t.datagram(port, initial(t, cryptoFrame(0, helloMessage(padding(4))))),
  ),
  quic(
    {
      id: 'quic-shuffled',
      title: 'CRYPTO frames in reversed order between PING and PADDING',
      families: BOTH,
      stoppedBy: HELD,
    },
    (t, port) => {
      const hello = helloOf(t.evil);
      const frames = [80, 60, 40, 20, 0].map((at) =>
        bytes(u8(1, 0, 0), cryptoFrame(at, hello.subarray(at, at === 80 ? undefined : at + 20))),
      );
      t.datagram(port, initial(t, bytes(...frames)));
    },
  ),
  quic(
    {
      id: 'quic-two-datagrams',
      title: 'a hello in two datagrams, the name in the second one',
      families: BOTH,
      stoppedBy: HELD,
    },
    (t, port) => {
      const hello = helloOf(t.evil);
      t.datagram(port, initial(t, cryptoFrame(0, hello.subarray(0, 50))));
      t.datagram(port, initial(t, cryptoFrame(50, hello.subarray(50)), { number: 1 }));
    },
  ),
  quic(
    {
      id: 'quic-two-datagrams-reversed',
      title: 'the same, the second one first',
      families: V4,
      stoppedBy: HELD,
    },
    (t, port) => {
      const hello = helloOf(t.evil);
      t.datagram(port, initial(t, cryptoFrame(50, hello.subarray(50)), { number: 1 }));
      t.datagram(port, initial(t, cryptoFrame(0, hello.subarray(0, 50))));
    },
  ),
  quic(
    {
      id: 'quic-overlap',
      title: 'CRYPTO frames that overlap with other bytes',
      families: BOTH,
      stoppedBy: 'other bytes in the place of some refuse the flow',
    },
    (t, port) => {
      const [one, other] = [helloOf(t.evil), helloOf(GOOD, t.evil.length - GOOD.length)];
      t.datagram(port, initial(t, bytes(cryptoFrame(60, one.subarray(60)), cryptoFrame(0, other))));
    },
  ),
  quic(
    {
      id: 'quic-overlap-later',
      title: 'a forbidden hello over a permitted one that went on',
      families: BOTH,
      stoppedBy: 'other bytes in the place of some refuse the flow',
    },
    (t, port) => {
      permitted(t, port);
      t.datagram(port, evil(t, { number: 1 }));
    },
  ),
  quic(
    {
      id: 'quic-second-hello',
      title: 'another name in a second hello behind the first one (HelloRetryRequest)',
      families: BOTH,
      stoppedBy: NAME,
    },
    (t, port) => {
      permitted(t, port);
      t.datagram(
        port,
        initial(t, cryptoFrame(helloOf(GOOD).length, helloOf(t.evil)), {
          number: 1,
          dcid: idOf(t, 1),
          keyId: idOf(t),
        }),
      );
    },
  ),
  quic(
    {
      id: 'quic-second-hello-gap',
      title: 'the same, its end before its beginning',
      families: V4,
      stoppedBy: HELD,
    },
    (t, port) => {
      permitted(t, port);
      const hello = helloOf(t.evil);
      const at = helloOf(GOOD).length;
      t.datagram(port, initial(t, cryptoFrame(at + 50, hello.subarray(50)), { number: 1 }));
      t.datagram(port, initial(t, cryptoFrame(at, hello.subarray(0, 50)), { number: 2 }));
    },
  ),
  quic(
    {
      id: 'quic-other-connection',
      title: 'a second connection for another name from the same port',
      families: BOTH,
      stoppedBy: NAME,
    },
    (t, port) => {
      permitted(t, port);
      t.datagram(port, evil(t, { dcid: idOf(t, 1) }));
    },
  ),
  quic(
    {
      id: 'quic-after-retry',
      title: 'another name with a token and another connection ID, as after a Retry',
      families: BOTH,
      stoppedBy: NAME,
    },
    (t, port) => {
      permitted(t, port);
      t.datagram(port, evil(t, { dcid: idOf(t, 2), token: Buffer.alloc(40, 8), number: 1 }));
    },
  ),
  quic(
    {
      id: 'quic-coalesced',
      title: 'a second Initial packet with another name in the datagram of the first one',
      families: BOTH,
      stoppedBy: NAME,
    },
    (t, port) => t.datagram(port, bytes(good(t, { size: 400 }), evil(t, { dcid: idOf(t, 1), size: 400 }))),
  ),
  quic(
    { id: 'quic-coalesced-zeros', title: 'the same behind zeros', families: V4, stoppedBy: NAME },
    (t, port) =>
      t.datagram(port, bytes(good(t, { size: 400 }), u8(0, 0, 0), evil(t, { dcid: idOf(t, 1), size: 400 }))),
  ),
  quic(
    {
      id: 'quic-many-connections',
      title:
        'more connections than are remembered, then the end of a forbidden hello that the first one began',
      families: BOTH,
      stoppedBy: HELD,
    },
    (t, port) => {
      // the server has the beginning of a forbidden hello, and reads on in the permitted one
      const long = helloOf(GOOD, 400);
      const begun = helloOf(t.evil, 300 - t.evil.length);
      t.datagram(port, initial(t, cryptoFrame(0, begun.subarray(0, 150))));
      for (let n = 1; n <= 9; n++) permitted(t, port, good(t, { dcid: idOf(t, n) }));
      permitted(t, port, initial(t, cryptoFrame(0, long), { number: 1 }));
    },
  ),
  quic(
    {
      id: 'quic-many-connections-later',
      title:
        'more connections than are remembered, then a second hello of the first one inside of a permitted one',
      families: BOTH,
      stoppedBy: NAME,
    },
    (t, port) => {
      permitted(t, port);
      for (let n = 1; n <= 9; n++) permitted(t, port, good(t, { dcid: idOf(t, n) }));
      const first = helloOf(GOOD).length;
      const second = helloOf(t.evil);
      // a permitted hello with the second one in its padding, where the stream of the first one goes on
      const bare = helloOf(GOOD).length;
      const around = helloMessage(serverNames(GOOD), padding(first - bare + second.length));
      const made = bytes(around.subarray(0, first), second);
      t.datagram(port, initial(t, cryptoFrame(0, made), { number: 2 }));
    },
  ),
  quic(
    {
      id: 'quic-other-version',
      title: 'a second hello of the first connection inside of a permitted one of another version',
      families: BOTH,
      stoppedBy: 'a connection ID in a second version refuses the flow',
    },
    (t, port) => {
      permitted(t, port);
      const first = helloOf(GOOD).length;
      const second = helloOf(t.evil);
      const around = helloMessage(serverNames(GOOD), padding(second.length));
      t.datagram(
        port,
        initial(t, cryptoFrame(0, bytes(around.subarray(0, first), second)), { number: 1, version: V2 }),
      );
    },
  ),
];

const others: readonly NameAttack[] = [
  quic(
    {
      id: 'quic-unknown-version',
      title: 'an unknown version',
      families: BOTH,
      stoppedBy: 'versions that cannot be read refuse the flow',
    },
    (t, port) => {
      const packet = Buffer.from(evil(t));
      packet.writeUInt32BE(0xff00001d, 1);
      t.datagram(port, packet);
    },
  ),
  quic(
    {
      id: 'quic-negotiation',
      title: 'a Version Negotiation packet with data',
      families: V4,
      stoppedBy: 'versions that cannot be read refuse the flow',
    },
    (t, port) => {
      const packet = Buffer.from(evil(t));
      packet.writeUInt32BE(0, 1);
      t.datagram(port, packet);
    },
  ),
  quic(
    { id: 'quic-noise', title: 'noise as the first datagram', families: BOTH, stoppedBy: FIRST },
    (t, port) => t.datagram(port, createHash('sha512').update(t.tag).digest()),
  ),
  quic(
    {
      id: 'quic-short-header',
      title: 'a short header from a new port (migration)',
      families: BOTH,
      stoppedBy: FIRST,
    },
    (t, port) => {
      permitted(t, port);
      t.datagram(t.nextPort(), short(t));
    },
  ),
  quic(
    {
      id: 'quic-handshake-first',
      title: 'a Handshake packet as the first one',
      families: V4,
      stoppedBy: FIRST,
    },
    (t, port) => t.datagram(port, sealed(t, 2, idOf(t))),
  ),
  quic(
    { id: 'quic-early-data', title: '0-RTT before the Initial packet', families: BOTH, stoppedBy: FIRST },
    (t, port) => {
      t.datagram(port, sealed(t, 1, idOf(t)));
      t.datagram(port, evil(t));
    },
  ),
  quic(
    {
      id: 'quic-early-data-behind',
      title: '0-RTT behind an Initial packet whose hello is not complete',
      families: BOTH,
      stoppedBy: HELD,
    },
    (t, port) => {
      const hello = helloOf(t.evil);
      t.datagram(port, initial(t, cryptoFrame(0, hello.subarray(0, 50))));
      t.datagram(port, sealed(t, 1, idOf(t)));
      t.datagram(port, initial(t, cryptoFrame(50, hello.subarray(50)), { number: 1 }));
    },
  ),
  quic(
    {
      id: 'quic-wrong-keys',
      title: 'an Initial packet that is encrypted with other keys',
      families: V4,
      stoppedBy: FIRST,
    },
    (t, port) => t.datagram(port, evil(t, { keyId: idOf(t, 5) })),
  ),
  quic(
    { id: 'quic-empty', title: 'an empty datagram, then a forbidden one', families: V4, stoppedBy: FIRST },
    (t, port) => {
      t.datagram(port, Buffer.alloc(0), { isForbidden: false });
      t.datagram(port, evil(t));
    },
  ),
  quic(
    {
      id: 'quic-long-hello',
      title: 'a hello of more than 16 KiB in many datagrams',
      families: V4,
      stoppedBy: 'a hello that is longer than a first flight refuses the flow',
    },
    (t, port) => {
      const hello = helloOf(t.evil, 17_000);
      for (let at = 0, number = 0; at < hello.length; at += 1_000, number++)
        t.datagram(port, initial(t, cryptoFrame(at, hello.subarray(at, at + 1_000)), { number }));
    },
  ),
  quic(
    { id: 'quic-no-checksum', title: 'a datagram without checksum', families: V4, stoppedBy: NAME },
    (t, port) => t.datagram(port, evil(t), { change: udpChecksum(t, 0) }),
  ),
  quic(
    {
      id: 'quic-udp-length',
      title: 'a datagram that is longer than its length field',
      families: V4,
      stoppedBy: NAME,
    },
    (t, port) =>
      t.datagram(port, evil(t), {
        change: (packet) => {
          const out = udpChecksum(t, 0)(packet);
          out.writeUInt16BE(out.readUInt16BE(24) - 10, 24);
          return out;
        },
      }),
  ),
  quic(
    { id: 'quic-dns', title: 'another protocol on the port of QUIC', families: V4, stoppedBy: FIRST },
    (t, port) =>
      t.datagram(port, bytes(u16(0x1234, 0x0100, 1, 0, 0, 0), createHash('sha512').update(t.tag).digest())),
  ),
];

/** Of the permitted name: a server that answers as one of QUIC does. At all other addresses, datagrams are sent back as they are. */
const ANSWERING = { address: '93.184.63.8', port: 8448 } as const;
async function serveQuic(lab: Lab): Promise<void> {
  const { address, port } = ANSWERING;
  const redirect = [
    '-t',
    'nat',
    '-I',
    'PREROUTING',
    '-p',
    'udp',
    '-d',
    address,
    '--dport',
    '443',
    '-j',
    'REDIRECT',
  ];
  await lab.inNet(['iptables', ...redirect, '--to-ports', String(port)], { check: true });
  const log = join(lab.dir, 'quic-server.log');
  const program = join(import.meta.dirname, 'programs', 'quic-server.ts');
  const server = [process.execPath, '--import', 'tsx', program, String(port)];
  startDaemon(['nsenter', `--net=${lab.netNetns}`, '--', ...server], log);
  await waitFor('the server to listen', () => readFileSync(log, 'utf8').includes('listening'));
}
const ANSWERED = 'what is not a hello goes on once a server of QUIC has answered one';
/** What a service that is not one of QUIC reads of a client, by its first byte. */
const foreign = (o: Omit<NameAttack, 'attack' | 'arrived' | 'stoppedBy'>, first: number): NameAttack =>
  quic({ ...o, stoppedBy: ANSWERED }, async (t, port) => {
    await t.datagramThatLeaves(port, good(t));
    t.datagram(port, short(t), { isForbidden: false });
    await t.never(100);
    for (const n of [1, 2])
      t.datagram(port, bytes(u8(first), createHash('sha512').update(`${t.tag} ${n}`).digest()));
  });
const afterwards: readonly NameAttack[] = [
  foreign(
    {
      id: 'quic-no-server-short',
      title: 'a permitted hello to a server that is not one of QUIC, then short headers',
      families: BOTH,
    },
    0x41,
  ),
  foreign({ id: 'quic-no-server-dtls', title: 'the same, a short header, then DTLS', families: V4 }, 0x16),
  foreign(
    { id: 'quic-no-server-wireguard', title: 'the same, a short header, then WireGuard', families: V4 },
    0x01,
  ),
  quic(
    {
      id: 'quic-google',
      title: 'a hello of a version of Google (Q043) for another name, once short headers pass in the kernel',
      families: V4,
      stoppedBy:
        'short headers pass in the kernel with the fixed bit only; hellos of versions of Google are dropped',
    },
    async (t, port) => {
      const dst = ANSWERING.address;
      await t.datagramThatLeaves(port, good(t), dst);
      await t.datagramThatLeaves(port, short(t), dst);
      const hello = bytes(
        u8(0x0d),
        idOf(t, 7),
        Buffer.from('Q043'),
        Buffer.from(`CHLO SNI ${t.evil}`.repeat(20)),
      );
      t.datagram(port, hello, { dst });
    },
  ),
];

namesSuite(
  'names in datagrams',
  { sniffer: true, prepare: serveQuic, ofGood: { A: [SHARED.v4, ANSWERING.address] } },
  [...names, ...others, ...afterwards],
);
