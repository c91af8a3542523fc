import { existsSync, mkdirSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { leftAboutHostFlow } from '../attacks/host-flow.js';
import { raw, trySending } from '../attacks/raw.js';
import { shownHere } from '../attacks/report.js';
import { PROGRAMS } from '../attacks/technique.js';
import { address, bytes, ip, options6, routing6, u8, udp } from '../attacks/wire.js';
import { type Container, type ProbeResult, parseProbe } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { inParallel } from './support.js';

/** Alone, or beside the older hierarchies. */
const HIERARCHY = existsSync('/sys/fs/cgroup/unified') ? '/sys/fs/cgroup/unified' : '/sys/fs/cgroup';
/** Each has a number, and its addresses of it; `npm run soak -- all` starts more. */
const STARTS = Math.min(200, Number(process.env.RACES ?? 10));
const AT_ONCE = 5;
const permitted = (n: number): string => `93.184.10.${n}`;
const permitted6 = (n: number): string => `2600:9000::a:${n.toString(16)}`;
const forbidden = (n: number): string => `93.184.20.${n}`;
const forbidden6 = (n: number): string => `2600:9000::b:${n.toString(16)}`;
const name = (n: number): string => `n${n}.example.com`;
const denied = (n: number): string => `d${n}.example.net`;

const shown = shownHere({
  id: 'host-network',
  title: "in the host's network namespace, from the first instruction",
  families: ['v4', 'v6'],
  stoppedBy:
    'the cgroup of the socket distinguishes the container from the host; a rule on the parent cgroup queues packets of new containers',
});
const reloaded = shownHere({
  id: 'host-network-reload',
  title: "in the host's network namespace, every table of iptables emptied at once",
  families: ['v4', 'v6'],
  stoppedBy: 'the backstop, which no iptables command reaches, matches the cgroup of the socket, too',
});
const renumbered = shownHere({
  id: 'host-network-number',
  title: "in the host's network namespace, with the identity and the port of a previous container there",
  families: ['v4', 'v6'],
  stoppedBy: 'flows that carry a reused identity are deleted before it is assigned',
});
const extended = shownHere({
  id: 'host-network-extensions',
  title: "in the host's network namespace, IP options and IPv6 extension headers to a permitted address",
  families: ['v4', 'v6'],
  stoppedBy: 'the backstop drops them by cgroup, in new and in established flows, as for bridges',
});
const erroneous = shownHere({
  id: 'host-network-errors',
  title:
    "in the host's network namespace, ICMP errors about a flow of the host or of another container there",
  families: ['v4', 'v6'],
  stoppedBy:
    'in the conntrack zone of the container the error belongs to no flow; without a zone, no rule permits RELATED',
});
let lab: Lab;
let drawbridge: Drawbridge;

/** Datagrams of one flow, from the host's address; the plain one opens it. */
const EXTENDED = ['93.184.40.10', '2600:9000::410'] as const;
const EXTENDED_PORT = 4001;
function datagrams(dst: string, fromPort: number): { plain: Buffer; others: readonly Buffer[] } {
  const isV4 = !dst.includes(':');
  const e = { src: isV4 ? '192.0.2.2' : '2001:db8:fff0::2', dst };
  const data = udp(e, fromPort, EXTENDED_PORT, 'extended');
  const others = isV4
    ? [ip(e, 17, data, { options: bytes(u8(7, 7, 4), address(dst)) })]
    : [
        ip(e, 43, bytes(routing6(17, 4, 0, [dst]), data)),
        ip(e, 60, bytes(options6(17, 'extended'), data)),
        ip(e, 0, bytes(options6(17, 'extended'), data)),
      ];
  return { plain: ip(e, 17, data), others };
}
/** The host's kernel answers the echoes with ICMP errors: nobody listens at the port. */
const outTo = (dst: string): Promise<number> => lab.sniffer.count({ direction: 'out', dst, proto: 'udp' });
/** How many of them left, in a flow of their own and after a plain one in the flow that it has opened. */
async function leftWithExtensions(c: Container, dst: string): Promise<number> {
  await lab.sniffer.clear();
  await trySending(c, datagrams(dst, 40_301).others, { way: 'ip' });
  const { plain, others } = datagrams(dst, 40_302);
  await trySending(c, [plain], { way: 'ip' });
  await waitFor('the plain datagram', async () => (await outTo(dst)) > 0);
  await trySending(c, others, { way: 'ip' });
  return (await outTo(dst)) - 1;
}

/** Errors that left about a flow of the host and one of `opener`, each to where that flow goes. */
async function leftErrors(sender: Container, opener: Container, port: number): Promise<number[]> {
  const left: number[] = [];
  for (const [from, to] of [
    [lab.addresses.host4, '93.184.40.11'],
    [lab.addresses.host6, '2600:9000::411'],
  ] as const)
    for (const more of [{}, { opener }])
      left.push(await leftAboutHostFlow(lab, { sender, from, to, port: port + left.length, ...more }));
  return left;
}

/**
 * First instructions: what is forbidden, by each way, next to what is permitted. `seconds`: the time for what is forbidden, which is longer
 * where it gets through, because the first packets wait for their policy.
 */
const script = (n: number, seconds = 1): string =>
  [
    `wget -q -T ${seconds} -O /dev/null http://${forbidden(n)}/ &`,
    `wget -q -T ${seconds} -O /dev/null 'http://[${forbidden6(n)}]/' &`,
    `ping -c 1 -W ${seconds} ${forbidden(n)} >/dev/null 2>&1 &`,
    `nslookup ${denied(n)} 8.8.8.8 >/dev/null 2>&1 &`,
    `wget -q -T 5 -O /dev/null http://${permitted(n)}/ && echo address &`,
    `wget -q -T 5 -O /dev/null 'http://[${permitted6(n)}]/' && echo address6 &`,
    `wget -q -T 5 -O /dev/null http://${name(n)}/ && echo name &`,
    'wait',
  ].join('\n');
const policy = (n: number): string => `${permitted(n)}:80, [${permitted6(n)}]:80, ${name(n)}`;
const ALL = ['address', 'address6', 'name'];
const said = (text: string): string[] => ALL.filter((w) => text.split('\n').includes(w));

async function leaks(numbers: readonly number[]): Promise<{ packets: number; asked: number }> {
  const dst = [...numbers.map(forbidden), ...numbers.map(forbidden6)];
  const packets = await lab.sniffer.count({ direction: 'out', dst });
  const asked = await Promise.all(numbers.map((n) => lab.dns.queries(denied(n))));
  return { packets, asked: asked.flat().length };
}

/** The table that identifies senders. */
const marked = async (): Promise<string> =>
  (await lab.inHost(['nft', 'list', 'table', 'inet', 'drawbridge_host'])).stdout;
const gated = async (): Promise<boolean> => (await marked()).includes(`/${lab.cgroupParent}" goto senders`);
/** The jumps of both families and the table have come back. */
async function isRepaired(c: Container): Promise<boolean> {
  const all = (await lab.inHost(['sh', '-c', 'iptables-save; ip6tables-save'])).stdout;
  const hooks = all.match(/^-A (OUTPUT|FORWARD) .*-j DB-(HN-RAW|HN-DNS|OUTPUT|BACKSTOP)$/gm) ?? [];
  return hooks.length === 8 && (await marked()).includes(`${lab.cgroupParent}/${c.id}"`);
}
const start = (allow: string, extra: readonly string[] = []): Promise<Container> =>
  lab.start({ network: 'host', labels: { 'drawbridge.allow': allow }, args: extra });
const tracked = async (): Promise<readonly string[]> =>
  (await lab.inHost(['cat', '/proc/net/nf_conntrack'])).stdout.split('\n');
const coverage = async (c: Container): Promise<{ state: string; reasons: readonly string[] }> => {
  const answer = await drawbridge.get(`/v1/containers/${c.id}`);
  return (JSON.parse(answer.body) as { coverage: { state: string; reasons: readonly string[] } }).coverage;
};
const PROBE = join(import.meta.dirname, '../lab/probe.cjs');
/** The probe as a process of the host's. */
async function asHost(...words: readonly (string | number)[]): Promise<ProbeResult> {
  return parseProbe(await lab.inHost([process.execPath, PROBE, ...words.map(String)]));
}
const ECHOES = ['93.184.40.6', '2600:9000::46'] as const;
/** Datagrams from one port to an echo service, for so long; false: none was tried, or the container ended meanwhile. */
async function spray(c: Container, at: string, forMs: number): Promise<boolean> {
  const what = { to: [at], port: 7, text: 'x', fromPort: 40_100, everyMs: 50, forMs };
  const argv = ['node', '/attacks/spray.mjs', JSON.stringify(what)];
  const { code, stdout } = await c.exec(argv, { timeoutMs: forMs + 30_000 });
  if (code !== 0) return false;
  const { sent, refused } = JSON.parse(stdout) as { sent: number; refused: number };
  return sent + refused > 0;
}
const NO_RAW = ['--cap-drop', 'NET_RAW'];

beforeAll(async () => {
  lab = await Lab.up({});
  const addresses = { A: ['93.184.30.1'], AAAA: ['2600:9000::c'] };
  const names = Array.from({ length: 250 }, (_, n) => [
    [name(n), addresses] as const,
    [denied(n), addresses] as const,
  ]);
  await lab.dns.set(Object.fromEntries(names.flat()));
});
afterAll(() => lab?.down());

describe('control: without Drawbridge', () => {
  it('a container in the host network reaches everything', async () => {
    const { stdout } = await lab.run({ network: 'host', node: false, cmd: ['sh', '-c', script(250 - 1)] });
    expect(said(stdout)).toEqual(ALL);
    const out = await leaks([249]);
    expect(out.packets).toBeGreaterThan(0);
    expect(out.asked).toBeGreaterThan(0);
    shown.control();
    reloaded.control();
    const c = await lab.start({ network: 'host', mounts: [PROGRAMS] });
    for (const dst of ECHOES) {
      expect(await spray(c, dst, 200)).toBe(true);
      expect(await lab.sniffer.count({ direction: 'out', dst })).toBeGreaterThan(0);
    }
    renumbered.control();
    const sender = await lab.start(raw({ network: 'host', mounts: [PROGRAMS] }));
    for (const dst of EXTENDED)
      expect(await leftWithExtensions(sender, dst)).toBe(2 * datagrams(dst, 1).others.length);
    extended.control();
    expect(await leftErrors(sender, c, 40_400)).toEqual([1, 1, 1, 1]);
    erroneous.control();
    await Promise.all([c, sender].map((x) => x.remove()));
  });
});

/** Bytes that come from the other side ten times a second, and how long they do. */
const stream = (c: Container, at: string): Promise<unknown> =>
  c.exec(['node', '/probe.cjs', 'hold', at, '19', '--timeout', '20000'], { timeoutMs: 60_000 });
const flows = async (at: string): Promise<boolean> => (await lab.sniffer.count({ src: at })) > 5;

/** Drawbridge runs, and has seen where Docker puts containers. */
let begun: Promise<void> | undefined;
const begin = (): Promise<void> => {
  begun ??= (async () => {
    drawbridge = lab.drawbridge({});
    await drawbridge.ready();
    await lab.start({ node: false });
    await waitFor('the parent of all containers to be known', gated, 20_000);
  })();
  return begun;
};

describe('containers in the host network', () => {
  const [good, bad] = ['93.184.40.8', '93.184.40.9'] as const;
  let early: Container;
  let streams: Promise<unknown>[];
  beforeAll(async () => {
    early = await lab.start({
      network: 'host',
      labels: { 'drawbridge.allow': `${good}:19, ${ECHOES[0]}:7/udp` },
      args: NO_RAW,
      mounts: [PROGRAMS],
    });
    streams = [...[good, bad].map((at) => stream(early, at)), spray(early, ECHOES[0], 20_000)];
    for (const at of [good, bad]) await waitFor(`the stream of ${at}`, () => flows(at), 15_000);
    const isStream = async (): Promise<boolean> =>
      (await tracked()).some((l) => l.includes(`dst=${ECHOES[0]} `) && l.includes('[ASSURED]'));
    await waitFor('datagrams to count as a stream', isStream, 15_000);
    await begin();
  });

  it('one that ran before: what it had opened and may not ends, the rest goes on, and coverage says it', async () => {
    await waitFor('it to be inspected', async () => (await coverage(early)).reasons.length > 1, 15_000);
    expect((await coverage(early)).state).toBe('partial');
    expect((await coverage(early)).reasons.join()).toContain('restart the container');
    const isDeleted = async (): Promise<boolean> => !(await tracked()).some((l) => l.includes(`=${bad} `));
    await waitFor('the flow of the bad stream to be deleted', isDeleted, 20_000);
    await lab.sniffer.clear();
    // either the client was refused at its next packet, or the flow went silently: then the other side sends again
    // what is not acknowledged, ever more slowly
    let hasEnded = false;
    void streams[1]?.then(() => {
      hasEnded = true;
    });
    const repeats = async (): Promise<boolean> => (await lab.sniffer.count({ src: bad })) >= 2;
    await waitFor(
      'the other side of the bad stream to be left alone',
      async () => hasEnded || repeats(),
      20_000,
    );
    await waitFor('the good stream to go on', () => flows(good), 15_000);
    expect(await lab.sniffer.count({ direction: 'out', dst: good })).toBeGreaterThan(5);
    // the host's own kernel resets what nobody listens for any more
    const [out, resets] = [{}, { flags: 'R' }].map((more) =>
      lab.sniffer.count({ direction: 'out', dst: bad, ...more }),
    );
    expect(await out).toBe(await resets);
    expect(await isDeleted()).toBe(true);
    expect((await tracked()).find((l) => l.includes(`dst=${good} `))).toMatch(/ mark=[1-9]/);
    const sent = await lab.sniffer.packets({ direction: 'out', dst: ECHOES[0] });
    expect(new Set(sent.map((p) => p.sport))).toEqual(new Set([40_100]));
    await lab.docker('restart', '-t', '0', early.id);
    await waitFor('it to be held', async () => (await coverage(early)).state === 'enforced', 15_000);
    await early.remove();
    await Promise.all(streams);
  });

  it(`${STARTS} starts in bursts: nothing forbidden leaves, nothing permitted fails, from the first instruction`, async () => {
    await lab.sniffer.clear();
    await lab.dns.clearLog();
    const numbers = Array.from({ length: STARTS }, (_, n) => n);
    const printed = await inParallel(AT_ONCE, numbers, (n) =>
      lab.run(
        {
          network: 'host',
          node: false,
          labels: { 'drawbridge.allow': policy(n) },
          cmd: ['sh', '-c', script(n)],
        },
        { timeoutMs: 120_000 },
      ),
    );
    expect(await leaks(numbers)).toEqual({ packets: 0, asked: 0 });
    expect(printed.map((p) => said(p.stdout))).toEqual(numbers.map(() => ALL));
    shown.held();
  });

  it('datagrams of one socket leave from one port, from the first instruction on', async () => {
    const at = '93.184.40.7';
    // Longer than a pass takes on a busy host: packets of a cgroup that is gone when they are decided are dropped.
    const what = { to: [at], port: 7, text: 'x', fromPort: 40_200, everyMs: 50, forMs: 4_000 };
    for (let n = 1; n <= 3; n++) {
      await lab.sniffer.clear();
      const labels = { 'drawbridge.allow': `${at}:7/udp` };
      const cmd = ['node', '/attacks/spray.mjs', JSON.stringify(what)];
      await lab.run({ network: 'host', labels, mounts: [PROGRAMS], cmd });
      const enough = async (): Promise<boolean> =>
        (await lab.sniffer.count({ direction: 'out', dst: at, proto: 'udp' })) > 10;
      await waitFor('its datagrams outside', enough, 15_000);
      const all = await lab.sniffer.packets({ direction: 'out', dst: at });
      const sent = all.filter((p) => p.proto === 'udp');
      // An echo that comes after the socket's end is answered by the kernel: port unreachable.
      expect(all.filter((p) => p.proto !== 'udp' && p.icmpType !== 3)).toEqual([]);
      const ports = [...new Set(sent.map((p) => p.sport))];
      // where the one before has left a flow with the same answer, NAT gives this one another: one
      expect(n === 1 ? ports : ports.length).toEqual(n === 1 ? [40_200] : 1);
    }
  });

  it('docker restart: the same path is another cgroup, and held as the first', async () => {
    const n = 200;
    const c = await lab.start({
      network: 'host',
      node: false,
      labels: { 'drawbridge.allow': policy(n) },
      cmd: ['sh', '-c', `${script(n)}\nsleep 1000`],
    });
    const words = async (): Promise<number> =>
      (await c.logs()).split('\n').filter((l) => ALL.includes(l)).length;
    for (let round = 1; round <= 5; round++) {
      const isComplete = async (): Promise<boolean> => (await words()) >= 3 * round;
      await waitFor(`start ${round} to say all`, isComplete, 30_000).catch(async (e: unknown) => {
        const flows = await drawbridge.get(`/v1/flows?container=${c.id}&limit=20`);
        throw new Error(`${e}; it has said ${await c.logs()}; ${flows.body}`);
      });
      await lab.docker('restart', '-t', '0', c.id);
    }
    await waitFor('the last start to say all', async () => (await words()) >= 18, 30_000);
    expect(await leaks([n])).toEqual({ packets: 0, asked: 0 });
    await c.remove();
  });

  it('names go to Drawbridge, whichever resolver is asked, over either protocol and family', async () => {
    const c = await start('n1.example.com');
    for (const server of ['8.8.8.8', '127.0.0.53', '127.0.0.1', '198.51.100.53', '2001:4860:4860::8888'])
      for (const proto of ['udp', 'tcp']) {
        const good = await c.probe('dns', server, 'n1.example.com', 'A', proto);
        expect({ server, proto, ...good }).toMatchObject({ rcode: 'NOERROR', addresses: ['93.184.30.1'] });
        const bad = await c.probe('dns', server, 'd1.example.net', 'A', proto);
        expect({ server, proto, ...bad }).toMatchObject({ rcode: 'NXDOMAIN', aa: true });
      }
    expect(await lab.dns.queries('d1.example.net')).toEqual([]);
    expect(await c.probe('http', 'http://n1.example.com/')).toMatchObject({ ok: true, status: 200 });
    await c.remove();
  });

  it('who takes a port that another has just used finds no flow of the other: neither a container nor the host', async () => {
    const [a, b] = [await start('n3.example.com, any:7/udp'), await start('n4.example.com, any:7/udp')];
    const from = (port: number) => ['--local-port', port, '--timeout', 3000];
    await lab.dns.clearLog();
    const servers = { '8.8.8.8': '93.184.40.5', '2001:4860:4860::8888': '2600:9000::45' };
    for (const [server, at] of Object.entries(servers)) {
      const question = (n: number, port: number) =>
        ['dns', server, name(n), 'A', 'udp', ...from(port)] as const;
      expect(await a.probe(...question(3, 40_001))).toMatchObject({ rcode: 'NOERROR' });
      expect(await b.probe(...question(4, 40_001))).toMatchObject({ rcode: 'NOERROR' });
      expect(await b.probe(...question(3, 40_001))).toMatchObject({ rcode: 'NXDOMAIN' });
      expect(await asHost(...question(5, 40_001))).toMatchObject({ rcode: 'NOERROR' });
      expect(await asHost(...question(5, 40_002))).toMatchObject({ rcode: 'NOERROR' });
      expect(await a.probe(...question(3, 40_002))).toMatchObject({ rcode: 'NOERROR' });
      expect(await a.probe(...question(5, 40_002))).toMatchObject({ rcode: 'NXDOMAIN' });
      const echo = ['udp', at, 7, 'x', 2, ...from(40_003)] as const;
      for (const c of [a, b]) expect(await c.probe(...echo)).toMatchObject({ ok: true, echoes: 2 });
      expect(await asHost(...echo)).toMatchObject({ ok: true, echoes: 2 });
    }
    const asked = await lab.dns.queries(name(5));
    expect(asked.map((q) => q.fromPort).sort()).toEqual([40_001, 40_001, 40_002, 40_002]);
    await Promise.all([a, b].map((c) => c.remove()));
  });

  it('what listens there answers datagrams: from outside, of the host, and of another container', async () => {
    const echo =
      "const s = require('dgram').createSocket('udp6').bind(8077, '::'); s.on('message', (m, r) => s.send(m, r.port, r.address))";
    const allow = { 'drawbridge.allow': 'n1.example.com' };
    const service = await lab.start({ network: 'host', labels: allow, cmd: ['node', '-e', echo] });
    const other = await start('host:8077/udp');
    const ask = (at: string) => ['udp', at, 8077, 'x', 2, '--timeout', 3000] as const;
    await waitFor('the service', async () => (await asHost(...ask('127.0.0.1'))).ok, 10_000);
    const own = ['192.0.2.2', '2001:db8:fff0::2'];
    for (const at of own) expect(await lab.probeFromNet(...ask(at))).toMatchObject({ echoes: 2 });
    for (const at of ['127.0.0.1', '::1', ...own]) {
      expect(await asHost(...ask(at))).toMatchObject({ echoes: 2 });
      expect(await other.probe(...ask(at))).toMatchObject({ echoes: 2 });
    }
    await Promise.all([service, other].map((c) => c.remove()));
  });

  it('the host itself is reached only by host entries, and nobody asks with the resolver of another', async () => {
    const service = await lab.start({
      network: 'host',
      node: false,
      cmd: ['httpd', '-f', '-p', '8055', '-h', '/'],
    });
    const other = await start('n2.example.com');
    const none = await start('n1.example.com');
    const some = await start('host:8055, n1.example.com');
    await waitFor('the service', async () => (await some.probe('tcp', '127.0.0.1', 8055)).ok, 10_000);
    for (const at of ['127.0.0.1', '192.0.2.2', '::1', '2001:db8:fff0::2']) {
      expect({ at, ...(await some.probe('tcp', at, 8055)) }).toMatchObject({ ok: true });
      expect({ at, ...(await none.probe('tcp', at, 8055)) }).toMatchObject({ ok: false });
    }
    const resolvers = [...(await marked()).matchAll(/cgroupv2 .* \| 0x2000(\w{4}) goto/g)].map((m) =>
      Number(`0x${m[1]}`),
    );
    expect(resolvers.length).toBeGreaterThanOrEqual(3);
    const answers = await Promise.all(
      resolvers.map((id) =>
        some.probe('udp', `127.53.${id >> 8}.${id & 255}`, 5359, 'x', 1, '--timeout', 500),
      ),
    );
    // its own is open to it and answers no nonsense; the others refuse
    expect(answers.filter((a) => a.code !== 'TIMEOUT').length).toBe(resolvers.length - 1);
    await Promise.all([service, other, none, some].map((c) => c.remove()));
  });

  it('sends no IP option and no extension header, enforced now or from later on', async () => {
    const allow = EXTENDED.map((at) => `${at.includes(':') ? `[${at}]` : at}:${EXTENDED_PORT}/udp`).join();
    const spec = (mode: string) =>
      raw({
        network: 'host',
        mounts: [PROGRAMS],
        labels: { 'drawbridge.allow': allow, 'drawbridge.mode': mode },
      });
    const c = await lab.start({ ...spec('enforce'), name: 'extended' });
    const watched = await lab.start({ ...spec('observe'), name: 'watched' });
    await waitFor('both to be held', async () => (await coverage(watched)).reasons.length > 0, 15_000);
    for (const dst of EXTENDED) {
      expect(await leftWithExtensions(c, dst)).toBe(0);
      expect(await leftWithExtensions(watched, dst)).toBeGreaterThan(0);
    }
    const answer = await drawbridge.request('PUT', '/v1/containers/watched/mode', { mode: 'enforce' });
    expect(answer.status).toBe(200);
    for (const dst of EXTENDED) {
      await lab.sniffer.clear();
      // in the flow that it opened while nothing was denied to it
      await trySending(watched, datagrams(dst, 40_302).others, { way: 'ip' });
      expect(await outTo(dst)).toBe(0);
    }
    extended.held();
    await Promise.all([c, watched].map((x) => x.remove()));
  });

  it('sends no ICMP error about a flow of others, but its kernel does about its own', async () => {
    const opener = await start('any:7300/udp', NO_RAW);
    const allow = { 'drawbridge.allow': '93.184.40.12:19/udp, [2600:9000::412]:19/udp' };
    const c = await lab.start(raw({ network: 'host', mounts: [PROGRAMS], labels: allow }));
    await waitFor('it to be held', async () => (await coverage(c)).reasons.length > 0, 15_000);
    expect(await leftErrors(c, opener, 40_500)).toEqual([0, 0, 0, 0]);
    for (const at of ['93.184.40.12', '2600:9000::412']) {
      await c.probe('udp', at, 19); // what comes from there goes on after the socket has closed
      const refused = async (): Promise<boolean> =>
        (await lab.sniffer.count({ direction: 'out', dst: at, proto: ['icmp', 'icmp6'] })) > 0;
      await waitFor(`the kernel's own error to ${at}`, refused, 15_000);
    }
    erroneous.held();
    await Promise.all([c, opener].map((x) => x.remove()));
  });

  it('the host’s own processes are not touched', async () => {
    await lab.dns.clearLog();
    await lab.sniffer.clear();
    const asked = await lab.inHost(['busybox', 'nslookup', denied(7), '8.8.8.8']);
    const fetched = await lab.inHost(['wget', '-q', '-T', '5', '-O', '/dev/null', `http://${forbidden(7)}/`]);
    expect({ asked: asked.code, fetched: fetched.code }).toEqual({ asked: 0, fetched: 0 });
    expect((await lab.dns.queries(denied(7))).length).toBeGreaterThan(0);
    expect(await lab.sniffer.count({ direction: 'out', dst: forbidden(7) })).toBeGreaterThan(0);
  });

  it('one that shares the namespace is held by its policy, from the first instruction', async () => {
    const n = 201;
    const owner = await start(policy(n));
    const { stdout } = await lab.run({
      network: `container:${owner.id}`,
      node: false,
      labels: { 'drawbridge.allow': `${forbidden(n)}:80` },
      cmd: ['sh', '-c', script(n)],
    });
    expect(said(stdout)).toEqual(ALL);
    expect(await leaks([n])).toEqual({ packets: 0, asked: 0 });
    await owner.remove();
  });

  it('observed ones reach everything', async () => {
    const n = 202;
    const { stdout } = await lab.run({ network: 'host', node: false, cmd: ['sh', '-c', script(n, 5)] });
    expect(said(stdout)).toEqual(ALL);
    const out = await leaks([n]);
    expect(out.packets).toBeGreaterThan(0);
    expect(out.asked).toBeGreaterThan(0);
  });
});

describe('what changes under containers in the host network', () => {
  beforeAll(begin);

  interface Grant {
    readonly id: string;
  }
  const grant = async (c: Container, entry: string): Promise<string> => {
    const made = await drawbridge.request('POST', `/v1/containers/${c.id}/grants`, { entry });
    expect({ status: made.status, body: made.body }).toMatchObject({ status: 201 });
    return (JSON.parse(made.body) as Grant).id;
  };
  it('revoked means cut: a flow that a grant carried ends at both sides, in both families', async () => {
    for (const at of ['93.184.40.1', '2600:9000::40']) {
      const c = await start('n1.example.com');
      const id = await grant(c, at.includes(':') ? `[${at}]:19` : `${at}:19`);
      const held = stream(c, at);
      await waitFor('the stream to run', async () => (await lab.sniffer.count({ dst: at })) > 5, 15_000);
      const after = await lab.sniffer.settle();
      const gone = await drawbridge.request('DELETE', `/v1/containers/${c.id}/grants/${id}`);
      expect(gone.status).toBe(204);
      const reset = { direction: 'out', dst: at, flags: 'R', after } as const;
      await waitFor('the reset of the other side', async () => (await lab.sniffer.count(reset)) > 0, 15_000);
      await held;
      const ended = await lab.sniffer.settle();
      expect((await c.probe('tcp', at, 19, '--timeout', 1_000)).ok).toBe(false);
      expect(await lab.sniffer.count({ direction: 'out', dst: at, after: ended })).toBe(0);
      await c.remove();
    }
  });

  it('flushed by others: nothing leaves meanwhile, and it is repaired', async () => {
    const n = 203;
    const c = await start(policy(n), ['--stop-timeout=0']);
    await lab.sniffer.clear();
    const loop = `i=0; while [ $i -lt 400 ]; do wget -q -T 1 -O /dev/null http://${forbidden(n)}/; wget -q -T 1 -O /dev/null 'http://[${forbidden6(n)}]/'; i=$((i+1)); done`;
    const trying = lab.exec(c.id, ['sh', '-c', loop], { timeoutMs: 60_000 });
    for (const flush of [
      ['-t', 'raw', '-F'],
      ['-t', 'mangle', '-F'],
      ['-F', 'OUTPUT'],
      ['-F'],
      ['-t', 'security', '-F'],
      ['-t', 'nat', '-F', 'OUTPUT'],
      ['-t', 'mangle', '-F', 'OUTPUT'],
    ]) {
      for (const tool of ['iptables', 'ip6tables']) await lab.inHost([tool, ...flush], { check: true });
      await waitFor(`the repair after ${flush.join(' ')}`, () => isRepaired(c), 10_000);
    }
    await lab.exec(c.id, ['pkill', 'wget']);
    await lab.exec(c.id, ['sh', '-c', "kill $(ps | awk '/while/ && !/awk/ {print $1}')"]);
    await trying;
    expect(await leaks([n])).toMatchObject({ packets: 0 });
    expect(await c.probe('http', `http://${permitted(n)}/`)).toMatchObject({ ok: true });
    await c.remove();
  });

  it('every table emptied at once, time and again: nothing leaves, and what stood goes on', async () => {
    const n = 209;
    const to = [forbidden(n), forbidden6(n)];
    const c = await lab.start({
      network: 'host',
      labels: { 'drawbridge.allow': `${policy(n)}, 93.184.40.3:19` },
      mounts: [PROGRAMS],
      cmd: [
        'node',
        '/attacks/spray.mjs',
        JSON.stringify({ to, port: 7000, text: 'x', everyMs: 1, forMs: 60_000 }),
      ],
    });
    const held = stream(c, '93.184.40.3');
    const streamed = (): Promise<number> => lab.sniffer.count({ direction: 'out', dst: '93.184.40.3' });
    await waitFor('the stream to run', async () => (await streamed()) > 5, 15_000);
    await lab.sniffer.clear();
    const empty = ['raw', 'filter', 'nat', 'mangle', 'security'].map((t) => `*${t}\n-F\nCOMMIT\n`).join('');
    for (let round = 0; round < 8; round++) {
      const tools = ['iptables-restore', 'ip6tables-restore'];
      await Promise.all(tools.map((tool) => lab.inHost([tool, '--noflush'], { input: empty, check: true })));
      await waitFor(`repair ${round}`, () => isRepaired(c), 10_000);
    }
    expect(await leaks([n])).toEqual({ packets: 0, asked: 0 });
    const seen = await streamed();
    await waitFor('the stream to go on', async () => (await streamed()) > seen + 5, 15_000);
    expect(await c.probe('http', `http://${permitted(n)}/`)).toMatchObject({ ok: true });
    await c.remove();
    await held;
    reloaded.held();
  });

  it('killed: who runs is held as before, who starts gets nothing; back again, flows and numbers are the same', async () => {
    const n = 204;
    const c = await start(`${policy(n)}, 93.184.40.2:19`);
    const held = stream(c, '93.184.40.2');
    await waitFor(
      'the stream to run',
      async () => (await lab.sniffer.count({ dst: '93.184.40.2' })) > 5,
      15_000,
    );
    const numberOf = async (): Promise<string | undefined> =>
      new RegExp(`${c.id}" meta mark set .* \\| (0x\\w+) goto`).exec(await marked())?.[1];
    const number = await numberOf();
    expect(number).toBeDefined();
    drawbridge.kill('SIGKILL');
    await drawbridge.exited();
    await lab.sniffer.clear();
    expect(await c.probe('http', `http://${permitted(n)}/`)).toMatchObject({ ok: true });
    expect(await c.probe('tcp', forbidden(n), 80)).toMatchObject({ ok: false });
    const { stdout } = await lab.run({
      network: 'host',
      node: false,
      labels: { 'drawbridge.allow': policy(205) },
      // nobody answers a name now: no need to wait for all that a resolver tries
      cmd: ['sh', '-c', script(205).replace(/^(wget|nslookup)/gm, 'timeout 6 $1')],
    });
    expect(said(stdout)).toEqual([]);
    expect(await leaks([n, 205])).toEqual({ packets: 0, asked: 0 });
    drawbridge.start();
    await drawbridge.ready();
    expect(await numberOf()).toBe(number);
    const seen = await lab.sniffer.settle();
    await waitFor(
      'the stream to go on',
      async () => (await lab.sniffer.count({ after: seen, direction: 'out', dst: '93.184.40.2' })) > 5,
      15_000,
    );
    expect(await c.probe('http', `http://${name(n)}/`)).toMatchObject({ ok: true });
    await c.remove();
    await held;
  });

  it('one that gets the number of another inherits none of its flows', async () => {
    const run = (allow: string) =>
      lab.start({ network: 'host', labels: { 'drawbridge.allow': allow }, mounts: [PROGRAMS] });
    const numberOf = async (c: Container): Promise<string | undefined> =>
      new RegExp(`${c.id}" meta mark set .* \\| (0x\\w+) goto`).exec(await marked())?.[1];
    const killed = async (): Promise<void> => {
      drawbridge.kill('SIGKILL');
      await drawbridge.exited();
    };
    const back = async (): Promise<void> => {
      drawbridge.start();
      await drawbridge.ready();
    };
    // numbers rest for a while; after a restart the lowest is free again, unless the start finds it in the kernel
    const running = new Set((await lab.docker('ps', '-q', '--no-trunc')).split('\n'));
    await waitFor('the rules of earlier ones to go', async () =>
      [...(await marked()).matchAll(/([0-9a-f]{64})" meta mark set/g)].every(([, id = '']) =>
        running.has(id),
      ),
    );
    await killed();
    await back();
    await lab.sniffer.clear();
    const before = await run(`${ECHOES[0]}:7/udp, [${ECHOES[1]}]:7/udp`);
    for (const dst of ECHOES)
      await waitFor(`${dst} to be reached`, async () => {
        expect(await spray(before, dst, 200)).toBe(true);
        return (await lab.sniffer.count({ direction: 'out', dst })) > 0; // the first ones wait until it is known
      });
    const number = await numberOf(before);
    expect(number).toBeDefined();
    await killed();
    await before.remove();
    // a number that a start finds in the kernel rests; the next start finds it no more
    await back();
    await waitFor('its rule to go', async () => !(await marked()).includes(before.id), 10_000);
    await killed();
    await back();
    // the numbers of earlier ones may be free again by now, and lower
    let after = await run('n1.example.com');
    const all = [after];
    const hasNumber = async (): Promise<string> => waitFor('its number', async () => numberOf(after), 10_000);
    while ((await hasNumber()) !== number && all.length < 8) {
      after = await run('n1.example.com');
      all.push(after);
    }
    expect(await numberOf(after)).toBe(number);
    await lab.sniffer.clear();
    for (const dst of ECHOES) expect(await spray(after, dst, 500)).toBe(true);
    expect(await lab.sniffer.count({ direction: 'out', dst: ECHOES })).toBe(0);
    renumbered.held();
    for (const c of all) await c.remove();
  });

  it('explain and coverage', async () => {
    const n = 206;
    const c = await start(policy(n), NO_RAW);
    const raw = await start(policy(n));
    await waitFor('it to be inspected', async () => (await coverage(c)).state === 'enforced', 10_000);
    expect((await coverage(raw)).state).toBe('partial');
    expect((await coverage(raw)).reasons.join()).toContain('NET_RAW');
    const explain = async (to: string): Promise<{ verdict: string; trace: readonly string[] }> =>
      JSON.parse((await drawbridge.get(`/v1/explain?container=${c.id}&to=${encodeURIComponent(to)}`)).body);
    const no = await explain(`${forbidden(n)}:80`);
    expect(no.verdict).toBe('deny');
    expect(no.trace.join('\n')).toMatch(/senders: -m cgroup --path .*\n.*DB-HN-OUT/s);
    expect((await explain(`${permitted(n)}:80`)).verdict).toBe('allow');
    expect((await explain(`[${permitted6(n)}]:80`)).verdict).toBe('allow');
    expect((await explain('host:22')).verdict).toBe('deny');
    expect((await explain(name(n))).verdict).toBe('allow');
    await c.remove();
    await raw.remove();
  });

  it('frames of its own making leave beside the rules only with NET_RAW, which coverage says', async () => {
    const frames = async (args: readonly string[]): Promise<number> => {
      const c = await start('n1.example.com', args);
      await lab.sniffer.clear();
      await c.exec([
        'busybox',
        'udhcpc',
        '-i',
        'eth0',
        '-n',
        '-q',
        '-f',
        '-t',
        '2',
        '-T',
        '1',
        '-s',
        '/bin/true',
      ]);
      await c.remove();
      return lab.sniffer.count({ direction: 'out', proto: 'udp', dport: 67 });
    };
    expect(await frames([])).toBeGreaterThan(0);
    expect(await frames(NO_RAW)).toBe(0);
  });

  it('a parent shared with others: each is held by its own cgroup, late, and nobody else is', async () => {
    const foreign = join(HIERARCHY, lab.cgroupParent, 'foreign');
    mkdirSync(foreign);
    const run = (...argv: string[]) =>
      lab.inHost(['sh', '-c', `echo $$ > ${foreign}/cgroup.procs; exec "$@"`, 'sh', ...argv]);
    const stay = run('busybox', 'nc', '-l', '-p', '8066'); // until somebody says something
    try {
      const n = 208;
      const c = await start(policy(n), NO_RAW);
      await waitFor('its own rule', async () => !(await gated()) && (await marked()).includes(c.id), 15_000);
      expect(await c.probe('http', `http://${permitted(n)}/`)).toMatchObject({ ok: true });
      expect(await c.probe('http', `http://${name(n)}/`)).toMatchObject({ ok: true });
      expect(await c.probe('tcp', forbidden(n), 80)).toMatchObject({ ok: false });
      expect(await c.probe('tcp', forbidden6(n), 80)).toMatchObject({ ok: false });
      const { state, reasons } = await coverage(c);
      expect(state).toBe('partial');
      expect(reasons.join()).toContain('"cgroup-parent"');
      const fetched = await run('wget', '-q', '-T', '5', '-O', '/dev/null', `http://${forbidden(n)}/`);
      expect(fetched.code).toBe(0);
      await c.remove();
    } finally {
      await lab.inHost(['sh', '-c', 'echo end | busybox nc 127.0.0.1 8066']);
      await stay;
      rmdirSync(foreign);
    }
    await waitFor('the parent to be the gate again', gated, 40_000);
  });

  it('teardown leaves nothing, and containers as they were', async () => {
    const n = 207;
    const c = await start(policy(n));
    expect(await c.probe('tcp', forbidden(n), 80)).toMatchObject({ ok: false });
    expect((await drawbridge.cli(['teardown'])).code).toBe(0);
    const left = await lab.inHost([
      'sh',
      '-c',
      'iptables-save; ip6tables-save; ip address show lo; ipset list -n',
    ]);
    expect(left.stdout).not.toMatch(/DB-|fd64:7262|127\.53\./);
    expect(await c.probe('tcp', forbidden(n), 80)).toMatchObject({ ok: true });
    await c.remove();
  });
});
