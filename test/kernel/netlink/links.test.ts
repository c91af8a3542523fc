import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { RouteMonitor } from '../../../src/kernel/host-links.js';
import { Addresses, type LocalAddress } from '../../../src/kernel/netlink/addresses.js';
import { type Link, Links } from '../../../src/kernel/netlink/links.js';
import { join, makeNamespace, type Namespace, until } from './lab.js';

let host: Namespace;
let box: Namespace;
let links: Links;
beforeEach(() => {
  host = makeNamespace('links-host');
  box = makeNamespace('links-box');
  links = new Links({ namespace: host.path });
});
afterEach(() => {
  links.close();
  host[Symbol.dispose]();
  box[Symbol.dispose]();
});

test('a veth into another namespace: master, peer and the peer itself', async () => {
  host.run('ip', 'link', 'add', 'br0', 'type', 'bridge');
  join(host, box);
  host.run('ip', 'link', 'set', 'to-b', 'master', 'br0', 'alias', 'a port');
  const all = await links.list();
  const port = all.find((l) => l.name === 'to-b');
  const bridge = all.find((l) => l.name === 'br0');
  expect(all.find((l) => l.name === 'lo')).toMatchObject({ index: 1, up: true, mac: '00:00:00:00:00:00' });
  expect(bridge).toMatchObject({ kind: 'bridge', up: false });
  expect(port).toMatchObject({ kind: 'veth', master: bridge?.index, up: true, alias: 'a port' });
  if (port?.peerIndex === undefined || port.linkNamespaceId === undefined) throw new Error('no peer');
  expect(host.run('ip', 'link', 'show', 'to-b')).toContain(port.mac);

  expect(links.namespaceId({ path: box.path })).toBe(port.linkNamespaceId);
  const peer = links.getLinkInNamespace(port.linkNamespaceId, port.peerIndex);
  expect(peer).toMatchObject({ name: 'to-a', kind: 'veth', index: port.peerIndex, peerIndex: port.index });
  expect(box.run('ip', 'link', 'show', 'to-a')).toContain(peer?.mac);
  expect(links.getLinkInNamespace(port.linkNamespaceId, 9999)).toBeUndefined();
  expect(links.getLinkInNamespace(4321, 1)).toBeUndefined();
  expect(links.byName('to-b')).toEqual(port);
  expect(links.byIndex(port.index)).toEqual(port);
  expect(links.byName('none')).toBeUndefined();
  expect(links.byIndex(9999)).toBeUndefined();
});

test('the number of a namespace by process, and none where there is none', async () => {
  expect(links.namespaceId({ path: box.path })).toBeUndefined();
  expect(links.namespaceId({ path: '/run/netns/none-such' })).toBeUndefined();
  expect(links.namespaceId({ pid: 0x3fffff })).toBeUndefined();
  join(host, box);
  const child = spawn('nsenter', [`--net=${box.path}`, 'sleep', '60']);
  await once(child, 'spawn');
  const pid = child.pid ?? -1;
  try {
    const known = links.namespaceId({ path: box.path });
    expect(known).toBeTypeOf('number');
    await until('the child to be inside', () => links.namespaceId({ pid }) === known);
  } finally {
    child.kill();
    await once(child, 'exit');
  }
});

test('links and addresses are announced', async () => {
  const seen = {
    links: [] as Link[],
    gone: [] as string[],
    addresses: [] as LocalAddress[],
    left: [] as string[],
  };
  using _monitor = new RouteMonitor(
    {
      onLink: (link) => seen.links.push(link),
      onLinkGone: (link) => seen.gone.push(link.name),
      onAddress: (address) => seen.addresses.push(address),
      onAddressGone: (address) => seen.left.push(address.address),
      onOverrun: () => {
        throw new Error('overrun');
      },
    },
    { namespace: host.path },
  );
  host.run('ip', 'link', 'add', 'br0', 'type', 'bridge');
  join(host, box);
  host.run('ip', 'link', 'set', 'to-b', 'master', 'br0');
  await until('the port', () => seen.links.some((l) => l.name === 'to-b' && l.master !== undefined && l.up));
  await until('the address', () => seen.addresses.some((x) => x.address === '192.0.2.1' && x.prefix === 24));
  await until('the v6 address', () =>
    seen.addresses.some((x) => x.address === '2001:db8::1' && x.family === 6),
  );
  host.run('ip', 'link', 'set', 'to-b', 'nomaster');
  const latest = (): Link | undefined => seen.links.findLast((l) => l.name === 'to-b');
  await until('the port to leave', () => latest()?.master === undefined);
  expect(seen.gone).not.toContain('to-b');
  host.run('ip', 'addr', 'del', '192.0.2.1/24', 'dev', 'to-b');
  await until('the address to leave', () => seen.left.includes('192.0.2.1'));
  host.run('ip', 'link', 'del', 'to-b');
  await until('the link to go', () => seen.gone.includes('to-b'));
});

test('a monitor may be closed by its own listener', async () => {
  const seen: string[] = [];
  const monitor = new RouteMonitor(
    {
      onAddress: (address) => {
        seen.push(address.address);
        monitor.close();
      },
      onOverrun: () => undefined,
    },
    { namespace: host.path },
  );
  using addresses = new Addresses({ namespace: host.path });
  addresses.add('lo', '203.0.113.1/32');
  addresses.add('lo', '203.0.113.2/32');
  await until('the first address', () => seen.length > 0);
  addresses.add('lo', '203.0.113.3/32');
  await new Promise((resume) => setImmediate(resume));
  expect(seen).toEqual(['203.0.113.1']);
});

test('an overrun is told, and the monitor goes on', async () => {
  let overruns = 0;
  const names = new Set<string>();
  using _monitor = new RouteMonitor(
    {
      onLink: (link) => names.add(link.name),
      onOverrun: () => {
        overruns++;
      },
    },
    { namespace: host.path, receiveBuffer: 4096 },
  );
  const adds = Array.from({ length: 60 }, (_, i) => `link add v${i} type bridge`).join('\n');
  host.feed(adds, 'ip', '-batch', '-');
  await until('the overrun', () => overruns > 0);
  host.run('ip', 'link', 'add', 'after', 'type', 'bridge');
  await until('later news', () => names.has('after'));
  const again = overruns;
  host.feed(adds.replaceAll('link add v', 'link add w'), 'ip', '-batch', '-');
  await until('the second overrun', () => overruns > again);
  host.run('ip', 'link', 'add', 'after2', 'type', 'bridge');
  await until('later news', () => names.has('after2'));
});

test.each([
  ['203.0.113.53/32', '203.0.113.53', 32],
  ['2001:db8:53::1/128', '2001:db8:53::1', 128],
] as const)('%s on lo: added once, removed once', async (cidr, address, prefix) => {
  using addresses = new Addresses({ namespace: host.path });
  expect(addresses.add('lo', cidr)).toBe(true);
  expect(addresses.add('lo', cidr)).toBe(false);
  const all = await addresses.list();
  expect(all.filter((x) => x.address === address)).toEqual([
    // nothing takes an IPv4 address of this scope for its source
    { index: 1, family: prefix === 32 ? 4 : 6, address, prefix, scope: prefix === 32 ? 254 : 0 },
  ]);
  expect(all.find((x) => x.address === '127.0.0.1')).toMatchObject({ prefix: 8, scope: 254 });
  expect(execFileSync('ip', ['-n', host.name, 'addr', 'show', 'lo'], { encoding: 'utf8' })).not.toContain(
    'tentative',
  );
  expect(addresses.remove('lo', cidr)).toBe(true);
  expect(addresses.remove('lo', cidr)).toBe(false);
  expect(() => addresses.add('nolink', cidr)).toThrow(/no interface nolink/);
  expect(() => addresses.add('lo', '203.0.113.53')).toThrow(/not ADDRESS\/PREFIX/);
});
