import { afterEach, beforeEach, expect, test } from 'vitest';
import { FlowTally, octetsOf, type PassedFlow, type TallyOptions } from '../../../src/flows/flow-tally.js';
import {
  type AccountingOptions,
  FlowAccounting,
  type Senders,
} from '../../../src/kernel/netlink/flow-accounting.js';
import { join, makeNamespace, type Namespace, until } from './lab.js';
import { type UdpEnd, udpIn } from './udp.js';

const ENDS = {
  4: { client: '192.0.2.1', server: '192.0.2.2', network: { words: [0xc0000200], masks: [0xffffff00] } },
  6: {
    client: '2001:db8::1',
    server: '2001:db8::2',
    network: { words: [0x20010db8, 0, 0, 0], masks: [0xffffffff, 0xffffffff, 0, 0] },
  },
} as const;
const FAMILIES = [[4], [6]] as const;
const MASK = 0xff;
/** Header of IP and UDP. */
const HEADERS = { 4: 28, 6: 48 } as const;

let a: Namespace;
let b: Namespace;
beforeEach(() => {
  a = makeNamespace('accounting-a');
  b = makeNamespace('accounting-b');
  join(a, b);
  b.run('sysctl', '-qw', 'net.netfilter.nf_conntrack_acct=1');
  // a rule that needs conntrack, without which the kernel does not track in a namespace
  for (const iptables of ['iptables', 'ip6tables']) {
    b.run(
      iptables,
      '-t',
      'mangle',
      '-A',
      'PREROUTING',
      '-p',
      'udp',
      '--dport',
      '7001',
      '-j',
      'CONNMARK',
      '--set-mark',
      '0x7',
    );
    b.run(iptables, '-A', 'INPUT', '-p', 'udp', '--dport', '7002', '-j', 'DROP');
    b.run(iptables, '-A', 'INPUT', '-p', 'udp', '--dport', '7003', '-j', 'REJECT');
  }
});
afterEach(() => {
  a[Symbol.dispose]();
  b[Symbol.dispose]();
});

const NONE: Senders = { addresses: new Map(), marks: new Map(), mask: MASK, networks: [] };
const clients = (sender: number): Senders => ({
  ...NONE,
  addresses: new Map([4, 6].map((f) => [octetsOf(ENDS[f as 4].client), sender])),
  networks: [ENDS[4].network, ENDS[6].network],
});
function account(
  senders: Senders,
  options: AccountingOptions = {},
  tallyOptions: Partial<TallyOptions> = {},
) {
  const tally = new FlowTally({ servers: [], mostOpen: 65_536, ...tallyOptions });
  const accounting = new FlowAccounting(tally, { namespace: b.path, ...options });
  accounting.setSenders(senders);
  return { tally, accounting, [Symbol.dispose]: () => accounting[Symbol.dispose]() };
}
const taken = (tally: FlowTally): PassedFlow[] => tally.take(Date.now());
async function echoes(family: 4 | 6, port: number): Promise<UdpEnd> {
  const server = await udpIn(b, family, ENDS[family].server, port);
  server.socket.on('message', (data, from) => server.socket.send(data, from.port, from.address));
  return server;
}

test.each(FAMILIES)('IPv%i: the end of a flow has what passed in both directions', async (family) => {
  const { client, server } = ENDS[family];
  using of = account(clients(3));
  using echo = await echoes(family, 7000);
  using asker = await udpIn(a, family, client);
  asker.socket.send('x'.repeat(100), 7000, server);
  asker.socket.send('x'.repeat(50), 7000, server);
  await until('the echoes', () => asker.received.length === 2);
  expect(echo.received).toHaveLength(2);
  b.run('conntrack', '-F');
  await until('the message', () => of.accounting.drain(Date.now()) > 0);
  expect(taken(of.tally)).toEqual([
    {
      ...{ sender: 3, family, proto: 17, src: client, dst: server, dport: 7000, connections: 1 },
      ...{ packets: 4, bytes: 2 * (150 + 2 * HEADERS[family]) },
      ...{ first: expect.any(Number), last: expect.any(Number) },
    },
  ]);
  expect(taken(of.tally)).toEqual([]);
  expect([of.tally.malformed, of.accounting.lost]).toEqual([0, 0]);
});

test.each(FAMILIES)('IPv%i: an open flow is reported once, and then what is new', async (family) => {
  const { client, server } = ENDS[family];
  using of = account(clients(1));
  await of.accounting.dump();
  using _echo = await echoes(family, 7000);
  using asker = await udpIn(a, family, client);
  const sendAndDump = async (count: number): Promise<unknown> => {
    const before = asker.received.length;
    for (let n = 0; n < count; n++) asker.socket.send('x', 7000, server);
    await until('the echoes', () => asker.received.length === before + count);
    await of.accounting.dump();
    return taken(of.tally).map(({ connections, packets, bytes }) => ({ connections, packets, bytes }));
  };
  const packet = HEADERS[family] + 1;
  expect(await sendAndDump(2)).toEqual([{ connections: 1, packets: 4, bytes: 4 * packet }]);
  expect(await sendAndDump(1)).toEqual([{ connections: 0, packets: 2, bytes: 2 * packet }]);
  expect(await sendAndDump(0)).toEqual([]);
  asker.socket.send('x', 7000, server);
  await until('the echo', () => asker.received.length === 4);
  b.run('conntrack', '-F');
  await until('the message', () => of.accounting.drain(Date.now()) > 0);
  expect(taken(of.tally)).toMatchObject([{ connections: 0, packets: 2, bytes: 2 * packet }]);
});

test('a flow that is older than the record counts from then on, without a connection', async () => {
  const { client, server } = ENDS[4];
  using _echo = await echoes(4, 7000);
  using asker = await udpIn(a, 4, client);
  asker.socket.send('x', 7000, server);
  await until('the echo', () => asker.received.length === 1);
  using of = account(clients(1));
  await of.accounting.dump();
  expect(taken(of.tally)).toMatchObject([{ connections: 0, packets: 0, bytes: 0, dport: 7000 }]);
  asker.socket.send('xyz', 7000, server);
  await until('the echo', () => asker.received.length === 2);
  await of.accounting.dump();
  expect(taken(of.tally)).toMatchObject([{ connections: 0, packets: 2, bytes: 2 * (HEADERS[4] + 3) }]);
});

test('the kernel queues what comes from the networks, or has the mark, and nothing else', async () => {
  const sent = async (senders: Senders, family: 4 | 6, port: number, notTo?: string): Promise<number> => {
    const { client, server } = ENDS[family];
    using of = account(senders, notTo === undefined ? {} : { notTo });
    using _echo = await echoes(family, port);
    using asker = await udpIn(a, family, client);
    asker.socket.send('x', port, server);
    await until('the echo', () => asker.received.length === 1);
    b.run('conntrack', '-F');
    return of.accounting.drain(Date.now()); // the kernel sends it before the tool ends
  };
  const elsewhere = { words: [0x0a000000], masks: [0xff000000] };
  const elsewhere6 = {
    words: [0x20010db8, 0, 0, 0x10000],
    masks: [0xffffffff, 0xffffffff, 0xffffffff, 0xffff0000],
  };
  const marked = { ...NONE, marks: new Map([[7, 1]]) };
  for (const family of [4, 6] as const) {
    expect(await sent(NONE, family, 7000)).toBe(0);
    expect(await sent({ ...NONE, networks: [elsewhere, elsewhere6] }, family, 7000)).toBe(0);
    expect(
      await sent({ ...NONE, networks: [elsewhere, elsewhere6, ENDS[family].network] }, family, 7000),
    ).toBe(1);
    expect(await sent(marked, family, 7000)).toBe(0);
    expect(await sent(marked, family, 7001)).toBe(1);
    expect(await sent({ ...marked, mask: 0xf0 }, family, 7001)).toBe(0);
  }
  expect(await sent(clients(1), 4, 7000, '192.0.2.9')).toBe(1);
  expect(await sent(clients(1), 4, 7000, ENDS[4].server)).toBe(0);
  const many = Array.from({ length: 300 }, () => elsewhere);
  expect(await sent({ ...NONE, networks: many }, 4, 7000)).toBe(1);
});

test('what a rule has dropped or rejected has no flow', async () => {
  using of = account(clients(1));
  for (const family of [4, 6] as const) {
    using asker = await udpIn(a, family, ENDS[family].client);
    using _echo = await echoes(family, 7000);
    asker.socket.on('error', () => undefined);
    for (const port of [7002, 7003, 7000]) asker.socket.send('x', port, ENDS[family].server);
    await until('the echo', () => asker.received.length === 1);
  }
  await of.accounting.dump(); // older than the record, as far as this dump knows
  b.run('conntrack', '-F');
  of.accounting.drain(Date.now());
  expect(taken(of.tally).map((f) => f.dport)).toEqual([7000, 7000]);
});

test('ends that find no room are counted, and a dump shows the flows that are open', async () => {
  const { client, server } = ENDS[4];
  using of = account(clients(1), { receiveBuffer: 1 });
  using _echo = await echoes(4, 7000);
  const COUNT = 40;
  // They stay open: a port that is free again may be used again, and then two are one flow.
  const open: Disposable[] = [];
  for (let n = 0; n < COUNT; n++) {
    const asker = await udpIn(a, 4, client);
    open.push(asker);
    asker.socket.send('x', 7000, server);
    await until('the echo', () => asker.received.length === 1);
  }
  for (const asker of open) asker[Symbol.dispose]();
  b.run('conntrack', '-F');
  of.accounting.drain(Date.now());
  const [record] = taken(of.tally);
  expect(of.accounting.lost).toBeGreaterThan(0);
  expect(of.accounting.overruns).toBeGreaterThan(0);
  expect(of.accounting.lost + (record?.connections ?? 0)).toBe(COUNT);
  await of.accounting.dump();
  using last = await udpIn(a, 4, client);
  last.socket.send('x', 7000, server);
  await until('the echo', () => last.received.length === 1);
  await of.accounting.dump();
  expect(taken(of.tally)).toMatchObject([{ connections: 1, packets: 2 }]);
});
