import { once } from 'node:events';
import { closeSync, openSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { afterAll, beforeAll, expect, test } from 'vitest';
import {
  isNamespaceMounted,
  tcpListenFd,
  udpSocketFd,
  withNamespace,
} from '../../../src/kernel/netlink/namespace.js';
import { makeNamespace, type Namespace, until } from './lab.js';
import { udpIn } from './udp.js';

let ns: Namespace;
beforeAll(() => {
  ns = makeNamespace('sockets');
});
afterAll(() => {
  ns[Symbol.dispose]();
});

const here = (): string => readlinkSync('/proc/thread-self/ns/net');

test('goes in and comes back, also when the function throws', () => {
  const before = here();
  const inside = withNamespace(ns.path, here);
  expect(inside).not.toBe(before);
  expect(here()).toBe(before);
  expect(() =>
    withNamespace(ns.path, () => {
      throw new Error('inside');
    }),
  ).toThrow('inside');
  expect(here()).toBe(before);
});

test('takes a descriptor and leaves it open', () => {
  const fd = openSync(ns.path, 'r');
  try {
    expect(withNamespace(fd, here)).toBe(withNamespace(fd, here));
  } finally {
    closeSync(fd);
  }
});

test('refuses what is no namespace and what is asynchronous', () => {
  const before = here();
  expect(() => withNamespace('/run/netns/none-such', here)).toThrow(/ENOENT/);
  expect(() => withNamespace('/proc/self/status', here)).toThrow(/setns to a network namespace: .*EINVAL/);
  expect(() => withNamespace(ns.path, async () => here())).toThrow(/must not be asynchronous/);
  expect(here()).toBe(before);
});

test('tells a mounted namespace from a file that is not one yet, or no longer', () => {
  const file = `${ns.path}-file`;
  writeFileSync(file, '');
  try {
    expect([ns.path, file, `${file}-missing`].map(isNamespaceMounted)).toEqual([true, false, false]);
  } finally {
    rmSync(file);
  }
});

test('leaves no descriptor behind', () => {
  const count = (): number => readFileSync('/proc/self/status', 'utf8').length && openDescriptors();
  const before = count();
  for (let i = 0; i < 50; i++) withNamespace(ns.path, here);
  expect(() => withNamespace('/proc/self/status', here)).toThrow();
  expect(() => udpSocketFd({ family: 4, address: '203.0.113.1', port: 53, namespace: ns.path })).toThrow();
  expect(count()).toBe(before);
});

function openDescriptors(): number {
  const fd = openSync('/proc/self/fd', 'r');
  closeSync(fd);
  return fd; // the lowest free number
}

test.each([
  [4, '127.0.0.11'],
  [6, '::1'],
] as const)('UDP inside the namespace answers, IPv%i', async (family, address) => {
  using server = await udpIn(ns, family, address, 5399);
  server.socket.on('message', (data, from) => server.socket.send(`echo ${data}`, from.port, from.address));
  using client = await udpIn(ns, family, family === 4 ? '127.0.0.1' : '::1');
  client.socket.send('hello', 5399, address);
  await until('the answer', () => client.received.includes('echo hello'));
});

test.each([
  [4, '127.0.0.11'],
  [6, '::1'],
] as const)('TCP inside the namespace answers, IPv%i, and not from here', async (family, address) => {
  const fd = tcpListenFd({ family, address, port: 5398, namespace: ns.path });
  const server = createServer((peer) => peer.end('from inside'));
  server.listen({ fd });
  await once(server, 'listening');
  const outside = connect(5398, address);
  const [error] = (await once(outside, 'error')) as [NodeJS.ErrnoException];
  expect(error.code).toBe('ECONNREFUSED');
  expect(await fetchInside(address)).toBe('from inside');
  server.close();
});

/** Node's connect() belongs to this namespace: a child inside asks. */
async function fetchInside(address: string): Promise<string> {
  const { spawn } = await import('node:child_process');
  const program = `require('net').connect(5398, '${address}').pipe(process.stdout)`;
  const child = spawn('nsenter', [`--net=${ns.path}`, process.execPath, '-e', program]);
  let text = '';
  child.stdout.on('data', (data: Buffer) => {
    text += data.toString();
  });
  await once(child, 'close');
  return text;
}

test('an address in use and a bad address are named', () => {
  const fd = udpSocketFd({ family: 4, address: '127.0.0.1', port: 5397, namespace: ns.path });
  try {
    expect(() => udpSocketFd({ family: 4, address: '127.0.0.1', port: 5397, namespace: ns.path })).toThrow(
      /bind udp \[127\.0\.0\.1\]:5397: address already in use/,
    );
  } finally {
    closeSync(fd);
  }
  expect(() => udpSocketFd({ family: 6, address: '127.0.0.1', port: 1 })).toThrow(/not an IPv6 address/);
});
