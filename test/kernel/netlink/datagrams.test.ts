/** Sockets with memory that is shared with the kernel: under floods, with garbage collections, and with odd datagrams. */
import type { Socket } from 'node:dgram';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { DatagramSocket, Datagrams } from '../../../src/kernel/netlink/datagram-socket.js';
import { udpSocketFd } from '../../../src/kernel/netlink/namespace.js';
import { makeNamespace, type Namespace, until } from './lab.js';
import { udpIn } from './udp.js';

setFlagsFromString('--expose-gc');
const gc = runInNewContext('gc') as () => void;
const LONGEST = 600;

let ns: Namespace;
beforeAll(() => {
  ns = makeNamespace('datagrams');
});
afterAll(() => ns[Symbol.dispose]());

interface Seen {
  readonly address: string;
  readonly port: number;
  readonly length: number;
}
/** Answers each datagram with its own bytes in reverse order, at once; those that begin with "late": after a turn of the loop. */
function echo(
  datagrams: Datagrams,
  { family = 4, address = '127.0.0.1', port }: { family?: 4 | 6; address?: string; port: number },
) {
  const seen: Seen[] = [];
  const errors: number[] = [];
  const socket: DatagramSocket = new DatagramSocket(
    udpSocketFd({ family, address, port, namespace: ns.path }),
    datagrams,
    {
      datagrams: (count) => {
        for (let i = 0; i < count; i++) {
          const { bytes, start, end } = datagrams.received(i);
          const from = { address: datagrams.sourceAddress(i), port: datagrams.sourcePort(i) };
          seen.push({ ...from, length: end - start });
          const reply = Buffer.from(bytes.subarray(start, end)).reverse();
          if (bytes.toString('latin1', start, start + 4) === 'late') {
            const to = datagrams.sender(i);
            setImmediate(() => {
              const errno = socket.sendTo(reply, to);
              if (errno !== 0) errors.push(errno);
            });
            continue;
          }
          const into = datagrams.next();
          reply.copy(into.bytes, into.at);
          datagrams.stage(i, reply.length);
        }
      },
      error: (errno) => errors.push(errno),
    },
  );
  return { socket, seen, errors };
}

const send = (socket: Socket, text: string | Buffer, port: number, address = '127.0.0.1'): Promise<void> =>
  new Promise((sent) => socket.send(text, port, address, () => sent()));

describe('a socket', () => {
  it.each([
    [4, '127.0.0.1'],
    [6, '::1'],
  ] as const)('receives and answers over IPv%i, at once and later', async (family, address) => {
    const { socket, seen } = echo(new Datagrams(LONGEST, LONGEST), { family, address, port: 5701 });
    using client = await udpIn(ns, family, address);
    for (const text of ['abc', 'late', '', 'x'.repeat(LONGEST)])
      await send(client.socket, text, 5701, address);
    await until('four answers', () => client.received.length === 4);
    expect(client.received.sort()).toEqual(['', 'cba', 'etal', 'x'.repeat(LONGEST)]);
    expect(seen.every((s) => s.address === address && s.port === client.port)).toBe(true);
    socket[Symbol.dispose]();
  });

  it('cuts what is too long, and is whole for the next datagram', async () => {
    const { socket, seen } = echo(new Datagrams(LONGEST, LONGEST), { port: 5702 });
    using client = await udpIn(ns, 4, '127.0.0.1');
    await send(client.socket, Buffer.alloc(9_000, 'y'), 5702);
    await send(client.socket, 'ab', 5702);
    await until('two answers', () => client.received.length === 2);
    expect(seen.map((s) => s.length)).toEqual([LONGEST, 2]);
    expect(client.received[1]).toBe('ba');
    socket[Symbol.dispose]();
  });

  it('keeps each answer with its sender through a flood, with garbage collections', async () => {
    const { socket } = echo(new Datagrams(LONGEST, LONGEST), { port: 5703 });
    const clients = await Promise.all(Array.from({ length: 8 }, () => udpIn(ns, 4, '127.0.0.1')));
    for (let round = 0; round < 20; round++) {
      const sent = clients.flatMap(({ socket: from }, c) =>
        Array.from({ length: 20 }, (_, i) =>
          send(from, `${i % 3 === 0 ? 'late' : ''}${c}-${round}-${i}`, 5703),
        ),
      );
      if (round % 5 === 0) gc();
      await Promise.all(sent);
      await until('all answers', () => clients.every((c) => c.received.length === 20 * (round + 1)));
    }
    clients.forEach(({ received }, c) => {
      const texts = received.map((text) => [...text].reverse().join('').replace('late', ''));
      expect(new Set(texts).size).toBe(400);
      expect(texts.every((text) => text.startsWith(`${c}-`))).toBe(true);
    });
    for (const c of clients) c[Symbol.dispose]();
    socket[Symbol.dispose]();
  });

  it('goes on after senders that have gone, and sends nothing once it is closed', async () => {
    const { socket, seen } = echo(new Datagrams(LONGEST, LONGEST), { port: 5704 });
    for (let i = 0; i < 50; i++) {
      using gone = await udpIn(ns, 4, '127.0.0.1');
      await send(gone.socket, i % 2 === 0 ? 'late' : 'now', 5704);
    }
    await until('all of them', () => seen.length === 50);
    using client = await udpIn(ns, 4, '127.0.0.1');
    await send(client.socket, 'here', 5704);
    await until('the answer', () => client.received.length === 1);
    socket[Symbol.dispose]();
    socket[Symbol.dispose]();
    const to = Buffer.alloc(16);
    to.writeUInt16LE(2, 0); // AF_INET
    to.writeUInt16BE(client.port, 2);
    Buffer.from([127, 0, 0, 1]).copy(to, 4);
    expect(socket.sendTo(Buffer.from('too late'), to)).toBe(0);
    using other = echo(new Datagrams(LONGEST, LONGEST), { port: 5704 }).socket;
    expect(other.sendTo(Buffer.from('from the other'), to)).toBe(0);
    await until('the next one', () => client.received.length === 2);
    expect(client.received[1]).toBe('from the other');
  });
});

describe('many sockets with the same memory', () => {
  it('are opened, used and closed 200 times, with garbage collections in between', async () => {
    const datagrams = new Datagrams(LONGEST, LONGEST);
    using client = await udpIn(ns, 4, '127.0.0.1');
    for (let round = 1; round <= 200; round++) {
      const { socket } = echo(datagrams, { port: 5705 });
      const idle = echo(new Datagrams(LONGEST, LONGEST), { port: 5706 });
      await send(client.socket, `${round}`, 5705);
      if (round % 10 === 0) gc();
      await until('its answer', () => client.received.length === round);
      await send(client.socket, 'nobody reads this', 5705);
      socket[Symbol.dispose]();
      idle.socket[Symbol.dispose]();
      if (round % 10 === 5) gc();
    }
    expect(client.received.at(-1)).toBe('002');
  });

  it('do not mix up what they receive', async () => {
    const datagrams = new Datagrams(LONGEST, LONGEST);
    const all = [5707, 5708, 5709].map((port) => echo(datagrams, { port }));
    using from = await udpIn(ns, 4, '127.0.0.1');
    for (let i = 0; i < 60; i++) await send(from.socket, `${i}`, 5707 + (i % 3));
    await until('all answers', () => from.received.length === 60);
    expect(all.map(({ seen }) => seen.length)).toEqual([20, 20, 20]);
    for (const { socket } of all) socket[Symbol.dispose]();
  });
});
