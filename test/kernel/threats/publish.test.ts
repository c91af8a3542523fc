/** A version of the feeds comes into force: real sets, in a namespace of their own; a million members; what goes wrong. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Dataplane } from '../../../src/kernel/dataplane.js';
import { KernelSets } from '../../../src/kernel/netlink/ipset.js';
import { IpsetStore } from '../../../src/kernel/netlink/ipset-bulk.js';
import { Current } from '../../../src/lib/current.js';
import { parseCidr, type Range } from '../../../src/lib/ip.js';
import { teardownRules } from '../../../src/ops/teardown.js';
import {
  type Direction,
  NO_THREATS,
  type SetColumns,
  type ThreatMembers,
} from '../../../src/policy/threat.js';
import { compile } from '../../../src/ruleset/compile.js';
import { ActiveThreats } from '../../../src/threats/active-threats.js';
import { toMembers } from '../../../src/threats/merge.js';
import { unite } from '../../../src/threats/range-algebra.js';
import { fromModel } from '../../../src/threats/ranges.js';
import { type KernelSetWriter, NO_MEMBERS } from '../../../src/threats/threat-sets.js';
import { waitFor } from '../../lab/process.js';
import { input, member, shape } from '../../pure/ruleset/sample.js';
import { quiet } from '../dns/house.js';
import { makeNetns, type Netns } from '../in-netns.js';

let ns: Netns;
let bulk: IpsetStore;
let kernelSets: KernelSets;
beforeEach(() => {
  ns = makeNetns();
  bulk = new IpsetStore({ namespace: ns.path });
  kernelSets = new KernelSets({ namespace: ns.path });
});
afterEach(() => {
  bulk.close();
  kernelSets.close();
  ns[Symbol.dispose]();
});

const columns = (words: 1 | 4, texts: readonly string[]): SetColumns => {
  const ranges = texts.flatMap((t): Range[] => [parseCidr(t) ?? []].flat());
  if (ranges.length !== texts.length) throw new Error(`not all addresses: ${texts.join(' ')}`);
  return toMembers(unite([fromModel(ranges, words)], words));
};
type Lists = Partial<Record<Direction, readonly string[]>>;
const directed = (lists: Lists, six: Lists = {}): ThreatMembers => {
  const of = (d: Direction) => ({ v4: columns(1, lists[d] ?? []), v6: columns(4, six[d] ?? []) });
  const block = { both: of('both'), outbound: of('outbound'), inbound: of('inbound') };
  return { ...NO_MEMBERS, block };
};
const listing = (v4: readonly string[], v6: readonly string[] = []): ThreatMembers =>
  directed({ both: v4 }, { both: v6 });
const entries = (set: string): number =>
  Number(/Number of entries: (\d+)/.exec(ns.run('ipset', 'list', '-t', set))?.[1]);
const counts = (): string[] =>
  ns
    .run('ipset', 'list', '-t')
    .split('\n\n')
    .map((s) => `${/Name: (\S+)/.exec(s)?.[1]} ${/entries: (\d+)/.exec(s)?.[1]}`)
    .filter((s) => /-(threat|watch)-/.test(s) && !s.endsWith(' 0'));
const has = (set: string, address: string): boolean => {
  try {
    ns.run('ipset', '-q', 'test', set, address);
    return true;
  } catch {
    return false;
  }
};

const NO_FLOWS = {
  flows: async () => [],
  flowsAmong: async () => [],
  delete: () => false,
  mark: () => false,
};

/** A host without flows: what becomes of those is tried in the lab. */
function threatsOf(kernel: KernelSetWriter = bulk, maxEntries = 2_000_000) {
  const repaired: number[] = [];
  const threats = new ActiveThreats({
    prefix: 'DB',
    identityMask: shape.marks.identity,
    maxEntries,
    kernel: { sets: kernel, flows: NO_FLOWS },
    blocklist: { block: async () => undefined },
    applied: new Current(),
    recheckAnswers: async () => undefined,
    onRepaired: () => void repaired.push(Date.now()),
    retryMs: 200,
    log: quiet,
  });
  const publish = (members: ThreatMembers) =>
    threats.publish({ look: NO_THREATS, members, feeds: 1, names: 0 });
  return { threats, publish, repaired };
}
const desired = compile(input(member(2, 'any:443')));
const plane = (): Dataplane => new Dataplane(ns.exec, shape, () => undefined);

describe('a version in the kernel', () => {
  it('a million members, while the event loop goes on; then another version takes its place', async () => {
    await plane().apply(desired);
    const { threats, publish } = threatsOf();
    const singles = Uint32Array.from({ length: 1_000_000 }, (_, i) => 0x0b00_0000 + 2 * i);
    const both = { ...NO_MEMBERS.block.both, v4: { ...NO_MEMBERS.block.both.v4, singles } };
    let turns = 0;
    const turning = setInterval(() => turns++, 1);
    await publish({ ...NO_MEMBERS, block: { ...NO_MEMBERS.block, both } });
    clearInterval(turning);
    expect(turns).toBeGreaterThan(50);
    expect(counts()).toEqual(['DB-threat-ip4 1000000']);
    expect(threats.status()).toEqual({ entries: 1_000_000, feeds: 1 });
    expect([has('DB-threat-ip4', '11.0.0.2'), has('DB-threat-ip4', '11.0.0.3')]).toEqual([true, false]);
    await publish(
      listing(
        ['192.0.2.1', '198.51.100.0/24', '203.0.113.1', '203.0.113.2/31', '203.0.113.4/31', '203.0.113.6'],
        ['2001:db8::/32'],
      ),
    );
    expect(counts().sort()).toEqual(['DB-threat-ip4 3', 'DB-threat-net4 3', 'DB-threat-net6 1']);
    expect(ns.run('ipset', 'list', '-n')).not.toMatch(/-new/);
    // a look at the kernel wants nothing of them
    expect((await plane().plan(desired)).stages).toEqual([]);
    await teardownRules(ns.exec, 'DB', undefined);
    expect(ns.run('ipset', 'list', '-n')).toBe('');
  });

  it('before any rule stands, too: the first rules find the sets filled', async () => {
    await threatsOf().publish(listing(['192.0.2.1']));
    expect(entries('DB-threat-ip4')).toBe(1);
    await plane().apply(desired);
    expect(entries('DB-threat-ip4')).toBe(1);
    expect(ns.run('iptables', '-S', 'DB-THREAT')).toMatch(/--match-set DB-threat-ip4 dst .*-g DB-THREAT-NO/);
  });

  it('of a start: sets that are empty in the kernel and in the version stay, and all others are filled', async () => {
    await threatsOf().publish(listing(['192.0.2.1'], ['2001:db8::/32']));
    const made: string[] = [];
    const watched = {
      create: (...args: Parameters<typeof bulk.create>): void => {
        made.push(args[0].name);
        bulk.create(...args);
      },
      fill: bulk.fill.bind(bulk),
      header: bulk.header.bind(bulk),
      destroy: bulk.destroy.bind(bulk),
      exchange: bulk.exchange.bind(bulk),
    };
    await threatsOf(watched).publish(listing(['192.0.2.1', '198.51.100.0/24']));
    expect(made.sort()).toEqual(['DB-threat-ip4-new', 'DB-threat-net4-new', 'DB-threat-net6-new']);
    expect(counts().sort()).toEqual(['DB-threat-ip4 1', 'DB-threat-net4 1']);
  });

  it('an address that moves between networks and single addresses is held at each moment', async () => {
    const moments: boolean[] = [];
    const watched = {
      create: bulk.create.bind(bulk),
      fill: bulk.fill.bind(bulk),
      header: bulk.header.bind(bulk),
      destroy: bulk.destroy.bind(bulk),
      exchange: (fresh: string, set: string): boolean => {
        const done = bulk.exchange(fresh, set);
        moments.push(has('DB-threat-ip4', '192.0.2.9') || has('DB-threat-net4', '192.0.2.9'));
        return done;
      },
    };
    const { publish } = threatsOf(watched);
    await publish(listing(['192.0.2.0/24', '198.51.100.1']));
    moments.length = 0;
    await publish(listing(['192.0.2.9', '198.51.100.0/24']));
    await publish(listing(['192.0.2.0/24', '198.51.100.1']));
    expect(moments).toEqual([true, true, true, true]);
  });
});

describe('directions', () => {
  it('have sets of their own; rules look into two of the three at each end, and no empty one costs members', async () => {
    await plane().apply(desired);
    const { publish, threats } = threatsOf();
    const [out, both] = [
      ['192.0.2.1', '198.51.100.0/24'],
      ['203.0.113.0/24', '203.0.114.1'],
    ];
    await publish(directed({ both, outbound: out }, { inbound: ['2001:db8::/32', '2001:db9::1'] }));
    expect(counts().sort()).toEqual([
      'DB-threat-in-ip6 1',
      'DB-threat-in-net6 1',
      'DB-threat-ip4 1',
      'DB-threat-net4 1',
      'DB-threat-out-ip4 1',
      'DB-threat-out-net4 1',
    ]);
    expect(threats.status()).toEqual({ entries: 6, feeds: 1 });
    const looks = (command: string, chain: string): readonly string[] =>
      [...ns.run(command, '-S', chain).matchAll(/--match-set DB-(threat\S+ (?:src|dst))/g)].map(
        (m) => m[1] as string,
      );
    for (const [command, n] of [
      ['iptables', 4],
      ['ip6tables', 6],
    ] as const) {
      const of = (...ways: string[]) => ways.flatMap((w) => [`threat-${w}ip${n}`, `threat-${w}net${n}`]);
      expect(looks(command, 'DB-THREAT')).toEqual(of('', 'out-').map((set) => `${set} dst`));
      expect(looks(command, 'DB-THREAT-IN')).toEqual(of('', 'in-').map((set) => `${set} src`));
    }
    await teardownRules(ns.exec, 'DB', undefined);
    expect(ns.run('ipset', 'list', '-n')).toBe('');
  });

  it('an address that moves between their sets, in any kind, is held at each moment', async () => {
    const sets = ['ip4', 'net4'].flatMap((k) => ['', 'out-', 'in-'].map((way) => `DB-threat-${way}${k}`));
    const moments: boolean[] = [];
    const watched = {
      create: bulk.create.bind(bulk),
      fill: bulk.fill.bind(bulk),
      header: bulk.header.bind(bulk),
      destroy: bulk.destroy.bind(bulk),
      exchange: (fresh: string, set: string): boolean => {
        const done = bulk.exchange(fresh, set);
        moments.push(sets.some((one) => has(one, '192.0.2.9')));
        return done;
      },
    };
    const { publish, threats } = threatsOf(watched);
    const [single, net, wide] = [['192.0.2.9'], ['192.0.2.0/24'], ['192.0.0.0/16']];
    const versions: Lists[] = [
      { both: single },
      { outbound: net },
      { inbound: wide },
      { both: net },
      { inbound: single },
      { outbound: single },
      { both: wide },
      { both: wide, inbound: net },
      { inbound: net },
      { outbound: wide },
      { both: net },
      { outbound: single },
      { both: single },
    ];
    for (const [i, lists] of versions.entries()) {
      await publish(directed(lists));
      if (i === 0) moments.length = 0;
      const held = new Map((await kernelSets.headers()).map((h) => [h.name, h.entries]));
      expect([i, threats.lost(held)]).toEqual([i, []]);
    }
    expect(moments.length).toBeGreaterThan(versions.length);
    expect(moments).not.toContain(false);
  });
});

describe('what goes wrong leaves the version before in force', () => {
  const GOOD = listing(['192.0.2.1', '198.51.100.0/24']);
  const BAD = listing(['192.0.2.2', '192.0.2.4', '203.0.113.0/24']);
  const stands = (): void => {
    expect(counts().sort()).toEqual(['DB-threat-ip4 1', 'DB-threat-net4 1']);
    expect([has('DB-threat-ip4', '192.0.2.1'), has('DB-threat-net4', '203.0.113.9')]).toEqual([true, false]);
    expect(ns.run('ipset', 'list', '-n')).not.toMatch(/-new/);
  };

  it('a fresh set that does not hold what it should', async () => {
    let isStealing = false;
    const robbed = {
      create: bulk.create.bind(bulk),
      header: bulk.header.bind(bulk),
      destroy: bulk.destroy.bind(bulk),
      exchange: bulk.exchange.bind(bulk),
      fill: async (set: string, ...rest: [Parameters<IpsetStore['fill']>[1], SetColumns]): Promise<void> => {
        await bulk.fill(set, ...rest);
        if (isStealing && set.startsWith('DB-threat-ip4')) ns.run('ipset', 'del', set, '192.0.2.4');
      },
    };
    const { publish, threats } = threatsOf(robbed);
    await publish(GOOD);
    isStealing = true;
    await expect(publish(BAD)).rejects.toThrow(/has 1 members and should have 2/);
    stands();
    expect(threats.has('DB-threat-ip4', '192.0.2.1')).toBe(true);
    isStealing = false;
    await publish(BAD);
    expect(has('DB-threat-net4', '203.0.113.9')).toBe(true);
  });

  it('more than threats.maxEntries', async () => {
    const { publish } = threatsOf(bulk, 2);
    await publish(GOOD);
    await expect(publish(BAD)).rejects.toThrow(/3 addresses and networks, threats.maxEntries is 2/);
    stands();
  });

  it('a set of another kind under our name', async () => {
    ns.run('ipset', 'create', 'DB-threat-net4', 'hash:ip,port');
    await expect(threatsOf().publish(GOOD)).rejects.toThrow(/swap sets/);
    expect(ns.run('ipset', 'list', '-t', 'DB-threat-net4')).toContain('hash:ip,port');
  });
});

describe('others', () => {
  const known = async () => new Map((await kernelSets.headers()).map((h) => [h.name, h.entries]));

  it('who empty a set, or take members: it is filled again, and told', async () => {
    await plane().apply(desired);
    const { threats, publish, repaired } = threatsOf();
    await publish(listing(['192.0.2.1', '192.0.2.3'], ['2001:db8::7']));
    expect(threats.lost(await known())).toEqual([]);
    ns.run('ipset', 'flush', 'DB-threat-ip6');
    ns.run('ipset', 'del', 'DB-threat-ip4', '192.0.2.3');
    const lost = threats.lost(await known());
    expect([...lost].sort()).toEqual(['DB-threat-ip4', 'DB-threat-ip6']);
    threats.repair(lost);
    await waitFor('the sets to be whole', async () => threats.lost(await known()).length === 0);
    await waitFor('the repair to be told', () => repaired.length === 1);
  });

  it('who do so while another set is filled again, an empty one, too', async () => {
    const { threats, publish } = threatsOf();
    await publish(listing(['192.0.2.1']));
    ns.run('ipset', 'destroy', 'DB-watch-ip4');
    ns.run('ipset', 'create', 'DB-watch-ip4', 'hash:ip'); // as a pass makes it, with no room for a feed
    threats.repair(['DB-threat-ip4']);
    threats.repair(['DB-watch-ip4']);
    await waitFor('the set to be as it was', () =>
      ns.run('ipset', 'list', '-t', 'DB-watch-ip4').includes('maxelem 2000000'),
    );
  });

  it('and what could not be filled again is tried again by itself', async () => {
    let failing = false;
    let failed = 0;
    const failingSets = {
      create: bulk.create.bind(bulk),
      fill: bulk.fill.bind(bulk),
      destroy: bulk.destroy.bind(bulk),
      exchange: bulk.exchange.bind(bulk),
      header: (set: string) => {
        if (!failing) return bulk.header(set);
        failed += 1;
        return Promise.reject(new Error('no word'));
      },
    };
    const { threats, publish, repaired } = threatsOf(failingSets);
    await publish(listing(['192.0.2.1']));
    ns.run('ipset', 'flush', 'DB-threat-ip4');
    failing = true;
    threats.repair(['DB-threat-ip4']);
    await waitFor('it to fail', () => failed > 0);
    failing = false;
    await waitFor('the set to be filled', () => entries('DB-threat-ip4') === 1);
    await waitFor('the repair to be told', () => repaired.length === 1);
  });

  it('who destroy all of ours: the next pass makes the sets, and says which to fill', async () => {
    const own = plane();
    await own.apply(desired);
    const { threats, publish } = threatsOf();
    await publish(listing(['192.0.2.1']));
    ns.run('iptables', '-F');
    ns.run('iptables', '-t', 'security', '-F');
    ns.run('ipset', 'destroy', 'DB-threat-ip4');
    own.invalidate();
    const applied = await own.apply(desired);
    expect(applied.refill).toContain('DB-threat-ip4');
    threats.repair(['DB-threat-ip4']);
    await waitFor('the set to be filled', () => entries('DB-threat-ip4') === 1);
  });

  it('and a restart: what stands stays until the feeds are there again', async () => {
    await plane().apply(desired);
    const before = threatsOf();
    await before.publish(listing(['192.0.2.1', '198.51.100.0/24']));
    await before.threats.close();
    await expect(before.publish(NO_MEMBERS)).rejects.toThrow(/stopping/);
    const after = threatsOf();
    await plane().apply(desired);
    expect(after.threats.lost(await known())).toEqual([]);
    expect(counts().sort()).toEqual(['DB-threat-ip4 1', 'DB-threat-net4 1']);
    await after.publish(NO_MEMBERS);
    expect(counts()).toEqual([]);
  });
});
