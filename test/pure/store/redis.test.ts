import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { planResync } from '../../../src/store/redis-sync.js';
import { parseRedisUrl } from '../../../src/store/redis-target.js';
import type { Stored } from '../../../src/store/stored-item.js';

describe('store.redis', () => {
  it.each([
    ['redis://h', { options: { host: 'h', port: 6379, db: 0 }, replicas: 0, prefix: '{drawbridge}:' }],
    [
      'redis://u:p%40ss@h:7/3?prefix=x&replicas=2',
      {
        options: { host: 'h', port: 7, db: 3, username: 'u', password: 'p@ss' },
        replicas: 2,
        prefix: '{x}:',
      },
    ],
    [
      'rediss://:secret@[2001:db8::1]:6380',
      { options: { host: '2001:db8::1', port: 6380, password: 'secret', tls: {} } },
    ],
    [
      'redis+sentinel://:p@a,b:26380/house/2?sentinelPassword=s&tls=true',
      {
        options: {
          sentinels: [
            { host: 'a', port: 26379 },
            { host: 'b', port: 26380 },
          ],
          name: 'house',
          db: 2,
          password: 'p',
          sentinelPassword: 's',
          enableTLSForSentinelMode: true,
        },
        replicas: 1,
        sentinel: true,
      },
    ],
    [
      'redis+unix://u:p@/run/redis/redis.sock?db=4&prefix=x',
      {
        options: { path: '/run/redis/redis.sock', db: 4, username: 'u', password: 'p' },
        prefix: '{x}:',
        named: [],
        sentinel: false,
        shown: 'redis+unix:///run/redis/redis.sock',
      },
    ],
    ['redis+unix:///r.sock', { options: { path: '/r.sock', db: 0 }, prefix: '{drawbridge}:', replicas: 0 }],
  ])('%s', (url, wanted) => {
    expect(parseRedisUrl(url)).toMatchObject(wanted);
  });

  it.each([
    ['http://h', /not a Redis URL/],
    ['redis://', /not a Redis URL/],
    ['redis://a,b', /several hosts/],
    ['redis://h:99999', /the port "99999"/],
    ['redis://h/x', /the database "x"/],
    ['redis+unix://h/x', /not a Redis URL/],
    ['redis+unix:///r.sock?tls=true', /"tls" is not a parameter; parameters are prefix, replicas, db/],
    ['redis://user@h', /the password is missing/],
    ['redis://h?rplicas=1', /"rplicas" is not a parameter; parameters are .*replicas/],
    ['redis+sentinel://h', /the name of the master is missing/],
    ['rediss://h?ca=/no/such/file', /ca=\/no\/such\/file cannot be read/],
  ])('%s is refused', (url, message) => {
    expect(() => parseRedisUrl(url)).toThrow(message);
  });

  it('no message ever shows the password', () => {
    expect(parseRedisUrl('redis://u:hidden@h:1/2?prefix=x').shown).toBe('redis://h:1/2');
  });
});

type State = ReadonlyMap<string, Stored>;
const KEYS = ['a', 'b', 'c', 'd'];
const ops = fc.array(fc.record({ key: fc.constantFrom(...KEYS), put: fc.boolean() }), { maxLength: 6 });

/** A past: each operation takes the next revision. */
function played(
  from: State,
  start: number,
  list: readonly { key: string; put: boolean }[],
  who: string,
): State {
  const items = new Map(from);
  list.forEach(({ key, put }, i) => {
    if (put) items.set(key, { json: `${who}${i}`, revision: start + 1 + i });
    else items.delete(key);
  });
  return items;
}
const changed = (key: string, from: State, to: State): boolean =>
  from.get(key)?.revision !== to.get(key)?.revision;

describe('the reunion of a host and Redis', () => {
  it('what changed in Redis since they parted stands, what only the host saw change is restored', () => {
    fc.assert(
      fc.property(ops, ops, ops, (before, here, there) => {
        const common = before.length;
        const shared = played(new Map(), 0, before, 'c');
        const [local, redis] = [played(shared, common, here, 'l'), played(shared, common, there, 'r')];
        const survey = { id: 'x', nonce: 'n', revision: common + there.length, common };
        const index = new Map([...redis].map(([key, item]) => [key, item.revision]));
        const hasLost = common > 0;
        const plan = planResync(local, { ...survey, index }, hasLost);
        const [final, mine] = [new Map(redis), new Map(local)];
        for (const key of plan.restore) final.set(key, { json: local.get(key)?.json ?? '', revision: 99 });
        for (const key of plan.remove) final.delete(key);
        for (const key of plan.touch) final.set(key, { json: redis.get(key)?.json ?? '', revision: 99 });
        for (const key of plan.drop) mine.delete(key);
        for (const key of [...plan.adopt, ...plan.touch, ...plan.restore]) {
          const item = final.get(key);
          if (item) mine.set(key, item);
        }
        expect([...mine].sort()).toEqual([...final].sort());
        for (const key of KEYS) {
          // A deletion in Redis leaves no trace in its index: what the host changed of that key comes back.
          const stands = changed(key, shared, redis) && redis.has(key);
          const wanted = hasLost && !stands && changed(key, shared, local) ? local : redis;
          expect(final.get(key)?.json).toBe(wanted.get(key)?.json);
        }
      }),
    );
  });

  it('never tells a revision that is not newer than what was told', () => {
    fc.assert(
      fc.property(ops, ops, fc.boolean(), (here, there, known) => {
        const [local, redis] = [played(new Map(), 0, here, 'l'), played(new Map(), 0, there, 'r')];
        const index = new Map([...redis].map(([key, item]) => [key, item.revision]));
        const survey = { id: 'x', nonce: 'n', revision: there.length, common: 0, index };
        const plan = planResync(local, survey, known);
        for (const key of plan.adopt) expect(index.get(key)).toBeGreaterThan(local.get(key)?.revision ?? 0);
      }),
    );
  });
});
