import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Conntrack } from '../../../src/kernel/netlink/conntrack.js';
import { parsePacket } from '../../../src/kernel/netlink/packet-header.js';
import { PacketQueue, type QueuedPacket } from '../../../src/kernel/netlink/packet-queue.js';
import { logContained } from '../../../src/lib/faults.js';
import { join, makeNamespace, type Namespace, until } from './lab.js';
import { udpIn } from './udp.js';

const QUEUE = 77;
let a: Namespace;
let b: Namespace;
beforeEach(() => {
  a = makeNamespace('queue-a');
  b = makeNamespace('queue-b');
  join(a, b);
  for (const iptables of ['iptables', 'ip6tables']) {
    a.run(
      iptables,
      '-A',
      'OUTPUT',
      '-p',
      'udp',
      '-m',
      'mark',
      '!',
      '--mark',
      '0x40/0x40',
      '-j',
      'NFQUEUE',
      '--queue-num',
      `${QUEUE}`,
    );
    b.run(
      iptables,
      '-A',
      'INPUT',
      '-p',
      'udp',
      '--dport',
      '7001',
      '-j',
      'NFQUEUE',
      '--queue-num',
      `${QUEUE}`,
    );
  }
});
afterEach(() => {
  a[Symbol.dispose]();
  b[Symbol.dispose]();
});

test.each([
  [4, '192.0.2.1', '192.0.2.2'],
  [6, '2001:db8::1', '2001:db8::2'],
] as const)(
  'IPv%i: packets wait, repeat with a mark lets each through once, drop loses it',
  async (family, from, to) => {
    const held: QueuedPacket[] = [];
    using queue = new PacketQueue({ queue: QUEUE, namespace: a.path }, (packet) => held.push(packet));
    using sender = await udpIn(a, family, from);
    using receiver = await udpIn(b, family, to, 7000);
    for (let i = 0; i < 20; i++) sender.socket.send(`datagram ${i}`, 7000, to);
    await until('all packets to be held', () => held.length === 20);
    expect(receiver.received).toEqual([]);
    expect(queue.stats()).toMatchObject({
      received: 20,
      waiting: 20,
      droppedQueueFull: 0,
      droppedBufferFull: 0,
    });

    expect(held[0]).toMatchObject({
      family,
      hook: 3,
      hwProtocol: family === 4 ? 0x0800 : 0x86dd,
      mark: 0,
      indev: 0,
    });
    expect(held[0]?.outdev).toBeGreaterThan(0);
    expect(parsePacket(held[0]?.payload ?? Buffer.alloc(0))).toMatchObject({
      ok: true,
      value: { family, src: from, dst: to, protocol: 17, sport: sender.port, dport: 7000, fragment: 'none' },
    });

    const [first, ...others] = held;
    queue.verdict(first?.id ?? -1, 'drop');
    for (const packet of others) queue.verdict(packet.id, 'repeat', 0x40);
    await until('the others to arrive', () => receiver.received.length === 19);
    expect(receiver.received).not.toContain('datagram 0');
    expect(held).toHaveLength(20);
    expect(queue.stats()).toMatchObject({ verdicts: 20, waiting: 0, lateVerdicts: 0 });
  },
);

test('a packet that cannot be handled is dropped, and the next ones are handled', async () => {
  const said: string[] = [];
  logContained({ error: (_, message) => void said.push(message ?? '') });
  try {
    let first: number | undefined;
    using queue = new PacketQueue({ queue: QUEUE, namespace: a.path }, (packet) => {
      first ??= packet.id;
      if (packet.id === first) throw new Error('of this packet');
      queue.verdict(packet.id, 'repeat', 0x40);
    });
    using sender = await udpIn(a, 4, '192.0.2.1');
    using receiver = await udpIn(b, 4, '192.0.2.2', 7000);
    sender.socket.send('lost', 7000, '192.0.2.2');
    await until('the first packet to be dropped', () => queue.stats().verdicts === 1);
    sender.socket.send('next', 7000, '192.0.2.2');
    await until('the next one to arrive', () => receiver.received.length > 0);
    expect(receiver.received).toEqual(['next']);
    expect(queue.stats().waiting).toBe(0);
    expect(said).toEqual([expect.stringContaining('it is dropped')]);
  } finally {
    logContained(undefined);
  }
});

/** Bit of a connection's mark. */
const ENDED = 0x80;
test.each([
  [4, 'iptables', '192.0.2.1', '192.0.2.2'],
  [6, 'ip6tables', '2001:db8::1', '2001:db8::2'],
] as const)(
  'IPv%i: a waiting packet keeps its flow when that is deleted, and is still established; the mark of its end shows',
  async (family, iptables, from, to) => {
    const rule = (...words: string[]): string => a.run(iptables, '-A', 'OUTPUT', '-p', 'udp', ...words);
    rule('-m', 'connmark', '--mark', `${ENDED}/${ENDED}`, '-j', 'DROP');
    rule('-m', 'conntrack', '--ctstate', 'ESTABLISHED', '-j', 'ACCEPT');
    rule('-m', 'mark', '!', '--mark', '0x100/0x100', '-j', 'DROP');
    const held: QueuedPacket[] = [];
    using queue = new PacketQueue({ queue: QUEUE, namespace: a.path }, (packet) => held.push(packet));
    using sender = await udpIn(a, family, from);
    using receiver = await udpIn(b, family, to, 7000);
    const take = (): Promise<number> => until('a packet', () => held.shift()?.id);
    const arrive = (text: string) => until(text, () => receiver.received.includes(text));
    for (const ended of [0, ENDED]) {
      using flows = new Conntrack({ namespace: a.path, ended });
      const text = `first ${ended}`;
      sender.socket.send(text, 7000, to);
      queue.verdict(await take(), 'repeat', 0x140);
      await arrive(text);
      receiver.socket.send('answer', sender.port, from);
      await until('the answer', () => sender.received.length > 0);
      sender.received.length = 0;
      sender.socket.send(`waits ${ended}`, 7000, to);
      const waiting = await take();
      const [flow] = await flows.flows(family, { orig: { src: from } });
      expect(flow && flows.delete(flow)).toBe(true);
      expect(await flows.flows(family, { orig: { src: from } })).toEqual([]);
      queue.verdict(waiting, 'repeat', 0x40);
    }
    await arrive('waits 0');
    sender.socket.send('last', 7000, to);
    queue.verdict(await take(), 'repeat', 0x140);
    await arrive('last');
    expect(receiver.received).not.toContain(`waits ${ENDED}`);
  },
);

test('incoming packets carry the interface and the source MAC', async () => {
  using _pass = new PacketQueue({ queue: QUEUE, namespace: a.path }, (packet) =>
    _pass.verdict(packet.id, 'repeat', 0x40),
  );
  const held: QueuedPacket[] = [];
  using queue = new PacketQueue({ queue: QUEUE, namespace: b.path, copyRange: 40 }, (packet) =>
    held.push(packet),
  );
  using sender = await udpIn(a, 4, '192.0.2.1');
  sender.socket.send('x'.repeat(100), 7001, '192.0.2.2');
  const [packet] = await until('the packet', () => held.length > 0 && held);
  expect(packet).toMatchObject({ hook: 1, outdev: 0, length: 128 });
  expect(packet?.payload).toHaveLength(40);
  expect(a.run('ip', 'link', 'show', 'to-b')).toContain(`link/ether ${packet?.hwaddr} `);
  queue.verdict(packet?.id ?? -1, 'drop');
});

test('nobody listening: dropped; a late verdict is counted', async () => {
  using sender = await udpIn(a, 4, '192.0.2.1');
  using receiver = await udpIn(b, 4, '192.0.2.2', 7000);
  await new Promise<void>((sent) => sender.socket.send('lost', 7000, '192.0.2.2', () => sent()));
  const held: QueuedPacket[] = [];
  using queue = new PacketQueue({ queue: QUEUE, namespace: a.path }, (packet) => held.push(packet));
  sender.socket.send('kept', 7000, '192.0.2.2');
  const [packet] = await until('a packet', () => held.length > 0 && held);
  queue.verdict(packet?.id ?? -1, 'repeat', 0x40);
  await until('the second datagram', () => receiver.received.length === 1);
  expect(receiver.received).toEqual(['kept']);
  queue.verdict(packet?.id ?? -1, 'repeat', 0x40);
  await until('the kernel to object', () => queue.stats().lateVerdicts === 1);
});

test('a full queue drops and says how many', async () => {
  const held: QueuedPacket[] = [];
  using queue = new PacketQueue({ queue: QUEUE, namespace: a.path, maxLength: 5 }, (packet) =>
    held.push(packet),
  );
  using sender = await udpIn(a, 4, '192.0.2.1');
  for (let i = 0; i < 12; i++) sender.socket.send(`${i}`, 7000, '192.0.2.2');
  await until('the overflow', () => queue.stats().droppedQueueFull === 7);
  await until('the packets held', () => held.length === 5);
  expect(queue.stats().waiting).toBe(5);
});

test('a queue bound in the middle of a flood', async () => {
  using sender = await udpIn(a, 4, '192.0.2.1');
  using receiver = await udpIn(b, 4, '192.0.2.2', 7000);
  const flood = spawn('nsenter', [`--net=${a.path}`, process.execPath, '-e', FLOOD]);
  try {
    await once(flood.stdout, 'data');
    for (let round = 0; round < 50; round++) {
      let held = 0;
      using queue = new PacketQueue({ queue: QUEUE, namespace: a.path }, (packet) => {
        held++;
        queue.verdict(packet.id, 'drop');
      });
      await until('packets', () => held > 0);
    }
  } finally {
    flood.kill();
    await once(flood, 'exit');
  }
  using queue = new PacketQueue({ queue: QUEUE, namespace: a.path }, (p) =>
    queue.verdict(p.id, 'repeat', 0x40),
  );
  sender.socket.send('after all', 7000, '192.0.2.2');
  await until('the datagram', () => receiver.received.includes('after all'));
});

/** Sends datagrams from inside the namespace without end. */
const FLOOD = `
  const socket = require('dgram').createSocket('udp4');
  const next = () => socket.send('flood', 7999, '192.0.2.2', () => setImmediate(next));
  next();
  console.log('begun');
`;

test('a queue belongs to one', () => {
  using _first = new PacketQueue({ queue: QUEUE, namespace: a.path }, () => undefined);
  expect(() => new PacketQueue({ queue: QUEUE, namespace: a.path }, () => undefined)).toThrow(
    /bind packet queue 77: another process has this queue/,
  );
});

/**
 * Sends the page of a file by sendfile(2), which does not copy it, over UDP without a checksum, for which the kernel would have to read it. Then,
 * for each further line, writes it into the file.
 */
const SHARED_PAGE = `
import mmap, os, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 11, 1)  # SO_NO_CHECK
s.setsockopt(socket.SOL_SOCKET, 36, 0x40)  # SO_MARK
s.connect(('192.0.2.2', 7001))
text = sys.stdin.readline().strip().encode()
fd = os.memfd_create('page')
os.write(fd, text.ljust(4096))
page = mmap.mmap(fd, 4096)
os.sendfile(s.fileno(), fd, 0, len(text))
print('sent', flush=True)
for line in sys.stdin:
    other = line.strip().encode()
    page[:len(other)] = other
    print('written', flush=True)
`;
test.each([
  ['as they were read, when the verdict has them', true],
  ['control: as they are by then, when it does not', false],
] as const)('packets whose memory their sender writes to go on %s', async (_, isGiven) => {
  const [read, written] = ['what was read...', 'what was written'];
  const held: QueuedPacket[] = [];
  using queue = new PacketQueue({ queue: QUEUE, namespace: b.path }, (packet) => held.push(packet));
  using receiver = await udpIn(b, 4, '192.0.2.2', 7001);
  const sender = spawn('nsenter', [`--net=${a.path}`, 'python3', '-c', SHARED_PAGE], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const answers = createInterface({ input: sender.stdout })[Symbol.asyncIterator]();
  const tell = async (text: string): Promise<unknown> => {
    sender.stdin.write(`${text}\n`);
    return (await answers.next()).value;
  };
  expect(await tell(read)).toBe('sent');
  const packet = await until('the packet', () => held[0]);
  expect(packet.payload.includes(read)).toBe(true);
  expect(await tell(written)).toBe('written');
  queue.verdict(packet.id, 'accept', packet.mark, isGiven ? packet.payload : undefined);
  await until('it to arrive', () => receiver.received.length > 0);
  expect(receiver.received).toEqual([isGiven ? read : written]);
  sender.stdin.end();
  await once(sender, 'close');
});
