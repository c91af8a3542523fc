import { closeSync } from 'node:fs';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { descriptorOf, keptSockets } from '../../../src/kernel/netlink/kept-sockets.js';
import { receiveDatagram } from '../../../src/kernel/netlink/libc.js';
import { udpSocketFd, withNamespace } from '../../../src/kernel/netlink/namespace.js';
import { PacketLog } from '../../../src/kernel/netlink/packet-log.js';
import { PacketQueue, type QueuedPacket } from '../../../src/kernel/netlink/packet-queue.js';
import { join, makeNamespace, type Namespace, until } from './lab.js';
import { udpIn } from './udp.js';

const QUEUE = 78;
const [FROM, TO] = ['192.0.2.1', '192.0.2.2'];
let a: Namespace;
let b: Namespace;
beforeEach(() => {
  a = makeNamespace('kept-a');
  b = makeNamespace('kept-b');
  join(a, b);
  const udp = ['-A', 'OUTPUT', '-p', 'udp', '-m', 'mark', '!', '--mark', '0x40/0x40', '-j'];
  a.run('iptables', ...udp, 'NFLOG', '--nflog-group', `${QUEUE}`, '--nflog-threshold', '1');
  a.run('iptables', ...udp, 'NFQUEUE', '--queue-num', `${QUEUE}`);
});
afterEach(() => {
  keptSockets.end();
  a[Symbol.dispose]();
  b[Symbol.dispose]();
});

const failed = (error: Error): void => {
  throw error;
};
/** As another process has it, which goes on when this one ends. */
const elsewhere = (fd: number): number => descriptorOf(process.pid, fd, () => undefined);
const openQueue = (onPacket: (packet: QueuedPacket) => void): PacketQueue =>
  withNamespace(a.path, () => new PacketQueue({ queue: QUEUE }, onPacket));

test('packets wait while no process reads the queue, and the next one decides on them', async () => {
  let keeper = elsewhere(keptSockets.begin(undefined, failed));
  const read: QueuedPacket[] = [];
  const first = openQueue((packet) => read.push(packet));
  using sender = await udpIn(a, 4, FROM);
  using receiver = await udpIn(b, 4, TO, 7000);
  sender.socket.send('read before', 7000, TO);
  await until('the first packet', () => read.length === 1);
  keptSockets.seal();
  first.close();
  keptSockets.end();
  for (let i = 0; i < 5; i++) sender.socket.send(`waits ${i}`, 7000, TO);
  await until('five more to be queued', () => /^\s*78\s+\d+\s+6\s/.test(queuesOf(a)));
  expect(receiver.received).toEqual([]);

  keeper = elsewhere(keptSockets.begin(keeper, failed));
  const second = openQueue((packet) => second.verdict(packet.id, 'repeat', packet.mark | 0x40));
  await until('what has waited', () => receiver.received.length === 5);
  expect(receiver.received.map(String)).toEqual(Array.from({ length: 5 }, (_, i) => `waits ${i}`));
  // what the process before had read, and not decided
  await until('the rest to be dropped', () => second.stats().waiting === 0);
  sender.socket.send('new', 7000, TO);
  await until('a new packet', () => receiver.received.length === 6);

  // not handed over: the queue is free, and the packets in it are gone
  second.close();
  expect(queuesOf(a).trim()).toBe('');
  keptSockets.seal();
  keptSockets.end();
  keptSockets.begin(keeper, failed);
  expect(keptSockets.take(`packet queue ${QUEUE}`)).toBeUndefined();
});

test('with another configuration the queue is bound again', () => {
  const keeper = elsewhere(keptSockets.begin(undefined, failed));
  const first = openQueue(() => undefined);
  keptSockets.seal();
  first.close();
  keptSockets.end();
  expect(() => openQueue(() => undefined)).toThrow('another process has this queue');
  keptSockets.begin(keeper, failed);
  using second = withNamespace(
    a.path,
    () => new PacketQueue({ queue: QUEUE, maxLength: 7 }, () => undefined),
  );
  expect(second.stats().waiting).toBe(0);
});

test('the log goes on where the process before ended, and knows what it has lost', async () => {
  const keeper = elsewhere(keptSockets.begin(undefined, failed));
  const open = (seen: string[]): PacketLog =>
    withNamespace(
      a.path,
      () =>
        new PacketLog({ group: QUEUE, isPaused: true }, (packet) =>
          seen.push(packet.payload.subarray(28).toString()),
        ),
    );
  using sender = await udpIn(a, 4, FROM);
  const before: string[] = [];
  const first = open(before);
  expect(first.isContinued).toBe(false);
  first.resume();
  sender.socket.send('one', 7000, TO);
  await until('the first copy', () => before.length === 1);
  keptSockets.seal();
  first.close();
  keptSockets.end();
  sender.socket.send('two', 7000, TO);
  sender.socket.send('three', 7000, TO);

  keptSockets.begin(keeper, failed);
  const after: string[] = [];
  const second = open(after);
  expect(second.isContinued).toBe(true);
  second.resume();
  await until('what was logged meanwhile', () => after.length === 2);
  expect(after).toEqual(['two', 'three']);
  expect(second.losses).toBe(0);
  second.close();
});

const openLog = (): PacketLog =>
  withNamespace(a.path, () => new PacketLog({ group: QUEUE, isPaused: true }, () => undefined));

test('a log that a process has left without a word is not continued', () => {
  const keeper = elsewhere(keptSockets.begin(undefined, failed));
  using _killed = openLog();
  keptSockets.begin(keeper, failed);
  using second = openLog();
  expect(second.isContinued).toBe(false);
});

test('a copy that no process has read counts as lost', async () => {
  const keeper = elsewhere(keptSockets.begin(undefined, failed));
  using sender = await udpIn(a, 4, FROM);
  const first = openLog();
  first.resume();
  sender.socket.send('one', 7000, TO);
  await until('the first copy', () => first.stats().received === 1);
  keptSockets.seal();
  first.close();
  keptSockets.keep(`next of log group ${QUEUE}`, '0', []); // as if it had not read the first one
  keptSockets.end();
  keptSockets.begin(keeper, failed);
  using second = openLog();
  second.resume();
  sender.socket.send('two', 7000, TO);
  await until('the second copy', () => second.stats().received === 1);
  expect(second.losses).toBe(1);
});

test('datagrams wait in a socket; what was released, and what is of another form, is closed', async () => {
  const keeper = elsewhere(keptSockets.begin(undefined, failed));
  const open = (port: number): number => udpSocketFd({ family: 4, address: TO, port, namespace: b.path });
  const ports = [7000, 7001, 7002] as const;
  const fds = ports.map(open);
  for (const [i, port] of ports.entries()) keptSockets.keep(`${port}`, 'of this form', [fds[i] as number]);
  keptSockets.release('7001');
  keptSockets.seal();
  keptSockets.release('7000');
  for (const fd of fds) closeSync(fd);
  keptSockets.end();
  a.run('iptables', '-F', 'OUTPUT');
  using sender = await udpIn(a, 4, FROM);
  sender.socket.send('waits', 7000, TO);

  keptSockets.begin(keeper, failed);
  expect(keptSockets.take('7001')).toBeUndefined();
  expect(keptSockets.takeIf('7002', 'of another form')).toBeUndefined();
  for (const port of [7001, 7002]) closeSync(open(port)); // free
  const [fd = -1] = keptSockets.takeIf('7000', 'of this form') ?? [];
  const into = Buffer.alloc(64);
  await until('the datagram', () => receiveDatagram(fd, into) === 5);
  expect(into.toString('latin1', 0, 5)).toBe('waits');
  closeSync(fd);
});

const queuesOf = (ns: Namespace): string => ns.run('cat', '/proc/net/netfilter/nfnetlink_queue');
