import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Mark } from '../../../src/store/redis-lineage.js';
import { originHere, planResync } from '../../../src/store/redis-plan.js';
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

interface Past {
  readonly items: State;
  readonly gone: ReadonlyMap<string, number>;
  readonly revision: number;
}
const EMPTY: Past = { items: new Map(), gone: new Map(), revision: 0 };

/** Each operation takes the next revision. */
function played(from: Past, list: readonly { key: string; put: boolean }[], who: string): Past {
  const [items, gone] = [new Map(from.items), new Map(from.gone)];
  list.forEach(({ key, put }, i) => {
    const revision = from.revision + 1 + i;
    items.delete(key);
    gone.delete(key);
    if (put) items.set(key, { json: `${who}${i}`, revision });
    else gone.set(key, revision);
  });
  return { items, gone, revision: from.revision + list.length };
}
const at = ({ items, gone }: Past, key: string): number => items.get(key)?.revision ?? gone.get(key) ?? 0;
const changed = (key: string, from: Past, to: Past): boolean => at(from, key) !== at(to, key);
const json = ({ items }: Past, key: string): string | undefined => items.get(key)?.json;
const indexOf = ({ items }: Past): Map<string, number> =>
  new Map([...items].map(([key, { revision }]) => [key, revision]));

const NONE: ReadonlyMap<string, string> = new Map();
const localOf = ({ items, gone }: Past, marks: readonly Mark[]) => ({
  items,
  marks,
  lineage: { gone, origins: NONE },
});

/** What a plan makes of Redis: the host's state of what it restores, with the origin that it writes. */
function healed(redis: Past, host: Past, plan: ReturnType<typeof planResync>, marks: readonly Mark[]) {
  const [items, gone, origins] = [new Map(redis.items), new Map(redis.gone), new Map<string, string>()];
  let revision = Math.max(redis.revision, host.revision) + 1;
  for (const key of plan.restore) {
    const item = host.items.get(key);
    if (!item) throw new Error(`${key} is restored from nothing`);
    items.set(key, { ...item, revision: ++revision });
    gone.delete(key);
  }
  for (const key of plan.remove) {
    items.delete(key);
    gone.set(key, ++revision);
  }
  for (const key of plan.touch) {
    const item = redis.items.get(key);
    if (item) items.set(key, { ...item, revision: ++revision });
  }
  for (const key of [...plan.restore, ...plan.remove])
    origins.set(key, originHere(localOf(host, marks), key));
  return { past: { items, gone, revision }, origins };
}
/** One batch for each revision. */
const marksOf = (host: Past, who: string, from: number): Mark[] =>
  Array.from(
    { length: host.revision - from },
    (_, i): Mark => [`${who}${host.revision - i}`, host.revision - i],
  );

describe('the reunion of a host and Redis', () => {
  it('what changed in Redis since they parted stands, what only the host saw change is restored', () => {
    fc.assert(
      fc.property(ops, ops, ops, (before, here, there) => {
        const shared = played(EMPTY, before, 'c');
        const [local, redis] = [played(shared, here, 'l'), played(shared, there, 'r')];
        const hasLost = shared.revision > 0;
        const survey = {
          common: shared.revision,
          index: indexOf(redis),
          gone: redis.gone,
          origins: NONE,
          marks: marksOf(redis, 'r', shared.revision),
        };
        const plan = planResync(localOf(local, []), survey, hasLost);
        const final = healed(redis, local, plan, []).past.items;
        const mine = new Map(local.items);
        for (const key of plan.drop) mine.delete(key);
        for (const key of [...plan.adopt, ...plan.touch, ...plan.restore]) {
          const item = final.get(key);
          if (item) mine.set(key, item);
        }
        expect([...mine].sort()).toEqual([...final].sort());
        for (const key of KEYS) {
          const isLost = hasLost && !changed(key, shared, redis) && changed(key, shared, local);
          expect(final.get(key)?.json).toBe(json(isLost ? local : redis, key));
        }
      }),
    );
  });

  it('of two hosts that saw more or less of a lost history, the later change of it counts, whichever comes first', () => {
    fc.assert(
      fc.property(ops, ops, ops, ops, fc.boolean(), (before, lost, more, there, isShorterFirst) => {
        const shared = played(EMPTY, [{ key: 'a', put: true }, ...before], 'c');
        const short = played(shared, lost, 'l');
        const long = played(short, more, 'm');
        let redis = played(shared, there, 'r');
        const origins = new Map<string, string>();
        const marks = marksOf(long, 'n', shared.revision);
        const hosts = [
          { host: short, marks: marks.slice(more.length) },
          { host: long, marks },
        ];
        for (const [i, { host, marks }] of (isShorterFirst ? hosts : hosts.reverse()).entries()) {
          const survey = {
            common: shared.revision,
            index: indexOf(redis),
            gone: redis.gone,
            origins,
            marks: marksOf(redis, 'r', shared.revision),
          };
          const plan = planResync(localOf(host, marks), survey, true);
          const isOverruled = (key: string): boolean =>
            changed(key, shared, host) && changed(key, shared, redis) && json(redis, key) !== json(host, key);
          if (i === 0) expect([...plan.overruled].sort()).toEqual(KEYS.filter(isOverruled));
          const done = healed(redis, host, plan, marks);
          redis = done.past;
          for (const [key, origin] of done.origins) origins.set(key, origin);
        }
        const inRedis = played(shared, there, 'r');
        for (const key of KEYS) {
          const isLost = !changed(key, shared, inRedis) && changed(key, shared, long);
          expect(json(redis, key)).toBe(json(isLost ? long : inRedis, key));
        }
      }),
    );
  });

  it('never tells a revision that is not newer than what was told', () => {
    fc.assert(
      fc.property(ops, ops, fc.boolean(), (here, there, known) => {
        const [local, redis] = [played(EMPTY, here, 'l'), played(EMPTY, there, 'r')];
        const index = indexOf(redis);
        const survey = { common: 0, index, gone: redis.gone, origins: NONE, marks: [] };
        const plan = planResync(localOf(local, []), survey, known);
        for (const key of plan.adopt)
          expect(index.get(key)).toBeGreaterThan(local.items.get(key)?.revision ?? 0);
      }),
    );
  });
});
