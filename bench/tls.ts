/**
 * What the check of names costs a new connection, next to bare Docker and to proxies that read the server name: one lab has Drawbridge, the
 * other one bare Docker and the proxies (bench/proxies.ts), and all sides take turns in each round.
 *
 * The client sends a recorded ClientHello and waits for the first bytes of the server, which are those of a ServerHello, so that the ends cost
 * the least (hello-client.mjs, hello-server.mjs); a second measurement makes whole handshakes of TLS 1.3. Latency is that of one connection after
 * the other. Connections a second are of four clients at once. Bulk throughput is processor time of both ends, and of a proxy, as in
 * bench/traffic.ts. Drawbridge permits a container 1,000 new connections a second after a burst of 16,000, which the rounds do not use up. The
 * kernel keeps no closed connections of the proxies (TIME_WAIT), of which they would have too many here, with one address to one other.
 *
 * `npx tsx bench/tls.ts [--rounds 9] [--ms 400] [--only latency,rate,handshake,bulk,large,quic,http,upload] [--sides bare,check] [--node=OPTIONS] [--keep]`, as root.
 * Proxies that are not installed are left out.
 */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { Duplex, type Readable, type Writable } from 'node:stream';
import { connect as connectTls } from 'node:tls';
import { parseArgs } from 'node:util';
import type { Container } from '../test/lab/container.js';
import { program } from '../test/lab/drawbridge.js';
import { Lab } from '../test/lab/lab.js';
import { commandOf, waitFor } from '../test/lab/process.js';
import {
  cryptoFrame,
  extension,
  helloFor,
  helloMessage,
  initialPacket,
  serverNames,
} from '../test/pure/connections/hello-maker.js';
import { median, quantile } from './harness.js';
import { NameProxy, redirect } from './proxies.js';
import { KEEP, writeResult } from './results.js';
import { LABELS, rowsOf, Series, type Values } from './tls-rows.js';

const { values } = parseArgs({
  options: {
    ...KEEP,
    rounds: { type: 'string', default: '9' },
    ms: { type: 'string', default: '400' },
    only: { type: 'string', default: 'latency,rate,handshake,bulk,large,quic,http,upload' },
    /** Ids of those that take turns, among bare, squid, haproxy, sniproxy, nginx, off and check. */
    sides: { type: 'string', default: '' },
    /** Drawbridge is started with these options of node, for a profile. */
    node: { type: 'string', default: '' },
  },
});
const MS = Number(values.ms);
const RESOLVER = '198.51.100.53';
const CORE = availableParallelism() - 1;
const CLIENTS = 4;
/** Of 128 KiB. */
const STREAM_BLOCKS = 4_000;

/** What the servers do, by the addresses to which the names lead; `port` is where they listen. */
const SITES = {
  hello: { name: 'hello.bench.test', address: '93.184.5.5', to: 443, port: 5443 },
  stream: { name: 'stream.bench.test', address: '93.184.5.6', to: 443, port: 5444 },
  large: { name: 'large.bench.test', address: '93.184.5.7', to: 443, port: 5445 },
  http: { name: 'http.bench.test', address: '93.184.5.8', to: 80, port: 5080 },
  datagrams: { name: 'quic.bench.test', address: '93.184.5.9', to: 443, port: 5446 },
} as const;
type ServerKind = keyof typeof SITES;
/** Answered by the lab itself. */
const REAL = { name: 'real.bench.test', address: '93.184.5.10', to: 443 } as const;
const ALL_SITES = [...Object.values(SITES), REAL];

/** The ClientHello that Node sends. */
const recorded = (name: string): Promise<Buffer> =>
  new Promise((resolve) => {
    const socket = new Duplex({
      read: () => undefined,
      write: (chunk: Buffer) => {
        resolve(chunk);
        socket.destroy();
      },
    });
    connectTls({ socket, servername: name, ALPNProtocols: ['h2', 'http/1.1'] }).on('error', () => undefined);
  });
/** As long as one with a key of X25519MLKEM768, which does not fit in one segment. */
const large = (name: string): Buffer =>
  helloFor(name, extension(43, Buffer.from('020304', 'hex')), extension(51, Buffer.alloc(1_300, 4)));
const initial = (n: number): Buffer => {
  const dcid = Buffer.alloc(8);
  dcid.writeUInt32BE(n + 1, 4);
  const hello = helloMessage(serverNames(SITES.datagrams.name), extension(51, Buffer.alloc(300, 4)));
  return initialPacket({ dcid, frames: cryptoFrame(0, hello) });
};

type Part = ChildProcessByStdio<Writable, Readable, null>;
const parts: Part[] = [];
function startPart(netns: string, argv: readonly string[], pinned: boolean): Part {
  const place = pinned ? ['taskset', '-c', String(CORE)] : [];
  const full = [`--net=${netns}`, '--', ...place, process.execPath, ...argv];
  const part = spawn('nsenter', full, { stdio: ['pipe', 'pipe', 'inherit'] });
  part.setMaxListeners(0);
  parts.push(part);
  return part;
}
const script = (name: string): string => join(import.meta.dirname, `hello-${name}.mjs`);
async function lineOf(part: Part): Promise<string> {
  const ended = once(part, 'exit').then(([code]) => {
    throw new Error(`a program of the bench ended with ${code}`);
  });
  ended.catch(() => undefined);
  let text = '';
  while (!text.endsWith('\n')) {
    const [piece] = (await Promise.race([once(part.stdout, 'data'), ended])) as [Buffer];
    text += piece.toString();
  }
  return text;
}

interface Asked {
  readonly kind: 'hello' | 'handshake' | 'initial' | 'stream' | 'get' | 'post';
  readonly site: { readonly name: string; readonly address: string; readonly to: number };
  /** Most connections, datagrams or requests of one sender. */
  readonly most?: number;
  readonly blocks?: number;
}
interface Done {
  readonly ns: number;
  readonly count: number;
  /** µs. */
  readonly took?: readonly number[];
}
async function ask(part: Part, { kind, site, most = Number.MAX_SAFE_INTEGER, blocks }: Asked): Promise<Done> {
  const answer = lineOf(part);
  const { name, address, to: port } = site;
  part.stdin.write(`${JSON.stringify({ kind, name, address, port, ms: MS, most, blocks })}\n`);
  return JSON.parse(await answer) as Done;
}

/** Programs that send from a container. The pinned one is on the core of the servers for bulk data. */
interface Senders {
  readonly free: readonly Part[];
  readonly pinned: Part;
}
async function sendersOf(container: Container, file: string): Promise<Senders> {
  const netns = `/proc/${await container.pid()}/ns/net`;
  const start = (pinned: boolean): Part => startPart(netns, [script('client'), file], pinned);
  return { free: Array.from({ length: CLIENTS }, () => start(false)), pinned: start(true) };
}

interface Place {
  readonly lab: Lab;
  /** The one that reads bulk data. */
  readonly streamServer: Part;
}
async function makePlace(lab: Lab, lengths: Readonly<Record<string, number>>): Promise<Place> {
  await lab.dns.set(Object.fromEntries(ALL_SITES.map((s) => [s.name, { A: [s.address], ttl: 3600 }])));
  let streamServer: Part | undefined;
  for (const [kind, { name, address, to, port }] of Object.entries(SITES) as [
    ServerKind,
    (typeof SITES)[ServerKind],
  ][]) {
    const proto = kind === 'datagrams' ? 'udp' : 'tcp';
    const rule = [
      '-d',
      address,
      '-p',
      proto,
      '--dport',
      String(to),
      '-j',
      'DNAT',
      '--to',
      `${address}:${port}`,
    ];
    await lab.inNet(['iptables', '-t', 'nat', '-I', 'PREROUTING', ...rule], { check: true });
    const how = kind === 'large' ? 'hello' : kind;
    const argv = [script('server'), address, String(port), how, String(lengths[name] ?? 0)];
    for (let n = 0; n < (how === 'hello' ? 2 : 1); n++) {
      const part = startPart(lab.netNetns, argv, kind === 'stream');
      if (kind === 'stream') streamServer = part;
      await lineOf(part);
    }
  }
  if (!streamServer) throw new Error('no server for bulk data');
  return { lab, streamServer };
}

interface Side {
  readonly id: string;
  readonly label: string;
  readonly place: Place;
  readonly container: Container;
  readonly senders: Senders;
  readonly proxy?: NameProxy;
}

/** Only bare Docker, and Drawbridge without its check, let another name pass to the same address. */
async function verify({ id, label, place, container, proxy }: Side): Promise<void> {
  if (place === places[1]) await redirect(place.lab, proxy?.port);
  for (const sni of [REAL.name, 'other.bench.test']) {
    const { ok } = await container.probe('http', `https://${REAL.name}/`, '--sni', sni);
    const isRight = ok === (sni === REAL.name || id === 'bare' || id === 'off');
    if (!isRight) throw new Error(`${label}: a connection for ${sni} was ${ok ? 'permitted' : 'refused'}`);
  }
}

/** Processor time of all threads of these processes, ns. */
const timeOf = (pids: readonly (number | undefined)[]): number =>
  pids
    .flatMap((pid) => readdirSync(`/proc/${pid}/task`).map((task) => `/proc/${pid}/task/${task}/schedstat`))
    .reduce((sum, file) => sum + Number(readFileSync(file, 'utf8').split(' ')[0]), 0);
const SOFTIRQ_THREADS = readdirSync('/proc')
  .filter((pid) => /^\d+$/.test(pid) && commandOf(Number(pid))?.startsWith('ksoftirqd/'))
  .map(Number);

/**
 * Of one sender in one measurement. The service remembers connections of a container for some seconds after their verdict, and flows of QUIC for
 * a minute, 4,096 of one container at most: these are less.
 */
const [MOST_HELLOS, MOST_INITIALS] = [400, 60];
const perSecond = ({ ns, count }: Done): number => (count / ns) * 1e9;
const gigabits = (ns: number, blocks: number): number => (blocks * 128 * 1024 * 8) / ns;
/** Of one connection after the other; 'p50' and 'p99' in µs. */
async function latency({ senders }: Side, of: Asked): Promise<Readonly<Record<string, number>>> {
  const [sender] = senders.free;
  const { took = [] } = await ask(sender as Part, of);
  return { p50: median(took), p99: quantile(took, 0.99) };
}
/** All senders of a side at once. */
async function rate({ senders }: Side, of: Asked): Promise<number> {
  const all = await Promise.all(senders.free.map((part) => ask(part, of)));
  return all.map(perSecond).reduce((sum, r) => sum + r, 0);
}
async function bulk({ senders: { pinned }, place, proxy }: Side): Promise<number> {
  const pids = [pinned.pid, place.streamServer.pid, ...(proxy?.pids ?? []), ...SOFTIRQ_THREADS];
  const before = timeOf(pids);
  await ask(pinned, { kind: 'stream', site: SITES.stream, blocks: STREAM_BLOCKS });
  return gigabits(timeOf(pids) - before, STREAM_BLOCKS);
}

/** What is measured, of which sides, by the parts of the ids of its rows. */
const MEASUREMENTS: Readonly<
  Record<string, { readonly sides?: readonly string[]; of(side: Side): Promise<Values> }>
> = {
  latency: { of: (side) => latency(side, { kind: 'hello', site: SITES.hello, most: MOST_HELLOS }) },
  rate: {
    of: async (side) => ({ rate: await rate(side, { kind: 'hello', site: SITES.hello, most: MOST_HELLOS }) }),
  },
  handshake: {
    of: async (side) => ({
      ...(await latency(side, { kind: 'handshake', site: REAL })),
      rate: await rate(side, { kind: 'handshake', site: REAL }),
    }),
  },
  bulk: { of: async (side) => ({ bulk: await bulk(side) }) },
  large: {
    sides: ['bare', 'off', 'check'],
    of: (side) => latency(side, { kind: 'hello', site: SITES.large, most: MOST_HELLOS }),
  },
  quic: {
    sides: ['bare', 'off', 'check'],
    of: async (side) => ({
      ...(await latency(side, { kind: 'initial', site: SITES.datagrams, most: MOST_INITIALS })),
      rate: await rate(side, { kind: 'initial', site: SITES.datagrams, most: MOST_INITIALS }),
    }),
  },
  http: {
    sides: ['bare', 'off', 'check'],
    of: async (side) => ({
      rate: perSecond(await ask(side.senders.pinned, { kind: 'get', site: SITES.http })),
    }),
  },
  upload: {
    sides: ['bare', 'off', 'check'],
    of: async (side) => {
      const { ns } = await ask(side.senders.pinned, {
        kind: 'post',
        site: SITES.http,
        blocks: STREAM_BLOCKS,
      });
      return { rate: gigabits(ns, STREAM_BLOCKS) };
    },
  },
};
const ONLY = values.only.split(',');
const unknown = ONLY.filter((name) => !(name in MEASUREMENTS));
if (unknown.length > 0)
  throw new Error(`--only ${unknown.join(',')}: there are ${Object.keys(MEASUREMENTS).join(', ')}`);

async function measureAll(sides: readonly Side[], rounds: number): Promise<Series> {
  const series = new Series();
  for (let round = -1; round < rounds; round++) {
    for (const side of round % 2 === 0 ? sides : [...sides].reverse()) {
      const { lab } = side.place;
      if (side.place === places[1]) await redirect(lab, side.proxy?.port);
      // flows of other sides, which would make it dearer to find one, are forgotten
      await lab.inHost(['conntrack', '-F'], { check: true });
      for (const name of ONLY) {
        const measurement = MEASUREMENTS[name];
        if (!measurement || measurement.sides?.includes(side.id) === false) continue;
        const found = await measurement.of(side);
        if (round >= 0) series.add(side.id, name, found);
      }
    }
  }
  return series;
}

const places: Place[] = [];
const labs: Lab[] = [];
let proxies: readonly NameProxy[] = [];
try {
  const hellos = {
    [SITES.hello.name]: await recorded(SITES.hello.name),
    [SITES.stream.name]: await recorded(SITES.stream.name),
    [SITES.large.name]: large(SITES.large.name),
  };
  for (let n = 0; n < 2; n++) labs.push(await Lab.up({ sniffer: false, onDisk: true }));
  const [enforced, bare] = labs as [Lab, Lab];
  const [node = process.execPath, ...args] = program();
  const drawbridge = enforced.drawbridge({
    config: { log: { level: 'warn' } },
    program: [node, ...values.node.split(' ').filter((option) => option !== ''), ...args],
  });
  await drawbridge.ready();
  const lengths = Object.fromEntries(Object.entries(hellos).map(([name, hello]) => [name, hello.length]));
  for (const lab of labs) places.push(await makePlace(lab, lengths));

  const [enforcedPlace, barePlace] = places as [Place, Place];
  const hex = Object.fromEntries(
    Object.entries(hellos).map(([name, hello]) => [name, hello.toString('hex')]),
  );
  const initials = Array.from({ length: 64 }, (_, n) => initial(n).toString('hex'));
  const start = async (lab: Lab, flags: string): Promise<Pick<Side, 'container' | 'senders'>> => {
    const file = join(lab.dir, 'hellos.json');
    writeFileSync(file, JSON.stringify({ hellos: hex, initials, ca: readFileSync(lab.caFile, 'utf8') }));
    const allow = ALL_SITES.map((s) => `${s.name}${flags}`).join(', ');
    const container = await lab.start({ labels: { 'drawbridge.allow': allow } });
    for (const { name } of ALL_SITES)
      await waitFor(`${name} to resolve`, async () => (await container.probe('dns', RESOLVER, name, 'A')).ok);
    return { container, senders: await sendersOf(container, file) };
  };
  const checked = await start(enforced, '');
  const unchecked = await start(enforced, ' tls=off');
  const others = await start(bare, '');
  // a proxy ends its connections itself: their ports would rest for a minute, and each search for a free one soon takes milliseconds
  await bare.inHost(['sysctl', '-qw', 'net.ipv4.tcp_max_tw_buckets=0'], { check: true });
  await redirect(bare, undefined);
  await bare.inHost(['iptables', '-t', 'nat', '-I', 'PREROUTING', '-j', 'BENCH'], { check: true });
  proxies = await NameProxy.startAll(bare, [SITES.hello, SITES.stream, REAL], RESOLVER);
  const all: readonly Side[] = [
    { id: 'bare', label: LABELS.bare, place: barePlace, ...others },
    ...proxies.map((p) => ({ id: p.id, label: p.label, place: barePlace, ...others, proxy: p })),
    { id: 'off', label: LABELS.off, place: enforcedPlace, ...unchecked },
    { id: 'check', label: LABELS.check, place: enforcedPlace, ...checked },
  ];
  const sides = all.filter(({ id }) => values.sides === '' || values.sides.split(',').includes(id));
  for (const side of sides) await verify(side);
  const series = await measureAll(sides, Number(values.rounds));
  await writeResult('tls', 'npx tsx bench/tls.ts', rowsOf(ONLY, sides, series));
} finally {
  for (const part of parts) part.kill('SIGKILL');
  for (const proxy of proxies) await proxy.stop();
  for (const lab of labs) await lab.down();
}
process.exit(0);
