import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { decode } from 'dns-packet';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Authority, a, freePair } from './authority.js';
import { addresses, ask, overUdp, queryFor } from './client.js';
import { House } from './house.js';

let up: Authority;
let house: House;
const server = { address: '127.0.0.53', port: await freePair('127.0.0.53') };

beforeAll(async () => {
  up = await new Authority('127.0.0.1', (name) => ({
    answers: [a(name, '198.51.100.1')],
    ...(name.startsWith('slow') ? { delayMs: 300 } : {}),
  })).start();
  house = new House({ upstreams: [up.endpoint], limits: { perSecond: 50, burst: 100, inFlight: 50 } });
  for (const name of ['slow.test', 'fast.test', 'late-box.test']) house.policy.allowed.set(name, {});
  await house.service.listen(server.address, server.port);
});
afterAll(() => {
  house.close();
  up.close();
});

const framed = (name: string, id: number): Buffer => {
  const query = queryFor(name, { id });
  const length = Buffer.alloc(2);
  length.writeUInt16BE(query.length);
  return Buffer.concat([length, query]);
};
async function open(localAddress: string): Promise<Socket> {
  const socket = connect({ host: server.address, port: server.port, localAddress });
  await once(socket, 'connect');
  return socket;
}
/** Ids of the replies on a connection, in order, until there are `count`. */
async function ids(socket: Socket, count: number): Promise<number[]> {
  const found: number[] = [];
  let pending = Buffer.alloc(0);
  for await (const chunk of socket) {
    pending = Buffer.concat([pending, chunk as Buffer]);
    while (pending.length >= 2 && pending.length >= 2 + pending.readUInt16BE(0)) {
      const size = 2 + pending.readUInt16BE(0);
      found.push(decode(pending.subarray(2, size)).id ?? -1);
      pending = pending.subarray(size);
    }
    if (found.length >= count) break;
  }
  return found;
}

describe('askers', () => {
  it('who become known in time are answered, and unknown ones get SERVFAIL, never NXDOMAIN', async () => {
    house.policy.unknown.add('127.9.3.1');
    const reply = ask(server, 'late-box.test', { from: '127.9.3.1' });
    setTimeout(() => house.policy.unknown.delete('127.9.3.1'), 200);
    expect(addresses(await reply)).toEqual(['198.51.100.1']);
    house.policy.unknown.add('127.9.3.2');
    expect((await ask(server, 'late-box.test', { from: '127.9.3.2' })).rcode).toBe('SERVFAIL');
  });

  it('whose networks become known in time learn the names of neighbours; till then none is NXDOMAIN', async () => {
    const from = '127.9.3.3';
    house.policy.joining.add(from);
    const reply = ask(server, 'db', { from });
    setTimeout(() => house.policy.joining.delete(from), 200);
    expect(addresses(await reply)).toEqual(['10.1.0.5']);
    house.policy.joining.add(from);
    expect(addresses(await ask(server, 'late-box.test', { from, ms: 1500 }))).toEqual(['198.51.100.1']);
    expect((await ask(server, 'db', { from })).rcode).toBe('SERVFAIL');
    house.policy.joining.delete(from);
    expect((await ask(server, 'other', { from })).rcode).toBe('NXDOMAIN');
  });

  it('who flood starve nobody else', async () => {
    const flood = Array.from({ length: 400 }, () =>
      overUdp(server, queryFor('fast.test'), { from: '127.9.4.1', ms: 1500 }).then(
        () => 1,
        () => 0,
      ),
    );
    const others = await Promise.all(
      Array.from({ length: 20 }, (_, i) => ask(server, 'fast.test', { from: `127.9.4.${i + 2}`, ms: 1500 })),
    );
    expect(others.every((r) => r.rcode === 'NOERROR')).toBe(true);
    const served = (await Promise.all(flood)).reduce<number>((sum, n) => sum + n, 0);
    expect(served).toBeGreaterThan(40);
    expect(served).toBeLessThan(300);
  });

  it('who send nonsense get FORMERR or nothing', async () => {
    const bad = Buffer.from([0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 0x0c]);
    expect((await overUdp(server, bad, { from: '127.9.5.1' })).readUInt16BE(2) & 15).toBe(1);
    const response = queryFor('fast.test');
    response.writeUInt16BE(0x8180, 2);
    await expect(overUdp(server, response, { from: '127.9.5.1', ms: 150 })).rejects.toThrow('no answer');
  });
});

describe('connections', () => {
  it('answer pipelined queries as they are ready, also after the client has ended its side', async () => {
    const socket = await open('127.9.6.1');
    socket.end(Buffer.concat([framed('slow.test', 1), framed('fast.test', 2), framed('fast.test', 3)]));
    expect(await ids(socket, 3)).toEqual([2, 3, 1]);
  });
  it('take queries in any pieces', async () => {
    const socket = await open('127.9.6.2');
    socket.setNoDelay(true);
    for (const byte of framed('fast.test', 7)) socket.write(Buffer.from([byte]));
    expect(await ids(socket, 1)).toEqual([7]);
  });
  it('are bounded for each asker', async () => {
    const sockets = await Promise.all(Array.from({ length: 70 }, () => open('127.9.6.3')));
    await expect.poll(() => sockets.filter((s) => s.destroyed || s.readableEnded).length).toBe(0);
    for (const s of sockets) s.on('error', () => {}).resume();
    await expect.poll(() => sockets.filter((s) => s.closed).length).toBe(6);
    expect(addresses(await ask(server, 'fast.test', { from: '127.9.6.4', tcp: true }))).toEqual([
      '198.51.100.1',
    ]);
    for (const s of sockets) s.destroy();
  });
});

describe('a restart', () => {
  it('remembers who was told what, and never shortens it', async () => {
    await ask(server, 'fast.test', { from: '127.9.7.1' });
    const before = house.service.members('127.9.7.1');
    expect(before.get('127.9.7.1-v4')?.size).toBe(1);
    // A second service on the same journal, while the first was not closed: as after kill -9.
    const again = house.make();
    expect(again.members('127.9.7.1')).toEqual(before);
    house.policy.allowed.delete('fast.test');
    expect(again.members('127.9.7.1').size).toBe(0);
    house.policy.allowed.set('fast.test', {});
    again[Symbol.dispose]();
  });

  it.each([
    ['ahead', 40 * 86_400_000],
    ['behind', -900 * 86_400_000],
    ['at 1970', -Date.now()],
  ])(
    'after a start with a clock %s, corrected since: none permits an address for longer or shorter',
    async (_, ms) => {
      const at = { address: '127.0.0.54', port: await freePair('127.0.0.54') };
      const other = new House({ upstreams: [up.endpoint] });
      other.policy.allowed.set('fast.test', {});
      const left = (): number =>
        (other.service.members('127.9.7.2').get('127.9.7.2-v4')?.get('198.51.100.1') ?? 0) - other.now();
      other.now = () => Date.now() + ms;
      other.service[Symbol.dispose]();
      other.wallClock = other.now;
      other.service = other.make();
      await other.service.listen(at.address, at.port);
      await ask(at, 'fast.test', { from: '127.9.7.2' });
      const before = left();
      expect(before).toBeGreaterThan(3_600_000);
      other.wallClock = () => Date.now();
      other.service.purge();
      other.service[Symbol.dispose]();
      other.now = () => Date.now();
      other.service = other.make();
      const after = left();
      expect(after).toBeLessThanOrEqual(before + 1000);
      expect(after).toBeGreaterThan(before - 60_000);
      other.close();
    },
  );
});
