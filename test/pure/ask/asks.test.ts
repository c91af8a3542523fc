/** What becomes of a packet and of a query: which requests they make, and which verdicts they get. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { patienceOf } from '../../../src/ask/asked-places.js';
import { Asks, GRANT_MS } from '../../../src/ask/asks.js';
import type { NameQuestion } from '../../../src/dns/query-pipeline.js';
import type { QueuedPacket } from '../../../src/kernel/netlink/packet-queue.js';
import type { ResolverFacts } from '../../../src/policy/engine.js';
import { MISSING_LIST, type Policy } from '../../../src/policy/policy.js';
import type { AppliedState } from '../../../src/ruleset/applied-state.js';
import type { Subject } from '../../../src/ruleset/desired-state.js';
import { markOf } from '../../../src/ruleset/marks.js';
import { askedMark } from '../../../src/ruleset/verdict-chains.js';
import { entriesOf, member, shape } from '../ruleset/sample.js';

const ASKED = (identity: number): number => askedMark(markOf(shape.marks, identity, 'enforce'), shape);

/** A TCP SYN of the container with this identity. */
function syn(id: number, identity = 2, to = '93.184.1.1', more: { sport?: number; dport?: number } = {}) {
  const bytes = Buffer.alloc(40);
  bytes[0] = 0x45;
  bytes[9] = 6;
  bytes.set([172, 18, 0, identity, ...to.split('.').map(Number)], 12);
  bytes.writeUInt16BE(more.sport ?? 40_000, 20);
  bytes.writeUInt16BE(more.dport ?? 22, 22);
  bytes[33] = 0x02;
  return { id, mark: markOf(shape.marks, identity, 'enforce'), payload: bytes } as unknown as QueuedPacket;
}

function asking(policy: Partial<Policy> = { askMs: 10_000 }) {
  let now = 0;
  let permitted: readonly string[] = [];
  const subjects = new Map<string, Subject>();
  const add = (identity: number, more: Partial<Policy>): Subject => {
    const plain = member(identity, '93.184.9.9');
    const subject = { ...plain, policy: { ...plain.policy, ...more } };
    subjects.set(subject.id, subject);
    return subject;
  };
  const web = add(2, policy);
  const evaluator = {
    sentBy: (_: Subject, packet: object) => packet,
    permits: ({ dst }: { dst: string }) => permitted.includes(dst),
  };
  const state = () => ({
    subjects: new Map(subjects),
    evaluator,
    view: {
      containers: new Map(
        [...subjects.keys()].map((id) => [id, { id, name: `n${id.slice(9, 12)}`, labels: {} }]),
      ),
    },
  });
  let value = state();
  const granted: unknown[] = [];
  const fail = { grant: undefined as Error | undefined };
  const asks = new Asks({
    shape,
    applied: {
      get value() {
        return value as unknown as AppliedState;
      },
    },
    names: {
      decide: (_, name) => ({ allow: permitted.includes(name) }) as never,
      searchDomains: () => ['corp.example'],
      resolverOf: () => ({ embedded: true, hostAsked: false, search: [], servers: ['192.0.2.53'] }),
    },
    destinations: {
      describe: (_, __, { address, port, proto }) => {
        const named = address === '93.184.2.2';
        const text = named && port === 443 ? 'a.org' : `${named ? 'a.org' : address}:${port}`;
        return {
          entry: `${text}${proto === 'udp' ? '/udp' : ''}`,
          kind: named ? 'name' : 'address',
          name: named ? 'a.org' : null,
        } as never;
      },
    },
    changes: {
      containers: {
        grant: async (...call) => {
          granted.push(call);
          if (fail.grant) throw fail.grant;
          return { id: 'g1', entry: call[1], owner: '', created: '', expires: '2030-01-01T00:10:00.000Z' };
        },
      },
      lists: {
        addEntry: async (...call) => void granted.push(['add', ...call]) as never,
        put: async (...call) => void granted.push(['put', ...call]) as never,
      },
    },
    now: () => now,
  });
  let receive: (packet: QueuedPacket) => void = () => undefined;
  const verdicts: unknown[] = [];
  asks.begin((_, to) => {
    receive = to;
    return { verdict: (...v) => void verdicts.push(v), [Symbol.dispose]: () => undefined };
  });
  const events: string[] = [];
  asks.events.subscribe(({ state, by }) => events.push(by === null ? state : `${state} by ${by}`));
  return {
    ...{ asks, web, add, verdicts, events, granted, fail },
    packet: (p: QueuedPacket) => receive(p),
    query: (name: string, client = 'q1', more: Partial<NameQuestion> = {}) =>
      asks.name({ container: web.id, name, type: 1, client, isInside: false, ...more }),
    wait: async (ms: number) => {
      now += ms;
      await vi.advanceTimersByTimeAsync(ms);
    },
    /** A pass has installed another state. */
    installed: (names: readonly string[], change: (all: Map<string, Subject>) => void = () => undefined) => {
      permitted = names;
      change(subjects);
      for (const [id, subject] of subjects) subjects.set(id, { ...subject });
      value = state();
      asks.settle();
    },
    only: () => {
      const [ask, ...others] = asks.list();
      if (!ask || others.length > 0) throw new Error(`${others.length + 1} requests`);
      return ask;
    },
  };
}

beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] }));
afterEach(() => void vi.useRealTimers());

describe('a packet', () => {
  it('waits; repetitions of it are dropped, and it comes again when it is allowed', async () => {
    const { asks, packet, verdicts, only, events, granted, web } = asking();
    packet(syn(1));
    packet(syn(2));
    packet(syn(3, 2, '93.184.1.1', { sport: 40_001 }));
    expect(verdicts).toEqual([[2, 'drop']]);
    const { id, token, ...shown } = only();
    expect(shown).toMatchObject({ entry: '93.184.1.1:22', port: 22, waiting: 2, attempts: 2, name: null });
    await asks.decide(id, { allow: true, token }, 'ann');
    expect(granted).toEqual([[web.id, '93.184.1.1:22', GRANT_MS, 'ann']]);
    expect(verdicts.slice(1)).toEqual([
      [1, 'repeat', ASKED(2)],
      [3, 'repeat', ASKED(2)],
    ]);
    expect([events, asks.list()]).toEqual([['pending', 'allowed by ann'], []]);
  });

  it('comes again to be denied when the time is over, and the request stays', async () => {
    const { packet, verdicts, wait, only, events } = asking();
    packet(syn(1));
    await wait(9_900);
    expect(verdicts).toEqual([]);
    await wait(200);
    expect(verdicts).toEqual([[1, 'repeat', ASKED(2)]]);
    expect([only().until, events]).toEqual([null, ['pending', 'unanswered']]);
  });

  it('to a name is asked about with this port alone', () => {
    const { packet, asks } = asking();
    packet(syn(1, 2, '93.184.2.2', { dport: 443 }));
    packet(syn(2, 2, '93.184.2.2', { dport: 8443 }));
    expect(asks.list().map((a) => [a.name, a.entry])).toEqual([
      ['a.org', 'a.org:443'],
      ['a.org', 'a.org:8443'],
    ]);
  });

  it.each([
    ['to a metadata service', '169.254.169.254'],
    ['to a metadata service in public space', '168.63.129.16'],
    ['to a group', '224.0.0.251'],
    ['to what a deny entry covers', '93.184.66.1'],
  ])('%s is denied at once', (_, to) => {
    const { packet, verdicts, asks } = asking({ askMs: 10_000, denied: entriesOf('!93.184.66.0/24') });
    packet(syn(1, 2, to));
    expect([verdicts, asks.list()]).toEqual([[[1, 'repeat', ASKED(2)]], []]);
  });

  it('that cannot be read, of an unknown container, or of one that does not ask is denied at once', () => {
    const { packet, verdicts, add, asks } = asking();
    add(3, {});
    packet({ ...syn(1), payload: Buffer.from([0x45]) });
    packet(syn(2, 9));
    packet(syn(3, 3));
    expect(verdicts.map((v) => (v as unknown[])[1])).toEqual(['repeat', 'repeat', 'repeat']);
    expect(asks.list()).toEqual([]);
  });

  it('of a container that is gone is dropped, whoever has its identity now', () => {
    const { packet, verdicts, installed, web, asks } = asking();
    packet(syn(1));
    installed([], (all) => void all.delete(web.id));
    expect([verdicts, asks.list()]).toEqual([[[1, 'drop']], []]);
  });

  it('goes on when another change permits it, and is denied when the container does not ask any more', () => {
    const { packet, verdicts, installed, web, events } = asking();
    packet(syn(1));
    installed([]);
    expect(verdicts).toEqual([]);
    installed(['93.184.1.1']);
    expect(verdicts).toEqual([[1, 'repeat', ASKED(2)]]);
    packet(syn(2, 2, '93.184.1.2'));
    const { askMs: _, ...policy } = web.policy;
    installed([], (all) => void all.set(web.id, { ...web, policy }));
    expect(verdicts.slice(1)).toEqual([[2, 'repeat', ASKED(2)]]);
    expect(events).toEqual(['pending', 'allowed', 'pending', 'unanswered']);
  });

  it('is dropped at the end of the service', () => {
    const { packet, verdicts, asks } = asking();
    packet(syn(1));
    asks.close();
    expect(verdicts).toEqual([[1, 'drop']]);
  });
});

describe('a query', () => {
  it.each(['any', 'host', 'db', '10.0.0.9'])(
    'for %s is no request: no entry would be of that name',
    (name) => {
      const { query, asks } = asking();
      expect([query(name), asks.list()]).toEqual(['no', []]);
    },
  );

  it('waits with those of other types, and all are decided again', async () => {
    const { query, only, asks } = asking();
    const [a, aaaa] = [query('new.org', 'q A'), query('new.org', 'q AAAA')];
    expect(query('new.org', 'q A')).toBe('repeated');
    expect(only()).toMatchObject({ entry: 'new.org', proto: 'dns', port: 0, address: '', waiting: 2 });
    await asks.decide(only().id, { allow: false, token: only().token }, 'ann');
    expect(await Promise.all([a, aaaa])).toEqual([undefined, undefined]);
    expect(query('new.org', 'q2')).toBe('no');
  });

  it('waits no longer than the client does behind the resolver of Docker, which sends it again', async () => {
    const { query, only, wait, events } = asking({ askMs: 60_000 });
    const ended: string[] = [];
    const sent = (client: string, type: number) =>
      void (query('new.org', client, { type }) as Promise<void>).then(() => ended.push(client));
    sent('first A', 1);
    sent('first AAAA', 28);
    const { until } = only();
    await wait(4_000);
    sent('second A', 1);
    sent('second AAAA', 28);
    expect(only()).toMatchObject({ waiting: 2, attempts: 2 });
    expect(Math.abs(Date.parse(only().until ?? '') + 4_000 - Date.parse(until ?? ''))).toBeLessThan(3_000);
    await wait(3_400);
    expect(ended).toEqual([]);
    await wait(200);
    expect([ended.sort(), events, only().until]).toEqual([
      ['first A', 'first AAAA', 'second A', 'second AAAA'],
      ['pending', 'unanswered'],
      null,
    ]);
  });

  it.each(['1.1.168.192.in-addr.arpa', 'metadata.google.internal', 'com', '_.'])(
    'for %s asks no person',
    (name) => {
      expect(asking().query(name)).toBe('no');
    },
  );

  it('that a search list makes of the name of another request asks no person', () => {
    const { query } = asking();
    expect(query('new.org')).toBeInstanceOf(Promise);
    expect(query('new.org.corp.example')).toBe('no');
    expect(query('git.corp.example')).toBeInstanceOf(Promise);
  });
});

describe('a client of the C library waits for a name', () => {
  const servers = ['192.0.2.1', '192.0.2.2', '192.0.2.3', '192.0.2.4'];
  const facts = (embedded: boolean, count: number): ResolverFacts => ({
    ...{ embedded, hostAsked: false, search: [], servers: servers.slice(0, count) },
  });
  it.each([
    ['behind Docker, with one server', facts(true, 1), false, 7_500],
    ['behind Docker, with two servers', facts(true, 2), false, 7_500],
    ['behind Docker, with three servers', facts(true, 3), false, 9_500],
    ['with our resolver inside', facts(true, 3), true, 9_500],
    ['with one server of its own', facts(false, 1), false, 9_500],
    ['with four, of which it uses three', facts(false, 4), false, 29_500],
    ['while its resolv.conf is not known', undefined, false, 7_500],
  ])('%s', (_, known, isInside, ms) => {
    expect(patienceOf(known, isInside).ms).toBe(ms);
  });
});

it('lists the oldest request first, whichever has had an attempt last', async () => {
  const { packet, wait, asks } = asking({ askMs: 60_000 });
  packet(syn(1));
  await wait(1_000);
  packet(syn(2, 2, '93.184.1.2'));
  await wait(1_000);
  packet(syn(3, 2, '93.184.1.1', { sport: 40_001 }));
  expect(asks.list().map((a) => [a.address, a.attempts])).toEqual([
    ['93.184.1.1', 2],
    ['93.184.1.2', 1],
  ]);
});

describe('a decision', () => {
  it('counts only for what was shown', async () => {
    const { packet, asks, only, verdicts, granted } = asking();
    packet(syn(1));
    const decide = (token: string) => asks.decide(only().id, { allow: true, token }, 'ann');
    await expect(decide('other')).rejects.toMatchObject({ refusal: { kind: 'conflict' } });
    await expect(asks.decide('gone', { allow: true, token: '' }, 'ann')).rejects.toMatchObject({
      refusal: { kind: 'not-found' },
    });
    expect([verdicts, granted]).toEqual([[], []]);
  });

  it('that does not come into force leaves the request as it was', async () => {
    const { packet, asks, only, verdicts, fail, events } = asking();
    packet(syn(1));
    fail.grant = new Error('not in force');
    const { id, token } = only();
    await expect(asks.decide(id, { allow: true, token }, 'ann')).rejects.toThrow('not in force');
    expect([verdicts, only().waiting, events]).toEqual([[], 1, ['pending']]);
    fail.grant = undefined;
    await asks.decide(id, { allow: true, token }, 'ann');
    expect(verdicts).toHaveLength(1);
  });

  it('for good goes into a list that the container uses, or names', async () => {
    const note = { detail: '', remedy: '', code: MISSING_LIST, pointer: '/lists/later' } as const;
    const { packet, asks, only, granted } = asking({ askMs: 10_000, lists: ['ci'], notes: [note] });
    const into = (list: string) => asks.decide(only().id, { allow: true, list, token: only().token }, 'ann');
    packet(syn(1));
    await expect(into('other')).rejects.toMatchObject({ refusal: { kind: 'conflict' } });
    await into('ci');
    packet(syn(2, 2, '93.184.1.2'));
    await into('later');
    expect(granted).toEqual([
      ['add', 'ci', '93.184.1.1:22', undefined, 'ann'],
      ['put', 'later', { allow: ['93.184.1.2:22'] }, 0, 'ann'],
    ]);
  });
});
