import { afterAll, beforeAll, beforeEach, describe, expect, it, type MockInstance, vi } from 'vitest';
import { DnsService } from '../../../src/dns/dns-service.js';
import type { AnswerSets } from '../../../src/kernel/netlink/answer-sets.js';
import { KernelSets } from '../../../src/kernel/netlink/ipset.js';
import { makeNetns, type Netns } from '../in-netns.js';
import { Authority, a, aaaa, freePair } from './authority.js';
import { addresses, ask, type Reply } from './client.js';
import { House, quiet } from './house.js';

let ns: Netns;
let up: Authority;
let house: House;
let kernel: KernelSets;
let service: DnsService;
const box = '127.9.8.1';
const server = { address: '127.0.0.54', port: await freePair('127.0.0.54') };
const many = Array.from({ length: 80 }, (_, i) => `203.0.113.${100 + i}`);
const members = (set: string): number => ns.run('ipset', 'list', set).match(/^\d.* timeout /gm)?.length ?? 0;
const left = (set: string, address: string): number =>
  Number(new RegExp(`^${address} timeout (\\d+)$`, 'm').exec(ns.run('ipset', 'list', set))?.[1] ?? -1);
/** What differs between two replies with the same records. */
const PER_QUERY = { id: 0, raw: undefined, answers: undefined };
const ttlOf = ({ answers }: Reply): number => {
  const answer = answers?.[0];
  return answer && 'ttl' in answer ? (answer.ttl ?? 0) : 0;
};

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
    if (name === 'many.test') return { answers: many.map((address) => a(name, address, 600)) };
    if (name === 'longer.test') return { answers: [a(name, '198.51.100.9', 40_000)] };
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

describe('a reply that is sent again', () => {
  let added: MockInstance<KernelSets['addAll']>;
  let asked = 0;
  /**
   * Asks until a reply is sent again: only the steps of a query add addresses with `addAll`. At the end of each second of the wall clock
   * one query is answered by all steps, because the ledger then needs a later end.
   */
  const askRepeated = async (name: string, before: () => void = () => undefined) => {
    for (let i = 0; i < 3; i++) {
      added.mockClear();
      before();
      asked += 1;
      const reply = await ask(server, name, { from: box });
      if (added.mock.calls.length === 0) return reply;
    }
    throw new Error(`each of 3 queries for ${name} was answered by all steps`);
  };
  beforeEach(async () => {
    ns.run('ipset', 'flush', `${box}-v4`);
    for (const name of ['long.test', 'many.test', 'longer.test']) house.policy.allowed.set(name, {});
    await ask(server, 'long.test', { from: box });
    await ask(server, 'many.test', { from: box });
    await ask(server, 'many.test', { from: box });
    added = vi.spyOn(kernel, 'addAll');
    asked = 0;
    return () => {
      added.mockRestore();
      house.policy.allowed.delete('longer.test');
    };
  });

  it('leaves the addresses in the kernel as they are', async () => {
    const [first, second] = [await askRepeated('many.test'), await askRepeated('many.test')];
    expect({ ...second, ...PER_QUERY }).toEqual({ ...first, ...PER_QUERY });
    expect(ttlOf(second)).toBe(5);
    expect(members(`${box}-v4`)).toBe(81);
  });

  it('finds out that another process has flushed the set, and leaves when all addresses are back', async () => {
    ns.run('ipset', 'flush', `${box}-v4`);
    expect((await ask(server, 'many.test', { from: box })).rcode).toBe('NOERROR');
    expect(members(`${box}-v4`)).toBe(80);
    ns.run('ipset', 'flush', `${box}-v4`);
    expect((await ask(server, 'long.test', { from: box })).rcode).toBe('NOERROR');
    expect(left(`${box}-v4`, '198.51.100.9')).toBeGreaterThan(19_000);
  });

  it('the same when the set was replaced by an empty one, and SERVFAIL while there is none', async () => {
    const set = `${box}-v4`;
    ns.run('ipset', 'create', 'empty', 'hash:ip', 'timeout', '0');
    ns.run('ipset', 'swap', 'empty', set);
    ns.run('ipset', 'destroy', 'empty');
    await ask(server, 'many.test', { from: box });
    expect(members(set)).toBe(80);
    ns.run('ipset', 'destroy', set);
    expect((await ask(server, 'many.test', { from: box })).rcode).toBe('SERVFAIL');
    expect((await ask(server, 'long.test', { from: box })).rcode).toBe('SERVFAIL');
    ns.run('ipset', 'create', set, 'hash:ip', 'timeout', '0', 'hashsize', '64');
    await ask(server, 'many.test', { from: box });
    expect(members(set)).toBe(80);
  });

  it('puts back a single address of a few that another process has removed', async () => {
    const remove = () => void ns.run('ipset', 'del', `${box}-v4`, '198.51.100.9');
    await askRepeated('long.test', remove);
    expect(left(`${box}-v4`, '198.51.100.9')).toBeGreaterThan(19_000);
  });

  it('never shortens what another name has extended', async () => {
    await ask(server, 'longer.test', { from: box });
    for (let i = 0; i < 3; i++) await ask(server, 'long.test', { from: box });
    expect(left(`${box}-v4`, '198.51.100.9')).toBeGreaterThan(39_000);
  });

  it('is refused when the name is no longer allowed, or is listed', async () => {
    house.policy.allowed.delete('many.test');
    expect((await ask(server, 'many.test', { from: box })).rcode).toBe('NXDOMAIN');
    house.policy.allowed.set('many.test', {});
    await ask(server, 'many.test', { from: box });
    house.policy.listed.set('many.test', 'block');
    expect((await ask(server, 'many.test', { from: box })).rcode).toBe('NXDOMAIN');
    house.policy.listed.clear();
    await ask(server, 'many.test', { from: box });
    house.policy.listed.set(many[7] ?? '', 'block');
    expect(addresses(await ask(server, 'many.test', { from: box, edns: 0 }))).not.toContain(many[7]);
    expect(addresses(await ask(server, 'many.test', { from: box, tcp: true }))).not.toContain(many[7]);
    house.policy.listed.clear();
  });

  it('is not for the next container at the same address', async () => {
    await ask(server, 'many.test', { from: box });
    house.policy.holders.set(box, 'heir');
    expect((await ask(server, 'many.test', { from: box })).rcode).toBe('SERVFAIL'); // the heir has no such set
    house.policy.holders.set(box, 'stranger');
    house.policy.denied.add('stranger');
    expect((await ask(server, 'many.test', { from: box })).rcode).toBe('NXDOMAIN');
    house.policy.holders.clear();
    expect((await ask(server, 'many.test', { from: box })).rcode).toBe('NOERROR');
  });

  it('counts as a query: each has its event', async () => {
    const before = house.events.length;
    for (let i = 0; i < 3; i++) await askRepeated('many.test');
    expect(house.events.slice(before).map((e) => `${e.container} ${e.name} ${e.verdict}`)).toEqual(
      Array.from({ length: asked }, () => `${box} many.test allow`),
    );
  });
});

describe('of one name', () => {
  const slice = (n: number, size = 250): string[] =>
    Array.from({ length: size }, (_, i) => `93.184.${10 + n}.${1 + i}`);
  const thousand = [0, 1, 2, 3].flatMap((n) => slice(n));
  let ahead = 0;
  /** The most members at any time. */
  let most = 0;
  const count = (): void => {
    most = Math.max(most, kernel.entries(`${box}-v4`) ?? 0);
  };
  const counted: AnswerSets = {
    add: (...member) => kernel.add(...member).finally(count),
    addAll: (...members) => {
      const added = kernel.addAll(...members);
      count();
      return added;
    },
    remove: (...member) => kernel.remove(...member),
    repeated: () => undefined,
  };
  let flood: Awaited<ReturnType<typeof serve>>;
  async function serve() {
    let told: readonly string[] = [];
    const authority = await new Authority('127.0.0.1', (name) => ({
      answers: told.map((address) => a(name, address, 0)),
    })).start();
    const at = { address: '127.0.0.55', port: await freePair('127.0.0.55') };
    const dns = new DnsService({
      config: { ...house.config, upstreams: [authority.endpoint], minTtl: 60, grace: 0 },
      policy: house.policy,
      sets: counted,
      original: { lookup: () => undefined },
      log: quiet,
      journal: `${house.dir}/flood.jsonl`,
      now: () => Date.now() + ahead,
      onEvent: () => undefined,
    });
    await dns.listen(at.address, at.port);
    return {
      dns,
      tell: async (addressesOfName: readonly string[]): Promise<void> => {
        told = addressesOfName;
        const reply = await ask(at, 'flood.test', { from: box, tcp: true });
        expect(addresses(reply)).toHaveLength(told.length);
      },
      close: (): void => {
        dns[Symbol.dispose]();
        authority.close();
      },
    };
  }

  beforeEach(async () => {
    ns.run('ipset', 'flush', `${box}-v4`);
    house.policy.allowed.set('flood.test', {});
    [ahead, most] = [0, 0];
    flood = await serve();
    return () => {
      flood.dns.forget(box);
      flood.close();
      house.policy.modes.clear();
    };
  });
  /** The ledger's end of the addresses has just passed. The kernel rounds time-outs up, and has them for up to a second more. */
  const toTheirEnd = (): void => {
    const ends = [...(flood.dns.members(box).get(`${box}-v4`)?.values() ?? [])];
    ahead = Math.max(...ends) - Date.now() + 1;
  };

  it('the kernel has at most 1,000 addresses at any time, whatever the ledger has of them', async () => {
    await flood.tell(thousand);
    expect(members(`${box}-v4`)).toBe(1000);
    await flood.tell(slice(4));
    expect(left(`${box}-v4`, slice(4)[0] ?? '')).toBeGreaterThan(0);
    expect({ members: members(`${box}-v4`), most }).toEqual({ members: 1000, most: 1000 });
  });

  it('also when addresses have ended that the kernel still permits', async () => {
    await flood.tell(thousand);
    toTheirEnd();
    await flood.tell(slice(5));
    expect({ members: members(`${box}-v4`), most }).toEqual({ members: 1000, most: 1000 });
  });

  it('and when the ledger was purged meanwhile', async () => {
    await flood.tell(thousand);
    toTheirEnd();
    flood.dns.purge();
    await flood.tell(slice(6));
    expect({ members: members(`${box}-v4`), most }).toEqual({ members: 1000, most: 1000 });
  });

  it('and when the container was observed: it has no more once it is enforced', async () => {
    house.policy.modes.set(box, 'observe');
    await flood.tell(thousand);
    await flood.tell(slice(7));
    expect(members(`${box}-v4`)).toBe(1000);
  });
});

describe("the kernel's own sets", () => {
  it('hold what was told, in both families, and a shorter answer shortens nothing', async () => {
    await ask(server, 'long.test', { from: box });
    expect(left(`${box}-v4`, '198.51.100.9')).toBeGreaterThan(19_000); // it may be in the cache already
    await ask(server, 'short.test', { from: box });
    expect(left(`${box}-v4`, '198.51.100.9')).toBeGreaterThan(19_000);
    await ask(server, 'long.test', { from: box, type: 'AAAA' });
    expect(left(`${box}-v6`, '2001:db8::9')).toBeGreaterThan(50);
  });

  it('get back what a flush took with the next answer, cached or not', async () => {
    ns.run('ipset', 'flush', `${box}-v4`);
    await ask(server, 'long.test', { from: box });
    expect(left(`${box}-v4`, '198.51.100.9')).toBeGreaterThan(19_900);
  });

  it('lose nothing to a name that is revoked, and keep only what another name justifies', async () => {
    const asked = Date.now();
    await ask(server, 'short.test', { from: box });
    house.policy.allowed.delete('long.test');
    const until = service.members(box).get(`${box}-v4`)?.get('198.51.100.9') ?? 0;
    expect(until - Date.now()).toBeLessThan(10_000);
    expect(until).toBeGreaterThan(asked);
    house.policy.allowed.set('long.test', {});
  });

  it('that are missing make a SERVFAIL', async () => {
    ns.run('ipset', 'destroy', `${box}-v4`);
    expect((await ask(server, 'long.test', { from: box })).rcode).toBe('SERVFAIL');
  });
});
