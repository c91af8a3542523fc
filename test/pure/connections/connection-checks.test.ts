/** The queue of packets whose names are checked: which flow each belongs to, and what becomes of it. */

import { closeSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { Sources } from '../../../src/connections/check-sources.js';
import { ConnectionChecks } from '../../../src/connections/connection-checks.js';
import { SAVED_FORMAT } from '../../../src/connections/flow-table.js';
import { VerifiedNames } from '../../../src/connections/verified-names.js';
import { keptSockets, memoryFile } from '../../../src/kernel/netlink/kept-sockets.js';
import type { LoggedPacket } from '../../../src/kernel/netlink/packet-log.js';
import type { QueuedPacket } from '../../../src/kernel/netlink/packet-queue.js';
import type { Stretch } from '../../../src/kernel/netlink/passed-bytes.js';
import type { AppliedState } from '../../../src/ruleset/applied-state.js';
import { planClasses } from '../../../src/ruleset/classes.js';
import { identityMark } from '../../../src/ruleset/marks.js';
import { entriesOf, member, shape } from '../ruleset/sample.js';
import {
  cryptoFrame,
  helloFor,
  helloMessage,
  initialPacket,
  padding,
  records,
  serverNames,
} from './hello-maker.js';

const NAMES = { verify: true, quic: 'verify', ports: [443] } as const;
const { marks } = shape;
const subject = (n: number) => ({
  ...member(n, 'good.example', 'enforce'),
  classes: planClasses(entriesOf('good.example'), () => [], NAMES),
});
const [first, second] = [subject(1), subject(2)];
const GOOD = helloFor('good.example');
const EVIL = helloFor('evil.example');
const ACK = 0x18;
const SYN = 2;

const NONE = Buffer.alloc(0);

interface Sent {
  readonly from?: 1 | 2;
  /** Its sender, where that has the addresses of another one; default: `from`. */
  readonly as?: 1 | 2;
  readonly sport?: number;
  /** Default: 443. */
  readonly dport?: number;
  readonly seq: number;
  readonly payload?: Buffer;
  readonly flags?: number;
}
function checksum(...parts: Buffer[]): number {
  const bytes = Buffer.concat(parts);
  let sum = 0;
  for (let at = 0; at < bytes.length; at++)
    sum += at % 2 === 0 ? (bytes[at] as number) << 8 : (bytes[at] as number);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}
/** Writes the checksum of TCP or UDP at its place (RFC 9293 3.1). */
function summed(bytes: Buffer, at: number): Buffer {
  bytes.writeUInt16BE(0, at);
  const upper = bytes.subarray(20);
  const length = Buffer.from([0, bytes[9] as number, upper.length >> 8, upper.length & 255]);
  bytes.writeUInt16BE(checksum(bytes.subarray(12, 20), length, upper), at);
  return bytes;
}

/** IPv4 and TCP. */
function bytesOf({ from = 1, sport = 40_000, dport = 443, seq, payload = NONE, flags = ACK }: Sent): Buffer {
  const header = Buffer.alloc(40);
  header.writeUInt8(0x45, 0);
  header.writeUInt16BE(40 + payload.length, 2);
  header.writeUInt8(64, 8);
  header.writeUInt8(6, 9);
  Buffer.from([10, 0, 0, from, 192, 0, 2, 1]).copy(header, 12);
  header.writeUInt16BE(sport, 20);
  header.writeUInt16BE(dport, 22);
  header.writeUInt32BE(seq, 24);
  header.writeUInt32BE(9_000, 28);
  header.writeUInt8(5 << 4, 32);
  header.writeUInt8(flags, 33);
  return summed(Buffer.concat([header, payload]), 36);
}

/** The same from the server. */
function answerOf(seq: number, payload: Buffer): Buffer {
  const sent = bytesOf({ seq, payload });
  const answer = Buffer.from(sent);
  sent.copy(answer, 12, 16, 20);
  sent.copy(answer, 16, 12, 16);
  sent.copy(answer, 20, 22, 24);
  sent.copy(answer, 22, 20, 22);
  return answer;
}

interface Datagram {
  readonly payload: Buffer;
  readonly hops?: number;
  /** Of the flow, which the rules write into the mark. */
  readonly state?: 'requests';
}
/** IPv4 and UDP. */
function datagramOf({ payload, hops = 64 }: Datagram): Buffer {
  const header = Buffer.alloc(28);
  header.writeUInt8(0x45, 0);
  header.writeUInt16BE(28 + payload.length, 2);
  header.writeUInt8(hops, 8);
  header.writeUInt8(17, 9);
  Buffer.from([10, 0, 0, 1, 192, 0, 2, 1]).copy(header, 12);
  header.writeUInt16BE(40_000, 20);
  header.writeUInt16BE(443, 22);
  header.writeUInt16BE(8 + payload.length, 24);
  return summed(Buffer.concat([header, payload]), 26);
}

/** `isContinued`: no SYN since the process before is missing. `permits`: the policy. */
function started(isContinued = false, permits = first) {
  const verdicts: (readonly [number, string, number])[] = [];
  /** What the kernel is told to go on with, by packet. */
  const contents = new Map<number, Buffer | undefined>();
  const refused: string[] = [];
  const deleted: number[] = [];
  const warnings: string[] = [];
  const receive = new Map<string, (p: QueuedPacket) => void>();
  let begun: (p: LoggedPacket) => void = () => undefined;
  let reported: LoggedPacket[] = [];
  const kernel = { losses: 0 };
  const passing: Stretch[] = [];
  const sources: Sources = {
    queue: (proto, handler) => {
      receive.set(proto, handler);
      return {
        verdict: (id, what, mark = 0, content) => {
          contents.set(id, content);
          const isRefused = (mark & marks.redirect) !== 0;
          verdicts.push([id, what === 'drop' ? 'drop' : isRefused ? 'refuse' : 'release', mark]);
        },
        stats: () => ({
          ...{ received: 0, verdicts: 0, lateVerdicts: 0, malformed: 0 },
          ...{ waiting: 0, droppedQueueFull: 0, droppedBufferFull: 0 },
        }),
        resume: () => undefined,
        [Symbol.dispose]: () => undefined,
      };
    },
    bodies: {
      add: (stretch) => void passing.push(stretch),
      remove: (stretch) => void passing.splice(passing.indexOf(stretch), 1),
      [Symbol.dispose]: () => void passing.splice(0),
    },
    log: (handler) => {
      begun = handler;
      return {
        drain: () => {
          for (const packet of reported.splice(0)) begun(packet);
        },
        get losses() {
          return kernel.losses;
        },
        isContinued,
        resume: () => undefined,
        [Symbol.dispose]: () => undefined,
      };
    },
  };
  const keys = { of: () => new Set<number>(), lookUp: async () => undefined };
  const verified = new VerifiedNames({
    marks,
    dns: { learnedNames: () => [], keys },
    threats: { blockedName: () => undefined },
  });
  const subjects = new Map([permits, second].map((m) => [m.id, m] as const));
  let state = { subjects } as unknown as AppliedState;
  let now = 0;
  const checks = new ConnectionChecks({
    shape: { ...shape, names: NAMES },
    applied: {
      get value() {
        return state;
      },
    },
    verified,
    keys,
    kernel: { flows: { deleteByOrigin: (ends) => deleted.push(ends.sport ?? 0) > 0 } },
    log: { debug: () => undefined, warn: (_, text) => void warnings.push(text ?? '') },
    now: () => now,
  });
  checks.names.subscribe(({ name, refusal }) => {
    if (refusal) refused.push(`${refusal.reason} ${name}`.trim());
  });
  const resets: string[] = [];
  const toPort = { send: ({ dport }: { dport: number }) => void resets.push(String(dport)) };
  checks.begin(sources, { ...toPort, [Symbol.dispose]: () => undefined });
  let id = 0;
  const markOf = ({ from = 1, as = from }: Sent) => identityMark(marks, (as === 1 ? first : second).identity);
  return {
    checks,
    verified,
    refused,
    deleted,
    resets,
    warnings,
    kernel,
    passing,
    /** The applied state has none of the containers, as before the state of a pass is published; or has them. */
    setKnown: (isKnown: boolean) => {
      state = { subjects: isKnown ? subjects : new Map() } as unknown as AppliedState;
    },
    wait: (ms: number) => {
      now += ms;
    },
    /** The kernel's reports are read now, before any packet. */
    readReports: () => {
      for (const packet of reported.splice(0)) begun(packet);
    },
    syn: (sent: Sent, word = 'syn') => {
      const payload = bytesOf({ ...sent, flags: SYN });
      reported = [...reported, { prefix: `DB:${word}`, mark: markOf(sent), payload } as LoggedPacket];
    },
    /** A copy of what the server has sent: of a container in the host's network. */
    answer: (seq: number, payload: Buffer) => {
      const copy = answerOf(seq, payload);
      reported = [...reported, { prefix: 'DB:answer', mark: 0, payload: copy } as LoggedPacket];
    },
    /** What the server sends, of a container on a bridge. Returns as `send`. */
    sendAnswer: (seq: number, content: Buffer): string | undefined => {
      id += 1;
      const payload = answerOf(seq, content);
      const packet = { id, mark: 0, payload, length: payload.length };
      receive.get('tcp')?.(packet as unknown as QueuedPacket);
      return verdicts.find(([of]) => of === id)?.[1];
    },
    /** Returns what became of the packet; undefined: it waits. */
    send: (sent: Sent): string | undefined => {
      id += 1;
      const payload = bytesOf(sent);
      const packet = { id, mark: markOf(sent), payload, length: payload.length };
      receive.get('tcp')?.(packet as unknown as QueuedPacket);
      return verdicts.find(([of]) => of === id)?.[1];
    },
    sendDatagram: (sent: Datagram): string | undefined => {
      id += 1;
      const payload = datagramOf(sent);
      const mark = markOf({ seq: 0 }) | (sent.state ? (marks.check?.[sent.state] ?? 0) : 0);
      const packet = { id, mark, payload, length: payload.length };
      receive.get('udp')?.(packet as unknown as QueuedPacket);
      return verdicts.find(([of]) => of === id)?.[1];
    },
    /** What the last packet goes on with; undefined: with what its memory has by then. */
    lastContent: () => contents.get(id),
    /** The state that the last verdict gives its flow. */
    lastState: (): number => ((verdicts.at(-1)?.[2] ?? 0) & (marks.check?.mask ?? 0)) >>> 0,
  };
}

it('a connection may begin by rules that the kernel has a moment before the state of their pass is published', () => {
  const { syn, send, refused, setKnown, readReports, wait, kernel } = started();
  const early = (sport: number, more: Partial<Sent> = {}): void => {
    setKnown(false);
    syn({ seq: 99, sport, ...more });
    readReports();
    setKnown(true);
  };
  early(1);
  expect(send({ seq: 100, sport: 1, payload: GOOD })).toBe('release');
  early(2);
  expect(send({ seq: 100, sport: 2, payload: EVIL })).toBe('refuse');
  // a byte in front of the hello would be the first one for the server
  early(3);
  expect(send({ seq: 101, sport: 3, payload: GOOD })).toBeUndefined();
  early(4, { as: 2 });
  expect(send({ seq: 100, sport: 4, payload: GOOD })).toBe('refuse'); // it was the SYN of another container
  early(5);
  wait(60_000);
  expect(send({ seq: 100, sport: 5, payload: GOOD })).toBe('refuse');
  early(6);
  kernel.losses += 1; // perhaps the SYN of a later connection; what waits is refused, too
  expect(send({ seq: 100, sport: 6, payload: GOOD })).toBe('refuse');
  early(7);
  syn({ seq: 199, sport: 7 }); // another connection of the same ends
  expect(send({ seq: 100, sport: 7, payload: GOOD })).toBe('refuse');
  expect(refused).toEqual(['server-name evil.example', ...Array.from({ length: 5 }, () => 'not-tls')]);
});

it('a permitted hello behind its SYN goes on, another one is refused, and so is one without a SYN', () => {
  const { syn, send, refused, deleted } = started();
  syn({ seq: 99 });
  expect(send({ seq: 100, payload: GOOD })).toBe('release');
  syn({ seq: 99, sport: 2 });
  expect(send({ seq: 100, sport: 2, payload: EVIL })).toBe('refuse');
  expect(send({ seq: 100, sport: 3, payload: GOOD })).toBe('refuse');
  expect(refused).toEqual(['server-name evil.example', 'not-tls']);
  expect(deleted).toEqual([2, 3]);
});

it('the end of a stream of HTTP waits for the head before it; of a connection whose beginning was not seen it goes on', () => {
  const { syn, send } = started();
  const end = { dport: 80, flags: ACK | 1 };
  syn({ seq: 99, dport: 80 });
  expect(send({ ...end, seq: 110 })).toBe('drop');
  expect(send({ ...end, seq: 100 })).toBe('release');
  for (const seq of [1_000, 3_000_000_000]) expect(send({ ...end, seq, sport: seq % 7 })).toBe('release');
});

it('nothing of an earlier connection counts, though it had the same ends and the same number', () => {
  const { syn, send, refused } = started();
  for (const seq of [99, 99, 98 + GOOD.length]) {
    syn({ seq });
    expect(send({ seq: seq + 1, payload: GOOD })).toBe('release');
  }
  syn({ seq: 98 + GOOD.length });
  expect(send({ seq: 99 + GOOD.length, payload: EVIL })).toBe('refuse');
  expect(refused).toEqual(['server-name evil.example']);
});

it('a SYN that is repeated changes nothing; one with another number ends the connection', () => {
  const { syn, send, deleted } = started();
  syn({ seq: 99 });
  syn({ seq: 99 }, 'again');
  expect(send({ seq: 100, payload: GOOD.subarray(0, 20) })).toBeUndefined();
  syn({ seq: 50 }, 'again');
  expect(send({ seq: 120, payload: GOOD.subarray(20) })).toBe('refuse');
  expect(deleted).toEqual([40_000, 40_000]);
});

it('SYNs that were not reported refuse what is being checked', () => {
  const { syn, send, kernel, warnings } = started();
  syn({ seq: 99 });
  expect(send({ seq: 100, payload: GOOD.subarray(0, 20) })).toBeUndefined();
  kernel.losses = 1;
  expect(send({ seq: 120, payload: GOOD.subarray(20) })).toBe('drop');
  expect(warnings).toHaveLength(1);
});

it('SYNs that were not reported refuse all flows, also those of which no packet waits', () => {
  // a record of the first connection has room for the hello of the next one, whose SYN is lost
  const record = Buffer.from([23, 3, 3, 0x10, 0]);
  for (const isLost of [false, true]) {
    const { syn, send, kernel, refused } = started();
    syn({ seq: 99 });
    expect(send({ seq: 100, payload: Buffer.concat([GOOD, record]) })).toBe('release');
    if (isLost) kernel.losses = 1;
    const sent = send({ seq: 100 + GOOD.length + record.length, payload: EVIL });
    expect([isLost, sent, refused]).toEqual([
      isLost,
      isLost ? 'refuse' : 'release',
      isLost ? ['not-tls'] : [],
    ]);
  }
});

it('marks what it releases with the next state of the flow', () => {
  const { check } = marks;
  const { syn, send, lastState } = started();
  syn({ seq: 99 });
  expect(send({ seq: 100, payload: GOOD })).toBe('release');
  expect(lastState()).toBe(check?.requests);
  // the beginning of a record waits for its end, so that the answer of the server is queued
  const begun = 100 + GOOD.length;
  expect(send({ seq: begun, payload: Buffer.from([23, 3]) })).toBeUndefined();
  expect(send({ seq: 100, payload: GOOD })).toBe('release');
  expect(lastState()).toBe(check?.open);
});

it('the middle of a large body passes in the kernel until its connection ends, or another one has its ends', () => {
  const LENGTH = 9 * 2 ** 20;
  const PIECE = Buffer.alloc(2 ** 15, '{ } ');
  const head = Buffer.from(`POST / HTTP/1.1\r\nHost: good.example\r\nContent-Length: ${LENGTH}\r\n\r\n`);
  for (const [end, ended] of [
    [(c: ReturnType<typeof started>) => c.syn({ seq: 70_000, dport: 80 }), 0],
    [(c: ReturnType<typeof started>) => c.syn({ seq: 70_000, dport: 80 }, 'again'), 0],
    [
      ({ kernel }: ReturnType<typeof started>) => {
        kernel.losses += 1;
      },
      0,
    ],
    [() => undefined, 1],
  ] as const) {
    const c = started();
    c.syn({ seq: 99, dport: 80 });
    expect(c.send({ seq: 100, dport: 80, payload: head })).toBe('release');
    let seq = 100 + head.length;
    for (const end = seq + 2 ** 20; seq < end; seq += PIECE.length)
      expect(c.send({ seq, dport: 80, payload: PIECE })).toBe('release');
    expect(c.passing).toMatchObject([{ source: '10.0.0.1', sourcePort: 40_000, seq }]);
    end(c);
    // of another connection: the log is read before each packet
    c.send({ seq: 1, sport: 1, payload: GOOD });
    expect(c.passing).toHaveLength(ended);
    if (ended === 0) continue;
    // others take its place in the table
    for (let sport = 1; sport <= 4_096; sport++) c.syn({ seq: 99, sport });
    c.syn({ seq: 70_000, dport: 80 });
    c.send({ seq: 1, sport: 1, payload: GOOD });
    expect(c.passing).toEqual([]);
  }
});

/** A first datagram of QUIC, which asks for this name. */
const initialFor = (name: string, connection = 1): Buffer =>
  initialPacket({
    dcid: Buffer.alloc(8, connection),
    frames: cryptoFrame(0, helloMessage(serverNames(name))),
  });

it('a datagram with few hops left refuses its flow', () => {
  const dcid = Buffer.alloc(8, 1);
  const payload = initialPacket({ dcid, frames: cryptoFrame(0, helloMessage(serverNames('good.example'))) });
  expect(started().sendDatagram({ payload })).toBe('release');
  const { sendDatagram, refused } = started();
  expect(sendDatagram({ payload, hops: 39 })).toBe('refuse');
  expect(refused).toEqual(['quic']);
});

it('each datagram of a flow that was refused is answered, and the flow recorded once', () => {
  const dcid = Buffer.alloc(8, 1);
  const payload = initialPacket({ dcid, frames: cryptoFrame(0, helloMessage(serverNames('evil.example'))) });
  const { sendDatagram, refused, checks } = started();
  expect([1, 2, 3].map(() => sendDatagram({ payload }))).toEqual(['refuse', 'refuse', 'refuse']);
  expect(refused).toEqual(['server-name evil.example']);
  expect(checks.counts?.refused).toBe(1);
});

it('a short header goes on only on a flow that the kernel knows as one that has ended its handshake', () => {
  const payload = Buffer.concat([Buffer.from([0x40]), Buffer.alloc(40)]);
  expect(started().sendDatagram({ payload })).toBe('refuse');
  expect(started().sendDatagram({ payload, state: 'requests' })).toBe('release');
});

it('a container whose hellos do not end takes no room of another one', () => {
  const { syn, send, checks } = started();
  const begun = records(helloMessage(serverNames('good.example'), padding(3_000))).subarray(0, 1_500);
  let dropped = 0;
  for (let sport = 1; sport <= 3_000; sport++) {
    syn({ seq: 99, sport });
    if (send({ seq: 100, sport, payload: begun }) === 'drop') dropped += 1;
  }
  expect(dropped).toBe(3_000 - 2_048);
  expect(checks.counts?.beyondBounds).toBe(dropped);
  syn({ from: 2, seq: 99 });
  expect(send({ from: 2, seq: 100, payload: GOOD })).toBe('release');
});

it('a packet of a client goes on with the bytes that were read, that of a server with its own', () => {
  const { syn, send, sendAnswer, sendDatagram, lastContent } = started();
  syn({ seq: 99 });
  expect(send({ seq: 100, payload: GOOD })).toBe('release');
  expect(lastContent()).toEqual(bytesOf({ seq: 100, payload: GOOD }));
  expect(sendAnswer(9_000, Buffer.from([22, 3, 3, 0, 1, 2]))).toBe('release');
  expect(lastContent()).toBeUndefined();
  const payload = initialFor('good.example');
  expect(sendDatagram({ payload })).toBe('release');
  expect(lastContent()).toEqual(datagramOf({ payload }));
});

it('a refused datagram has no state of its flow', () => {
  const { sendDatagram, lastState } = started();
  expect(sendDatagram({ payload: initialFor('good.example') })).toBe('release');
  expect(
    sendDatagram({ payload: Buffer.concat([Buffer.from([0x40]), Buffer.alloc(40)]), state: 'requests' }),
  ).toBe('release');
  expect(lastState()).not.toBe(0);
  expect(sendDatagram({ payload: initialFor('evil.example', 2), state: 'requests' })).toBe('refuse');
  expect(lastState()).toBe(0);
});

it('an error while a packet is read drops it, and is counted', () => {
  const { syn, send, checks, warnings } = started();
  checks.names.subscribe(() => {
    throw new Error('of a listener');
  });
  syn({ seq: 99 });
  expect(send({ seq: 100, payload: EVIL })).toBe('refuse');
  expect(checks.counts?.faults).toBe(1);
  expect(warnings).toHaveLength(1);
});

it('an error before a verdict drops the packet', () => {
  const { syn, send, checks } = started();
  checks.names.subscribe(() => {
    throw new Error('of a listener');
  });
  syn({ seq: 99 });
  expect(send({ seq: 100, payload: GOOD })).toBe('drop');
  expect(checks.counts?.faults).toBe(1);
});

describe('what the server has sent', () => {
  const record = (...random: number[]): Buffer =>
    Buffer.concat([
      Buffer.from([22, 3, 3, 0, 74, 2, 0, 0, 70, 3, 3, ...random]),
      Buffer.alloc(68 - random.length, 9),
    ]);
  const SERVER_HELLO = record();
  const RETRY = record(
    ...Buffer.from('cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c', 'hex'),
  );
  const NEXT = 9_000;
  const second = 100 + GOOD.length;

  it.each([
    ['asks for another hello', RETRY, 'refuse'],
    ['answers the hello', SERVER_HELLO, 'release'],
  ])('and waits in the queue goes on, and %s', (_, content, then) => {
    const { syn, send, sendAnswer } = started();
    syn({ seq: 99 });
    expect(send({ seq: 100, payload: GOOD })).toBe('release');
    expect(sendAnswer(NEXT, content)).toBe('release');
    expect(send({ seq: second, payload: EVIL })).toBe(then);
  });
  it('and waits in the queue is dropped if its flow is not known', () => {
    const { sendAnswer } = started();
    expect(sendAnswer(NEXT, SERVER_HELLO)).toBe('drop');
  });
  it('and was copied ends the check with the next packet of the client, however late, if it is a ServerHello', () => {
    const { syn, send, answer, checks } = started();
    syn({ seq: 99 });
    expect(send({ seq: 100, payload: GOOD })).toBe('release');
    answer(NEXT, SERVER_HELLO);
    expect(send({ seq: second, payload: EVIL })).toBe('release');
    expect(checks.counts).toMatchObject({ refused: 0, queued: 2, released: 2 });
  });
  it('and was copied asks for another hello, which is evaluated', () => {
    const { syn, send, answer, refused } = started();
    syn({ seq: 99 });
    expect(send({ seq: 100, payload: GOOD })).toBe('release');
    answer(NEXT, RETRY);
    expect(send({ seq: second, payload: EVIL })).toBe('refuse');
    expect(refused).toEqual(['server-name evil.example']);
  });
  it('and was copied before the hello refuses the flow, and resets both sides', () => {
    const { syn, send, answer, refused, deleted, resets } = started();
    syn({ seq: 99 });
    expect(send({ seq: 100, payload: GOOD.subarray(0, 10) })).toBeUndefined();
    answer(NEXT, SERVER_HELLO);
    expect(send({ seq: 110, payload: GOOD.subarray(10) })).toBe('drop');
    expect([refused, deleted]).toEqual([['not-tls'], [40_000]]);
    // the rules have answered the client
    expect(resets).toEqual(['443']);
  });
  it('and was copied does not count for what another container in the host network sends from the same port', () => {
    const { syn, send, answer, refused } = started();
    syn({ seq: 99 });
    expect(send({ seq: 100, payload: GOOD })).toBe('release');
    answer(NEXT, SERVER_HELLO);
    expect(send({ as: 2, seq: second, payload: EVIL })).toBe('refuse');
    expect(refused).toEqual(['not-tls']);
  });
  it('and was copied does not end the service if it cannot be handled, and the flow stays closed', () => {
    const { syn, send, answer, checks } = started();
    checks.names.subscribe(() => {
      throw new Error('of a listener');
    });
    syn({ seq: 99 });
    expect(send({ seq: 100, payload: GOOD.subarray(0, 10) })).toBeUndefined();
    answer(NEXT, SERVER_HELLO);
    expect(send({ seq: 110, payload: GOOD.subarray(10) })).toBe('drop');
    expect(checks.counts?.faults).toBe(1);
  });
  it('and was copied is of no flow that is not known', () => {
    const { syn, send, answer } = started();
    answer(NEXT, SERVER_HELLO);
    syn({ seq: 99 });
    expect(send({ seq: 100, payload: EVIL })).toBe('refuse');
  });
});

describe('a process that takes over', () => {
  const failed = (error: Error): void => {
    throw error;
  };
  const GONE = { ...first, classes: planClasses(entriesOf('other.example'), () => [], NAMES) };
  /** Ends the check, and begins another one with what it has left. */
  function follow(before: ReturnType<typeof started>, isContinued = true, permits = first) {
    keptSockets.begin(undefined, failed);
    keptSockets.seal();
    before.checks[Symbol.dispose]();
    keptSockets.begin(keptSockets.end(), failed);
    const after = started(isContinued, permits);
    after.checks.read();
    keptSockets.end();
    return after;
  }
  function begun(): ReturnType<typeof started> {
    const before = started();
    before.checks.read();
    return before;
  }

  it('knows the connections that it has not seen begin, and checks them as the first one', () => {
    const before = begun();
    for (const sport of [1, 2, 3, 4, 5]) before.syn({ seq: 99, sport });
    expect(before.send({ seq: 100, sport: 5, payload: GOOD.subarray(0, 20) })).toBeUndefined();
    const after = follow(before);
    expect(after.send({ seq: 100, sport: 1, payload: GOOD })).toBe('release');
    expect(after.send({ seq: 100, sport: 2, payload: EVIL })).toBe('refuse');
    expect(after.send({ seq: 101, sport: 3, payload: GOOD })).toBeUndefined();
    after.syn({ seq: 199, sport: 4 }); // another connection of the same ends
    expect(after.send({ seq: 100, sport: 4, payload: GOOD })).toBe('refuse');
    expect(after.send({ seq: 100, sport: 5, payload: GOOD })).toBe('release'); // sent again as a whole
    expect(after.send({ seq: 100, sport: 6, payload: GOOD })).toBe('refuse');
    expect(after.refused).toEqual(['server-name evil.example', 'not-tls', 'not-tls']);
  });

  it('knows none if a SYN may be missing, and none of the process that it does not follow', () => {
    const before = begun();
    before.syn({ seq: 99 });
    expect(follow(before, false).send({ seq: 100, payload: GOOD })).toBe('refuse');
    const other = begun();
    other.syn({ seq: 99 });
    other.checks[Symbol.dispose]();
    expect(follow(begun()).send({ seq: 100, payload: GOOD })).toBe('refuse');
  });

  it('knows what was released of a connection of TLS, and evaluates it again', () => {
    const record = Buffer.from([23, 3, 3, 0x10, 0]);
    const sent = Buffer.concat([GOOD, record]);
    const before = begun();
    before.syn({ seq: 99 });
    expect(before.send({ seq: 100, payload: sent })).toBe('release');
    const after = follow(before);
    expect(after.send({ seq: 100, payload: sent })).toBe('release');
    expect(after.send({ seq: 100, payload: Buffer.concat([EVIL, record]) })).toBe('refuse');

    const again = begun();
    again.syn({ seq: 99 });
    expect(again.send({ seq: 100, payload: sent })).toBe('release');
    const stricter = follow(again, true, GONE);
    expect(stricter.refused).toEqual(['server-name good.example']);
    expect(stricter.deleted).toEqual([40_000]);
    expect(stricter.send({ seq: 100 + sent.length, payload: record })).toBe('drop');
  });

  it('knows where a connection of HTTP is', () => {
    const request = (host: string, more = '') =>
      Buffer.from(`GET / HTTP/1.1\r\nHost: ${host}\r\n${more}\r\n`);
    const good = request('good.example');
    const upload = request('good.example', 'Content-Length: 100\r\n');
    const to = { dport: 80 } as const;
    const before = begun();
    for (const sport of [1, 2, 3]) {
      before.syn({ ...to, seq: 99, sport });
      expect(before.send({ ...to, seq: 100, sport, payload: good })).toBe('release');
    }
    const at = 100 + good.length;
    expect(before.send({ ...to, seq: at, sport: 2, payload: upload })).toBe('release');
    // the beginning of a head waits: what follows it cannot be known
    expect(before.send({ ...to, seq: at, sport: 3, payload: good.subarray(0, 8) })).toBeUndefined();
    const after = follow(before);
    expect(after.send({ ...to, seq: 100, sport: 1, payload: good })).toBe('release'); // sent again
    expect(after.send({ ...to, seq: at, sport: 1, payload: good })).toBe('release');
    expect(after.send({ ...to, seq: at + good.length, sport: 1, payload: request('evil.example') })).toBe(
      'refuse',
    );
    const body = at + upload.length;
    expect(after.send({ ...to, seq: body, sport: 2, payload: Buffer.alloc(100, 'GET ') })).toBe('release');
    expect(after.send({ ...to, seq: body + 100, sport: 2, payload: request('evil.example') })).toBe('refuse');
    expect(after.send({ ...to, seq: at, sport: 3, payload: good })).toBe('refuse');
    // other bytes in the place of those that were released
    const other = begun();
    other.syn({ ...to, seq: 99 });
    expect(other.send({ ...to, seq: 100, payload: good })).toBe('release');
    const evil = request('evil.example');
    expect(follow(other).send({ ...to, seq: 100, payload: evil })).toBe('refuse');
  });

  it('ends a connection of HTTP whose name was revoked, and knows the name of another one', () => {
    const upload = Buffer.from('POST / HTTP/1.1\r\nHost: good.example\r\nContent-Length: 100\r\n\r\n');
    const to = { dport: 80 } as const;
    const ends = {
      proto: 'tcp',
      source: '10.0.0.1',
      sourcePort: 40_000,
      address: '192.0.2.1',
      port: 80,
    } as const;
    const before = begun();
    before.syn({ ...to, seq: 99 });
    expect(before.send({ ...to, seq: 100, payload: upload })).toBe('release');
    const after = follow(before);
    expect(after.verified.namesOf(ends)).toEqual(['good.example']);
    const stricter = follow(after, true, GONE);
    expect([stricter.refused, stricter.deleted]).toEqual([['host'], [40_000]]);
    const body = { ...to, seq: 100 + upload.length, payload: Buffer.alloc(100, 'x') };
    expect(stricter.send(body)).not.toBe('release');
  });

  it('does without connections that cannot be read', () => {
    keptSockets.begin(undefined, failed);
    const fd = memoryFile('broken', Buffer.from('no flows'));
    keptSockets.keep('connections that are checked', SAVED_FORMAT, [fd]);
    closeSync(fd);
    keptSockets.seal();
    keptSockets.begin(keptSockets.end(), failed);
    const after = started(true);
    after.checks.read();
    keptSockets.end();
    expect(after.warnings).toEqual([
      'connections of the process before cannot be read: they must connect again',
    ]);
    after.syn({ seq: 99 });
    expect(after.send({ seq: 100, payload: GOOD })).toBe('release');
  });
});
