/** What real clients have sent, read as tshark and nDPI read it. */
import { describe, expect, it } from 'vitest';
import type { ReadFlow, ReadHello } from '../../../scripts/hellos/oracles.js';
import type { AskedName, ClientHello } from '../../../src/connections/client-hello.js';
import type { Decision, NameJudge, Outcome, Ruling } from '../../../src/connections/flow-check.js';
import { HttpFlow } from '../../../src/connections/http-flow.js';
import { QuicFlow } from '../../../src/connections/quic-flow.js';
import { readSegment, type TcpSegment } from '../../../src/connections/tcp-segment.js';
import { TlsFlow } from '../../../src/connections/tls-flow.js';
import {
  type RecordedFlow,
  type RecordedPacket,
  type Recording,
  recordedFlows,
  recordings,
} from './recordings.js';

const nameOf = (asked: AskedName): string | null => (asked.kind === 'name' ? asked.name : null);
const helloOf = ({ name, encrypted, hasEarlyData }: ClientHello): ReadHello => ({
  name: nameOf(name),
  ech: encrypted?.configId ?? null,
  earlyData: hasEarlyData,
});

/** Permits everything, and keeps what it was given. */
class Recorder implements NameJudge {
  readonly hellos: ReadHello[] = [];
  readonly requests: (string | null)[] = [];

  hello(hello: ClientHello): Ruling {
    this.hellos.push(helloOf(hello));
    return { allow: true, name: nameOf(hello.name) ?? '', entry: 'any' };
  }
  request(host: AskedName): Decision {
    this.requests.push(nameOf(host));
    return { allow: true, name: nameOf(host) ?? '', entry: 'any' };
  }
}
const DENY: NameJudge = {
  hello: () => ({ allow: false, refusal: { reason: 'server-name', name: '', detail: 'no' } }),
  request: () => ({ allow: false, refusal: { reason: 'host', name: '', detail: 'no' } }),
};

const UDP_HEADER = 8;
const datagramOf = ({ bytes, header }: RecordedPacket): Buffer =>
  bytes.subarray(header.upperOffset + UDP_HEADER);
function segmentOf({ bytes, header }: RecordedPacket): TcpSegment {
  const segment = readSegment({ bytes, header, length: bytes.length });
  if (!segment) throw new Error('no segment of TCP');
  return segment;
}

const SYN = 2;
/** The sequence number of the client's first byte. */
function startOf(packets: readonly RecordedPacket[]): number {
  const syn = packets.find(({ from, header }) => from === 'client' && ((header.tcpFlags ?? 0) & SYN) !== 0);
  if (!syn) throw new Error('the recording has no SYN');
  return (segmentOf(syn).seq + 1) >>> 0;
}

type Check = {
  readonly check: HttpFlow | TlsFlow | QuicFlow;
  take(packet: RecordedPacket, id: number): Outcome | undefined;
};

/** Gives packets to a flow as the queue does; undefined: it is not queued. */
function checkOf({ proto, serverPort, packets }: RecordedFlow, judge: NameJudge): Check {
  if (proto === 'udp') {
    const check = new QuicFlow(judge);
    return {
      check,
      take(packet, id) {
        const datagram = { id, payload: datagramOf(packet) };
        if (packet.from === 'client') return check.take(datagram, 0);
        // it goes on, unless the flow was refused
        const { release, drop } = check.answer(datagram);
        expect([...release, ...drop]).toEqual([id]);
        return undefined;
      },
    };
  }
  const start = startOf(packets);
  const check = serverPort === 80 ? new HttpFlow(judge, 80, start) : new TlsFlow(judge, start);
  return {
    check,
    take(packet, id) {
      const { seq, ack, payload, doubt } = segmentOf(packet);
      if (payload.length === 0) return undefined;
      expect(doubt).toBeUndefined();
      return check.take({ id, from: packet.from, seq, ack, payload }, 0);
    },
  };
}

interface Ran {
  readonly queued: readonly number[];
  readonly outcomes: readonly Outcome[];
}
function run(
  flow: RecordedFlow,
  { check, take }: Check,
  packets: readonly number[] = [...flow.packets.keys()],
): Ran {
  const queued: number[] = [];
  const outcomes: Outcome[] = [];
  for (const id of packets) {
    if (!(check instanceof QuicFlow) && check.state === 'verified') break;
    const outcome = take(flow.packets[id] as RecordedPacket, id);
    if (!outcome) continue;
    queued.push(id);
    outcomes.push(outcome);
  }
  return { queued, outcomes };
}
const releasedOf = ({ outcomes }: Ran): number[] => outcomes.flatMap((o) => [...o.release]);

const cases = recordings.flatMap((recording) =>
  recordedFlows(recording.name).map((flow, n) => ({ title: `${recording.name} ${n + 1}`, recording, flow })),
);
/** tshark shows a hello that is sent again after a Retry once. */
const withoutCopies = (hellos: readonly ReadHello[]): readonly ReadHello[] =>
  hellos.filter((h, n) => n === 0 || JSON.stringify(h) !== JSON.stringify(hellos[n - 1]));
const oracleOf = ({ flows }: Recording, { proto, port }: RecordedFlow): ReadFlow =>
  flows.find((f) => f.proto === proto && f.port === port) ?? { proto, port, hellos: [], requests: [] };

it('the recordings have all that matters', () => {
  const hellos = cases.flatMap(({ recording, flow }) => oracleOf(recording, flow).hellos);
  expect(cases.length).toBeGreaterThan(50);
  expect(hellos.filter((h) => h.ech !== null).length).toBeGreaterThan(5);
  expect(hellos.some((h) => h.earlyData) && hellos.some((h) => h.name === null)).toBe(true);
});

describe.each(cases)('$title', ({ recording, flow }) => {
  const oracle = oracleOf(recording, flow);
  it('is read as tshark reads it, and released once and in order', () => {
    const judge = new Recorder();
    const ran = run(flow, checkOf(flow, judge));
    expect(ran.outcomes.find((o) => o.refusal)).toBeUndefined();
    expect(releasedOf(ran)).toEqual(ran.queued);
    expect(ran.outcomes.flatMap((o) => [...o.drop])).toEqual([]);
    const hellos = flow.proto === 'udp' ? withoutCopies(judge.hellos) : judge.hellos;
    expect({ hellos, requests: judge.requests }).toEqual({
      hellos: oracle.hellos,
      requests: oracle.requests,
    });
    expect(judge.hellos.length + judge.requests.length).toBeGreaterThan(0);
  });
  it('has no name that nDPI reads otherwise', () => {
    const names = recording.flows.flatMap((f) => [...f.hellos.map((h) => h.name), ...f.requests]);
    expect(names).toEqual(expect.arrayContaining([...recording.ndpi]));
  });
  it('releases nothing of the first hello or request when it is refused', () => {
    const ran = run(flow, checkOf(flow, DENY));
    expect(releasedOf(ran)).toEqual([]);
    expect(ran.outcomes.filter((o) => o.refusal)).toHaveLength(1);
    expect(ran.outcomes.flatMap((o) => [...o.drop]).sort((a, b) => a - b)).toEqual(ran.queued);
  });
});
