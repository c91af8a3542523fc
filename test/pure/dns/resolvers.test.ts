import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';
import { ClientLimits } from '../../../src/dns/query-limits.js';
import { Resolvers } from '../../../src/dns/resolvers.js';
import { Cache } from '../../../src/dns/upstream.js';
import { UpstreamServers } from '../../../src/dns/upstream-servers.js';
import { parseResolvConf, parseServer } from '../../../src/lib/dns-server-address.js';
import { House } from '../../kernel/dns/house.js';

const log = { debug() {}, info() {}, warn() {}, error() {} };

describe('servers', () => {
  it.each([
    ['10.0.0.53', '10.0.0.53#53'],
    ['10.0.0.53:5353', '10.0.0.53#5353'],
    ['2001:DB8::53', '2001:db8::53#53'],
    ['[2001:db8::53]:5353', '2001:db8::53#5353'],
    ['fe80::1%eth0', 'fe80::1%eth0#53'],
  ])('%s', (text, key) => {
    expect(parseServer(text)?.key).toBe(key);
  });
  it.each(['dns.example', '10.0.0.53:0', '10.0.0.53:99999', '', '010.0.0.1', '[::1', '1.2.3.4#53'])(
    'not %s',
    (text) => {
      expect(parseServer(text)).toBeUndefined();
    },
  );
  it('come from resolv.conf', () => {
    const text =
      '# x\nnameserver 127.0.0.53\n  nameserver\tfe80::1%eth0 # y\nnameserver nonsense\nsearch lan\n;nameserver 1.1.1.1\n';
    expect(parseResolvConf(text).map((s) => s.key)).toEqual(['127.0.0.53#53', 'fe80::1%eth0#53']);
  });
});

describe('routes', () => {
  let dir: string;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'drawbridge-resolvers-'));
  });
  afterEach(() => rmSync(dir, { recursive: true }));

  it('take the longest zone, and refuse our own address', () => {
    const resolvers = new Resolvers({
      upstreams: ['192.0.2.1', '192.0.2.99'],
      zones: {
        'corp.example': { upstreams: ['10.0.0.53'], private: true },
        'dev.corp.example': { upstreams: ['10.0.0.54'] },
        'home.arpa': { private: true },
      },
      isOwn: (address) => address === '192.0.2.99',
      log,
    });
    const route = (name: string) =>
      resolvers
        .route(name)
        .servers.map((s) => s.address)
        .concat(String(resolvers.route(name).private));
    expect(route('a.corp.example')).toEqual(['10.0.0.53', 'true']);
    expect(route('x.dev.corp.example')).toEqual(['10.0.0.54', 'false']);
    expect(route('notcorp.example')).toEqual(['192.0.2.1', 'false']);
    expect(route('nas.home.arpa')).toEqual(['192.0.2.1', 'true']);
    expect(resolvers.isTrusted('10.0.0.54', 53)).toBe(true);
    expect(resolvers.isTrusted('10.0.0.54', 54)).toBe(false);
  });

  it('re-read the host file and keep the last good list while it is away', async () => {
    const path = join(dir, 'resolv.conf');
    const resolvers = new Resolvers({ upstreams: [], zones: {}, resolvConf: path, isOwn: () => false, log });
    expect(resolvers.route('a.b').servers).toEqual([]);
    writeFileSync(path, 'nameserver 192.0.2.7\n');
    await expect
      .poll(() => resolvers.route('a.b').servers.map((s) => s.address), { timeout: 3000 })
      .toEqual(['192.0.2.7']);
    rmSync(path);
    writeFileSync(path, 'nameserver 192.0.2.8\nnameserver 192.0.2.9\n');
    await expect.poll(() => resolvers.route('a.b').servers.length, { timeout: 3000 }).toBe(2);
  });

  it('name the key of a wrong upstream', () => {
    const wrong = () => new Resolvers({ upstreams: ['dns.example'], zones: {}, isOwn: () => false, log });
    expect(wrong).toThrow(/dns.upstreams: "dns.example"/);
  });
});

describe('cache', () => {
  it('forgets by time, and the least used by bytes', () => {
    const cache = new Cache<number>(100);
    cache.set('a', 1, 10, 40);
    cache.set('b', 2, 10, 40);
    expect(cache.get('a', 0)).toBe(1);
    cache.set('c', 3, 10, 40);
    expect(cache.get('b', 0)).toBeUndefined();
    expect(cache.get('a', 0)).toBe(1);
    expect(cache.get('a', 10)).toBeUndefined();
    cache.set('huge', 4, 10, 101);
    expect(cache.get('huge', 0)).toBeUndefined();
    expect(cache.bytes).toBe(40);
  });

  it('gives back what has expired, with the other answers of the service', async () => {
    const set = vi.spyOn(Cache.prototype, 'set');
    const clock = vi.spyOn(performance, 'now').mockReturnValue(0);
    const ask = vi.spyOn(UpstreamServers.prototype, 'ask').mockImplementation(async (_, { name, type }) => {
      const data = Buffer.from([198, 51, 100, 7]);
      const answers = type === 1 ? [{ name, type, class: 1, ttl: name === 'long.test' ? 60 : 1, data }] : [];
      return { id: 1, flags: 0x8180, questions: [], answers, authorities: [], additionals: [] };
    });
    const house = new House({ upstreams: ['192.0.2.1'] });
    onTestFinished(() => {
      house.close();
      for (const spy of [set, clock, ask]) spy.mockRestore();
    });
    for (const name of ['short.test', 'other.test', 'long.test']) {
      house.policy.allowed.set(name, {});
      await house.service.learn('c', name);
    }
    const [cache] = set.mock.contexts as Cache<unknown>[];
    const [weight = 0, , longest = 0] = set.mock.calls.map(([, , , bytes]) => bytes);
    house.service.purge();
    expect(cache?.bytes).toBeGreaterThan(longest + weight);
    clock.mockReturnValue(1_000);
    house.service.purge();
    expect(cache?.bytes).toBe(longest);
    clock.mockReturnValue(60_000);
    house.service.purge();
    expect(cache?.bytes).toBe(0);
  });
});

describe('limits', () => {
  it('hold each asker to its own share', () => {
    const limits = new ClientLimits({ perSecond: 10, burst: 2, inFlight: 10 });
    expect([limits.enter('a', 0), limits.enter('a', 0), limits.enter('a', 0)]).toEqual([true, true, false]);
    expect(limits.enter('b', 0)).toBe(true);
    expect(limits.enter('a', 100)).toBe(true);
  });
  it('bound what is in flight', () => {
    const limits = new ClientLimits({ perSecond: 1000, burst: 1000, inFlight: 1 });
    expect([limits.enter('a', 0), limits.enter('a', 0)]).toEqual([true, false]);
    limits.leave('a');
    expect(limits.enter('a', 0)).toBe(true);
  });
});
