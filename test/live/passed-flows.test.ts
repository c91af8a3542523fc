/** What containers have passed is recorded as it was: compared with what has left the host, and with what its servers have answered. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';

const GOOD = 'good.example';
const SHARED = { v4: '93.184.7.1', v6: '2600:9000::7' } as const;
const PORT = 7100;
const NETWORK = '93.184.11.0/24';
const NETWORK6 = '2600:9000:11::/48';
const v4 = (n: number): string => `93.184.11.${n}`;
const v6 = (n: number): string => `2600:9000:11::${n}`;
const [TCP, UDP] = [5, 3];
/** Bytes of the header that the sniffer sees, and conntrack does not count. */
const ETHERNET = 14;

interface Flow {
  readonly container: string;
  readonly verdict: string;
  readonly proto: string;
  readonly address: string;
  readonly port: number;
  readonly name: string | null;
  readonly entry: string | null;
  readonly reason: string;
  readonly packets: number;
  readonly bytes: number;
  readonly count: number;
}

let lab: Lab;
let drawbridge: Drawbridge;
let records: readonly Flow[] = [];
/** Reads what is recorded now. */
async function read(): Promise<void> {
  records = JSON.parse((await drawbridge.get('/v1/flows?limit=9999')).body).items;
}
beforeAll(async () => {
  lab = await Lab.up({});
  await lab.docker('network', 'create', '--ipv6', 'user');
  await lab.dns.set({ [GOOD]: { A: [SHARED.v4], AAAA: [SHARED.v6] } });
  drawbridge = lab.drawbridge({ config: { default: 'observe' } });
  await drawbridge.ready();
}, 120_000);
afterAll(() => lab?.down());

/** Connections and datagrams with an echo, one after the other. Prints how many were answered. */
const PROGRAM = `const net = require('net'), dgram = require('dgram');
const tcp = (host) => new Promise((done) => {
  const s = net.connect(${PORT}, host, () => s.write('x'.repeat(1000)));
  let got = 0;
  s.on('data', (d) => { got += d.length; if (got === 1000) s.end(); });
  s.on('error', () => done(0));
  s.on('close', (failed) => done(failed ? 0 : 1));
});
const udp = (host) => new Promise((done) => {
  const s = dgram.createSocket(host.includes(':') ? 'udp6' : 'udp4');
  const end = (n) => { s.close(); done(n); };
  s.on('message', () => end(1));
  s.on('error', () => end(0));
  s.connect(${PORT}, host, () => s.send('y'.repeat(100)));
});
(async () => {
  const answered = {};
  for (const host of process.argv.slice(1)) {
    answered[host] = 0;
    for (let n = 0; n < ${TCP}; n++) answered[host] += await tcp(host);
    for (let n = 0; n < ${UDP}; n++) answered[host] += await udp(host);
  }
  console.log(JSON.stringify(answered));
})();`;
async function exchange(c: Container, ...hosts: string[]): Promise<Readonly<Record<string, number>>> {
  const { stdout } = await c.exec(['node', '-e', PROGRAM, ...hosts], { check: true, timeoutMs: 30_000 });
  return JSON.parse(stdout);
}

const PASSED: readonly string[] = ['allow', 'would-deny'];
/** The kernel reports each flow that it forgets. */
const endFlows = () => lab.inHost(['conntrack', '-F'], { check: true });
const passed = (container: string, address: string, proto?: string): readonly Flow[] =>
  records.filter(
    (e) =>
      PASSED.includes(e.verdict) &&
      e.container === container &&
      e.address === address &&
      (proto === undefined || e.proto === proto),
  );
const sum = (of: readonly Flow[], what: 'packets' | 'bytes' | 'count'): number =>
  of.reduce((all, e) => all + e[what], 0);
const recorded = (of: readonly Flow[]) => ({
  packets: sum(of, 'packets'),
  bytes: sum(of, 'bytes'),
  count: sum(of, 'count'),
});

/** What the sniffer has seen of one destination, in both directions. */
async function sniffed(address: string, proto: string, port = PORT) {
  const [out, back] = [
    await lab.sniffer.packets({ direction: 'out', dst: address, proto, dport: port }),
    await lab.sniffer.packets({ direction: 'in', src: address, proto, sport: port }),
  ];
  const packets = [...out, ...back];
  const bytes = packets.reduce((all, p) => all + p.length - ETHERNET, 0);
  const sources = new Set(out.map((p) => p.sport));
  return { packets: packets.length, bytes, count: sources.size };
}

it('each connection, with its packets and bytes, in every mode', async () => {
  const allow = { 'drawbridge.allow': `${NETWORK}, ${NETWORK6}` };
  const [enforced, observed, off, hosted] = await Promise.all([
    lab.start({
      name: 'enforced',
      network: 'user',
      labels: { 'drawbridge.allow': `${NETWORK}, ${NETWORK6}, ${GOOD}` },
    }),
    lab.start({ name: 'observed', network: 'user' }),
    lab.start({ name: 'off', network: 'user', labels: { 'drawbridge.mode': 'off' } }),
    lab.start({ name: 'hosted', network: 'host', labels: allow, mounts: await lab.nodeMounts() }),
  ]);
  // the record begins a moment after the service is ready
  await waitFor('the record to begin', async () => {
    await observed.probe('udp', v4(250), PORT);
    await endFlows();
    await read();
    return sum(passed('observed', v4(250)), 'count') > 0;
  });
  const sides = [enforced, observed, off, hosted].map((c, i) => ({ c, hosts: [v4(i + 1), v6(i + 1)] }));
  const answers = await Promise.all(sides.map(({ c, hosts }) => exchange(c, ...hosts)));
  for (const [i, { hosts }] of sides.entries())
    for (const host of hosts) expect(answers[i]?.[host]).toBe(TCP + UDP);
  // neither of these is allowed: the first is denied before it begins, the second one by its name
  expect(await enforced.probe('tcp', '93.184.12.1', PORT, 'x')).toMatchObject({ ok: false });
  await enforced.probe('udp', '93.184.12.1', PORT);
  expect(await enforced.probe('http', `https://${GOOD}/`, '--sni', 'evil.example')).toMatchObject({
    ok: false,
  });
  await lab.sniffer.settle();
  await endFlows();
  for (const { c, hosts } of sides)
    for (const host of hosts)
      for (const [proto, count] of [
        ['tcp', TCP],
        ['udp', UDP],
      ] as const) {
        await waitFor(`${c.name} ${host} ${proto}`, async () => {
          await read();
          return sum(passed(c.name, host, proto), 'count') >= count;
        });
        const seen = await sniffed(host, proto);
        expect({ c: c.name, host, proto, ...recorded(passed(c.name, host, proto)) }).toEqual({
          c: c.name,
          host,
          proto,
          ...seen,
        });
        expect(seen.count).toBe(count);
      }
  const [entry4, entry6] = [NETWORK, NETWORK6];
  expect(new Set(passed('enforced', v4(1)).map((e) => e.entry))).toEqual(new Set([entry4]));
  expect(new Set(passed('hosted', v6(4)).map((e) => e.entry))).toEqual(new Set([entry6]));
  for (const e of passed('observed', v4(2)))
    expect([e.verdict, e.entry, e.reason]).toEqual([
      'would-deny',
      null,
      'no entry permits it (observed, so it passed)',
    ]);
  for (const e of passed('off', v6(3))) expect(e.reason).toMatch(/mode off/);
  expect(records.filter((e) => e.address === '93.184.12.1').map((e) => e.verdict)).toContain('deny');
  expect(passed('enforced', '93.184.12.1')).toEqual([]);
  expect([...passed('enforced', SHARED.v4), ...passed('enforced', SHARED.v6)]).toEqual([]);
  // what the host itself sends is no container's
  expect(
    records.filter((e) => PASSED.includes(e.verdict) && !sides.some(({ c }) => c.name === e.container)),
  ).toEqual([]);
});

it('an open connection is recorded with the name that it has asked for; DNS to Drawbridge is not', async () => {
  const c = await lab.start({ name: 'named', network: 'user', labels: { 'drawbridge.allow': GOOD } });
  for (let n = 0; n < 3; n++) expect(await c.probe('http', `https://${GOOD}/`)).toMatchObject({ ok: true });
  await endFlows();
  const toSite = () => [...passed('named', SHARED.v4), ...passed('named', SHARED.v6)];
  await waitFor('the connections', async () => {
    await read();
    return sum(toSite(), 'count') >= 3;
  });
  expect(sum(toSite(), 'count')).toBe(3);
  for (const e of toSite()) expect(e).toMatchObject({ name: GOOD, entry: GOOD, port: 443 });
  expect(records.filter((e) => e.container === 'named' && e.verdict === 'allow' && e.port === 53)).toEqual(
    [],
  );
});

it('a connection that others open to a container is none of its own', async () => {
  const program = `require('net').createServer((s) => s.pipe(s)).listen(8085, '::')`;
  const c = await lab.start({
    name: 'server',
    network: 'user',
    args: ['-p', '8085:8085'],
    cmd: ['node', '-e', program],
  });
  await waitFor('the server', async () => (await lab.probeFromNet('tcp', '192.0.2.2', '8085', 'x')).ok);
  await c.probe('tcp', v4(9), PORT, 'x');
  await endFlows();
  await waitFor('its own connection', async () => {
    await read();
    return sum(passed('server', v4(9)), 'count') > 0;
  });
  expect(records.filter((e) => e.container === 'server' && e.address !== v4(9))).toEqual([]);
});

it('a name that reads as another destination is suggested as the address that it led to', async () => {
  const lie = v4(19);
  await lab.dns.set({ any: { A: [lie] } });
  const c = await lab.start({ name: 'liar', network: 'user' });
  expect(await exchange(c, 'any')).toEqual({ any: TCP + UDP });
  await endFlows();
  await waitFor('its connections', async () => {
    await read();
    return sum(passed('liar', lie), 'count') >= TCP + UDP;
  });
  // the control: they are recorded by the name
  expect(passed('liar', lie).map(({ name }) => name)).toContain('any');
  const { stdout } = await drawbridge.cli(['suggest', 'liar', '--json'], { check: true });
  const { entries } = JSON.parse(stdout) as { readonly entries: readonly { readonly entry: string }[] };
  expect(entries.map(({ entry }) => entry)).toEqual([`${lie}:${PORT}/tcp+udp`]);
});

it('an address that only a resolver of the container gave for a permitted name is recorded and suggested as that', async () => {
  const planted = v4(66);
  const bytes = planted.split('.').join(',');
  // Answers each query with this address.
  const resolver = `const s = require('dgram').createSocket('udp4');
s.on('message', (q, from) => {
  const answer = Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, ${bytes}]);
  const question = q.subarray(12, q.indexOf(0, 12) + 5);
  const head = Buffer.from([q[0], q[1], 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
  s.send(Buffer.concat([head, question, answer]), from.port, from.address);
}).bind(53)`;
  const accomplice = await lab.start({ name: 'accomplice', network: 'user', cmd: ['node', '-e', resolver] });
  const labels = { 'drawbridge.mode': 'observe', 'drawbridge.allow': `${GOOD}:${PORT}` };
  const c = await lab.start({ name: 'planter', network: 'user', labels });
  const { ip4 } = await accomplice.addresses();
  const program = `const { Resolver } = require('dns').promises, net = require('net');
const by = async (...servers) => {
  const resolver = new Resolver();
  if (servers.length > 0) resolver.setServers(servers);
  const [address] = await resolver.resolve4('${GOOD}');
  await new Promise((done) => net.connect(${PORT}, address, function () { this.end(done); }).on('error', done));
  return address;
};
by('${ip4}').then(async (planted) => console.log(JSON.stringify([planted, await by()])));`;
  const { stdout } = await c.exec(['node', '-e', program], { check: true, timeoutMs: 30_000 });
  expect(JSON.parse(stdout)).toEqual([planted, SHARED.v4]);
  await endFlows();
  await waitFor('its connections', async () => {
    await read();
    return [planted, SHARED.v4].every((address) => sum(passed('planter', address), 'count') > 0);
  });
  for (const e of passed('planter', planted))
    expect(e).toMatchObject({ verdict: 'would-deny', name: GOOD, entry: null });
  expect(passed('planter', planted)[0]?.reason).toMatch(/^only a resolver of the container itself/);
  // the control: the address that Drawbridge's resolver gives for the same name
  expect(passed('planter', SHARED.v4)).toMatchObject([{ verdict: 'allow', entry: `${GOOD}:${PORT}` }]);
  const suggested = await drawbridge.cli(['suggest', 'planter', '--json'], { check: true });
  const { entries, left } = JSON.parse(suggested.stdout) as {
    readonly entries: readonly { readonly entry: string }[];
    readonly left: readonly { readonly entry: string; readonly why: string }[];
  };
  expect(entries.map(({ entry }) => entry)).toEqual([`${GOOD}:${PORT}`]);
  expect(left).toContainEqual(
    expect.objectContaining({ entry: `${planted}:${PORT}`, why: expect.stringContaining(`used as ${GOOD}`) }),
  );
  const { body } = await drawbridge.get('/v1/containers/planter/preview');
  const { destinations } = JSON.parse(body) as { readonly destinations: readonly Flow[] };
  expect(destinations.filter(({ port }) => port === PORT)).toMatchObject([
    { entry: `${planted}:${PORT}`, name: GOOD, address: planted },
  ]);
});

it('a denial that waits for a neighbour which may come back is recorded when the service ends', async () => {
  await lab.docker('rm', '-f', 'server');
  await waitFor(
    'the neighbour to be gone',
    async () => !/^server\b/m.test((await drawbridge.cli(['ps'], { check: true })).stdout),
  );
  await lab.exec('liar', ['nslookup', 'server']);
  await drawbridge.restart();
  await waitFor('the denial', async () => {
    await read();
    return records.some((e) => e.container === 'liar' && e.proto === 'dns' && e.name === 'server');
  });
});
