/**
 * What containers talk to in MIX seconds (default 12; `npm run soak -- test/live/flow-mix.test.ts`: ten minutes) is in the record as it was
 * on the wire: each destination, its connections, packets and bytes; nothing else is. Containers of all modes and networks and short-lived
 * ones open connections that end, last, are reset or refused. SEED repeats a run.
 */
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import type { Packet } from '../lab/pcap.js';
import { waitFor } from '../lab/process.js';

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
    await waitFor('the record to begin', async () => {
      await containers[1].probe('tcp', '93.184.98.1', ECHO, 'x');
      await lab.inHost(['conntrack', '-F'], { check: true });
      return (await flows()).some((f) => f.address === '93.184.98.1');
    });
    await lab.sniffer.clear();
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
    /** What they try is denied; nothing of it may be on the wire, or in the record as passed. */
    const tryDenied = async (): Promise<void> => {
      for (const end = Date.now() + SECONDS * 1000; Date.now() < end; )
        for (const c of [containers[0], containers[HOSTED]] as Container[])
          for (const address of DENIED) await c.probe('tcp', address, ECHO, 'x');
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
    const isOurs = (address: string): boolean =>
      [0, 1, 2, NAMED, HOSTED, SHORT].some(
        (n) => address.startsWith(`${net4(n)}.`) || address.startsWith(net6(n)),
      );
    const wire = onWire(await lab.sniffer.packets({}), isOurs);
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
    const sites = all.filter((f) => f.port === 443 && f.verdict === 'allow');
    expect(sites.length).toBeGreaterThan(0);
    for (const f of sites) expect(f.name).toMatch(/^site-\d\.example$/);
    // what was denied is recorded as that, and has not been on the wire
    const denied = all.filter((f) => DENIED.includes(f.address ?? ''));
    expect(new Set(denied.map((f) => `${f.container} ${f.verdict}`))).toEqual(
      new Set(['enforced deny', 'hosted deny']),
    );
    expect(await lab.sniffer.count({ direction: 'out', dst: DENIED })).toBe(0);
    const { items: _, ...state } = JSON.parse((await drawbridge.get('/v1/flows?limit=1')).body);
    expect(state).toMatchObject({ dropped: 0 });
  },
  SECONDS * 1000 + 180_000,
);
