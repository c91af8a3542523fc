/** What drawbridge.limit says: a rate, open connections, a quota; over restarts, crashes and what others take away. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { shownHere } from '../attacks/report.js';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { flood, flooder } from './flood.js';

const PEER = '93.184.1.1';
const PEER6 = '2600:9000:1::1';
const ALLOW = { 'drawbridge.allow': `${PEER}, ${PEER6}, files.test` };
const RATE = 20e6;
const limited = (limit: string) => ({ ...ALLOW, 'drawbridge.limit': limit });
const MB = 1_000_000;

let lab: Lab;
let drawbridge: Drawbridge;
/** Its segments are counted one by one. */
let counted: Container;
beforeAll(async () => {
  lab = await Lab.up({});
  await lab.docker('network', 'create', '--ipv6', 'user');
  await lab.dns.set({ 'files.test': { A: [PEER] } });
  drawbridge = lab.drawbridge({});
  await drawbridge.ready();
});
afterAll(() => lab?.down());

interface Upload {
  readonly received?: number;
  readonly bitsPerSecond: number;
}
const upload = (c: Container, seconds: number, host = PEER) =>
  flood<Upload>(c, 'upload', `http://${host.includes(':') ? `[${host}]` : host}/`, seconds);
const start = (name: string, limit: string | undefined, more: Record<string, string> = {}) =>
  flooder(lab, { name, network: 'user', labels: { ...(limit ? limited(limit) : ALLOW), ...more } });
const shown = async (name: string) =>
  JSON.parse((await drawbridge.get(`/v1/containers/${name}`)).body) as {
    limits: string | null;
    allowed: number;
    denied: number;
    quota: { used: number; reached: boolean; until: string } | null;
    coverage: { state: string; reasons: string[] };
  };
const bridgeTable = async (): Promise<string> =>
  (await lab.inHost(['nft', 'list', 'table', 'bridge', 'drawbridge'])).stdout;
const reasons = async (name: string): Promise<string[]> => {
  const { body } = await drawbridge.get(`/v1/flows?container=${name}&verdict=denied`);
  return (JSON.parse(body) as { items: { reason: string }[] }).items.map((i) => i.reason);
};

/** A socket that hands on many datagrams of a byte in one packet (UDP_SEGMENT). Prints for how many seconds it has sent. */
const SEGMENTS = `
import socket, sys, time
address, port, packets = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(17, 103, 1)
s.connect((address, port))
begin = time.monotonic()
for _ in range(packets):
    try: s.send(bytes(64))
    except OSError: pass
print(time.monotonic() - begin)
`;
const PER_PACKET = 64;
const PORTS = { probe: 7100, counted: 7101, flood: 7102 } as const;
const SHOWN = shownHere({
  id: 'limit-segments',
  title: 'more than its rate and its quota, by packets of many datagrams of a byte (UDP_SEGMENT)',
  families: ['v4', 'v6'],
  stoppedBy:
    'the veth of a container with a rate or a quota takes segments one by one, so that each is counted',
});
/** What had gathered, and what is sent meanwhile, at 1 Mbit/s. */
const atMost = (seconds: number): number => 65_536 + (seconds + 2) * (1e6 / 8);
/** Bytes of IP of a datagram of one byte. */
const SEGMENT = { [PEER]: 20 + 8 + 1, [PEER6]: 40 + 8 + 1 } as const;
async function sendSegments(c: Container, address: string, port: number, packets: number): Promise<number> {
  const words = [`--net=/proc/${await c.pid()}/ns/net`, '--', 'python3', '-c', SEGMENTS];
  const sent = await lab.inHost(['nsenter', ...words, address, `${port}`, `${packets}`], { check: true });
  return Number(sent.stdout);
}
/** Packets on the wire for one that this container hands on. */
async function onTheWire(c: Container, address: string = PEER): Promise<number> {
  const after = await lab.sniffer.settle();
  await sendSegments(c, address, PORTS.probe, 1);
  return lab.sniffer.count({ after, direction: 'out', dst: address, dport: PORTS.probe });
}

describe('rate', () => {
  let slow: Container;
  beforeAll(async () => {
    slow = await start('slow', 'rate=20mbit');
  });

  it('holds what it sends near the rate, in both families and for flows that stand; others are untouched', async () => {
    const free = await start('free', undefined);
    await upload(slow, 1); // what had gathered, a second's worth, is gone
    const [four, other] = [await upload(slow, 4), await upload(free, 1)];
    await upload(slow, 1, PEER6);
    const six = await upload(slow, 4, PEER6);
    console.info(
      `20mbit: IPv4 ${four.bitsPerSecond}, IPv6 ${six.bitsPerSecond}; without: ${other.bitsPerSecond}`,
    );
    for (const { bitsPerSecond } of [four, six]) {
      // a second's worth may have gathered before
      expect(bitsPerSecond).toBeGreaterThan(RATE * 0.5);
      expect(bitsPerSecond).toBeLessThan(RATE * 1.4);
    }
    expect(other.bitsPerSecond).toBeGreaterThan(RATE * 3);
  });

  it('over a crash of the service, and after others have taken it away', async () => {
    drawbridge.kill('SIGKILL');
    await drawbridge.exited();
    expect((await upload(slow, 3)).bitsPerSecond).toBeLessThan(RATE * 1.5);
    drawbridge.start();
    await drawbridge.ready();
    const { stdout } = await lab.inHost(['nft', '-j', 'list', 'map', 'bridge', 'drawbridge', 'rates']);
    const port = /"elem": \[\["([^"]+)"/.exec(stdout)?.[1] ?? '';
    expect(port).not.toBe('');
    const element = ['bridge', 'drawbridge', 'rates', `{ "${port}" }`];
    await lab.inHost(['nft', 'delete', 'element', ...element], { check: true });
    await waitFor('the rate to be back', async () => (await bridgeTable()).includes(`"${port}" : "r-`));
  });

  it('goes with the container', async () => {
    expect(await bridgeTable()).toContain('limit r-');
    await slow.remove();
    await waitFor('the limit to be gone', async () => !(await bridgeTable()).includes('limit r-'));
  });

  it('counts each segment that a container hands on in one packet, in both families', async () => {
    const [c, free] = [await start('segments', 'rate=1mbit, quota=1GB/day'), await start('whole', undefined)];
    counted = c;
    await waitFor('packets of one segment each', async () => (await onTheWire(c)) === PER_PACKET);
    for (const address of [PEER, PEER6] as const) {
      expect(await onTheWire(free, address)).toBe(1);
      const before = (await shown('segments')).quota?.used ?? 0;
      const after = await lab.sniffer.settle();
      await sendSegments(c, address, PORTS.counted, 5);
      const wire = { after, direction: 'out', dst: address } as const;
      const bytes = SEGMENT[address] * (await lab.sniffer.count({ ...wire, dport: PORTS.counted }));
      expect(bytes).toBe(SEGMENT[address] * PER_PACKET * 5);
      await waitFor('the count', async () => ((await shown('segments')).quota?.used ?? 0) >= before + bytes);
      const seconds = await sendSegments(c, address, PORTS.flood, 1000);
      const passed = SEGMENT[address] * (await lab.sniffer.count({ ...wire, dport: PORTS.flood }));
      expect(passed).toBeGreaterThan(0);
      expect(passed).toBeLessThan(atMost(seconds));
      // control: by a container without a limit, each packet is that many datagrams
      const later = await lab.sniffer.settle();
      const others = await sendSegments(free, address, PORTS.flood, 1000);
      const packets = await lab.sniffer.count({ ...wire, after: later, dport: PORTS.flood });
      expect(SEGMENT[address] * PER_PACKET * packets).toBeGreaterThan(atMost(others));
    }
    expect((await shown('segments')).coverage.reasons.join()).not.toMatch(/UDP_SEGMENT/);
    SHOWN.control();
    SHOWN.held();
  });

  it('is not held of an observed container, and coverage says so', async () => {
    const c = await flooder(lab, {
      name: 'seen',
      network: 'user',
      labels: { 'drawbridge.limit': 'rate=1mbit' },
    });
    expect((await upload(c, 1)).bitsPerSecond).toBeGreaterThan(3e6);
    expect((await shown('seen')).coverage.reasons.join()).toMatch(
      /drawbridge\.limit is not enforced: in mode observe/,
    );
  });
});

describe('connections', () => {
  it('over the bound: refused and told; those that stand go on; one ends, one may come', async () => {
    const c = await start('few', 'connections=5');
    const r = await flood<{ outcomes: string[]; alive: number; after: string }>(c, 'open', PEER, 7777, 8);
    expect(r.outcomes).toEqual([...Array(5).fill('ok'), ...Array(3).fill('ECONNREFUSED')]);
    expect([r.alive, r.after]).toEqual([5, 'ok']);
    await waitFor('the denials', async () => (await reasons('few')).includes('limit connections=5 reached'));
    // counters that are shown may be a second old, and thus a reading from amid the flood
    await waitFor('the counters', async () => {
      const { allowed, denied } = await shown('few');
      return allowed + denied >= 9;
    });
    const { limits, allowed, denied } = await shown('few');
    expect({ limits, allowed, denied }).toEqual({ limits: 'connections=5', allowed: 6, denied: 3 });
  });
});

describe('quota', () => {
  const LIMIT = 'quota=4MB/day';
  const fetch = (c: Container, bytes: number) =>
    c.probe('http', `http://${PEER}/bytes?n=${bytes}`, '--timeout', 8000);

  it('counts over restarts and crashes, and for the successor of its name; then it is refused, and said why', async () => {
    const first = await start('eater', LIMIT);
    expect(await fetch(first, 2 * MB)).toMatchObject({ ok: true });
    await waitFor('the count', async () => ((await shown('eater')).quota?.used ?? 0) > 2 * MB);
    await first.remove();
    drawbridge.kill('SIGKILL');
    await drawbridge.exited();
    drawbridge.start();
    await drawbridge.ready();
    const next = await start('eater', LIMIT);
    await waitFor('the successor', async () => (await shown('eater')).quota !== null);
    expect((await shown('eater')).quota).toMatchObject({ reached: false });
    expect((await shown('eater')).quota?.used).toBeGreaterThan(2 * MB);
    const live = flood<{ received?: number; error?: string }>(next, 'upload', `http://${PEER}/`, 6);
    await waitFor('the quota', async () => (await shown('eater')).quota?.reached === true, 20_000);
    expect(await live).toMatchObject({ error: expect.any(String) });
    expect(await fetch(next, 10)).toMatchObject({ ok: false, code: 'ECONNREFUSED' });
    expect(await next.probe('dns', '8.8.8.8', 'files.test', 'A')).toMatchObject({ rcode: 'NXDOMAIN' });
    const why = /^quota 4MB\/day reached, until 00:00 UTC$/;
    await waitFor('the denial', async () => (await reasons('eater')).some((r) => why.test(r)));
    const { stdout } = await drawbridge.cli(['explain', 'eater', `${PEER}:80`, '--json']);
    expect(JSON.parse(stdout)).toMatchObject({ verdict: 'deny', reason: expect.stringMatching(why) });
    expect((await drawbridge.cli(['ps'])).stdout).toMatch(
      /eater.*quota=4MB\/day \(quota reached, until \d{4}/,
    );
  });

  it('what is spent stays spent, though the table is deleted and the service restarted', async () => {
    await drawbridge.stop();
    await lab.inHost(['nft', 'delete', 'table', 'bridge', 'drawbridge'], { check: true });
    drawbridge.start();
    await drawbridge.ready();
    expect((await shown('eater')).quota).toMatchObject({ reached: true });
    expect(await lab.exec('eater', ['node', '/probe.cjs', 'tcp', PEER, '80'])).toMatchObject({
      stdout: expect.stringContaining('ECONNREFUSED'),
    });
  });

  it('teardown leaves nothing', async () => {
    expect((await drawbridge.cli(['teardown'])).code).toBe(0);
    expect((await lab.inHost(['nft', 'list', 'tables'])).stdout).not.toContain('drawbridge');
    expect(await onTheWire(counted)).toBe(1);
  });
});
