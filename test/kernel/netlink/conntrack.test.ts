import { type ChildProcess, spawn } from 'node:child_process';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Conntrack } from '../../../src/kernel/netlink/conntrack.js';
import { addressBytes } from '../../../src/kernel/netlink/netlink-codec.js';
import { join, makeNamespace, type Namespace, until } from './lab.js';
import { deliver, udpIn } from './udp.js';

const ENDS = {
  4: { client: '192.0.2.1', server: '192.0.2.2', elsewhere: '198.51.100.9', lo: '127.0.0.1' },
  6: { client: '2001:db8::1', server: '2001:db8::2', elsewhere: '2001:db8:9::9', lo: '::1' },
} as const;
const IPTABLES = { 4: 'iptables', 6: 'ip6tables' } as const;

let a: Namespace;
let b: Namespace;
let flows: Conntrack;
beforeEach(() => {
  a = makeNamespace('flows-a');
  b = makeNamespace('flows-b');
  join(a, b);
  a.run('ip', 'route', 'add', 'default', 'via', ENDS[4].server);
  a.run('ip', '-6', 'route', 'add', 'default', 'via', ENDS[6].server);
  for (const family of [4, 6] as const) {
    const { elsewhere, server } = ENDS[family];
    const to = family === 4 ? `${server}:7000` : `[${server}]:7000`;
    const dnat = ['-p', 'udp', '-d', elsewhere, '--dport', '53', '-j', 'DNAT', '--to-destination', to];
    b.run(IPTABLES[family], '-t', 'nat', '-A', 'PREROUTING', ...dnat);
  }
  flows = new Conntrack({ namespace: b.path });
});
afterEach(() => {
  flows.close();
  a[Symbol.dispose]();
  b[Symbol.dispose]();
});

const FAMILIES = [[4], [6]] as const;

test('one walk finds flows of both families and ways, and no others', async () => {
  for (const family of [4, 6] as const) {
    const { client, server, elsewhere } = ENDS[family];
    using asker = await udpIn(a, family, client);
    using service = await udpIn(b, family, server, 7000);
    await deliver('redirected', asker, service, elsewhere, 53);
  }
  const of = async (...addresses: string[]): Promise<number[]> =>
    (await flows.flowsAmong(new Set(addresses))).map((f) => f.family).sort();
  expect(await of(ENDS[4].client)).toEqual([4]);
  expect(await of(ENDS[6].client)).toEqual([6]);
  expect(await of(ENDS[4].server, ENDS[6].server)).toEqual([4, 6]); // behind DNAT: who answers
  expect(await of(ENDS[4].elsewhere, ENDS[6].elsewhere, '192.0.2.9')).toEqual([]);
});

test.each(FAMILIES)('IPv%i: the destination before DNAT', async (family) => {
  const { client, server, elsewhere } = ENDS[family];
  using asker = await udpIn(a, family, client);
  using service = await udpIn(b, family, server, 7000);
  await deliver('redirected', asker, service, elsewhere, 53);
  const q = { proto: 'udp', client, clientPort: asker.port, server, serverPort: 7000 } as const;
  expect(flows.lookup(q)).toEqual({ address: elsewhere, port: 53 });
  expect(flows.lookup({ ...q, clientPort: (asker.port % 60000) + 1 })).toBeUndefined();
  expect(flows.lookup({ ...q, proto: 'tcp' })).toBeUndefined();

  const [flow, ...rest] = await flows.flows(family, { orig: { src: client } });
  expect(rest).toEqual([]);
  expect(flow).toMatchObject({
    family,
    proto: 17,
    orig: { src: client, dst: elsewhere, sport: asker.port, dport: 53 },
    reply: { src: server, dst: client, sport: 7000, dport: asker.port },
    status: { confirmed: true, dstNat: true, srcNat: false, seenReply: false, assured: false },
    zone: 0,
  });
  expect(flow?.timeout).toBeGreaterThan(0);
});

test.each(FAMILIES)('IPv%i: a flow without redirect leads to the server itself', async (family) => {
  const { client, server } = ENDS[family];
  using asker = await udpIn(a, family, client);
  using service = await udpIn(b, family, server, 7000);
  await deliver('direct', asker, service, server, 7000);
  const q = { proto: 'udp', client, clientPort: asker.port, server, serverPort: 7000 } as const;
  expect(flows.lookup(q)).toEqual({ address: server, port: 7000 });
});

test.each(FAMILIES)('IPv%i: dumps are filtered by each end', async (family) => {
  const { client, server, elsewhere, lo } = ENDS[family];
  using asker = await udpIn(a, family, client);
  using local = await udpIn(b, family, lo);
  using service = await udpIn(b, family, server, 7000);
  await deliver('1', asker, service, server, 7000);
  await deliver('2', asker, service, elsewhere, 53);
  local.socket.send('3', 9, lo);
  const count = async (filter: Parameters<Conntrack['flows']>[1]): Promise<number> =>
    (await flows.flows(family, filter)).filter((f) => f.proto === 17).length;
  await until('all flows', async () => (await count({})) === 3);
  expect(await count({ orig: { src: client } })).toBe(2);
  expect(await count({ orig: { src: client, dst: elsewhere } })).toBe(1);
  expect(await count({ orig: { dst: server } })).toBe(1);
  expect(await count({ reply: { src: server } })).toBe(2);
  expect(await count({ orig: { src: lo }, reply: { dst: lo } })).toBe(1);
  expect(await count({ orig: { src: elsewhere } })).toBe(0);
  await expect(flows.flows(family === 4 ? 6 : 4, { orig: { src: client } })).rejects.toThrow(
    /not an address of the requested family/,
  );
});

test.each(FAMILIES)('IPv%i: deletes this flow and no other', async (family) => {
  const { client, server } = ENDS[family];
  using asker = await udpIn(a, family, client);
  using service = await udpIn(b, family, server, 7000);
  using other = await udpIn(b, family, server, 7001);
  await deliver('1', asker, service, server, 7000);
  await deliver('1', asker, other, server, 7001);
  const both = await flows.flows(family, { orig: { src: client } });
  expect(both).toHaveLength(2);
  const flow = both.find((f) => f.orig.dport === 7000);
  if (flow?.id === undefined) throw new Error('no flow with an id');
  expect(flows.delete({ ...flow, id: (flow.id ^ 1) >>> 0 })).toBe(false);
  expect(flows.delete(flow)).toBe(true);
  expect(flows.delete(flow)).toBe(false);
  expect(await flows.flows(family, { orig: { src: client } })).toMatchObject([{ orig: { dport: 7001 } }]);
});

test.each(FAMILIES)('IPv%i: answered flows, echo requests, marks and zones', async (family) => {
  const { client, server } = ENDS[family];
  b.run(IPTABLES[family], '-t', 'raw', '-A', 'PREROUTING', '-p', 'udp', '-j', 'CT', '--zone', '9');
  b.run(IPTABLES[family], '-t', 'mangle', '-A', 'INPUT', '-j', 'CONNMARK', '--set-mark', '0x10000001');
  a.run('busybox', 'ping', '-c', '1', '-W', '2', server);
  using asker = await udpIn(a, family, client);
  using service = await udpIn(b, family, server, 7000);
  await deliver('zoned', asker, service, server, 7000);
  const all = await flows.flows(family, { orig: { src: client } });
  const echo = all.find((f) => f.proto !== 17);
  expect(echo).toMatchObject({ proto: family === 4 ? 1 : 58, mark: 0x10000001, status: { seenReply: true } });
  expect(echo?.orig.icmpId).toBeGreaterThanOrEqual(0);
  const zoned = all.find((f) => f.proto === 17);
  expect(zoned).toMatchObject({ zone: 9 });
  if (zoned === undefined || echo === undefined) throw new Error('a flow is missing');
  expect(flows.delete(zoned)).toBe(true);
  expect(flows.delete(echo)).toBe(true);
});

test.each(FAMILIES)('IPv%i: flows are found by the bits of their mark that are asked for', async (family) => {
  const { client, server } = ENDS[family];
  // What another tool keeps in the same mark (0x40000000) must not hide ours (0x00a5 of 0xffff).
  b.run(IPTABLES[family], '-t', 'mangle', '-A', 'INPUT', '-j', 'CONNMARK', '--set-mark', '0x400000a5');
  using asker = await udpIn(a, family, client);
  using service = await udpIn(b, family, server, 7000);
  await deliver('marked', asker, service, server, 7000);
  const found = async (value: number, mask: number): Promise<number> =>
    (await flows.flows(family, { mark: { value, mask } })).filter((f) => f.proto === 17).length;
  await until('the mark', async () => (await found(0x400000a5, 0xffffffff)) === 1);
  expect(await found(0xa5, 0xffff)).toBe(1);
  expect(await found(0x40000000, 0x40000000)).toBe(1);
  expect(await found(0xa4, 0xffff)).toBe(0);
  expect(await found(0xa5, 0xffffffff)).toBe(0);
});

test.each(FAMILIES)(
  'IPv%i: a flow in a zone of its own is marked, found by its answer, and deleted',
  async (family) => {
    const { client, server } = ENDS[family];
    const zone = ['--sport', '4501', '-j', 'CT', '--zone-orig', '9'];
    b.run(IPTABLES[family], '-t', 'raw', '-A', 'PREROUTING', '-p', 'udp', ...zone);
    using asker = await udpIn(a, family, client, 4501);
    using service = await udpIn(b, family, server, 7000);
    await deliver('zoned', asker, service, server, 7000);
    const own = async () =>
      (await flows.flows(family, { orig: { src: client } })).find((f) => f.proto === 17);
    const zoned = await own();
    if (zoned === undefined) throw new Error('no flow');
    const q = { proto: 'udp', client, clientPort: asker.port, server, serverPort: 7000 } as const;
    expect(flows.lookup(q)).toEqual({ address: server, port: 7000 });
    expect(flows.mark(zoned, 5, 0xff)).toBe(true);
    expect(await own()).toMatchObject({ mark: 5 });
    expect(flows.delete(zoned)).toBe(true);
    expect(await own()).toBeUndefined();
    await deliver('again', asker, service, server, 7000);
    const first = { proto: 17, src: client, sport: asker.port, dst: server, dport: 7000 };
    expect([flows.deleteByOrigin(first), flows.deleteByOrigin(first, 9)]).toEqual([false, true]);
    expect(await own()).toBeUndefined();
  },
);

test.each(FAMILIES)('IPv%i: flows told by an end alone, before the rest is read', async (family) => {
  const { client, server, elsewhere } = ENDS[family];
  using asker = await udpIn(a, family, client);
  using service = await udpIn(b, family, server, 7000);
  await deliver('redirected', asker, service, elsewhere, 53);
  await deliver('direct', asker, service, server, 7000);
  const among = async (address: string): Promise<number> => {
    const octets = addressBytes(address) as Buffer;
    const fits = (all: Buffer, at: number): boolean => octets.equals(all.subarray(at, at + octets.length));
    return (await flows.flows(family, {}, fits)).filter((f) => f.orig.src === client).length;
  };
  expect(await among(client)).toBe(2);
  expect(await among(server)).toBe(2);
  expect(await among(elsewhere)).toBe(0);
});

/** A process that ends with the test. */
function program(at: Namespace, script: string): ChildProcess & Disposable {
  const child = spawn('nsenter', [`--net=${at.path}`, process.execPath, '-e', script], { stdio: 'ignore' });
  return Object.assign(child, { [Symbol.dispose]: () => void child.kill('SIGKILL') });
}

test.each(FAMILIES)(
  'IPv%i: a TCP handshake under way, a connection, and one that was picked up',
  async (family) => {
    const { client, server } = ENDS[family];
    const drop = ['-A', 'INPUT', '-p', 'tcp', '--sport', '7001', '-j', 'DROP'];
    a.run(IPTABLES[family], ...drop);
    using _echo = program(
      b,
      "const net = require('net'); for (const p of [7000, 7001]) net.createServer((s) => s.pipe(s)).listen(p, '::')",
    );
    const dial = (port: number): string =>
      `(function dial() { const s = require('net').connect(${port}, '${server}'); s.on('error', () => setTimeout(dial, 20)); setInterval(() => s.writable && s.write('x'), 20) })()`;
    using _open = program(a, dial(7000));
    using _half = program(a, dial(7001));
    const tcp = async (dport: number) =>
      (await flows.flows(family, { orig: { src: client } })).find(
        (f) => f.proto === 6 && f.orig.dport === dport,
      );
    const open = await until('a connection', async () => {
      const flow = await tcp(7000);
      return flow?.status.assured && flow;
    });
    expect(open.tcp).toEqual({ handshake: false, closed: false, pickedUp: false });
    const half = await until('half of one', async () => {
      const flow = await tcp(7001);
      return flow?.status.seenReply && flow;
    });
    expect(half.tcp).toEqual({ handshake: true, closed: false, pickedUp: false });
    expect(flows.delete(open)).toBe(true);
    const again = await until('its next packet', async () =>
      (await flows.flows(family)).find((f) => f.proto === 6 && [f.orig.dport, f.orig.sport].includes(7000)),
    );
    expect(again.tcp).toEqual({ handshake: false, closed: false, pickedUp: true });
  },
);
