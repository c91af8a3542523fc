import { afterAll, beforeAll, expect, test } from 'vitest';
import { parsePacket } from '../../../src/kernel/netlink/packet-header.js';
import { type LoggedPacket, PacketLog } from '../../../src/kernel/netlink/packet-log.js';
import { join, makeNamespace, type Namespace, until } from './lab.js';
import { udpIn } from './udp.js';

let a: Namespace;
let b: Namespace;
beforeAll(() => {
  a = makeNamespace('log-a');
  b = makeNamespace('log-b');
  join(a, b);
  for (const iptables of ['iptables', 'ip6tables']) {
    a.run(iptables, '-t', 'mangle', '-A', 'OUTPUT', '-p', 'udp', '-j', 'MARK', '--set-mark', '0x77');
    a.run(
      iptables,
      '-A',
      'OUTPUT',
      '-p',
      'udp',
      '-j',
      'NFLOG',
      '--nflog-group',
      '5',
      '--nflog-prefix',
      'out here',
    );
    b.run(iptables, '-A', 'INPUT', '-p', 'udp', '-j', 'NFLOG', '--nflog-group', '5', '--nflog-prefix', 'in');
  }
});
afterAll(() => {
  a[Symbol.dispose]();
  b[Symbol.dispose]();
});

test.each([
  [4, '192.0.2.1', '192.0.2.2'],
  [6, '2001:db8::1', '2001:db8::2'],
] as const)('IPv%i packets that a rule logs arrive soon', async (family, from, to) => {
  const out: LoggedPacket[] = [];
  const into: LoggedPacket[] = [];
  using log = new PacketLog({ group: 5, namespace: a.path }, (packet) => out.push(packet));
  using _other = new PacketLog({ group: 5, namespace: b.path, copyRange: 60 }, (packet) => into.push(packet));
  using sender = await udpIn(a, family, from);
  const began = Date.now();
  sender.socket.send('y'.repeat(300), 9, to);
  const [packet] = await until('the log', () => out.length > 0 && out);
  expect(Date.now() - began).toBeLessThan(1000);
  expect(packet).toMatchObject({ prefix: 'out here', family, mark: 0x77, indev: 0, sequence: 0 });
  expect(packet?.payload).toHaveLength(128);
  expect(parsePacket(packet?.payload ?? Buffer.alloc(0))).toMatchObject({
    value: { src: from, dst: to, dport: 9 },
  });
  const [arrived] = await until('the other log', () => into.length > 0 && into);
  expect(arrived).toMatchObject({ prefix: 'in', family, mark: 0, outdev: 0 });
  expect(arrived?.payload).toHaveLength(60);
  expect(a.run('ip', 'link', 'show', 'to-b')).toContain(`link/ether ${arrived?.hwaddr} `);
  expect(log.stats()).toEqual({ received: 1, lost: 0, overruns: 0, malformed: 0 });
});

test('many packets come gathered, none lost', async () => {
  const out: LoggedPacket[] = [];
  using log = new PacketLog({ group: 5, namespace: a.path }, (packet) => out.push(packet));
  using sender = await udpIn(a, 4, '192.0.2.1');
  for (let i = 0; i < 500; i++) sender.socket.send(`${i}`, 9, '192.0.2.2');
  await until('all of them', () => out.length === 500);
  expect(log.stats()).toEqual({ received: 500, lost: 0, overruns: 0, malformed: 0 });
  expect(out.map((p) => p.sequence)).toEqual(Array.from({ length: 500 }, (_, i) => i));
});

test('copies for which there is no room are known at once, though none follows them', async () => {
  const rule = ['-p', 'udp', '--dport', '10', '-j', 'NFLOG', '--nflog-group', '7', '--nflog-threshold', '1'];
  a.run('iptables', '-A', 'OUTPUT', ...rule);
  let received = 0;
  using log = new PacketLog({ group: 7, namespace: a.path }, () => {
    received += 1;
  });
  // this process, which would read them, waits for the end of the one that sends
  const script = `const s = require('node:dgram').createSocket('udp4');
    let left = ${MANY};
    const next = () => (left-- > 0 ? s.send('', 10, '192.0.2.2', next) : s.close());
    next();`;
  a.run(process.execPath, '-e', script);
  log.drain();
  expect(log.stats()).toMatchObject({ lost: 0, overruns: 1 });
  expect(log.losses).toBe(1);
  expect(received).toBeLessThan(MANY);
  using sender = await udpIn(a, 4, '192.0.2.1');
  sender.socket.send('after', 10, '192.0.2.2');
  await until('the gap', () => log.stats().lost === MANY - received + 1);
});
const MANY = 60_000;

test('a group belongs to one', () => {
  using _first = new PacketLog({ group: 6, namespace: a.path }, () => undefined);
  expect(() => new PacketLog({ group: 6, namespace: a.path }, () => undefined)).toThrow(
    /bind log group 6: another process has this log group/,
  );
});
