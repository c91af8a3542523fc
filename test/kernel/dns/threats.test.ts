/** Names and addresses that feeds list, asked of the real server: never asked upstream, whatever the policy. */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { Authority, a, cname, freePair, type Response } from './authority.js';
import { addresses, ask } from './client.js';
import { House } from './house.js';

const zone: Record<string, Response> = {
  'good.test': { answers: [a('good.test', '198.51.100.1')] },
  'mixed.test': { answers: [a('mixed.test', '198.51.100.66'), a('mixed.test', '198.51.100.2')] },
  'only.test': { answers: [a('only.test', '198.51.100.66')] },
  'whole.test': { answers: [cname('whole.test', 'x.bad.test'), a('x.bad.test', '198.51.100.3')] },
  'open.test': { answers: [cname('open.test', 'bad.test')] },
  'later.test': { answers: [a('later.test', '198.51.100.4')] },
  'seen.test': { answers: [a('seen.test', '198.51.100.5')] },
};
const BOX = '127.9.5.1';
const OBSERVED = '127.9.5.2';
let up: Authority;
let house: House;
const server = { address: '127.0.0.53', port: await freePair('127.0.0.53') };

beforeAll(async () => {
  up = await new Authority(
    '127.0.0.1',
    (name) => zone[name] ?? { answers: [a(name, '198.51.100.9')] },
  ).start();
  house = new House({ upstreams: [up.endpoint] });
  house.policy.modes.set(OBSERVED, 'observe');
  for (const name of [...Object.keys(zone), 'bad.test', 'sub.bad.test']) house.policy.allowed.set(name, {});
  house.policy.listed.set('bad.test', 'block').set('198.51.100.66', 'block').set('seen.test', 'observe');
  await house.service.listen(server.address, server.port);
});
afterAll(() => {
  house.close();
  up.close();
});
beforeEach(() => {
  house.events.length = 0;
  up.log.length = 0;
});
const asked = (): string[] => up.log.map((q) => q.asWritten.toLowerCase());

describe.each([
  ['enforced', BOX],
  ['observed', OBSERVED],
])('an %s container', (_, from) => {
  it.each(['bad.test', 'sub.bad.test', 'x.Sub.BAD.test'])('is told that %s does not exist', async (name) => {
    for (const tcp of [false, true])
      expect(await ask(server, name, { from, tcp })).toMatchObject({ rcode: 'NXDOMAIN' });
    expect(asked()).toEqual([]);
    expect(house.events[0]).toMatchObject({
      verdict: 'threat',
      reason: expect.stringMatching(/feed bad lists bad\.test/),
    });
  });

  it('is not told what leads to a listed name, which is not asked either', async () => {
    for (const name of ['whole.test', 'open.test'])
      expect([name, (await ask(server, name, { from })).rcode]).toEqual([name, 'NXDOMAIN']);
    expect(asked().filter((name) => name.endsWith('bad.test'))).toEqual([]);
    expect(house.events.map((e) => e.verdict)).toContain('threat');
  });

  it('is told what is only watched, and that is counted', async () => {
    expect(addresses(await ask(server, 'seen.test', { from }))).toEqual(['198.51.100.5']);
    expect(house.events).toContainEqual(
      expect.objectContaining({ verdict: 'would-deny', reason: expect.stringContaining('action observe') }),
    );
  });
});

describe('listed addresses', () => {
  it('are left out of answers, and in no set', async () => {
    expect(addresses(await ask(server, 'mixed.test', { from: BOX }))).toEqual(['198.51.100.2']);
    expect(await ask(server, 'only.test', { from: BOX })).toMatchObject({ rcode: 'NOERROR', answers: [] });
    expect([...house.sets.members.keys()].filter((m) => m.endsWith('.66'))).toEqual([]);
    expect(house.events.filter((e) => e.verdict === 'threat')).toHaveLength(2);
  });

  it('of a resolver that was asked: we do not ask it for an observed container', async () => {
    const theirs = await new Authority('127.0.0.4', (name) => ({ answers: [a(name, '10.9.9.9')] })).start();
    house.original = { address: '127.0.0.4', port: theirs.port };
    try {
      expect(addresses(await ask(server, 'good.test', { from: OBSERVED }))).toEqual(['10.9.9.9']);
      house.policy.listed.set('127.0.0.4', 'block');
      theirs.log.length = 0;
      await expect(ask(server, 'good.test', { from: OBSERVED, ms: 500 })).rejects.toThrow();
      expect(theirs.log).toEqual([]);
    } finally {
      house.original = undefined;
      house.policy.listed.delete('127.0.0.4');
      theirs.close();
    }
  });
});

describe('what becomes listed', () => {
  it('loses what was told for it', async () => {
    await ask(server, 'later.test', { from: BOX });
    expect([...(house.service.members(BOX).get(`${BOX}-v4`)?.keys() ?? [])]).toContain('198.51.100.4');
    house.policy.listed.set('later.test', 'block');
    house.policy.allowed.delete('later.test'); // as the policy of the service says then
    expect([...(house.service.members(BOX).get(`${BOX}-v4`)?.keys() ?? [])]).not.toContain('198.51.100.4');
    house.policy.listed.set('198.51.100.2', 'block');
    expect([...(house.service.members(BOX).get(`${BOX}-v4`)?.keys() ?? [])]).not.toContain('198.51.100.2');
  });
});
