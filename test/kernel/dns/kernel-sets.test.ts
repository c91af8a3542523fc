import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { DnsService } from '../../../src/dns/dns-service.js';
import { KernelSets } from '../../../src/kernel/netlink/ipset.js';
import { makeNetns, type Netns } from '../in-netns.js';
import { Authority, a, aaaa, freePair } from './authority.js';
import { ask } from './client.js';
import { House, quiet } from './house.js';

let ns: Netns;
let up: Authority;
let house: House;
let kernel: KernelSets;
let service: DnsService;
const box = '127.9.8.1';
const server = { address: '127.0.0.54', port: await freePair('127.0.0.54') };
const left = (set: string, address: string): number =>
  Number(new RegExp(`^${address} timeout (\\d+)$`, 'm').exec(ns.run('ipset', 'list', set))?.[1] ?? -1);

beforeAll(async () => {
  ns = makeNetns();
  for (const [set, family] of [
    ['v4', 'inet'],
    ['v6', 'inet6'],
  ] as const) {
    ns.run('ipset', 'create', `${box}-${set}`, 'hash:ip', 'family', family, 'timeout', '0', 'hashsize', '64');
  }
  kernel = new KernelSets({ namespace: ns.path });
  up = await new Authority('127.0.0.1', (name, type) => {
    if (type === 'AAAA') return { answers: [aaaa(name, '2001:db8::9')] };
    return { answers: [a(name, '198.51.100.9', name === 'long.test' ? 20_000 : 1)] };
  }).start();
  house = new House({ upstreams: [up.endpoint] });
  house.policy.allowed.set('long.test', {}).set('short.test', {});
  service = new DnsService({
    config: { ...house.config, grace: 0 },
    policy: house.policy,
    sets: kernel,
    original: { lookup: () => undefined },
    log: quiet,
    journal: `${house.dir}/kernel.jsonl`,
    onEvent: (e) => void house.events.push(e),
  });
  await service.listen(server.address, server.port);
});
afterAll(() => {
  service[Symbol.dispose]();
  kernel[Symbol.dispose]();
  house.close();
  up.close();
  ns[Symbol.dispose]();
});

describe("the kernel's own sets", () => {
  it('hold what was told, in both families, and a shorter answer shortens nothing', async () => {
    await ask(server, 'long.test', { from: box });
    expect(left(`${box}-v4`, '198.51.100.9')).toBeGreaterThan(19_990);
    await ask(server, 'short.test', { from: box });
    expect(left(`${box}-v4`, '198.51.100.9')).toBeGreaterThan(19_990);
    await ask(server, 'long.test', { from: box, type: 'AAAA' });
    expect(left(`${box}-v6`, '2001:db8::9')).toBeGreaterThan(50);
  });

  it('get back what a flush took with the next answer, cached or not', async () => {
    ns.run('ipset', 'flush', `${box}-v4`);
    await ask(server, 'long.test', { from: box });
    expect(left(`${box}-v4`, '198.51.100.9')).toBeGreaterThan(19_900);
  });

  it('lose nothing to a name that is revoked, and keep only what another name justifies', async () => {
    house.policy.allowed.delete('long.test');
    const until = service.members(box).get(`${box}-v4`)?.get('198.51.100.9') ?? 0;
    expect(until - Date.now()).toBeLessThan(10_000);
    expect(until).toBeGreaterThan(Date.now());
    house.policy.allowed.set('long.test', {});
  });

  it('that are missing make a SERVFAIL', async () => {
    ns.run('ipset', 'destroy', `${box}-v4`);
    expect((await ask(server, 'long.test', { from: box })).rcode).toBe('SERVFAIL');
  });
});
