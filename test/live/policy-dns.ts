/** Names under attack and under load: every resolver that a container could ask, and answers of every shape. */
import { expect, it } from 'vitest';
import type { shownHere } from '../attacks/report.js';
import type { Container } from '../lab/container.js';
import { waitFor } from '../lab/process.js';
import type { NameRule } from '../lab/zone.js';
import { execInside, withInside } from './inside.js';
import type { Place } from './policy-suite.js';
import { inParallel } from './support.js';

const RESOLVERS = ['127.0.0.11', '8.8.8.8', '1.1.1.1', '198.51.100.53', '2001:4860:4860::8888', '192.0.2.2'];
const REQUESTS = 200;
const many = (base: string, count: number): string[] =>
  Array.from({ length: count }, (_, i) => `${base}.${i + 1}`);

const SHAPES: Readonly<Record<string, NameRule>> = {
  'rotating.dns.test': { A: many('93.184.40', 40), ttl: 1, rotate: 2 },
  'eighty.dns.test': { A: many('93.184.41', 80) },
  'chain.dns.test': { CNAME: 'two.dns.test' },
  'two.dns.test': { CNAME: 'three.elsewhere.test' },
  'three.elsewhere.test': { CNAME: 'end.cdn.test' },
  'end.cdn.test': { A: ['93.184.42.1'] },
  'zero.dns.test': { A: many('93.184.43', 20), ttl: 0, rotate: 1 },
  'truncated.dns.test': { A: many('93.184.44', 3), truncate: true },
  'hidden.dns.test': { A: ['93.184.45.1'] },
};
const ALLOW = 'rotating.dns.test, eighty.dns.test, chain.dns.test, zero.dns.test, truncated.dns.test';

interface Scan {
  readonly udp: Readonly<Record<string, number>>;
  readonly tcp: Readonly<Record<string, number | string>>;
}

/** Until our resolver stands inside: before that is said in coverage. */
async function settled(place: Place, name: string): Promise<void> {
  if (place.dns === 'direct' || place.network === 'bridge') return;
  const shown = async (): Promise<boolean> =>
    (await place.drawbridge().get(`/v1/containers/${name}`)).body.includes('first milliseconds');
  await waitFor('a resolver inside the container', shown);
}

/** Asks all resolvers for `name`, over UDP and TCP: "SERVER PROTO" to the answer's code or the error. */
async function askAll(container: Container, name: string, gateway: string) {
  const asks = [...RESOLVERS, gateway].flatMap((server) =>
    ['udp', 'tcp'].map((proto) => ({ server, proto })),
  );
  const answers = await inParallel(3, asks, async ({ server, proto }) => {
    const { rcode, code } = await container.probe('dns', server, name, 'A', proto, '--timeout', 10_000);
    return [`${server} ${proto}`, rcode ?? code] as const;
  });
  return Object.fromEntries(answers);
}

export interface Rotation {
  readonly failures: readonly string[];
  readonly places: number;
}
/** Requests for a rotating name, with a pause after each: begins once Drawbridge is ready, and goes on beside other tests. */
export async function rotate(place: Place): Promise<Rotation> {
  const { lab, network } = place;
  await lab.dns.set(SHAPES);
  const c = await lab.start(withInside({ network, labels: { 'drawbridge.allow': ALLOW } }));
  await settled(place, c.name);
  const rotation = await execInside<Rotation>(c, 'repeat', 'http://rotating.dns.test/', REQUESTS, 40);
  await c.remove();
  return rotation;
}

export function dnsTests(
  where: () => Place,
  rotation: () => Promise<Rotation>,
  shown?: ReturnType<typeof shownHere>,
): void {
  const spec = (allow: string) => ({ network: where().network, labels: { 'drawbridge.allow': allow } });

  it(`a rotating name never fails in ${REQUESTS} requests`, async () => {
    const r = await rotation();
    expect(r.failures).toEqual([]);
    expect(r.places).toBeGreaterThan(6);
  });

  it('80 addresses, aliases, TTL 0 and truncated answers', async () => {
    const { lab } = where();
    const c = await lab.start(withInside(spec(ALLOW)));
    await settled(where(), c.name);
    const each = (name: string) => execInside(c, 'each', name, 80);
    expect(await each('eighty.dns.test')).toEqual({ addresses: 80, outcomes: ['ok'] });
    expect(await each('chain.dns.test')).toEqual({ addresses: 1, outcomes: ['ok'] });
    expect(await each('truncated.dns.test')).toEqual({ addresses: 3, outcomes: ['ok'] });
    const zero = await execInside<{ failures: string[] }>(c, 'repeat', 'http://zero.dns.test/', 20, 0);
    expect(zero).toEqual({ failures: [], places: 20 });
    // the names inside the chain were not asked for: they stay denied, and are never asked
    await lab.dns.clearLog();
    expect(await c.probe('http', 'http://two.dns.test/')).toMatchObject({ code: 'ENOTFOUND' });
    expect(await lab.dns.queries('two.dns.test')).toEqual([]);
    await c.remove();
  });

  it('names, aliases and services of its own networks resolve; others do not', async () => {
    const { lab, network, inside } = where();
    if (network === 'bridge') return; // Docker has no names there
    const { ip4, ip6 } = inside().db;
    const id = (await lab.docker('inspect', '-f', '{{.Id}}', 'db')).slice(0, 12);
    await lab.docker('network', 'create', 'elsewhere');
    const far = await lab.start({ network: 'elsewhere', name: 'far' });
    const c = await lab.start(spec('93.184.1.1:80'));
    await settled(where(), c.name);
    for (const name of ['db', 'DB', 'store', 'database', id, 'db.user']) {
      const [a, aaaa] = [
        await c.probe('dns', '127.0.0.11', name, 'A'),
        await c.probe('dns', '127.0.0.11', name, 'AAAA'),
      ];
      expect({ name, a: a.addresses, aaaa: aaaa.addresses }).toEqual({ name, a: [ip4], aaaa: [ip6] });
    }
    expect(await c.probe('dns', '127.0.0.11', 'far', 'A')).toMatchObject({ rcode: 'NXDOMAIN' });
    await lab.docker('network', 'connect', '--alias', 'joined', 'user', 'far');
    const joined = (await far.addresses('user')).ip4;
    await waitFor('the name of one who joined', async () =>
      (await c.probe('dns', '127.0.0.11', 'joined', 'A')).addresses?.includes(joined),
    );
    for (const each of [c, far]) await each.remove();
  });

  it('a denied name is asked of nobody, whichever resolver the container asks', async () => {
    const place = where();
    const { lab } = place;
    const c = await lab.start(withInside(spec('93.184.1.1:80')));
    await settled(place, c.name);
    const { gateway } = await c.addresses();
    await lab.dns.clearLog();
    const stub = (await lab.stub.queries()).length;
    const answers = await askAll(c, 'hidden.dns.test', gateway);
    await c.probe('http', 'http://hidden.dns.test/'); // by getaddrinfo
    const nothingAt11 = place.network === 'bridge' ? ['127.0.0.11 udp', '127.0.0.11 tcp'] : [];
    const expected = Object.keys(answers).map((k) => [
      k,
      nothingAt11.includes(k) ? 'ECONNREFUSED' : 'NXDOMAIN',
    ]);
    expect(answers).toEqual(Object.fromEntries(expected));
    if (place.network === 'user' && shown) {
      const found = await execInside<Scan>(c, 'scan', '127.0.0.11', 'hidden.dns.test');
      expect(Object.values(found.udp).every((code) => code === 3)).toBe(true);
      expect(Object.values(found.tcp).every((code) => code === 3)).toBe(true);
      expect(Object.keys(found.udp)).toContain('53');
      expect(Object.keys(found.tcp)).toContain('53');
    }
    expect(await lab.dns.queries('hidden.dns.test')).toEqual([]);
    if (place.network === 'user') shown?.held();
    expect((await lab.stub.queries()).length).toBe(stub);
    await c.remove();
  });

  it('control: a container in mode off asks the same, and is heard', async () => {
    const place = where();
    const { lab, network } = place;
    const c = await lab.start(withInside({ network, labels: { 'drawbridge.mode': 'off' } }));
    await lab.dns.clearLog();
    const answers = await askAll(c, 'hidden.dns.test', '8.8.4.4');
    expect(answers['8.8.8.8 udp']).toBe('NOERROR');
    expect(answers['2001:4860:4860::8888 tcp']).toBe('NOERROR');
    expect((await lab.dns.queries('hidden.dns.test')).length).toBeGreaterThan(6);
    if (network === 'user' && shown) {
      await lab.dns.clearLog();
      const found = await execInside<Scan>(c, 'scan', '127.0.0.11', 'hidden.dns.test');
      // Docker's own port answers beside 53, and asks for it
      expect(Object.values(found.udp).filter((code) => code === 0).length).toBeGreaterThan(1);
      expect(Object.values(found.tcp).filter((code) => code === 0).length).toBeGreaterThan(1);
      expect((await lab.dns.queries('hidden.dns.test')).length).toBeGreaterThan(0);
      shown.control();
    }
    await c.remove();
  });
}
