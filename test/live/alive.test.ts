/** Nothing that a container sends, and no system call that fails, ends the service; a slow resolver is waited for; an end is reported. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { RARE, REFUSED_CALLS, ROUNDS, refusalsOf, refuseCalls } from './refused-calls.js';

const SUFFIX = 'n.alive.test';
const SLOW = 's.alive.test';
const ADDRESS = '93.184.1.1';
/** Where the clients send a datagram with each attempt, which only the observed one may. */
const DENIED = { enforced: '93.184.9.9', observed: '93.184.9.8' };
/** Permitted by a list that is saved last. */
const LATER = '93.184.1.9';
const GOOD = '198.51.100.53';
/** Addresses behind a route that refuses them. */
const UNROUTABLE = { v4: '203.0.113.77', v6: '2001:db8:dead::53' };
const DELAYS = [1_000, 1_600, 2_500, 4_000];
const SS_KILL = ['ss', '-HtnK', 'state', 'established'];
const KINDS = ['new name', 'known name', 'name over tcp', 'connection'] as const;
const SEED = Number(process.env.SEED ?? Date.now() % 100_000);

let lab: Lab;
let d: Drawbridge;
let pid: number;
let enforced: Container;
let observed: Container;

interface Outcome {
  readonly kind: (typeof KINDS)[number];
  readonly began: number;
  readonly ok: boolean;
  readonly detail: string;
}
/** What the client in a container has noted. */
function outcomes(name: string): Outcome[] {
  const file = join(lab.dir, 'out', name);
  if (!existsSync(file)) return [];
  const lines = readFileSync(file, 'utf8').split('\n').slice(0, -1);
  return lines.map((line) => JSON.parse(line) as Outcome);
}
/** Every kind of attempt that began from then on has succeeded at least once, in both containers. */
async function served(since: number, what: string): Promise<void> {
  const missing = (): string[] =>
    ['enforced', 'observed'].flatMap((name) => {
      const good = outcomes(name).filter((o) => o.ok && o.began >= since);
      return KINDS.filter((kind) => !good.some((o) => o.kind === kind)).map((kind) => `${name}: ${kind}`);
    });
  await waitFor(`all attempts to succeed ${what}`, () => missing().length === 0, 60_000, 50).catch(
    (e: Error) => {
      throw new Error(`${e.message}: ${missing().join(', ')}\n${d.logs().slice(-6_000)}`);
    },
  );
}
async function alive(what: string): Promise<void> {
  expect(d.pid, what).toBe(pid);
  await d.ready(60_000);
  await served(Date.now(), what);
  expect(d.logs(), what).not.toContain('a fault that nothing handles');
}

beforeAll(async () => {
  lab = await Lab.up();
  for (const [of, to] of [
    ['-4', UNROUTABLE.v4],
    ['-6', UNROUTABLE.v6],
  ] as const)
    await lab.inHost(['ip', of, 'route', 'add', 'unreachable', to], { check: true });
  const slow = DELAYS.flatMap((delayMs) =>
    ['udp', 'tcp', 'seen'].map((how) => [`${how}${delayMs}.${SLOW}`, { A: [ADDRESS], delayMs }]),
  );
  await lab.dns.set({
    [`*.${SUFFIX}`]: { A: [ADDRESS] },
    ...Object.fromEntries(slow),
    [`cut.${SLOW}`]: { A: [ADDRESS], delayMs: 1_600, truncate: true },
    [`*.long.${SLOW}`]: { A: [ADDRESS], delayMs: 500, truncate: true },
  });
  await lab.docker('network', 'create', 'alive');
  await mkdir(join(lab.dir, 'out'));
  // It must start and answer with a first resolver that has no route.
  d = lab.drawbridge({ config: { dns: { upstreams: [UNROUTABLE.v6, GOOD] } } });
  await d.ready();
  pid = d.pid;
  const client = (name: 'enforced' | 'observed') => ({
    name,
    mounts: [
      `${join(import.meta.dirname, 'alive-client.mjs')}:/client.mjs:ro`,
      `${join(lab.dir, 'out')}:/out`,
    ],
    cmd: ['node', '/client.mjs', `/out/${name}`, SUFFIX, ADDRESS, DENIED[name]],
  });
  [enforced, observed] = await Promise.all([
    lab.start({
      ...client('enforced'),
      network: 'alive',
      labels: { 'drawbridge.allow': `*.${SUFFIX}:80, *.${SLOW}:80` },
    }),
    lab.start(client('observed')),
  ]);
  await served(0, 'after the start');
});
afterAll(() => lab?.down());

it('the uplink goes away and comes back: names that are known are answered meanwhile', async () => {
  const began = Date.now();
  await lab.inHost(['ip', 'link', 'set', 'eth0', 'down'], { check: true });
  await waitFor('new names to fail, and known ones to be answered', () => {
    const since = outcomes('enforced').filter((o) => o.began > began);
    const failed = since.filter((o) => o.kind === 'new name' && o.detail === 'rcode 2');
    const known = since.filter((o) => o.kind === 'known name' && o.ok);
    return failed.length > 4 && known.length > 4;
  });
  await lab.inHost(['ip', 'link', 'set', 'eth0', 'up'], { check: true });
  for (const line of [
    'route add default via 192.0.2.1',
    '-6 address add 2001:db8:fff0::2/64 dev eth0 nodad',
    '-6 route add default via 2001:db8:fff0::1',
  ])
    await lab.inHost(['ip', ...line.split(' ')], { check: true });
  await alive('after the uplink is back');
});

it('a slow resolver answers an enforced container as it answers an observed one', async () => {
  await lab.dns.clearLog();
  const asked = async (c: Container, name: string, over: string) => {
    const words = ['dns', c === observed ? GOOD : '127.0.0.11', `${name}.${SLOW}`, 'A', over];
    const { addresses, code, rcode } = await c.probe(...words, '--timeout', 30_000);
    return [`${name} ${over}`, addresses ?? code ?? rcode];
  };
  const all = await Promise.all([
    ...DELAYS.flatMap((ms) => [
      asked(enforced, `udp${ms}`, 'udp'),
      asked(enforced, `udp${ms}`, 'udp'), // a second query, which meets the first or the cache
      asked(enforced, `tcp${ms}`, 'tcp'),
      asked(observed, `seen${ms}`, 'udp'),
    ]),
    asked(enforced, 'cut', 'udp'),
  ]);
  for (const [what, answer] of all) expect([what, answer]).toEqual([what, [ADDRESS]]);
  for (const name of DELAYS.flatMap((ms) => [`udp${ms}`, `tcp${ms}`])) {
    const udp = (await lab.dns.queries(`${name}.${SLOW}`)).filter((q) => q.proto === 'udp');
    // One query, which is repeated unchanged: no other one that could be answered by a forger is open.
    expect(new Set(udp.map((q) => `${q.asked} ${q.id} ${q.fromPort}`)).size).toBe(1);
    expect(udp.length).toBeLessThanOrEqual(3);
  }
});

// Behind the slow resolver: queries that get no answer count for 5 s in the container's share of the upstreams.
describe('what a container sends to port 53', () => {
  /** Words: how long to wait for answers, the name, addresses. Prints the addresses that have answered. */
  const SEND = `
    const { createSocket } = require('node:dgram'), { connect } = require('node:net');
    const [ms, name, ...addresses] = process.argv.slice(1);
    const labels = name.split('.').flatMap((l) => [l.length, ...Buffer.from(l)]);
    const query = Buffer.from([7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, ...labels, 0, 0, 1, 0, 1]);
    const answered = new Set();
    for (const to of addresses) {
      const s = createSocket(to.includes(':') ? 'udp6' : 'udp4').on('error', () => {}).on('message', () => answered.add(to));
      s.bind(() => { s.setBroadcast(true); s.send(query, 53, to, () => {}); });
      connect(53, to).on('error', () => {}).on('connect', function () { this.end(Buffer.concat([Buffer.from([0, query.length]), query])); });
    }
    const end = () => { console.log([...answered].join()); process.exit(); };
    setTimeout(end, Number(ms));
    setInterval(() => answered.size === addresses.length && end(), 20);
  `;
  const NOISE = `
    const { createSocket } = require('node:dgram'), { connect } = require('node:net'), { randomBytes } = require('node:crypto');
    const s = createSocket('udp4');
    for (let n = 0; n < 300; n++) s.send(randomBytes(n % 7 ? n % 600 : 1 + n % 13), 53, process.argv[1], () => {});
    for (let n = 0; n < 20; n++) connect(53, process.argv[1]).on('error', () => {}).end(randomBytes(n * 40));
    setTimeout(() => process.exit(), 500);
  `;
  const node = (c: Container, script: string, ...words: string[]) => c.exec(['node', '-e', script, ...words]);

  it('ends nothing where its resolver cannot be asked', async () => {
    // The control: the same program gets an answer from a resolver that is there.
    expect((await node(observed, SEND, '20000', `known.${SUFFIX}`, GOOD)).stdout.trim()).toBe(GOOD);
    const { ip4 } = await observed.addresses();
    const addresses = [
      ...['255.255.255.255', ip4.replace(/\.\d+\.\d+$/, '.255.255'), '224.0.0.1', '240.0.0.1'],
      ...[UNROUTABLE.v4, UNROUTABLE.v6, 'ff02::1', 'fe80::1%eth0', '127.0.0.1', '0.0.0.0'],
    ];
    const words = ['500', `known.${SUFFIX}`, ...addresses];
    await Promise.all([observed, enforced].map((c) => node(c, SEND, ...words)));
    await alive('after queries to such addresses');
  });
  it('ends nothing where it is no query', async () => {
    await Promise.all([node(observed, NOISE, GOOD), node(enforced, NOISE, '127.0.0.11')]);
    await alive('after noise');
  });
});

it(`system calls that fail end nothing, each with each error (SEED=${SEED})`, async () => {
  const totals = new Map<string, number>();
  for (let round = 0; round < ROUNDS; round++) {
    const refusals = refusalsOf(round, SEED);
    const log = join(lab.dir, `refused-${round}.log`);
    const counts = await refuseCalls(pid, refusals, log, async () => {
      const began = Date.now();
      const runs = lab.docker('run', '--rm', '--network', 'alive', lab.images.busybox, 'true');
      const asks = Array.from({ length: 5 }, () => d.get('/v1/status').catch(() => undefined));
      await Promise.allSettled([runs, ...asks]);
      await waitFor(
        'some attempts',
        () => outcomes('enforced').filter((o) => o.began > began).length > 8,
        60_000,
      );
    });
    for (const [what, n] of counts) totals.set(what, (totals.get(what) ?? 0) + n);
    await alive(`after round ${round} of seed ${SEED}: ${refusals.join(' ')}`);
  }
  console.log(`refused: ${[...totals].map(([what, n]) => `${what} ${n}`).join(', ')}`);
  // Without a refusal the rounds would show nothing.
  const refused = new Set([...totals.keys()].map((what) => what.split(' ')[0]));
  expect(refused).toEqual(new Set([...REFUSED_CALLS, ...(refused.has(RARE) ? [RARE] : [])]));
  // What watches files and changes rules goes on.
  const tries = () => enforced.probe('http', `http://${LATER}/`, '--timeout', 1_000);
  expect((await tries()).ok).toBe(false);
  d.writeList('later.yaml', `match: { name: enforced }\nallow: ["${LATER}:80"]\n`);
  await waitFor('a list that was saved to be in force', async () => (await tries()).ok);
  expect(await lab.sniffer.count({ dst: DENIED.enforced })).toBe(0);
  expect(await lab.sniffer.count({ dst: DENIED.observed })).toBeGreaterThan(0); // the same program, which may send there
});

it('connections that break end nothing, whatever they were about', async () => {
  const broken = { clients: 0, upstreams: 0 };
  const toUpstream = [...SS_KILL, 'dst', `${GOOD}:53`];
  const inClient = ['nsenter', `--net=/proc/${await enforced.pid()}/ns/net`, '--', ...SS_KILL];
  // both sides of the resolver: queries over TCP wait for answers that come over TCP
  for (let round = 0; round < 20 && (broken.clients < 10 || broken.upstreams < 3); round++) {
    const names = Array.from({ length: 4 }, (_, n) => `n${round}-${n}.long.${SLOW}`);
    const words = (name: string) => ['dns', '127.0.0.11', name, 'A', 'tcp', '--timeout', 3_000] as const;
    let isOver = false;
    const asks = Promise.all(names.map((name) => enforced.probe(...words(name)))).then(() => (isOver = true));
    while (!isOver) {
      // When the client's connection breaks first, the resolver opens none to its upstream. So every second round breaks the upstream alone.
      const sides = [
        await lab.inHost(round % 2 ? SS_KILL : toUpstream),
        ...(round % 2 ? [await lab.inHost(inClient)] : []),
      ];
      for (const { stdout } of sides)
        for (const line of stdout.split('\n').filter(Boolean))
          broken[line.includes(`${GOOD}:53`) ? 'upstreams' : 'clients']++;
    }
    await asks;
  }
  expect(broken.clients).toBeGreaterThan(9);
  expect(broken.upstreams).toBeGreaterThan(2);
  await alive(`after connections that broke: ${JSON.stringify(broken)}`);
});

it('a killed service leaves no process behind, and its next start tells how it ended', async () => {
  const children = childrenOf(pid);
  expect(children.map(({ name }) => name)).toContain('nft');
  d.kill('SIGKILL');
  await d.exited();
  // One keeps its sockets for some seconds, until the next start.
  const keeper = JSON.parse(readFileSync(join(d.stateDir, 'keeper'), 'utf8')) as { pid: number };
  const left = () => children.filter((c) => childAt(c.pid)?.started === c.started);
  await waitFor('its programs to end', () => left().every((c) => [c.pid, c.parent].includes(keeper.pid)));
  d.start();
  await d.ready();
  await waitFor('the one that has kept its sockets to end', () => left().length === 0, 30_000);
  const warnings = async () =>
    (JSON.parse((await d.get('/v1/status')).body) as { warnings: string[] }).warnings;
  expect(await warnings()).toContainEqual(expect.stringMatching(/was not stopped .*: it was killed/));
  expect((await d.get('/v1/audit?limit=5')).body).toMatch(/"ended":"it was killed/);
  await d.restart();
  expect(await warnings()).toEqual([]);
});

interface Process {
  readonly pid: number;
  readonly name: string;
  readonly parent: number;
  /** In ticks since the boot: another process has another one. */
  readonly started: string;
}
function childAt(at: number): Process | undefined {
  try {
    const [, name = '', rest = ''] = /\((.*)\) (.*)$/s.exec(readFileSync(`/proc/${at}/stat`, 'utf8')) ?? [];
    const fields = rest.split(' ');
    if (fields[0] === 'Z') return undefined;
    return { pid: at, name, parent: Number(fields[1]), started: fields[19] ?? '' };
  } catch {
    return undefined; // it has ended
  }
}
function childrenOf(parent: number): Process[] {
  const pids = readdirSync('/proc')
    .map(Number)
    .filter((n) => n > 0);
  const children = pids.flatMap((n) => childAt(n) ?? []).filter((c) => c.parent === parent);
  return children.flatMap((c) => [c, ...childrenOf(c.pid)]);
}
