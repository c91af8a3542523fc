import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { Authority, a, aaaa, cname, freePair, type Response, soa, type Zone } from './authority.js';
import { type AskOptions, addresses, ask } from './client.js';
import { House } from './house.js';

const zone: Record<string, Response | Zone> = {
  'api.test': (_, type) =>
    type === 'AAAA'
      ? { answers: [aaaa('api.test', '2001:db8::1')] }
      : { answers: [a('api.test', '198.51.100.1')] },
  'chain.test': {
    answers: [
      cname('chain.test', 'mid.test'),
      cname('mid.test', 'end.test'),
      a('end.test', '198.51.100.2'),
      a('evil.test', '198.51.100.66'),
    ],
  },
  'open.test': { answers: [cname('open.test', 'further.test')] },
  'further.test': { answers: [a('further.test', '198.51.100.3')] },
  'loop.test': { answers: [cname('loop.test', 'loop2.test'), cname('loop2.test', 'loop.test')] },
  'slowloop.test': { answers: [cname('slowloop.test', 'slowloop2.test')] },
  'slowloop2.test': { answers: [cname('slowloop2.test', 'slowloop.test')] },
  'zero.test': (_, __, nth) => ({ answers: [a('zero.test', `203.0.113.${nth}`, 0)] }),
  'rotate.test': (_, __, nth) => ({ answers: [a('rotate.test', `203.0.113.${100 + (nth % 40)}`, 1)] }),
  'big.test': {
    answers: Array.from({ length: 80 }, (_, i) => a('big.test', `192.0.2.${i + 1}`)),
    truncated: true,
  },
  'lost.test': (_, __, nth) => ({ answers: [a('lost.test', '198.51.100.4')], lost: nth === 1 }),
  'gone.test': { lost: true },
  'late.test': { answers: [a('late.test', '198.51.100.5')], delayMs: 400 },
  'slow.test': { answers: [a('slow.test', '198.51.100.11')], delayMs: 2600 },
  'noecho.test': { answers: [a('noecho.test', '198.51.100.6')], noEcho: true },
  'rebind.test': {
    answers: [a('rebind.test', '10.0.0.5'), a('rebind.test', '127.0.0.1'), a('rebind.test', '203.0.113.77')],
  },
  'mixed.test': { answers: [a('mixed.test', '169.254.169.254'), a('mixed.test', '198.51.100.8')] },
  'intra.corp.example': { answers: [a('intra.corp.example', '10.0.0.7')] },
  'lure.test': { answers: [cname('lure.test', 'secret.corp.example')] },
  'alias.corp.example': { answers: [cname('alias.corp.example', 'other.corp.example')] },
  'other.corp.example': { answers: [a('other.corp.example', '10.0.0.7')] },
  'missing.test': { rcode: 3, authorities: [soa('test')] },
  'broken.test': { rcode: 2 },
  'mx.test': {
    answers: [{ type: 'MX', name: 'mx.test', ttl: 5, data: { preference: 1, exchange: 'mail.test' } }],
  },
};
const lookup: Zone = (name, type, nth, transport) => {
  const found = zone[name] ?? { rcode: 3, authorities: [soa('test')] };
  return typeof found === 'function' ? found(name, type, nth, transport) : found;
};

let up: Authority;
let corp: Authority;
let house: House;
const server = { address: '127.0.0.53', port: 0 };
const server6 = { address: '::1', port: 0 };
const box = '127.9.0.1';
const dig = (name: string, o: AskOptions = {}) => ask(server, name, { from: box, ...o });
const member = (address: string, container = box) =>
  house.sets.members.get(`${container}-${address.includes(':') ? 'v6' : 'v4'} ${address}`);

beforeAll(async () => {
  up = await new Authority('127.0.0.1', lookup).start();
  corp = await new Authority('127.0.0.2', lookup).start();
  house = new House({
    upstreams: [up.endpoint],
    zones: { 'corp.example': { upstreams: [corp.endpoint], private: true } },
  });
  server.port = server6.port = await freePair(server.address);
  await house.service.listen(server.address, server.port);
  await house.service.listen(server6.address, server6.port);
});
afterAll(() => {
  house.close();
  up.close();
  corp.close();
});
beforeEach(() => {
  house.events.length = 0;
  house.sets.failure = undefined;
  house.sets.delayMs = 0;
  for (const name of Object.keys(zone)) house.policy.allowed.set(name, {});
  house.policy.allowed.delete('further.test');
  house.policy.allowed.delete('slowloop2.test');
});

describe('allowed names', () => {
  it.each([false, true])('are answered over tcp=%s, v4 and v6', async (tcp) => {
    expect(addresses(await dig('api.test', { tcp }))).toEqual(['198.51.100.1']);
    const v6 = await ask(server6, 'API.test', { type: 'AAAA', tcp });
    expect(addresses(v6)).toEqual(['2001:db8::1']);
    expect(v6.questions?.[0]?.name).toBe('API.test');
    expect(member('2001:db8::1', '::1')).toBeGreaterThan(3600);
  });

  it('reach the client only after every set has them, from the cache too', async () => {
    house.sets.delayMs = 80;
    for (let i = 0; i < 2; i++) {
      house.sets.members.clear();
      const began = performance.now();
      await dig('api.test');
      expect(performance.now() - began).toBeGreaterThan(75);
      expect(member('198.51.100.1')).toBeGreaterThanOrEqual(3600 + 5);
    }
    expect(up.asked('api.test').filter((q) => q.type === 'A')).toHaveLength(1);
  });

  it('are SERVFAIL when the kernel refuses, never an answer that cannot be used', async () => {
    house.sets.failure = 'no such set';
    expect((await dig('api.test')).rcode).toBe('SERVFAIL');
    expect(house.events.at(-1)).toMatchObject({
      verdict: 'error',
      reason: expect.stringContaining('no such set'),
    });
  });

  it('of other types are answered, and teach nothing', async () => {
    const reply = await dig('mx.test', { type: 'MX' });
    expect(reply.answers?.[0]).toMatchObject({ type: 'MX', data: { exchange: 'mail.test' } });
  });

  it('are forgotten at zero', async () => {
    const first = addresses(await dig('zero.test'));
    const second = addresses(await dig('zero.test'));
    expect(first).not.toEqual(second);
    expect(member(first[0] ?? '')).toBeGreaterThan(3600);
    expect(member(second[0] ?? '')).toBeGreaterThan(3600);
  });

  it('do not tell what another container has asked: neither by the TTL nor by the cache', async () => {
    zone['age.test'] = { answers: [a('age.test', '198.51.100.1', 3000)] };
    house.policy.allowed.set('age.test', {});
    const ttls = async (from: string): Promise<unknown> => {
      const { answers, authorities } = await dig('age.test', { from });
      return [...(answers ?? []), ...(authorities ?? [])].map((r) => 'ttl' in r && r.ttl);
    };
    expect(await ttls(box)).toEqual([5]);
    zone['age.test'] = { answers: [a('age.test', '198.51.100.1', 1234)] };
    expect(await ttls(box)).toEqual([5]);
    expect(up.asked('age.test')).toHaveLength(1);
    expect(await ttls('127.9.0.7')).toEqual([5]);
    expect(up.asked('age.test')).toHaveLength(2);
    house.policy.allowed.delete('age.test');
  });

  it('that rotate are always in the set when told', async () => {
    for (let i = 0; i < 60; i++) {
      for (const told of addresses(await dig('rotate.test'))) expect(member(told)).toBeGreaterThan(0);
    }
  });

  it('with 80 addresses come whole over TCP, and cut with TC over UDP', async () => {
    const udp = await dig('big.test', { edns: 0 });
    expect(udp.bytes).toBeLessThanOrEqual(512);
    expect(udp.flag_tc).toBe(true);
    const tcp = await dig('big.test', { tcp: true });
    expect(addresses(tcp)).toHaveLength(80);
    for (const told of addresses(tcp)) expect(member(told)).toBeGreaterThan(0);
    expect(up.asked('big.test').map((q) => q.transport)).toEqual(['udp', 'tcp']);
  });
});

describe('denied names', () => {
  it.each([false, true])('are NXDOMAIN with AA, SOA and EDE, and never asked (tcp=%s)', async (tcp) => {
    for (const name of [
      'evil.test',
      'xapi.test',
      'use-application-dns.net',
      '_dns.resolver.arpa',
      '6.0.1.10.in-addr.arpa',
    ]) {
      const reply = await dig(name, { tcp });
      expect(reply).toMatchObject({ rcode: 'NXDOMAIN', flag_aa: true });
      expect(reply.authorities?.[0]).toMatchObject({ type: 'SOA', ttl: 5 });
      expect(up.asked(name)).toEqual([]);
      expect(house.events.at(-1)).toMatchObject({ container: box, name, verdict: 'deny' });
    }
  });

  it('made by a search list are not counted', async () => {
    house.policy.search = ['lan'];
    expect((await dig('api.test.lan')).rcode).toBe('NXDOMAIN');
    expect((await dig('db.lan')).rcode).toBe('NXDOMAIN');
    expect(house.events).toEqual([]);
    await dig('evil.lan');
    expect(house.events).toHaveLength(1);
    house.policy.search = [];
  });

  it('that become denied while the upstream thinks are not told', async () => {
    const reply = dig('late.test');
    await expect.poll(() => up.asked('late.test').length).toBe(1);
    house.policy.allowed.delete('late.test');
    expect((await reply).rcode).toBe('NXDOMAIN');
    expect(member('198.51.100.5')).toBeUndefined();
  });
});

describe('neighbours', () => {
  it('are answered from here, in both directions', async () => {
    expect(addresses(await dig('db'))).toEqual(['10.1.0.5']);
    expect(await dig('db', { type: 'AAAA' })).toMatchObject({ rcode: 'NOERROR', answers: [] });
    const reverse = await dig('5.0.1.10.in-addr.arpa', { type: 'PTR' });
    expect(reverse.answers?.[0]).toMatchObject({ type: 'PTR', data: 'db' });
    expect(member('10.1.0.5')).toBeUndefined();
  });
});

describe('chains', () => {
  it('teach the addresses of the asked name, and lose strangers', async () => {
    const reply = await dig('chain.test');
    expect(addresses(reply)).toEqual(['198.51.100.2']);
    expect(reply.answers?.map((r) => r.type)).toEqual(['CNAME', 'CNAME', 'A']);
    expect(member('198.51.100.66')).toBeUndefined();
    expect(house.service.namesReader(box)('198.51.100.2').names).toEqual(['chain.test']);
  });
  it('left open are followed', async () => {
    expect(addresses(await dig('open.test'))).toEqual(['198.51.100.3']);
    expect(house.service.namesReader(box)('198.51.100.3').names).toEqual(['open.test']);
  });
  it.each(['loop.test', 'slowloop.test'])('%s ends', async (name) => {
    expect((await dig(name)).rcode).toBe('SERVFAIL');
    expect(up.log.length).toBeLessThan(1000);
  });
});

describe('bad weather', () => {
  it('asks again when an answer is lost, waits for one that is late', async () => {
    expect(addresses(await dig('lost.test'))).toEqual(['198.51.100.4']);
    house.policy.allowed.set('late.test', {});
    expect(addresses(await dig('late.test'))).toEqual(['198.51.100.5']);
  });
  it('gives SERVFAIL when nobody answers, to a query that was repeated meanwhile too, and names the server', async () => {
    const first = dig('gone.test', { ms: 20_000 });
    await expect.poll(() => up.asked('gone.test').length, { timeout: 8000 }).toBeGreaterThan(2);
    const asked = up.asked('gone.test').length;
    expect((await dig('gone.test', { ms: 20_000 })).rcode).toBe('SERVFAIL');
    expect((await first).rcode).toBe('SERVFAIL');
    expect(house.events.at(-1)?.reason).toContain(`127.0.0.1#${up.port} udp: no answer`);
    expect(house.events.at(-1)?.reason).toContain(`127.0.0.1#${up.port} tcp: no answer`);
    // the second query has joined the question of the first
    expect(up.asked('gone.test').length - asked).toBeLessThanOrEqual(1);
  }, 30_000);
  it('takes the answer of a slow server, and asks it few times, with one port and one id', async () => {
    expect(addresses(await dig('slow.test'))).toEqual(['198.51.100.11']);
    const seen = up.asked('slow.test');
    expect(seen.length).toBeLessThanOrEqual(3);
    expect(new Set(seen.map((q) => `${q.sourcePort} ${q.id} ${q.asWritten}`)).size).toBe(1);
  });
  it('passes NXDOMAIN on and remembers it; SERVFAIL is not remembered', async () => {
    for (let i = 0; i < 2; i++) expect((await dig('missing.test')).rcode).toBe('NXDOMAIN');
    expect(up.asked('missing.test')).toHaveLength(1);
    for (let i = 0; i < 2; i++) expect((await dig('broken.test')).rcode).toBe('SERVFAIL');
    expect(up.asked('broken.test').length).toBeGreaterThan(1);
  });
  it('asks once for many of a container, and once for each container', async () => {
    house.policy.allowed.set('collapse.test', {});
    zone['collapse.test'] = { answers: [a('collapse.test', '198.51.100.9', 0)], delayMs: 150 };
    const boxes = Array.from({ length: 5 }, (_, i) => `127.9.1.${i + 1}`);
    const many = boxes.flatMap((from) => [from, from, from, from]);
    const replies = await Promise.all(many.map((from) => dig('collapse.test', { from })));
    expect(replies.every((r) => addresses(r)[0] === '198.51.100.9')).toBe(true);
    expect(up.asked('collapse.test')).toHaveLength(boxes.length);
    for (const from of boxes) expect(member('198.51.100.9', from)).toBeGreaterThan(0);
  });
});

describe('several servers', () => {
  const SILENT = { lost: true };
  const answer: Zone = (name) => ({ answers: [a(name, '198.51.100.20')] });
  /** Which servers were asked for a name, in the order of the configuration. */
  async function resolved(
    upstreams: readonly string[],
    names: readonly string[],
  ): Promise<readonly { readonly rcode: string; readonly reason: string | undefined }[]> {
    const own = new House({ upstreams });
    const at = { address: '127.0.0.54', port: await freePair('127.0.0.54') };
    try {
      await own.service.listen(at.address, at.port);
      const replies: { rcode: string; reason: string | undefined }[] = [];
      for (const name of names) {
        own.policy.allowed.set(name, {});
        const { rcode } = await ask(at, name, { from: box, ms: 20_000 });
        replies.push({ rcode, reason: own.events.at(-1)?.reason });
      }
      return replies;
    } finally {
      own.close();
    }
  }

  it('the second is asked while the first is silent, and goes first then', async () => {
    const first = await new Authority('127.0.0.3', () => SILENT).start();
    const second = await new Authority('127.0.0.4', answer).start();
    const replies = await resolved([first.endpoint, second.endpoint], ['one.test', 'two.test']);
    expect(replies.map((r) => r.rcode)).toEqual(['NOERROR', 'NOERROR']);
    expect(first.asked('one.test')).toHaveLength(1);
    expect(first.asked('two.test')).toEqual([]);
    for (const server of [first, second]) server.close();
  });
  it.each([
    ['refuses', (): Response => ({ rcode: 5 })],
    ['answers with an error', (): Response => ({ rcode: 2 })],
  ])('the second is asked at once where the first %s', async (_, bad) => {
    const first = await new Authority('127.0.0.3', bad).start();
    const second = await new Authority('127.0.0.4', answer).start();
    const [reply] = await resolved([first.endpoint, second.endpoint], ['one.test']);
    expect(reply?.rcode).toBe('NOERROR');
    for (const server of [first, second]) server.close();
  });
  it('a refusal is returned while another server is silent', async () => {
    const first = await new Authority('127.0.0.3', () => SILENT).start();
    const second = await new Authority('127.0.0.4', () => ({ rcode: 5 })).start();
    const [reply] = await resolved([first.endpoint, second.endpoint], ['one.test']);
    expect(reply?.rcode).toBe('REFUSED');
    for (const server of [first, second]) server.close();
  });
  // The kernel sends nothing there: connect() fails.
  it.each(['255.255.255.255', '127.255.255.255', '[fe80::53]', '127.0.0.9:1'])(
    'the second answers where %s cannot be asked, and each is named where none can',
    async (address) => {
      const second = await new Authority('127.0.0.4', answer).start();
      const [reply] = await resolved([address, second.endpoint], ['one.test']);
      expect(reply?.rcode).toBe('NOERROR');
      second.close();
      const [failed] = await resolved([address], ['one.test']);
      expect(failed?.rcode).toBe('SERVFAIL');
      expect(failed?.reason).toMatch(/udp: .+; .+ tcp: /);
    },
  );
});

describe('forgery', () => {
  it('ports, ids and case are random', async () => {
    for (let i = 0; i < 20; i++) {
      house.policy.allowed.set(`random${i}.case.test`, {});
      await dig(`random${i}.case.test`);
    }
    const seen = up.log.filter((q) => q.name.endsWith('.case.test'));
    expect(new Set(seen.map((q) => q.sourcePort)).size).toBeGreaterThan(15);
    expect(new Set(seen.map((q) => q.id)).size).toBeGreaterThan(15);
    expect(seen.filter((q) => q.asWritten !== q.name).length).toBeGreaterThan(15);
  });
  it.each([
    ['another id', { forge: (b: Buffer) => b.writeUInt16BE(b.readUInt16BE(0) ^ 1, 0) }],
    ['another port', { forge: () => {}, forgeFromElsewhere: true }],
    ['another question', { forge: (b: Buffer) => b.writeUInt8((b[13] ?? 0) ^ 1, 13) }],
  ])('an answer with %s is passed over', async (what, forged) => {
    const name = `forged-${what.replace(/ /g, '-')}.test`;
    house.policy.allowed.set(name, {});
    const spoil = (b: Buffer): void => {
      b.writeUInt8(66, b.length - 1);
      forged.forge(b);
    };
    zone[name] = { answers: [a(name, '198.51.100.10')], ...forged, forge: spoil, delayMs: 60 };
    expect(addresses(await dig(name))).toEqual(['198.51.100.10']);
    expect(member('198.51.100.66')).toBeUndefined();
  });
  it('a server that does not echo case is asked over TCP, then known', async () => {
    expect(addresses(await dig('noecho.test'))).toEqual(['198.51.100.6']);
    expect(up.asked('noecho.test').map((q) => q.transport)).toEqual(['udp', 'tcp', 'tcp']);
  });
  it('ECS and other options of the client go nowhere', async () => {
    const sent = up.asked('api.test')[0]?.packet;
    expect(sent?.length).toBe(12 + 10 + 4 + 11);
  });
});

describe('rebinding', () => {
  it('refuses answers inside, and says why', async () => {
    const reply = await dig('rebind.test');
    expect(reply).toMatchObject({ rcode: 'NOERROR', answers: [] });
    expect(house.events.map((e) => e.verdict)).toEqual(['deny', 'deny', 'deny']);
    expect(house.events[0]?.reason).toMatch(/private answer 10\.0\.0\.5 .*"private"/);
    expect(member('10.0.0.5')).toBeUndefined();
  });
  it('leaves the good addresses of a mixed answer', async () => {
    expect(addresses(await dig('mixed.test'))).toEqual(['198.51.100.8']);
  });
  it('lets pass what an entry, an address entry or a zone means', async () => {
    house.policy.allowed.set('rebind.test', { allowPrivate: true });
    expect(addresses(await dig('rebind.test'))).toEqual(['10.0.0.5', '127.0.0.1', '203.0.113.77']);
    house.policy.allowed.set('rebind.test', {});
    expect(house.service.members(box).get(`${box}-v4`)?.has('10.0.0.5')).toBe(false);
    house.policy.covered.add('10.0.0.5');
    house.sets.members.clear();
    expect(addresses(await dig('rebind.test'))).toEqual(['10.0.0.5']);
    // the address entry has ports of its own: the name's are not opened there
    expect(house.service.members(box).get(`${box}-v4`)?.has('10.0.0.5') ?? false).toBe(false);
    expect(member('10.0.0.5')).toBeUndefined();
    expect(addresses(await dig('intra.corp.example'))).toEqual(['10.0.0.7']);
    expect(up.asked('intra.corp.example')).toEqual([]);
    expect(corp.asked('intra.corp.example')).toHaveLength(1);
  });
  it('does not ask the servers of a private zone where the chain of a public name leads there', async () => {
    house.policy.allowed.set('lure.test', {});
    house.policy.allowed.set('alias.corp.example', {});
    await dig('lure.test');
    expect(corp.asked('secret.corp.example')).toEqual([]);
    expect(up.asked('secret.corp.example')).toHaveLength(1);
    // within the zone its own servers are asked for the whole chain
    expect(addresses(await dig('alias.corp.example'))).toEqual(['10.0.0.7']);
    expect(corp.asked('other.corp.example')).toHaveLength(1);
    expect(up.asked('other.corp.example')).toEqual([]);
  });
});
