/** Segments that the server does not read, and connections that take the place of others. */
import type { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { BOTH, distance, type NameAttack, namesSuite, type Try } from './names.js';
import { again, close, evilOf, goodOf, verified } from './names-hellos.js';
import type { RawTcp, Sent } from './raw-tcp.js';
import { type Bytes, bytes, ip, options6, u8, u32 } from './wire.js';

const TCP = 6;
const WHOLE = 'nothing of a hello goes on before all of it was evaluated';
const OVERLAP =
  'other bytes in the place of some that were sent refuse the flow, also after the first ones went on';
const DOUBT = 'what the server may read in another way refuses the flow';
const INVALID = 'conntrack: what is invalid goes no further';
const HEADERS = 'packets with options of IP or extension headers of an enforced container go no further';
const BEGINS = 'a SYN begins another check, and tells where the stream begins';
/** A permitted hello that the server does not read, then a forbidden one in its place. */
const fake =
  (how: (t: Try, c: RawTcp) => Sent, syn?: Sent) =>
  async (t: Try): Promise<void> => {
    const c = await t.open(syn ? { syn } : {});
    c.segment(goodOf(t), { at: 0, ...how(t, c) });
    await t.never(200);
    c.segment(evilOf(t), { at: 0, ...(syn?.window === undefined ? {} : { window: syn.window }) });
  };
const timestamp = (value: number): Bytes => bytes(u8(1, 1, 8, 10), u32(value), u32(0));
const at = (t: Try, ipHeader: number): number => (t.isV4 ? 20 : 40) + ipHeader;
const changed = (packet: Bytes, offset: number, xor: number): Bytes => {
  const out = Buffer.from(packet);
  out[offset] = (out[offset] ?? 0) ^ xor;
  return out;
};
const fakes: readonly NameAttack[] = [
  {
    id: 'name-fake-ttl',
    title: 'a permitted hello that dies on its way, then a forbidden one in its place',
    families: BOTH,
    stoppedBy: DOUBT,
    attack: fake(() => ({ ttl: 12 })),
  },
  {
    id: 'name-fake-ttl-late',
    title: 'the same with as many hops left as a hello may have',
    families: BOTH,
    hasPermitted: true,
    stoppedBy: OVERLAP,
    attack: fake(() => ({ ttl: 42 })),
  },
  {
    id: 'name-fake-checksum',
    title: 'a permitted hello with a wrong checksum, then a forbidden one in its place',
    families: BOTH,
    stoppedBy: INVALID,
    attack: fake((t) => ({ change: (p) => changed(p, at(t, 16), 0x55) })),
  },
  {
    id: 'name-fake-md5',
    title: 'a permitted hello with the MD5 option, then a forbidden one in its place',
    families: BOTH,
    stoppedBy: DOUBT,
    attack: fake(() => ({ tcpOptions: bytes(u8(19, 18), Buffer.alloc(16, 1), u8(1, 1)) })),
  },
  {
    id: 'name-fake-no-ack',
    title: 'a permitted hello without the ACK flag, then a forbidden one in its place',
    families: BOTH,
    stoppedBy: INVALID,
    attack: fake(() => ({ flags: 'P' })),
  },
  {
    id: 'name-fake-timestamp',
    title: 'a permitted hello with an old timestamp (PAWS), then a forbidden one in its place',
    families: BOTH,
    hasPermitted: true,
    stoppedBy: OVERLAP,
    attack: fake(() => ({ tcpOptions: timestamp(1) }), { tcpOptions: timestamp(100_000) }),
  },
  {
    id: 'name-fake-window',
    title: 'a permitted hello outside of the window, then a forbidden one',
    families: BOTH,
    stoppedBy: INVALID,
    attack: fake(() => ({ at: 9_000_000 })),
  },
  {
    id: 'name-fake-future-ack',
    title: 'a permitted hello that acknowledges what was not sent, then a forbidden one in its place',
    families: BOTH,
    stoppedBy: INVALID,
    attack: fake((_, c) => ({ ack: c.next + 50_000 })),
  },
  {
    id: 'name-fake-old-ack',
    title:
      'a permitted hello with an acknowledgement that is too old for the server, then a forbidden one in its place',
    families: BOTH,
    hasPermitted: true,
    stoppedBy: OVERLAP,
    attack: fake((_, c) => ({ ack: c.next - 20_000 }), { window: 500 }),
  },
  {
    id: 'name-urgent',
    title: 'urgent data in the hello, which the server reads apart',
    families: BOTH,
    stoppedBy: DOUBT,
    attack: async (t) => {
      const c = await t.open();
      c.segment(evilOf(t), { flags: 'PAU', urgent: 3 });
    },
    arrived: (t, streams) => streams.some((s) => s.text.includes(t.tag)),
  },
  {
    id: 'name-fin',
    title: 'a hello in the segment of the FIN',
    families: BOTH,
    stoppedBy: WHOLE,
    attack: async (t) => {
      const c = await t.open();
      c.segment(evilOf(t), { flags: 'FPA' });
    },
  },
  {
    id: 'name-in-syn',
    control: 'no policy',
    title: 'a hello in the SYN (TCP Fast Open)',
    families: BOTH,
    stoppedBy: DOUBT,
    attack: async (t) => {
      const c = t.connection();
      c.segment(evilOf(t), { at: -1, flags: 'S', ack: 0 });
    },
  },
  {
    id: 'name-in-syn-cookie',
    control: 'no policy',
    title: 'the same with a cookie, which another connection has got',
    families: BOTH,
    stoppedBy: DOUBT,
    attack: async (t) => {
      const c = t.connection();
      c.segment('', { at: -1, flags: 'S', ack: 0, tcpOptions: bytes(u8(34, 2, 1, 1)) });
      await t.answered(c, 0);
      const cookie = c.cookie ?? Buffer.alloc(8, 7);
      c.segment('', { at: 0, flags: 'R' });
      const again = t.connection();
      const option = bytes(
        u8(34, 2 + cookie.length),
        cookie,
        Buffer.alloc((4 - ((2 + cookie.length) % 4)) % 4, 1),
      );
      again.segment(evilOf(t), { at: -1, flags: 'S', ack: 0, tcpOptions: option });
    },
  },
];
const places: readonly NameAttack[] = [
  {
    id: 'name-reset-reopen',
    title: 'a connection that was verified is reset, and another one at once has its ports',
    families: BOTH,
    hasPermitted: true,
    stoppedBy: BEGINS,
    attack: async (t) => {
      const c = await verified(t);
      c.segment('', { flags: 'R' });
      await again(t, c);
    },
  },
  {
    id: 'name-reset-reopen-same',
    title: 'the same with the same sequence numbers',
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
    id: 'name-closed-reopen',
    title:
      'a connection that was verified is closed, and another one has its ports and its entry in conntrack',
    families: BOTH,
    hasPermitted: true,
    stoppedBy: BEGINS,
    attack: async (t) => {
      const c = await verified(t);
      await close(t, c);
      await again(t, c);
    },
  },
  {
    id: 'name-closed-reopen-late',
    title: 'the same after the check has forgotten the first one',
    families: BOTH,
    hasPermitted: true,
    stoppedBy: BEGINS,
    attack: async (t) => {
      const c = await verified(t);
      await close(t, c);
      await t.never(2_600);
      await again(t, c);
    },
  },
  {
    id: 'name-closed-reopen-options',
    control: 'no policy',
    title: 'the same, the second SYN with options of IP or behind extension headers',
    families: BOTH,
    hasPermitted: true,
    stoppedBy: HEADERS,
    attack: async (t) => {
      const c = await verified(t);
      await close(t, c);
      await t.never(2_600);
      const wrap: Sent['wrap'] = (e, s) => [
        t.isV4 ? ip(e, TCP, s, { options: u8(1, 1, 1, 0) }) : ip(e, 60, bytes(options6(TCP, 'x'), s)),
      ];
      await again(t, c, { syn: { wrap } });
    },
  },
  {
    id: 'name-closed-reopen-flags',
    title: 'the same, the second SYN with ECN, PSH and URG',
    families: BOTH,
    hasPermitted: true,
    stoppedBy: BEGINS,
    attack: async (t) => {
      const c = await verified(t);
      await close(t, c);
      await t.never(2_600);
      await again(t, c, { syn: { flags: 'SPUEC' } });
    },
  },
  {
    id: 'name-last-ack-reopen',
    title:
      'a connection that was verified is closed without its last acknowledgement, and another one has its ports once the server has given it up',
    families: BOTH,
    hasPermitted: true,
    stoppedBy: BEGINS,
    // conntrack keeps the flow established, and takes the answer to the SYN for a beginning that it has missed
    attack: async (t) => {
      const c = await verified(t);
      c.isSilent = true;
      c.segment('', { flags: 'FA' });
      c.skip(1);
      await t.until(() => c.isEnded);
      const waits = ['ss', '-Htn', 'state', 'last-ack', 'sport', '=', ':443', 'dport', '=', `:${c.fromPort}`];
      const isOver = async (): Promise<boolean> => (await t.lab.inNet(waits)).stdout.trim() === '';
      await waitFor('the server to give it up', isOver, 20_000, 100);
      await again(t, c);
    },
  },
];

/** A server that is not acknowledged gives up within a second. */
const impatience = (lab: Lab): Promise<unknown> =>
  lab.inNet(['sysctl', '-qw', 'net.ipv4.tcp_orphan_retries=1'], { check: true });
const prepare = async (lab: Lab): Promise<void> => void (await Promise.all([distance(lab), impatience(lab)]));

namesSuite('names that the server does not read', { prepare }, [...fakes, ...places]);
