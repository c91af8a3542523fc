/** The check of names in the host's network: hellos, requests and datagrams of containers that have its addresses. */
import {
  cryptoFrame,
  helloFor,
  helloMessage,
  initialPacket,
  serverNames,
} from '../pure/connections/hello-maker.js';
import { BOTH, GOOD, type NameAttack, namesSuite, type Try } from './names.js';
import { ANSWER, again, close, evilOf, goodOf, RETRY, verified } from './names-hellos.js';
import type { Family } from './report.js';
import { bytes, ip, tcp, u8, u16 } from './wire.js';

const V4: readonly Family[] = ['v4'];
const NAME = "in the host's network, too, a hello must name what an entry permits on the port";
const HOST = "in the host's network, too, every request must name what an entry permits on the port";
const WHOLE = 'nothing of a hello goes on before all of it was evaluated';
const BEGINS = 'a SYN begins another check, and tells where the stream begins';
const TCP = 6;

const get = (host: string): string => `GET / HTTP/1.1\r\nHost: ${host}\r\n\r\n`;
const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n';

const hellos: readonly NameAttack[] = [
  {
    id: 'host-net-name',
    title: "in the host's network, another server name to an address that the permitted site shares",
    families: BOTH,
    stoppedBy: NAME,
    attack: async (t) => {
      const c = await t.open();
      c.stream(evilOf(t));
    },
  },
  {
    id: 'host-net-name-none',
    title: "in the host's network, no server name",
    families: V4,
    stoppedBy: NAME,
    attack: async (t) => {
      const c = await t.open();
      const body = bytes(u16(0x0303), t.tag.padEnd(32, '.').slice(0, 32), u8(0), u16(2, 0x002f), u8(1, 0));
      const message = bytes(u8(1, 0), u16(body.length), body);
      c.stream(bytes(u8(22, 3, 1), u16(message.length), message));
    },
    arrived: (t, streams) => streams.some((s) => s.text.includes(t.tag.slice(0, 32))),
  },
  {
    id: 'host-net-name-split',
    title: "in the host's network, a hello in two segments, the second one first",
    families: BOTH,
    stoppedBy: WHOLE,
    attack: async (t) => {
      const c = await t.open();
      const all = evilOf(t);
      c.segment(all.subarray(40), { at: 40 });
      c.segment(all.subarray(0, 40), { at: 0 });
    },
  },
  {
    id: 'host-net-name-after-retry',
    title: "in the host's network, another name in the hello after a HelloRetryRequest",
    families: BOTH,
    hasPermitted: true,
    stoppedBy: 'the hello after a HelloRetryRequest is evaluated like the first one',
    attack: async (t) => {
      const good = helloFor(GOOD);
      const c = await t.open({ answers: [{ after: good.length, send: RETRY.toString('latin1') }] });
      c.segment(good);
      await t.answered(c, RETRY.length);
      c.segment(bytes(u8(20, 3, 3), u16(1), u8(1)));
      c.segment(helloFor(t.evil));
    },
  },
  {
    id: 'host-net-forged-answer',
    title:
      "in the host's network, a ServerHello of the container's own over the loopback device, then another hello",
    families: BOTH,
    hasPermitted: true,
    stoppedBy: 'an answer over the loopback device does not end the check',
    attack: async (t) => {
      const c = await t.open();
      const good = goodOf(t);
      c.segment(good);
      await t.received(c, good.length);
      const { src, dst } = t.host.ends(t.shared);
      const e = { src: dst, dst: src };
      const ends = { flags: 'PA', seq: c.next, ack: (c.isn + 1 + good.length) >>> 0 };
      t.host.send(ip(e, TCP, tcp(e, t.port, c.fromPort, ends, bytes(ANSWER))));
      await t.answered(c, ANSWER.length);
      c.segment(helloFor(t.evil), { ack: ends.seq });
    },
  },
  {
    id: 'host-net-server-first',
    title: "in the host's network, another name to a server that has sent something first",
    families: V4,
    stoppedBy: 'a server of TLS does not send first: the flow is refused',
    attack: async (t) => {
      const c = await t.open({ answers: [{ after: 0, send: ANSWER }] });
      await t.answered(c, ANSWER.length);
      c.segment(goodOf(t));
      c.segment(helloFor(t.evil));
    },
  },
  {
    id: 'host-net-name-in-syn',
    control: 'no policy',
    title: "in the host's network, a hello in the SYN (TCP Fast Open)",
    families: BOTH,
    stoppedBy: 'data with the SYN of an enforced container go no further',
    attack: async (t) => {
      const c = t.connection();
      c.segment(evilOf(t), { at: -1, flags: 'S', ack: 0 });
    },
  },
  {
    id: 'host-net-reset-reopen',
    title:
      "in the host's network, a connection that was verified is reset, and another one has its ports and sequence numbers",
    families: BOTH,
    hasPermitted: true,
    stoppedBy: BEGINS,
    attack: async (t) => {
      const c = await verified(t);
      c.segment('', { flags: 'R' });
      await again(t, c, { isn: c.isn });
    },
  },
  {
    id: 'host-net-closed-reopen',
    title: "in the host's network, a connection that was verified is closed, and another one has its ports",
    families: V4,
    hasPermitted: true,
    stoppedBy: BEGINS,
    attack: async (t) => {
      const c = await verified(t);
      await close(t, c);
      await again(t, c);
    },
  },
];

const requests: readonly NameAttack[] = [
  {
    id: 'host-net-host',
    title: "in the host's network, another Host to an address that the permitted site shares",
    families: BOTH,
    port: 80,
    stoppedBy: HOST,
    attack: async (t) => {
      const c = await t.open();
      c.stream(get(t.evil));
    },
  },
  {
    id: 'host-net-host-second',
    title: "in the host's network, another Host in the second request of a connection",
    families: BOTH,
    port: 80,
    hasPermitted: true,
    stoppedBy: HOST,
    attack: async (t) => {
      const first = get(GOOD);
      const c = await t.open({ answers: [{ after: first.length, send: OK }] });
      c.segment(first);
      await t.answered(c, OK.length);
      c.segment(get(t.evil));
    },
  },
  {
    id: 'host-net-host-twice',
    title: "in the host's network, two Host lines",
    families: V4,
    port: 80,
    stoppedBy: HOST,
    attack: async (t) => {
      const c = await t.open();
      c.stream(`GET / HTTP/1.1\r\nHost: ${GOOD}\r\nHost: ${t.evil}\r\n\r\n`);
    },
  },
];

const initial = (t: Try, frames: Buffer, number = 0): Buffer =>
  initialPacket({ dcid: Buffer.from(t.tag.slice(-8)), frames, number });
const hello = (name: string): Buffer => helloMessage(serverNames(name));
const datagrams: readonly NameAttack[] = [
  {
    id: 'host-net-quic',
    title: "in the host's network, another server name in an Initial packet",
    families: BOTH,
    stoppedBy: 'each hello in Initial packets must name what an entry permits on the port',
    attack: async (t) => t.datagram(t.nextPort(), initial(t, cryptoFrame(0, hello(t.evil)))),
    arrived: (t) => t.datagramsArrived(),
  },
  {
    id: 'host-net-quic-split',
    title: "in the host's network, a hello in two datagrams, the name in the second one",
    families: V4,
    stoppedBy: 'a datagram goes on once every hello that has begun is complete and permitted',
    attack: async (t) => {
      const port = t.nextPort();
      t.datagram(port, initial(t, cryptoFrame(0, hello(t.evil).subarray(0, 50))));
      t.datagram(port, initial(t, cryptoFrame(50, hello(t.evil).subarray(50)), 1));
    },
    arrived: (t) => t.datagramsArrived(),
  },
  {
    id: 'host-net-quic-second',
    title: "in the host's network, another server name on the flow of a permitted one",
    families: V4,
    stoppedBy: 'each hello in Initial packets must name what an entry permits on the port',
    attack: async (t) => {
      const port = t.nextPort();
      t.datagram(port, initial(t, cryptoFrame(0, hello(GOOD))), { isForbidden: false });
      await t.never(300);
      const other = initialPacket({
        dcid: Buffer.from(`x${t.tag.slice(-7)}`),
        frames: cryptoFrame(0, hello(t.evil)),
      });
      t.datagram(port, other);
    },
    arrived: (t) => t.datagramsArrived(),
  },
];

namesSuite("names in the host's network", { isInHost: true, sniffer: true }, [
  ...hellos,
  ...requests,
  ...datagrams,
]);

const CLOSED = 'what is queued waits for the next start, which evaluates it';
const away = (
  o: Pick<NameAttack, 'id' | 'title' | 'port'>,
  text: (t: Try) => Buffer | string,
): NameAttack => ({
  ...o,
  families: BOTH,
  stoppedBy: CLOSED,
  attack: async (t) => {
    const c = await t.open();
    c.segment(text(t));
  },
});
namesSuite(
  "names in the host's network while the service is away",
  { isInHost: true, isAway: true, sniffer: true, before: (_, drawbridge) => drawbridge.stop(), isBack: true },
  [
    away(
      {
        id: 'host-net-name-service-away',
        title: "in the host's network, another server name while the service is stopped",
      },
      evilOf,
    ),
    away(
      {
        id: 'host-net-host-service-away',
        title: "in the host's network, another Host while the service is stopped",
        port: 80,
      },
      (t) => get(t.evil),
    ),
    {
      id: 'host-net-quic-service-away',
      title: "in the host's network, another name in an Initial packet while the service is stopped",
      families: BOTH,
      stoppedBy: CLOSED,
      attack: async (t) => t.datagram(t.nextPort(), initial(t, cryptoFrame(0, hello(t.evil)))),
      arrived: (t) => t.datagramsArrived(),
    },
  ],
);
