/**
 * Figures, compared with the wire. What containers talk to in MIX seconds (default 12; `npm run soak -- test/live/flow-mix.test.ts`: ten minutes) is in the record as it was
 * on the wire: each destination, its connections, packets and bytes; nothing else is. Containers of all modes and networks and short-lived
 * ones open connections that end, last, are reset or refused. SEED repeats a run.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import type { Packet } from '../lab/pcap.js';
import { run, waitFor } from '../lab/process.js';
import { cryptoFrame, helloMessage, initialPacket, serverNames } from '../pure/connections/hello-maker.js';
import {
  apiFigures,
  everyFigure,
  expected,
  expectedOfApi,
  type Figures,
  FlowEvents,
  flowsOf,
  metricsOf,
  observedFigures,
  shownOf,
  verdictsOf,
} from './figures.js';

const SECONDS = Number(process.env.MIX ?? 12);
const SEED = Number(process.env.SEED ?? 1);
const ECHO = 7100;
/** Sends a line every 100 ms. */
const LINES = 19;
/** SNTP: one answer. */
const TIME = 123;
/** Refused by its host. */
const CLOSED = 1;
/** Bytes of the header that the sniffer sees, and conntrack does not count. */
const ETHERNET = 14;
/** One network for each container, so that what is on the wire has an owner. */
const net4 = (n: number): string => `93.184.${100 + n}`;
const net6 = (n: number): string => `2600:9000:${100 + n}:`;
const DENIED = ['93.184.99.1', '2600:9000:99::1'];
const site = (n: number): string => `site-${n}.example`;
const SITES = 3;
const [NAMED, HOSTED, SHORT] = [3, 4, 5];

/** A mix of everything for so many seconds, from ports of its own. Prints how many connections and datagrams were tried. */
const PROGRAM = `const net = require('net'), dgram = require('dgram'), tls = require('tls');
const [seed, seconds, n4, n6, first, sites] = process.argv.slice(1);
let state = Number(seed);
const random = (n) => { state = (Math.imul(state, 1103515245) + 12345) >>> 0; return Math.floor((state / 2 ** 32) * n); };
let next = Number(first), tried = 0;
const until = Date.now() + Number(seconds) * 1000;
const sleep = (ms) => new Promise((r) => setTimeout(r, ms));
const place = () => { const n = 1 + random(6); return random(2) ? n4 + '.' + n : n6 + ':' + n; };
const tcp = (host, port, size, end) => new Promise((done) => {
  tried++;
  const s = net.connect({ host, port, localPort: next++ });
  let got = 0;
  s.on('connect', () => { if (size) s.write(Buffer.alloc(size, 'x')); else end(s); });
  s.on('data', (d) => { got += d.length; if (size && got >= size) end(s); });
  s.on('error', () => {});
  s.on('close', done);
});
const udp = (host, port, size, count) => new Promise((done) => {
  tried++;
  const s = dgram.createSocket(host.includes(':') ? 'udp6' : 'udp4');
  let got = 0;
  const end = () => { clearTimeout(late); s.close(done); };
  const late = setTimeout(end, 3000);
  s.on('message', () => { if (++got >= count) end(); else if (port === ${ECHO}) s.send(Buffer.alloc(size), port, host); });
  s.on('error', end);
  s.bind(next++, () => s.send(Buffer.alloc(size), port, host));
});
const page = (name) => new Promise((done) => {
  tried++;
  const s = tls.connect({ host: name, port: 443, servername: name, rejectUnauthorized: false, localPort: next++ });
  s.on('secureConnect', () => s.end('GET / HTTP/1.0\\r\\n\\r\\n'));
  s.on('data', () => {});
  s.on('error', () => {});
  s.on('close', done);
});
const kinds = [
  () => tcp(place(), ${ECHO}, 1 + random(3000), (s) => s.end()),
  () => tcp(place(), ${ECHO}, 100000, (s) => s.end()),
  () => tcp(place(), ${ECHO}, 200, (s) => s.resetAndDestroy()),
  () => tcp(place(), ${LINES}, 0, (s) => setTimeout(() => s.end(), 300 + random(2000))),
  () => tcp(place(), ${CLOSED}, 0, (s) => s.end()),
  () => udp(place(), ${ECHO}, 1 + random(1200), 1 + random(3)),
  () => udp(place(), ${TIME}, 48, 1),
  ...(sites > 0 ? [() => page('site-' + random(sites) + '.example')] : []),
];
const loop = async () => {
  while (Date.now() < until) {
    await kinds[random(kinds.length)]();
    await sleep(20 + random(200));
  }
};
(async () => {
  // one that is open all the time
  const open = net.connect({ host: n4 + '.7', port: ${ECHO}, localPort: next++ });
  open.on('error', () => {});
  const beat = setInterval(() => open.write('beat'), 500);
  await Promise.all([loop(), loop(), loop()]);
  clearInterval(beat);
  open.end();
  await new Promise((r) => { open.on('close', r); open.resume(); });
  const snmp = require('fs').readFileSync('/proc/self/net/snmp', 'utf8').split('\\n').filter((l) => l.startsWith('Tcp:')).map((l) => l.split(' '));
  console.log(JSON.stringify([tried + 1, Number(snmp[1][snmp[0].indexOf('RetransSegs')])]));
})();`;

interface Flow {
  readonly container: string;
  readonly verdict: string;
  readonly proto: string;
  readonly address: string | null;
  readonly port: number | null;
  readonly name: string | null;
  readonly packets: number;
  readonly bytes: number;
  readonly count: number;
}
/** Connections and datagrams that a program has tried, and segments that its namespace has sent again. */
type Ran = readonly [tried: number, again: number];
interface Counts {
  packets: number;
  bytes: number;
  count: number;
}

let lab: Lab;
let drawbridge: Drawbridge;
beforeAll(async () => {
  lab = await Lab.up({});
  await lab.docker('network', 'create', '--ipv6', 'user');
  await lab.dns.set(
    Object.fromEntries(
      Array.from({ length: SITES }, (_, n) => [
        site(n),
        { A: [`${net4(NAMED)}.${20 + n}`], AAAA: [`${net6(NAMED)}:${20 + n}`] },
      ]),
    ),
  );
  drawbridge = lab.drawbridge({ config: { default: 'observe' } });
  await drawbridge.ready();
}, 120_000);
afterAll(() => lab?.down());

/** What passes is recorded from some time after the start on. */
const begun = (): Promise<true> =>
  waitFor(
    'the record to begin',
    async () => JSON.parse((await drawbridge.get('/v1/flows?limit=1')).body).recordedUntil !== null,
  );

async function flows(): Promise<readonly Flow[]> {
  const all: Flow[] = [];
  let after = '';
  do {
    const page = JSON.parse((await drawbridge.get(`/v1/flows?limit=5000${after}`)).body);
    all.push(...page.items);
    after = page.next ? `&cursor=${encodeURIComponent(page.next)}` : '';
  } while (after !== '');
  return all;
}

function add(to: Map<string, Counts>, key: string, more: Counts): void {
  const sum = to.get(key) ?? { packets: 0, bytes: 0, count: 0 };
  to.set(key, {
    packets: sum.packets + more.packets,
    bytes: sum.bytes + more.bytes,
    count: sum.count + more.count,
  });
}
const sorted = (of: ReadonlyMap<string, Counts>): Readonly<Record<string, Counts>> =>
  Object.fromEntries([...of].sort(([a], [b]) => (a < b ? -1 : 1)));

/**
 * Segments that were sent again, by all processes of a network namespace (RFC 4022, tcpRetransSegs). If they carry what was acknowledged
 * already, conntrack accepts them and does not count them (nf_conntrack_proto_tcp.c, NFCT_TCP_IGNORE).
 */
const sentAgain = (snmp: string): number => {
  const [names = '', values = ''] = snmp.split('\n').filter((line) => line.startsWith('Tcp:'));
  return Number(values.split(' ')[names.split(' ').indexOf('RetransSegs')]);
};
const sentAgainIn = async (netns: 'Net' | 'Host'): Promise<number> =>
  sentAgain((await lab[`in${netns}`](['cat', '/proc/net/snmp'], { check: true })).stdout);

const upTo = (n: number): number[] => Array.from({ length: n + 1 }, (_, i) => i);

/** What has passed the wire between the containers and their networks, by destination. */
function onWire(packets: readonly Packet[], isOurs: (address: string) => boolean): Map<string, Counts> {
  const seen = new Map<string, Counts>();
  const ports = new Set<string>();
  for (const p of packets) {
    const [address, port, own] =
      p.direction === 'out' ? [p.dst, p.dport, p.sport] : [p.src, p.sport, p.dport];
    if (!isOurs(address) || (p.proto !== 'tcp' && p.proto !== 'udp')) continue;
    const key = `${p.proto} ${address} ${port}`;
    const flow = `${key} ${own}`;
    add(seen, key, { packets: 1, bytes: p.length - ETHERNET, count: ports.has(flow) ? 0 : 1 });
    ports.add(flow);
  }
  return seen;
}

/** Real clients of node, and an Initial packet of QUIC: each way a quarter of the connections, by IPv4 and IPv6. Prints how many were answered. */
const PERMITTED = `const http = require('http'), https = require('https'), net = require('net'), dgram = require('dgram');
const { site, site4, site6, address4, address6, initial, count } = JSON.parse(process.argv[1]);
const page = (client, port, family) => new Promise((done) => {
  client.get({ host: site, port, family, agent: false, rejectUnauthorized: false }, (answer) => {
    answer.resume().on('end', () => done(answer.statusCode === 200 ? 1 : 0));
  }).on('error', () => done(0));
});
const echo = (host) => new Promise((done) => {
  const s = net.connect(${ECHO}, host, () => s.write('x'));
  s.on('data', () => s.end()).on('error', () => done(0)).on('close', (failed) => done(failed ? 0 : 1));
});
// a port of its own each: two with the same random port are one connection
const quic = (host, port) => new Promise((done) => {
  const s = dgram.createSocket(host.includes(':') ? 'udp6' : 'udp4');
  const end = (n) => { clearTimeout(late); s.close(() => done(n)); };
  const late = setTimeout(end, 5000, 0);
  s.on('message', () => end(1)).on('error', () => end(0));
  s.bind(port, () => s.send(Buffer.from(initial, 'hex'), 443, host));
});
(async () => {
  let answered = 0;
  for (let n = 0; n < count / 4; n++) {
    const family = n % 2 === 0 ? 4 : 6;
    answered += await page(http, 80, family);
    answered += await page(https, 443, family);
    answered += await echo(family === 4 ? address4 : address6);
    answered += await quic(family === 4 ? site4 : site6, 20_000 + n);
  }
  console.log(answered);
})();`;
/** Prints how many were refused. */
const REFUSED = `const net = require('net'), tls = require('tls'), dns = require('dns'), dgram = require('dgram');
const { how, count, site, address, other, sharedBy, initial } = JSON.parse(process.argv[1]);
const ways = {
  name: (n) => new Promise((done) => dns.lookup('n' + n + '.' + other, (e) => done(e ? 1 : 0))),
  address: () => new Promise((done) => net.connect(${ECHO}, address).on('error', () => done(1)).on('connect', () => done(0))),
  'server name': () => new Promise((done) => {
    tls.connect({ host: site, port: 443, servername: other, rejectUnauthorized: false })
      .on('secureConnect', () => done(0)).on('error', () => done(1));
  }),
  quic: () => new Promise((done) => {
    const s = dgram.createSocket('udp4');
    const end = (n) => { clearTimeout(late); s.close(() => done(n)); };
    const late = setTimeout(end, 300, 1);
    s.on('message', () => end(0)).on('error', () => end(1));
    s.connect(443, sharedBy, () => s.send(Buffer.from(initial, 'hex')));
  }),
};
(async () => {
  let refused = 0;
  for (let n = 0; n < count; n++) refused += await ways[how](n);
  console.log(refused);
})();`;
const COUNT = 100;
const DROPPED = 'drawbridge_records_dropped_total';
const told = async (c: Container, program: string, more: object): Promise<number> =>
  Number(
    (
      await c.exec(['node', '-e', program, JSON.stringify({ count: COUNT, ...more })], {
        check: true,
        timeoutMs: 60_000,
      })
    ).stdout,
  );

/** Whether the rule that ships fires when the metrics go from one reading to the other. */
async function firesOf(
  alert: string,
  before: Readonly<Record<string, number>>,
  after: typeof before,
): Promise<boolean> {
  const folder = await mkdtemp(join(tmpdir(), 'drawbridge-alert-'));
  try {
    const rules = join(import.meta.dirname, '../../docs/monitoring/alerts.yml');
    const series = Object.keys(after).filter((s) => s.startsWith(DROPPED));
    expect(series).not.toEqual([]);
    const input = series.map((s) => ({ series: s, values: `${before[s] ?? 0}x5 ${after[s]}x5` }));
    const file = join(folder, 'test.yml');
    const check = { eval_time: '10m', alertname: alert, exp_alerts: [] };
    const tests = [{ interval: '1m', input_series: input, alert_rule_test: [check] }];
    await writeFile(file, JSON.stringify({ rule_files: [rules], tests }));
    const { code, stdout, stderr } = await run(['promtool', 'test', 'rules', file]);
    if (code !== 0) expect(`${stdout}${stderr}`).toContain(alert);
    return code !== 0;
  } finally {
    await rm(folder, { recursive: true });
  }
}

it.each(['enforce', 'observe'])(
  `in mode %s, ${COUNT} permitted connections are ${COUNT} allowed`,
  async (mode) => {
    const [n, site] = mode === 'enforce' ? [130, 'held.example'] : [131, 'seen.example'];
    const [site4, address4, site6, address6] = [
      `${net4(n - 100)}.1`,
      `${net4(n - 100)}.2`,
      `2600:9000:${n}::1`,
      `2600:9000:${n}::2`,
    ];
    await lab.dns.set({ [site]: { A: [site4], AAAA: [site6] } });
    const labels = {
      'drawbridge.mode': mode,
      'drawbridge.allow': `${site}, ${address4}:${ECHO}, [${address6}]:${ECHO}`,
    };
    const c = await lab.start({ name: `permitted-${mode}`, network: 'user', labels });
    await begun();
    const [before, cursor] = [await metricsOf(drawbridge), await lab.sniffer.settle()];
    const frames = cryptoFrame(0, helloMessage(serverNames(site)));
    const initial = initialPacket({ dcid: Buffer.alloc(8, n), frames }).toString('hex');
    expect(await told(c, PERMITTED, { site, site4, site6, address4, address6, initial })).toBe(COUNT);
    const sent = await lab.sniffer.packets({
      after: cursor,
      direction: 'out',
      dst: [site4, address4, site6, address6],
    });
    expect(new Set(sent.map((p) => `${p.proto} ${p.dst} ${p.dport} ${p.sport}`)).size).toBe(COUNT);
    await waitFor('the connections', async () => (await shownOf(drawbridge, c.name)).allowed >= COUNT);
    expect(await everyFigure(drawbridge, c.name)).toEqual(
      expected({ allow: COUNT, deny: 0, 'would-deny': 0 }),
    );
    const { entries } = await shownOf(drawbridge, c.name);
    expect(Object.fromEntries(entries.map((e) => [e.entry, e.count]))).toEqual({
      [site]: (3 * COUNT) / 4,
      [`${address4}:${ECHO}`]: Math.ceil(COUNT / 8),
      [`[${address6}]:${ECHO}`]: Math.floor(COUNT / 8),
    });
    const after = await metricsOf(drawbridge);
    const grown = Object.keys(after).filter((key) =>
      /^drawbridge_(flows|denials|records_dropped|connections_refused)/.test(key),
    );
    expect(
      Object.fromEntries(
        grown.map((key) => [key, (after[key] ?? 0) - (before[key] ?? 0)]).filter(([, by]) => by !== 0),
      ),
    ).toEqual({
      'drawbridge_flows_total{verdict="allow"}': COUNT,
    });
    expect(await firesOf('DrawbridgeRecordsDropped', before, after)).toBe(false);
    await c.remove();
  },
);

it(
  `${SECONDS} s of a mix, seed ${SEED}: the record is what was on the wire`,
  async () => {
    const networks = (n: number): string => `${net4(n)}.0/24, ${net6(n)}:/48`;
    const label = (allow: string) => ({ 'drawbridge.allow': allow });
    const mounts = await lab.nodeMounts();
    const containers = await Promise.all([
      lab.start({ name: 'enforced', network: 'user', labels: label(networks(0)) }),
      lab.start({ name: 'observed', network: 'user' }),
      lab.start({ name: 'off', network: 'user', labels: { 'drawbridge.mode': 'off' } }),
      lab.start({
        name: 'named',
        network: 'user',
        labels: label([networks(NAMED), ...Array.from({ length: SITES }, (_, n) => site(n))].join(', ')),
      }),
      lab.start({ name: 'hosted', network: 'host', mounts, labels: label(networks(HOSTED)) }),
    ]);
    await begun();
    await lab.sniffer.clear();
    const before = new Map<string, Figures>();
    for (const { name } of containers) before.set(name, verdictsOf(await flowsOf(drawbridge, name)));
    const metricsBefore = await metricsOf(drawbridge);
    await using events = await FlowEvents.of(drawbridge);
    const [servers, host] = [await sentAgainIn('Net'), await sentAgainIn('Host')];
    const argv = (n: number, seconds: number, first: number): string[] =>
      ['node', '-e', PROGRAM, SEED * 100 + n, seconds, net4(n), net6(n), first, n === NAMED ? SITES : 0].map(
        String,
      );
    const timeoutMs = SECONDS * 1000 + 60_000;
    const run = async (c: Container, n: number): Promise<Ran> => {
      // a port of the container in the host's network may be one of the host's own programs
      const argvOf = argv(n, SECONDS, n === HOSTED ? 20_000 : 10_000);
      return JSON.parse((await c.exec(argvOf, { check: true, timeoutMs })).stdout);
    };
    const attempts = new Map<string, number>();
    /** What they try is denied; nothing of it may be on the wire, or in the record as passed. */
    const tryDenied = async (): Promise<void> => {
      for (const end = Date.now() + SECONDS * 1000; Date.now() < end; )
        for (const c of [containers[0], containers[HOSTED]] as Container[])
          for (const address of DENIED) {
            await c.probe('tcp', address, ECHO, 'x');
            attempts.set(c.name, (attempts.get(c.name) ?? 0) + 1);
            await sleep(100); // the kernel logs some twenty packets of a sender a second, and the record has what it logs
          }
    };
    const shortLived = async (): Promise<Ran> => {
      let [tried, again] = [0, 0];
      for (let n = 0, end = Date.now() + (SECONDS - 4) * 1000; Date.now() < end; n++) {
        const { stdout } = await lab.run({
          network: 'user',
          labels: label(networks(SHORT)),
          cmd: argv(SHORT, 1, 10_000 + 400 * n),
        });
        const ran: Ran = JSON.parse(stdout);
        [tried, again] = [tried + ran[0], again + ran[1]];
      }
      return [tried, again];
    };
    const [ran] = await Promise.all([Promise.all([...containers.map(run), shortLived()]), tryDenied()]);
    await lab.sniffer.settle();
    const isOf = (n: number) => (address: string) =>
      address.startsWith(`${net4(n)}.`) || address.startsWith(net6(n));
    const isOurs = (address: string): boolean =>
      [0, 1, 2, NAMED, HOSTED, SHORT].some((n) => isOf(n)(address));
    const wire = onWire(await lab.sniffer.packets({}), isOurs);
    const onWireOf = new Map([...wire].map(([key, { count }]) => [key, count]));
    await lab.inHost(['conntrack', '-F'], { check: true });
    const total = (of: ReadonlyMap<string, Counts>): number =>
      [...of.values()].reduce((all, c) => all + c.count, 0);
    const recorded = async (): Promise<Map<string, Counts>> => {
      const by = new Map<string, Counts>();
      for (const f of await flows())
        if ((f.verdict === 'allow' || f.verdict === 'would-deny') && f.address !== null && isOurs(f.address))
          add(by, `${f.proto} ${f.address} ${f.port}`, f);
      return by;
    };
    await waitFor('all to be recorded', async () => total(await recorded()) >= total(wire), 20_000).catch(
      () => undefined, // shown by the comparison
    );
    console.log(
      `tried ${ran.map(([tried]) => tried)}, on the wire ${total(wire)} connections to ${wire.size} destinations`,
    );
    const record = await recorded();
    const connections = (of: ReadonlyMap<string, Counts>) =>
      Object.fromEntries(Object.entries(sorted(of)).map(([key, { count }]) => [key, count]));
    expect(connections(record)).toEqual(connections(wire));
    const different = [...wire].filter(([key, { packets }]) => record.get(key)?.packets !== packets);
    const missing = different.map(([key, { packets }]) => packets - (record.get(key)?.packets ?? 0));
    expect(missing.filter((n) => n < 0)).toEqual([]);
    // the program in the host's network reports all segments of the host since its start
    const ofContainers = ran.reduce((all, [, again], i) => all + (i === HOSTED ? again - host : again), 0);
    const again = ofContainers + (await sentAgainIn('Net')) - servers;
    const ignored = missing.reduce((all, n) => all + n, 0);
    console.log(`${ignored} packets were not counted, and ${again} segments were sent again`);
    expect(different.filter(([key]) => !key.startsWith('tcp '))).toEqual([]);
    expect(ignored).toBeLessThanOrEqual(again);
    for (const [key] of different) wire.delete(key) && record.delete(key);
    expect(sorted(record)).toEqual(sorted(wire));
    // each of them has its container, and its name where it was asked for
    const owners = ['enforced', 'observed', 'off', 'named', 'hosted'];
    const all = (await flows()).filter((f) => f.address !== null);
    for (const [n, owner] of owners.entries()) {
      const own = all.filter((f) => f.address?.startsWith(`${net4(n)}.`) || f.address?.startsWith(net6(n)));
      expect(new Set(own.map((f) => f.container))).toEqual(new Set([owner]));
    }
    const sites = all.filter((f) => f.container === 'named' && f.port === 443 && f.verdict === 'allow');
    expect(sites.length).toBeGreaterThan(0);
    for (const f of sites) expect(f.name).toMatch(/^site-\d\.example$/);
    // what was denied is recorded as that, and has not been on the wire
    const denied = all.filter((f) => DENIED.includes(f.address ?? ''));
    expect(new Set(denied.map((f) => `${f.container} ${f.verdict}`))).toEqual(
      new Set(['enforced deny', 'hosted deny']),
    );
    expect(await lab.sniffer.count({ direction: 'out', dst: DENIED })).toBe(0);
    // every figure of each container is what was on the wire, and what was tried
    const byOwner = (n: number): number =>
      [...onWireOf].reduce((sum, [key, count]) => sum + (isOf(n)(key.split(' ')[1] ?? '') ? count : 0), 0);
    for (const [n, owner] of owners.entries()) {
      const known = before.get(owner) ?? { allow: 0, deny: 0, 'would-deny': 0 };
      const [passed, denied] = [byOwner(n), attempts.get(owner) ?? 0];
      const figures = {
        allow: known.allow + (owner === 'observed' ? 0 : passed),
        deny: known.deny + denied,
        'would-deny': known['would-deny'] + (owner === 'observed' ? passed : 0),
      };
      expect({ owner, ...(await apiFigures(drawbridge, owner)) }).toEqual({
        owner,
        ...expectedOfApi(figures),
      });
      // a command takes a second: those of the others are the same
      if (owner === 'observed') expect(await everyFigure(drawbridge, owner)).toEqual(expected(figures));
    }
    const tried = [...attempts.values()].reduce((sum, count) => sum + count, 0);
    const metrics = await metricsOf(drawbridge);
    const grown = (series: string): number => (metrics[series] ?? Number.NaN) - (metricsBefore[series] ?? 0);
    const seen = [...onWireOf.values()].reduce((sum, count) => sum + count, 0) - byOwner(1);
    expect({
      allow: grown('drawbridge_flows_total{verdict="allow"}'),
      deny: grown('drawbridge_flows_total{verdict="deny"}'),
      'would-deny': grown('drawbridge_flows_total{verdict="would-deny"}'),
      denials: grown('drawbridge_denials_total{reason="address"}'),
      dropped: grown(DROPPED),
    }).toEqual({ allow: seen, deny: tried, 'would-deny': byOwner(1), denials: tried, dropped: 0 });
    // an observed container is logged when it sends a first packet, which it may send again
    const shown = await observedFigures(drawbridge, 'observed');
    const wouldDeny = (before.get('observed')?.['would-deny'] ?? 0) + byOwner(1);
    expect(shown).toMatchObject({ suggested: wouldDeny, previewDropped: 0 });
    expect(shown.previewed - wouldDeny).toBeOneOf(upTo(again));
    expect(events.sums).toMatchObject({ allow: seen, deny: tried });
    expect((events.sums['would-deny'] ?? 0) - byOwner(1)).toBeOneOf(upTo(again));
    const status = JSON.parse((await drawbridge.get('/v1/status')).body);
    expect(status).toMatchObject({ containers: owners.length, enforced: 3, observed: 1, off: 1 });
  },
  SECONDS * 1000 + 180_000,
);

// The last one: what the log leaves out is missing in the record from then on.
it(`${COUNT} denied attempts of each kind are ${COUNT} denied, and those that the log has left out are counted as dropped`, async () => {
  const [site, other] = ['only.example', 'other.example'];
  const address = `${net4(32)}.9`;
  await lab.dns.set({ [site]: { A: [`${net4(32)}.1`] }, [other]: { A: [`${net4(32)}.1`] } });
  const c = await lab.start({ name: 'denied', network: 'user', labels: { 'drawbridge.allow': site } });
  const before = await metricsOf(drawbridge);
  let denied = 0;
  const frames = cryptoFrame(0, helloMessage(serverNames(other)));
  const initial = initialPacket({ dcid: Buffer.alloc(8, 32), frames }).toString('hex');
  const more = { site, address, other, sharedBy: `${net4(32)}.1`, initial };
  for (const [how, count] of [
    ['name', COUNT],
    ['server name', COUNT],
    ['quic', COUNT / 10],
    ['address', COUNT],
  ] as const) {
    expect({ how, refused: await told(c, REFUSED, { ...more, how, count }) }).toEqual({
      how,
      refused: count,
    });
    denied += count;
    await waitFor(`those by ${how}`, async () => (await shownOf(drawbridge, c.name)).denied >= denied);
    const { allowed, denied: shown } = await shownOf(drawbridge, c.name);
    expect({ how, allowed, denied: shown }).toEqual({ how, allowed: 0, denied });
  }
  expect(await lab.sniffer.count({ direction: 'out', dst: address })).toBe(0);
  // the kernel logs some twenty packets a second
  const after = await metricsOf(drawbridge);
  const dropped = (after[DROPPED] ?? 0) - (before[DROPPED] ?? 0);
  const recorded = (await flowsOf(drawbridge, c.name)).reduce((all, { count }) => all + count, 0);
  expect([dropped >= 0, recorded + dropped]).toEqual([true, denied]);
  expect(await firesOf('DrawbridgeRecordsDropped', before, after)).toBe(dropped > 0);
  await c.remove();
});
