import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { Authority, a, freePair } from './authority.js';
import { addresses, ask, overUdp, queryFor } from './client.js';
import { House } from './house.js';

let ours: Authority;
let theirs: Authority;
let house: House;
const server = { address: '127.0.0.53', port: 0 };
const box = '127.9.2.1';
/** What the container's own resolver says of every name: a public address, which only its source keeps from the sets. */
const THEIRS = '198.51.100.77';

beforeAll(async () => {
  ours = await new Authority('127.0.0.1', (name) => ({ answers: [a(name, '198.51.100.1')] })).start();
  theirs = await new Authority('127.0.0.3', (name) => ({
    answers: [a(name, THEIRS, 7)],
    rcode: 0,
  })).start();
  house = new House({ upstreams: [ours.endpoint] });
  house.policy.modes.set(box, 'observe');
  house.policy.allowed.set('good.test', {});
  server.port = await freePair(server.address);
  await house.service.listen(server.address, server.port);
});
afterAll(() => {
  house.close();
  ours.close();
  theirs.close();
});
beforeEach(() => {
  house.events.length = 0;
  house.original = { address: '127.0.0.3', port: theirs.port };
});

describe('observed containers', () => {
  it('get the answer of the resolver they asked, byte for byte', async () => {
    const query = queryFor('EviL.test', { id: 4711 });
    const reply = await overUdp(server, query, { from: box });
    const direct = await overUdp(theirs, query, {});
    expect(reply).toEqual(direct);
    expect(ours.log).toEqual([]);
    expect(theirs.log[0]?.asWritten).toBe('EviL.test');
    expect(house.events).toMatchObject([{ verdict: 'would-deny', name: 'evil.test' }]);
  });

  it('over TCP too', async () => {
    expect(addresses(await ask(server, 'evil.test', { from: box, tcp: true }))).toEqual([THEIRS]);
    expect(theirs.log.at(-1)?.transport).toBe('tcp');
  });

  it('have answers of a resolver of their own shown, and nothing of them permitted, now or once enforced', async () => {
    await ask(server, 'good.test', { from: box });
    expect(house.events).toEqual([]);
    const theirs = house.service.namesReader(box)(THEIRS);
    expect(theirs).toEqual({ names: expect.arrayContaining(['good.test']), isOwn: true });
    // Of a permitted name, what Drawbridge's resolver says counts, as it will once it is enforced.
    expect([...house.sets.members.keys()]).toEqual([`${box}-v4 198.51.100.1`]);
    expect(house.service.namesReader(box)('198.51.100.1')).toEqual({ names: ['good.test'], isOwn: false });
    await ask(server, 'evil.test', { from: box });
    expect(ours.asked('evil.test')).toEqual([]);
    house.policy.modes.set(box, 'enforce');
    expect([...(house.service.members(box).get(`${box}-v4`)?.keys() ?? [])]).toEqual(['198.51.100.1']);
    expect(house.service.isMember(box, `${box}-v4`, THEIRS)).toBe(false);
    house.policy.modes.set(box, 'observe');
  });

  it('fall back to our upstreams, whose answers count once enforced', async () => {
    house.original = undefined;
    expect(addresses(await ask(server, 'good.test', { from: box }))).toEqual(['198.51.100.1']);
    expect(addresses(await ask(server, 'evil.test', { from: box }))).toEqual(['198.51.100.1']);
    expect(addresses(await ask(server, 'db', { from: box }))).toEqual(['10.1.0.5']);
    expect(house.sets.members.has(`${box}-v4 198.51.100.1`)).toBe(true);
    house.policy.modes.set(box, 'enforce');
    expect([...(house.service.members(box).get(`${box}-v4`)?.keys() ?? [])]).toEqual(['198.51.100.1']);
    house.policy.modes.set(box, 'observe');
  });

  it('never make us ask ourselves', async () => {
    house.original = server;
    expect(addresses(await ask(server, 'good.test', { from: box }))).toEqual(['198.51.100.1']);
  });

  it('that are off leave no trace', async () => {
    house.policy.modes.set(box, 'off');
    house.original = undefined;
    await ask(server, 'off.test', { from: box });
    expect(house.events).toEqual([]);
    expect(house.service.namesReader(box)('198.51.100.1').names).not.toContain('off.test');
    house.policy.modes.set(box, 'observe');
  });
});

describe('enforced containers with a dns=direct entry', () => {
  const own = '127.9.2.9';
  it('get the answer of the resolver they meant, of no other', async () => {
    house.policy.direct.add('127.0.0.3');
    expect(addresses(await ask(server, 'evil.test', { from: own }))).toEqual([THEIRS]);
    expect(addresses(await ask(server, 'evil.test', { from: own, tcp: true }))).toEqual([THEIRS]);
    house.original = { address: '127.0.0.4', port: theirs.port };
    expect((await ask(server, 'evil.test', { from: own })).rcode).toBe('NXDOMAIN');
    house.original = undefined;
    expect((await ask(server, 'evil.test', { from: own })).rcode).toBe('NXDOMAIN');
    house.policy.direct.clear();
  });
});
