import { afterAll, beforeAll, expect, test } from 'vitest';
import { addressBody } from '../../../src/kernel/netlink/addresses.js';
import { linkByIndexBody, linkDumpBody, ROUTE_MESSAGE } from '../../../src/kernel/netlink/links.js';
import { NetlinkSocket } from '../../../src/kernel/netlink/netlink-socket.js';
import { bindBody, QUEUE_MESSAGE } from '../../../src/kernel/netlink/packet-queue.js';
import { makeNamespace, type Namespace, until } from './lab.js';
import { udpIn } from './udp.js';

let ns: Namespace;
beforeAll(() => {
  ns = makeNamespace('socket');
});
afterAll(() => {
  ns[Symbol.dispose]();
});

const noNews = { onMessage: () => undefined, onOverrun: () => undefined, onMalformed: () => undefined };

test('what comes unasked before an answer is delivered in order, after listen has returned', async () => {
  ns.run('iptables', '-A', 'OUTPUT', '-p', 'udp', '-j', 'NFQUEUE', '--queue-num', '9');
  using socket = new NetlinkSocket({ protocol: 'netfilter', namespace: ns.path });
  const config = { type: QUEUE_MESSAGE.config, body: bindBody(9, 128, 100) };
  socket.request('bind', config);
  using sender = await udpIn(ns, 4, '127.0.0.1');
  for (let i = 0; i < 3; i++)
    await new Promise<void>((sent) => sender.socket.send('x', 9, '127.0.0.1', () => sent()));
  expect(() => socket.request('bind again', config)).toThrow(/bind again: .*EBUSY/);
  const ids: number[] = [];
  socket.listen({ ...noNews, onMessage: (m) => ids.push(m.body.readUInt32BE(8)) });
  expect(ids).toEqual([]);
  sender.socket.send('x', 9, '127.0.0.1');
  await until('four packets', () => ids.length === 4);
  expect(ids).toEqual([1, 2, 3, 4]);
  expect(() => socket.listen(noNews)).toThrow(/has a listener already/);
});

test('refusals carry the words of the kernel', () => {
  using socket = new NetlinkSocket({ protocol: 'route', namespace: ns.path });
  const body = Buffer.alloc(16); // neither index nor name
  expect(() => socket.request('ask for nothing', { type: ROUTE_MESSAGE.getLink, body })).toThrow(
    /^ask for nothing: invalid argument \(EINVAL\)/,
  );
  const nowhere = addressBody(9999, '192.0.2.1/24') ?? Buffer.alloc(0);
  expect(() => socket.request('add', { type: ROUTE_MESSAGE.newAddress, body: nowhere })).toThrow(
    /\(ENODEV\), the kernel says: .*[Dd]evice/,
  );
});

test('a refused request leaves nothing behind for the next', () => {
  using socket = new NetlinkSocket({ protocol: 'route', namespace: ns.path });
  for (let i = 0; i < 100; i++) {
    expect(() =>
      socket.request('none', { type: ROUTE_MESSAGE.getLink, body: linkByIndexBody(9999) }),
    ).toThrow(/ENODEV/);
    expect(socket.request('lo', { type: ROUTE_MESSAGE.getLink, body: linkByIndexBody(1) })).toHaveLength(1);
  }
});

test('a dump refused by the kernel rejects, and the next one works', async () => {
  using socket = new NetlinkSocket({ protocol: 'route', namespace: ns.path });
  await expect(socket.dump('dump nothing', { type: 1000, body: Buffer.alloc(16) }, () => 1)).rejects.toThrow(
    /dump nothing: .*ENOTSUP/,
  );
  const [dumped, again] = await Promise.all([
    socket.dump('links', { type: ROUTE_MESSAGE.getLink, body: linkDumpBody() }, (m) => m.type),
    socket.dump('links', { type: ROUTE_MESSAGE.getLink, body: linkDumpBody() }, (m) => m.type),
  ]);
  expect(dumped).toContain(ROUTE_MESSAGE.newLink);
  expect(again).toEqual(dumped);
});

test('a closed socket says so', async () => {
  const socket = new NetlinkSocket({ protocol: 'route', namespace: ns.path });
  socket.close();
  socket.close();
  expect(() => socket.send('too late', Buffer.alloc(32))).toThrow(/too late: the netlink socket is closed/);
  await expect(socket.dump('too late', { type: 18, body: Buffer.alloc(16) }, () => 1)).rejects.toThrow(
    /closed/,
  );
});
