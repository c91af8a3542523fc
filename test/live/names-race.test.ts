/** A packet of the client that waits in the queue while the kernel verifies its flow. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { layoutMarks } from '../../src/ruleset/marks.js';
import { GOOD, SHARED } from '../attacks/names.js';
import { RawHost, rawTcp } from '../attacks/raw-tcp.js';
import { bytes, u8, u16 } from '../attacks/wire.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { helloFor, records } from '../pure/connections/hello-maker.js';

/** Of the default configuration. */
const { check } = layoutMarks(0x7f003fff);
const FROM = 40_000;
/** A record of a ServerHello, as far as it matters: it asks for no other hello. */
const ANSWER = bytes(u8(22, 3, 3), u16(74), u8(2, 0, 0, 70), u16(0x0303), Buffer.alloc(68, 9));
/** Data of the server go no further, but the SYN-ACK and acknowledgements do. */
const HELD_BACK = ['OUTPUT', '-p', 'tcp', '--dport', String(FROM), '--tcp-flags', 'PSH', 'PSH', '-j', 'DROP'];
const content = (length: number): Buffer => records(Buffer.alloc(length, 8), 16_384, 23);

let lab: Lab;
let drawbridge: Drawbridge;
let host: RawHost;
beforeAll(async () => {
  lab = await Lab.up({ sniffer: false });
  await lab.dns.set({ [GOOD]: { A: [SHARED.v4] } });
  drawbridge = lab.drawbridge({});
  await drawbridge.ready();
  const container = await lab.start(rawTcp({ name: 'client', labels: { 'drawbridge.allow': GOOD } }));
  host = await RawHost.of(lab, container);
  await container.probe('dns', '8.8.8.8', GOOD, 'A');
});
afterAll(async () => {
  host?.close();
  await lab?.down();
});

/** The state of the check in the connmark of the connection. */
async function state(): Promise<number> {
  const listed = await lab.inHost(['conntrack', '-L', '-p', 'tcp', '--sport', String(FROM)], { check: true });
  const [, mark] = /\bmark=(\d+)/.exec(listed.stdout) ?? [];
  return (Number(mark) & (check?.mask ?? 0)) >>> 0;
}
/** Packets that wait in the queues of the kernel. */
async function waiting(): Promise<number> {
  const { stdout } = await lab.inHost(['cat', '/proc/net/netfilter/nfnetlink_queue'], { check: true });
  const lines = stdout.trim().split('\n');
  return lines.reduce((sum, line) => sum + Number(line.trim().split(/\s+/)[2]), 0);
}

it('goes on, and its flow stays verified, so that all that follows passes in the kernel alone', async () => {
  const hello = helloFor(GOOD);
  const early = content(100);
  const received = async (): Promise<number> =>
    (await lab.web.streams()).find((s) => s.fromPort === FROM)?.text.length ?? 0;
  await lab.inNet(['iptables', '-I', ...HELD_BACK], { check: true });
  await lab.web.answerStream(FROM, [{ after: hello.length, send: ANSWER.toString('latin1') }]);
  const c = host.tcp(SHARED.v4, 443, FROM);
  expect(await c.open()).toBe(true);
  c.segment(hello);
  await waitFor('the hello to arrive', async () => (await received()) === hello.length);
  expect(await state()).toBe(check?.requests);

  drawbridge.kill('SIGSTOP');
  try {
    c.segment(early);
    await waitFor('the packet to wait', async () => (await waiting()) === 1);
    // the server sends its answer again until it is acknowledged
    await lab.inNet(['iptables', '-D', ...HELD_BACK], { check: true });
    await waitFor('the answer', () => c.received.equals(ANSWER));
    expect(await state()).toBe(check?.verified);
    expect(await received()).toBe(hello.length);
  } finally {
    drawbridge.kill('SIGCONT');
  }
  await waitFor('the packet to arrive', async () => (await received()) === hello.length + early.length);
  expect(await state()).toBe(check?.verified);

  // more than the check would let pass before an answer, in parts that fit into the window of the server
  const upload = content(200_000);
  const before = await received();
  for (let at = 0; at < upload.length && !c.isReset; at += 28_000) {
    const part = upload.subarray(at, at + 28_000);
    c.stream(part);
    await waitFor('the upload', async () => (await received()) === before + at + part.length || c.isReset);
  }
  expect({ bytes: (await received()) - before, isReset: c.isReset }).toEqual({
    bytes: upload.length,
    isReset: false,
  });
});
