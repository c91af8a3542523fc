/** Hellos and requests while the check does not answer, and more of them than it keeps. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Container } from '../lab/container.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import {
  cryptoFrame,
  helloFor,
  helloMessage,
  initialPacket,
  serverNames,
} from '../pure/connections/hello-maker.js';
import { BOTH, GOOD, type NameAttack, namesSuite, SHARED } from './names.js';
import { RawHost, type RawTcp, rawTcp } from './raw-tcp.js';

const CLOSED = 'what is queued waits for the next start, which evaluates it';
const FULL = 'what does not fit into the queue is dropped';

const segment = (
  o: Pick<NameAttack, 'id' | 'title' | 'stoppedBy' | 'port'>,
  text: (name: string) => Buffer,
): NameAttack => ({
  ...o,
  families: BOTH,
  attack: async (t) => {
    const c = await t.open();
    c.segment(text(t.evil));
  },
});
const request = (name: string): Buffer => Buffer.from(`GET / HTTP/1.1\r\nHost: ${name}\r\n\r\n`);

namesSuite(
  'names while the service is away',
  { sniffer: true, isAway: true, before: (_, drawbridge) => drawbridge.stop(), isBack: true },
  [
    segment(
      {
        id: 'name-service-away',
        title: 'another server name while the service is stopped',
        stoppedBy: CLOSED,
      },
      helloFor,
    ),
    segment(
      {
        id: 'host-service-away',
        title: 'another Host while the service is stopped',
        port: 80,
        stoppedBy: CLOSED,
      },
      request,
    ),
    {
      id: 'quic-service-away',
      title: 'another name in an Initial packet while the service is stopped',
      families: BOTH,
      stoppedBy: CLOSED,
      attack: async (t) => {
        const dcid = Buffer.from(t.tag.slice(-8));
        t.datagram(
          t.nextPort(),
          initialPacket({ dcid, frames: cryptoFrame(0, helloMessage(serverNames(t.evil))) }),
        );
      },
      arrived: (t) => t.datagramsArrived(),
    },
  ],
);

/** More than the queue of the check holds (connection-checks.ts). */
const FLOOD = 12_000;
const queueOf = async (lab: Lab): Promise<string> =>
  (await lab.inHost(['cat', '/proc/net/netfilter/nfnetlink_queue'], { check: true })).stdout;
/** Waiting packets of the fullest queue, and those that were dropped because it was full. */
const fullest = (text: string): { waiting: number; dropped: number } =>
  text
    .trim()
    .split('\n')
    .map((line) => line.trim().split(/\s+/).map(Number))
    .map(([, , waiting = 0, , , dropped = 0]) => ({ waiting, dropped }))
    .reduce((a, b) => (b.waiting > a.waiting ? b : a), { waiting: 0, dropped: 0 });

namesSuite(
  'names while the queue is full',
  {
    isAway: true,
    after: (drawbridge) => drawbridge.kill('SIGCONT'),
    before: async (lab, drawbridge, held) => {
      drawbridge.kill('SIGSTOP');
      const c = held.tcp(SHARED.v4, 443, 60_000);
      await c.open();
      for (let n = 0; n < FLOOD; n++) {
        c.segment('the beginning of nothing', { at: 0 });
        if (n % 500 === 0) await held.sent();
      }
      await waitFor('the queue to drop', async () => fullest(await queueOf(lab)).dropped > 0, 30_000);
    },
  },
  [
    segment(
      { id: 'name-queue-full', title: 'another server name while the queue is full', stoppedBy: FULL },
      helloFor,
    ),
    segment(
      { id: 'host-queue-full', title: 'another Host while the queue is full', port: 80, stoppedBy: FULL },
      request,
    ),
  ],
);

const MANY = 5_000;
const AT_ONCE = 250;
describe('flows that never end', () => {
  let lab: Lab;
  let greedy: RawHost;
  let other: Container;
  beforeAll(async () => {
    lab = await Lab.up({ sniffer: false });
    await lab.dns.set({ [GOOD]: { A: [SHARED.v4, '93.184.7.1'] }, 'evil.example': { A: ['93.184.7.1'] } });
    const drawbridge = lab.drawbridge({});
    await drawbridge.ready();
    const labels = { 'drawbridge.allow': GOOD };
    const container = await lab.start(rawTcp({ name: 'greedy', labels }));
    greedy = await RawHost.of(lab, container);
    other = await lab.start({ labels });
    for (const c of [container, other]) await c.exec(['nslookup', GOOD]);
  });
  afterAll(async () => {
    greedy?.close();
    await lab?.down();
  });

  it('of one container do not stop the check of another one', async () => {
    const opened: RawTcp[] = [];
    const isOpen = (c: RawTcp): boolean => c.serverIsn !== undefined;
    for (let n = 0; n < MANY; n += AT_ONCE) {
      const some = Array.from({ length: AT_ONCE }, (_, i) => greedy.tcp(SHARED.v4, 443, 10_000 + n + i));
      opened.push(...some);
      const openAll = (): boolean => {
        for (const c of some.filter((x) => !isOpen(x))) c.segment('', { at: -1, flags: 'S', ack: 0 });
        return some.every(isOpen);
      };
      await waitFor('them to be open', openAll, 20_000, 200);
      for (const c of some) c.acknowledge();
    }
    for (const c of opened) c.segment(helloFor(GOOD).subarray(0, 40));
    await greedy.sent();
    const url = 'https://93.184.7.1/';
    expect(await other.probe('http', url, '--sni', GOOD)).toMatchObject({ ok: true });
    expect(await other.probe('http', url, '--sni', 'evil.example')).toMatchObject({ ok: false });
  });
});
