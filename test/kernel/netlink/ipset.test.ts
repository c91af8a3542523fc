import { afterAll, beforeAll, expect, test } from 'vitest';
import { NftCounters, readCounters } from '../../../src/kernel/counts.js';
import type { Exec } from '../../../src/kernel/exec.js';
import { Kernel } from '../../../src/kernel/kernel.js';
import { KernelSets } from '../../../src/kernel/netlink/ipset.js';
import { IpsetStore } from '../../../src/kernel/netlink/ipset-bulk.js';
import { NftElements } from '../../../src/kernel/netlink/nft-codec.js';
import { readStoreRecord, writeStoreRecord } from '../../../src/kernel/store-record.js';
import { makeNamespace, type Namespace } from './lab.js';

let ns: Namespace;
let sets: KernelSets;
beforeAll(() => {
  ns = makeNamespace('ipset');
  sets = new KernelSets({ namespace: ns.path });
  const create = (...args: string[]) => ns.run('ipset', 'create', ...args);
  create('learn4', 'hash:ip', 'family', 'inet', 'hashsize', '64', 'timeout', '0');
  create('learn6', 'hash:ip', 'family', 'inet6', 'hashsize', '64', 'timeout', '0');
  create('nets4', 'hash:net', 'family', 'inet');
  create('nets6', 'hash:net', 'family', 'inet6');
  create('small', 'hash:ip', 'family', 'inet', 'hashsize', '64', 'maxelem', '2', 'timeout', '0');
});
afterAll(() => {
  sets.close();
  ns[Symbol.dispose]();
});

test('a member is in the kernel when add resolves, and its time-out can be raised', async () => {
  await sets.add('learn4', '192.0.2.7', 30);
  expect(ns.run('ipset', 'list', 'learn4')).toMatch(/192\.0\.2\.7 timeout (30|29)/);
  await sets.add('learn4', '192.0.2.7', 600.2);
  const [member] = (await sets.members('learn4')) ?? [];
  expect(member).toMatchObject({ address: '192.0.2.7', nomatch: false });
  expect(member?.timeout).toBeGreaterThan(595);
  await sets.add('learn4', '192.0.2.8', 1e12);
  expect(ns.run('ipset', 'list', 'learn4')).toMatch(/192\.0\.2\.8 timeout 21474/);
});

test('IPv6 members, and time-out 0 stays for good', async () => {
  await sets.add('learn6', '2001:db8::a', 0);
  expect(await sets.members('learn6')).toEqual([{ address: '2001:db8::a', timeout: 0, nomatch: false }]);
  await expect(sets.add('learn6', '2001:db8::a', Number.NaN)).rejects.toThrow(RangeError);
});

test('without a time-out a member is added as by ipset: to a set without time-outs for good, else with that of the set', async () => {
  ns.run('ipset', 'create', 'lasting', 'hash:net');
  await sets.add('lasting', '198.51.100.0/24', undefined);
  expect(await sets.members('lasting')).toEqual([{ address: '198.51.100.0', prefix: 24, nomatch: false }]);
  ns.run('ipset', 'create', 'brief', 'hash:ip', 'timeout', '50');
  await sets.add('brief', '198.51.100.1', undefined);
  ns.run('ipset', 'add', 'brief', '198.51.100.2');
  const timeouts = (await sets.members('brief'))?.map((m) => m.timeout ?? 0);
  expect(timeouts).toHaveLength(2);
  for (const timeout of timeouts ?? []) expect(timeout).toBeGreaterThan(40);
  for (const set of ['lasting', 'brief']) ns.run('ipset', 'destroy', set);
});

test('adds that are repeated set the time-outs again, and report that one of the sets is gone', () => {
  const [first, second] = ['beat', 'beat-too'] as const;
  const create = (set: string) => ns.run('ipset', 'create', set, 'hash:net', 'timeout', '0');
  for (const set of [first, second]) create(set);
  const half = '128.0.0.0/1';
  const add = sets.repeatedAdds([[first, half] as const, [second, half] as const], 3);
  add();
  for (const set of [first, second]) ns.run('ipset', 'add', set, half, 'timeout', '0', '-exist');
  add();
  for (const set of [first, second])
    expect(ns.run('ipset', 'list', set)).toMatch(/128\.0\.0\.0\/1 timeout [23]/);
  for (const set of [first, second]) {
    ns.run('ipset', 'destroy', set);
    expect(add).toThrow('no such set');
    expect(add).toThrow('no such set');
    create(set);
    add();
  }
  for (const set of [first, second]) ns.run('ipset', 'destroy', set);
});

test('removing twice is no error', async () => {
  await sets.add('learn4', '192.0.2.9', 5);
  await sets.remove('learn4', '192.0.2.9');
  await sets.remove('learn4', '192.0.2.9');
  expect((await sets.members('learn4'))?.some((m) => m.address === '192.0.2.9')).toBe(false);
});

test('networks in sets without time-outs', async () => {
  await sets.add('nets4', '10.1.0.0/16', 0);
  await sets.add('nets6', '2001:db8:1::/48', 0);
  ns.run('ipset', 'add', 'nets4', '10.1.2.0/24', 'nomatch');
  expect(await sets.members('nets4')).toEqual(
    expect.arrayContaining([
      { address: '10.1.0.0', prefix: 16, nomatch: false },
      { address: '10.1.2.0', prefix: 24, nomatch: true },
    ]),
  );
  expect(await sets.members('nets6')).toEqual([{ address: '2001:db8:1::', prefix: 48, nomatch: false }]);
});

test('the digest of a set shows that a member was replaced, and its header how many there are', async () => {
  ns.run('ipset', 'create', 'fixed', 'hash:net', 'family', 'inet');
  for (const member of ['10.3.0.0/16', '10.4.0.0/16']) ns.run('ipset', 'add', 'fixed', member);
  const before = sets.digest('fixed');
  expect(sets.digest('fixed')).toBe(before);
  ns.run('ipset', 'del', 'fixed', '10.4.0.0/16');
  ns.run('ipset', 'add', 'fixed', '10.5.0.0/16');
  const replaced = sets.digest('fixed');
  expect(replaced).toEqual(expect.any(String));
  expect(replaced).not.toBe(before);
  expect([
    sets.entries('fixed'),
    sets.entries('nets4'),
    sets.entries('nowhere'),
    sets.entries('small'),
  ]).toEqual([2, 2, undefined, 0]);
  using bulk = new IpsetStore({ namespace: ns.path });
  const all = bulk.allEntries();
  expect([all.get('fixed'), all.get('nets4'), all.get('small')]).toEqual([2, 2, 0]);
  expect([...all.keys()].sort()).toEqual((await sets.headers()).map((h) => h.name).sort());
  expect(() => sets.entries('x'.repeat(40))).toThrow('list set');
  expect(sets.digest('nowhere')).toBeUndefined();
  ns.run('ipset', 'destroy', 'fixed');
});

test('the digest of a set of several messages shows that its last member was replaced', async () => {
  ns.run('ipset', 'create', 'many', 'hash:net', 'family', 'inet');
  const member = (n: number): string => `10.${n >> 8}.${n & 255}.0/24`;
  for (let n = 0; n < 5_000; n++) await sets.add('many', member(n), 0);
  const before = sets.digest('many');
  expect(sets.digest('many')).toBe(before);
  const last = (await sets.members('many'))?.at(-1);
  await sets.remove('many', `${last?.address}/${last?.prefix}`);
  await sets.add('many', '10.200.0.0/24', 0);
  expect(sets.digest('many')).not.toBe(before);
  ns.run('ipset', 'destroy', 'many');
});

test('the generation of nf_tables shows changes of nft and of iptables, and no others', () => {
  using elements = new NftElements({ namespace: ns.path });
  const seen = [elements.generation()];
  ns.run('nft', 'add', 'table', 'inet', 'of_others');
  seen.push(elements.generation());
  ns.run('iptables-nft', '-A', 'FORWARD', '-j', 'ACCEPT');
  seen.push(elements.generation());
  expect(new Set(seen).size).toBe(3);
  ns.run('iptables-nft-save');
  ns.run('nft', 'list', 'ruleset');
  ns.run('ipset', 'add', 'nets4', '10.9.0.0/16');
  expect(elements.generation()).toBe(seen[2]);
  ns.run('ipset', 'del', 'nets4', '10.9.0.0/16');
});

test.each([
  [4, 'iptables'],
  [6, 'ip6tables'],
] as const)('IPv%i: counters over netlink are those that iptables-save shows', async (family, tool) => {
  using elements = new NftElements({ namespace: ns.path });
  const counters = new NftCounters(elements, 'CT', family);
  expect(await counters.read()).toEqual(new Map());
  const rules = [
    '*filter',
    ':CT-c-1 - [0:0]',
    ':CT-l-1 - [0:0]',
    ':CT-OTHER - [0:0]',
    '[3:180] -A CT-c-1 -p tcp -m multiport --dports 80,443 -m comment --comment "CT:aaa" -j RETURN',
    '[5000000000:9000000000] -A CT-c-1 -p udp --dport 53 -m comment --comment "CT:bbb" -j ACCEPT',
    '[7:70] -A CT-c-1 -j DROP',
    '[1:60] -A CT-l-1 -m mark --mark 0x1/0xff -m comment --comment "CT:ccc" -g CT-OTHER',
    '[2:20] -A CT-l-1 -m comment --comment "of others" -j DROP',
    '[9:90] -A CT-OTHER -m comment --comment "CT:ddd" -j DROP',
    'COMMIT',
    '',
  ].join('\n');
  ns.run('sh', '-c', `printf '%s' "$1" | ${tool}-nft-restore --noflush --counters`, 'sh', rules);
  const saved: Exec = async () => ({ code: 0, stdout: ns.run(`${tool}-nft-save`, '-c'), stderr: '' });
  const found = await counters.read();
  expect(found).toEqual(await readCounters(saved, 'CT', family));
  expect(found.get('CT-c-1')).toEqual(
    new Map([
      ['aaa', 3],
      ['bbb', 5_000_000_000],
    ]),
  );
  expect([...found.keys()].sort()).toEqual(['CT-c-1', 'CT-l-1']);
  expect(await counters.read()).toBe(found);
  ns.run(`${tool}-nft`, '-Z', 'CT-l-1');
  const zeroed = await counters.read();
  expect(zeroed).toEqual(await readCounters(saved, 'CT', family));
  expect([...(zeroed.get('CT-l-1') ?? [])]).toEqual([['ccc', 0]]);
  ns.run(`${tool}-nft`, '-D', 'CT-c-1', '3');
  ns.run(`${tool}-nft`, '-D', 'CT-c-1', '1');
  const fewer = await counters.read();
  expect(fewer).toEqual(await readCounters(saved, 'CT', family));
  expect(fewer.get('CT-c-1')?.has('aaa')).toBe(false);
  expect(await counters.read()).toBe(fewer);
});

test('refusals say what is wrong', async () => {
  await expect(sets.add('nowhere', '192.0.2.1', 5)).rejects.toMatchObject({ code: 'ENOENT' });
  await expect(sets.add('nowhere', '192.0.2.1', 5)).rejects.toThrow(
    /add 192\.0\.2\.1 to set nowhere: no such set/,
  );
  await expect(sets.add('learn6', '192.0.2.1', 5)).rejects.toThrow(/is for IPv6, the address is IPv4/);
  await expect(sets.add('learn4', '2001:db8::1', 5)).rejects.toThrow(/is for IPv4, the address is IPv6/);
  await expect(sets.add('nets4', '192.0.2.1', 5)).rejects.toThrow(/without time-outs/);
  await expect(sets.add('learn4', 'example.org', 5)).rejects.toThrow(/not an address/);
  await expect(sets.add('learn4', '1.2.3', 5)).rejects.toThrow(/not an address/);
  await expect(sets.add('x'.repeat(40), '192.0.2.1', 5)).rejects.toThrow(/add 192\.0\.2\.1 to set x+:/);
});

test('a full set refuses, and takes more when one has gone', async () => {
  await sets.add('small', '198.51.100.1', 600);
  await sets.add('small', '198.51.100.2', 600);
  await expect(sets.add('small', '198.51.100.3', 600)).rejects.toThrow(/the set is full/);
  await sets.remove('small', '198.51.100.1');
  await sets.add('small', '198.51.100.3', 600);
});

test('one listing has the digests of many sets, wherever its messages are cut', async () => {
  using own = makeNamespace('digests');
  using one = new KernelSets({ namespace: own.path });
  using bulk = new IpsetStore({ namespace: own.path });
  const names = Array.from({ length: 150 }, (_, n) => `of${n}`);
  const lines = names.flatMap((name, n) => [
    `create ${name} hash:net family inet hashsize 64`,
    ...Array.from({ length: n % 25 }, (_, m) => `add ${name} 10.${n}.${m}.0/24`),
  ]);
  const restore = (all: readonly string[]) =>
    own.run('sh', '-c', `printf '%s' "$1" | ipset restore`, 'sh', `${all.join('\n')}\n`);
  restore(['create first hash:ip family inet hashsize 64 timeout 600', ...lines]);
  expect(await bulk.digests(names)).toBeUndefined();
  bulk.allEntries();
  const before = await bulk.digests(names);
  expect(before?.size).toBe(names.length);
  expect(before?.get('of3')).toBe(one.digest('of3'));
  for (let n = 0; n < 60; n++) {
    await one.add('first', `192.0.2.${n}`, 600);
    expect(await bulk.digests([...names, 'nowhere'])).toEqual(before);
  }
  const changed = async (): Promise<readonly string[]> => {
    const now = await bulk.digests(names);
    return names.filter((name) => now?.get(name) !== before?.get(name));
  };
  restore(['del of3 10.3.1.0/24', 'add of3 10.3.9.0/24', 'del of149 10.149.23.0/24', 'destroy of50']);
  expect(await changed()).toEqual(['of3', 'of50', 'of149']);
  restore(['create large hash:ip family inet maxelem 65536', 'add large 10.0.0.0/17']);
  bulk.allEntries();
  expect(await bulk.digests(names)).toBeUndefined();
});

test('headers of all sets', async () => {
  const headers = await sets.headers();
  expect(headers.map((h) => h.name).sort()).toEqual(['learn4', 'learn6', 'nets4', 'nets6', 'small']);
  expect(headers.find((h) => h.name === 'nets4')).toMatchObject({
    type: 'hash:net',
    family: 4,
    entries: 2,
    references: 0,
    maxEntries: 65536,
  });
  expect(headers.find((h) => h.name === 'nets4')).not.toHaveProperty('timeout');
  expect(headers.find((h) => h.name === 'learn6')).toMatchObject({
    type: 'hash:ip',
    family: 6,
    entries: 1,
    timeout: 0,
  });
});

test('members of a set that does not exist', async () => {
  expect(await sets.members('nowhere')).toBeUndefined();
});

test('a large set is listed whole, several dumps at once', async () => {
  const lines = Array.from(
    { length: 20_000 },
    (_, i) => `add big 10.${i >> 16}.${(i >> 8) & 255}.${i & 255}`,
  );
  ns.run('ipset', 'create', 'big', 'hash:ip', 'hashsize', '16384');
  ns.feed(`${lines.join('\n')}\n`, 'ipset', 'restore');
  const all = await Promise.all([sets.members('big'), sets.headers(), sets.members('big')]);
  expect(all[0]).toHaveLength(20_000);
  expect(all[1].find((h) => h.name === 'big')?.entries).toBe(20_000);
  expect(new Set(all[2]?.map((m) => m.address)).size).toBe(20_000);
});

test.each([4, 6] as const)(
  'whether an IPv%i set has exactly some members is read from the kernel',
  async (family) => {
    const [name, net, other] = {
      4: ['exact4', '10.6.0.0/16', '192.0.2.1'],
      6: ['exact6', '2001:db8:6::/48', '::ffff:192.0.2.1'],
    }[family] as [string, string, string];
    ns.run('ipset', 'create', name, 'hash:net', 'family', family === 4 ? 'inet' : 'inet6');
    const has = (...members: string[]): Promise<boolean> =>
      Kernel.prototype.hasMembers.call({ sets } as unknown as Kernel, { name, members });
    expect([await has(), await has(net)]).toEqual([true, false]);
    for (const member of [net, other]) ns.run('ipset', 'add', name, member);
    expect([await has(net, other), await has(net), await has(net, net)]).toEqual([true, false, false]);
    expect(await has(net, `${other}/${family === 4 ? 32 : 128}`)).toBe(true);
    expect(await has(net, family === 4 ? '192.0.2.2' : '2001:db8::1')).toBe(false);
    ns.run('ipset', 'del', name, net);
    ns.run('ipset', 'add', name, net, 'nomatch');
    expect(await has(net, other)).toBe(false);
    ns.run('ipset', 'destroy', name);
    expect([await has(), await has(net)]).toEqual([false, false]);
  },
);

test('the record of the store is read as ipset writes it; there is none, or one that cannot be read', async () => {
  const run: Exec = async (file, args, { input = '' } = {}) => {
    ns.feed(input, file, ...args);
    return { code: 0, stdout: '', stderr: '' };
  };
  expect(await readStoreRecord(sets, 'XY')).toBeUndefined();
  const record = { id: 'an id "of" ünusual text', revision: 41, isLockdown: true, isPaused: false };
  await writeStoreRecord(run, 'XY', record);
  expect(await readStoreRecord(sets, 'XY')).toEqual(record);
  ns.run('ipset', 'add', 'XY-record', '127.0.0.1', 'comment', 'drawbridge-store 2 id=a', '-exist');
  expect(await readStoreRecord(sets, 'XY')).toBe('unreadable');
  ns.run('ipset', 'flush', 'XY-record');
  expect(await readStoreRecord(sets, 'XY')).toBeUndefined();
});
