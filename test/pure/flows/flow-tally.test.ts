/** What messages about flows add up to. */
import { beforeEach, expect, it } from 'vitest';
import { FlowTally, NO_SENDER, octetsOf, type PassedFlow } from '../../../src/flows/flow-tally.js';
import { CTA, filterNetwork, isWithin } from '../../../src/kernel/netlink/conntrack-codec.js';
import type { Senders } from '../../../src/kernel/netlink/flow-accounting.js';
import {
  AF_INET,
  AF_INET6,
  addressBytes,
  attribute,
  nested,
  netfilterBody,
  u8,
  u16be,
  u32be,
} from '../../../src/kernel/netlink/netlink-codec.js';

const CHECK = { mask: 0x3, open: 0x1 };
const RESOLVER = '169.254.53.53';
interface Given {
  readonly src?: string;
  readonly dst?: string;
  readonly sport?: number;
  readonly dport?: number;
  readonly to?: string;
  readonly toPort?: number;
  readonly proto?: number;
  readonly mark?: number;
  readonly id?: number;
  readonly packets?: readonly [number, number];
  readonly bytes?: readonly [number, number];
}
const u64be = (value: number): Buffer => Buffer.concat([u32be(Math.floor(value / 2 ** 32)), u32be(value)]);

/** As ctnetlink_fill_info writes it. */
function message(given: Given = {}): Buffer {
  const {
    src = '172.18.0.2',
    dst = '93.184.1.1',
    sport = 40_000,
    dport = 443,
    proto = 6,
    mark = 0,
    id = 1,
  } = given;
  const { to = dst, toPort = dport, packets = [2, 1], bytes = [200, 100] } = given;
  const isV4 = !src.includes(':');
  const tuple = (type: number, from: string, fromPort: number, at: string, atPort: number): Buffer =>
    nested(
      type,
      nested(
        1,
        attribute(isV4 ? 1 : 3, addressBytes(from) ?? Buffer.alloc(0)),
        attribute(isV4 ? 2 : 4, addressBytes(at) ?? Buffer.alloc(0)),
      ),
      nested(
        2,
        attribute(1, u8(proto)),
        ...(proto === 1
          ? [attribute(4, u16be(7)), attribute(5, u8(8)), attribute(6, u8(0))]
          : [attribute(2, u16be(fromPort)), attribute(3, u16be(atPort))]),
      ),
    );
  const counters = (type: number, n: 0 | 1): Buffer =>
    nested(type, attribute(1, u64be(packets[n])), attribute(2, u64be(bytes[n])));
  return netfilterBody(
    isV4 ? AF_INET : AF_INET6,
    0,
    tuple(CTA.orig, src, sport, dst, dport),
    tuple(CTA.reply, to, toPort, src, sport),
    attribute(CTA.id, u32be(id)),
    attribute(CTA.status, u32be(0x1e)),
    counters(CTA.countersOrig, 0),
    counters(CTA.countersReply, 1),
    ...(mark === 0 ? [] : [attribute(CTA.mark, u32be(mark))]),
  );
}

const senders = (more: Partial<Senders> = {}): Senders => ({
  addresses: new Map([
    [octetsOf('172.18.0.2'), 7],
    [octetsOf('fd00::2'), 7],
    [octetsOf('172.18.0.1'), NO_SENDER],
  ]),
  marks: new Map([[0x100, 8]]),
  mask: 0xff00,
  networks: [filterNetwork('172.18.0.0/16')].flatMap((n) => n ?? []),
  others: 1,
  ...more,
});
const NOW = 1_000_000;
let tally: FlowTally;
const make = (limits: { readonly mostRecords?: number; readonly mostOpen?: number } = {}): FlowTally => {
  const made = new FlowTally({ servers: [octetsOf(RESOLVER)], check: CHECK, mostOpen: 65_536, ...limits });
  made.senders = senders();
  return made;
};
beforeEach(() => {
  tally = make();
  // the record has begun
  tally.beginDump();
  tally.endDump(NOW);
});
const end = (given?: Given, now = NOW): void => tally.ended(message(given), now);
function dump(now: number, ...flows: readonly Given[]): void {
  tally.beginDump();
  for (const given of flows) tally.shown(message(given), now);
  tally.endDump(now);
}
const take = (now = NOW): PassedFlow[] => tally.take(now);
const counts = (now = NOW): unknown => take(now).map((r) => [r.connections, r.packets, r.bytes]);

it('adds up flows with the same ends, whatever port they come from', () => {
  end();
  end({ sport: 40_001, id: 2 }, NOW + 10);
  expect(take()).toEqual([
    {
      ...{ sender: 7, family: 4, proto: 6, src: '172.18.0.2', dst: '93.184.1.1', dport: 443 },
      ...{ connections: 2, packets: 6, bytes: 600, first: NOW, last: NOW + 10 },
    },
  ]);
  expect(take()).toEqual([]);
});

it('keeps destinations, ports, protocols, senders and redirects apart', () => {
  end();
  end({ dport: 80, toPort: 80 });
  end({ proto: 17 });
  end({ dst: '93.184.1.2' });
  end({ to: '172.18.0.9', toPort: 8443 });
  end({ src: '192.0.2.2', mark: 0x100 });
  end({ src: 'fd00::2', dst: '2600::1' });
  end({ proto: 1 });
  const records = take();
  expect(records).toHaveLength(8);
  expect(records.map((r) => [r.sender, r.family, r.proto, r.dst, r.dport, r.to, r.toPort])).toContainEqual([
    ...[7, 4, 6, '93.184.1.1', 443],
    ...['172.18.0.9', 8443],
  ]);
  expect(records.map((r) => [r.sender, r.src])).toContainEqual([8, '192.0.2.2']);
  expect(records.find((r) => r.proto === 1)?.dport).toBe(0);
});

it('a connection that was checked is alone, with its port; one that has not named its destination is none', () => {
  end({ mark: 2 });
  end({ mark: 3, sport: 40_001 });
  end({ mark: 1, sport: 40_002 });
  dump(NOW, { mark: 1, sport: 40_003 });
  expect(take().map((r) => r.sport)).toEqual([40_000, 40_001]);
  dump(NOW, { mark: 2, sport: 40_003 });
  end({ mark: 2, sport: 40_003 });
  expect(counts()).toEqual([[1, 3, 300]]);
});

it('a flow of datagrams is there once one of them has passed the check', () => {
  end({ mark: 1, proto: 17, sport: 40_004 });
  expect(counts()).toEqual([[1, 3, 300]]);
});

it('what a dump has counted is not counted again', () => {
  dump(NOW, { packets: [1, 0], bytes: [60, 0] });
  expect(counts()).toEqual([[1, 1, 60]]);
  dump(NOW, { packets: [1, 0], bytes: [60, 0] });
  expect(counts()).toEqual([]);
  dump(NOW, { packets: [3, 2], bytes: [180, 120] });
  end({ packets: [4, 2], bytes: [240, 120] });
  expect(counts()).toEqual([[0, 5, 300]]);
  end({ id: 2 }); // a later flow of the same ends
  expect(counts()).toEqual([[1, 3, 300]]);
});

it('counters of 64 bits', () => {
  end({ packets: [2 ** 33, 1], bytes: [2 ** 40, 2 ** 40 + 5] });
  expect(counts()).toEqual([[1, 2 ** 33 + 1, 2 ** 41 + 5]]);
});

it('a flow that is older than the record has passed nothing until then', () => {
  tally = make();
  dump(NOW, {});
  expect(counts()).toEqual([[0, 0, 0]]);
  end({ packets: [3, 2], bytes: [300, 200] });
  expect(counts()).toEqual([[0, 2, 200]]);
});

it('the same ends with another id are another flow, and one that no dump shows any more has ended', () => {
  dump(NOW, {});
  dump(NOW, { id: 2 });
  expect(counts()).toEqual([[2, 6, 600]]);
  dump(NOW);
  dump(NOW, { id: 2 }); // a single dump may leave it out
  expect(counts()).toEqual([]);
  for (let n = 0; n < 5; n++) dump(NOW + n); // nor several ones within some seconds
  dump(NOW, { id: 2 });
  expect(counts()).toEqual([]);
  dump(NOW + 10_000);
  dump(NOW + 20_000);
  dump(NOW + 20_000, { id: 2 });
  expect(counts()).toEqual([[1, 3, 300]]);
});

it('the host, flows to it, foreign senders and DNS to the service are not recorded', () => {
  end({ src: '172.18.0.1' });
  end({ src: '10.9.9.9' });
  end({ src: '198.51.100.1', dst: '172.18.0.2' });
  end({ proto: 17, dst: '8.8.8.8', dport: 53, to: RESOLVER, toPort: 5359 });
  expect(take(NOW + 60_000)).toEqual([]);
});

it('an address of a network that no container has, after it was unknown for two seconds', () => {
  end({ src: '172.18.0.5' });
  end({ src: '172.18.0.6' });
  expect(take(NOW + 1_000)).toEqual([]);
  tally.senders = senders({ addresses: new Map([[octetsOf('172.18.0.5'), 9]]) });
  expect(take(NOW + 1_500).map((r) => [r.sender, r.src])).toEqual([[9, '172.18.0.5']]);
  expect(take(NOW + 2_000).map((r) => [r.sender, r.src])).toEqual([[1, '172.18.0.6']]);
});

it('is bounded: what has no room is counted', () => {
  tally = make({ mostRecords: 2, mostOpen: 1 });
  tally.beginDump();
  tally.endDump(NOW);
  for (const dport of [1, 2, 3, 4]) end({ dport, toPort: dport });
  expect([take().length, tally.dropped]).toEqual([2, 2]);
  dump(NOW, {}, { sport: 1 });
  expect(counts()).toEqual([[1, 3, 300]]);
  end({ sport: 1 }); // it is recorded at its end
  expect(counts()).toEqual([[1, 3, 300]]);
});

it('what is no entry of IPv4 or IPv6 counts as malformed', () => {
  for (const length of [0, 4, 20, 40]) tally.ended(message().subarray(0, length), NOW);
  tally.ended(Buffer.concat([Buffer.from([7, 0, 0, 0]), message().subarray(4)]), NOW);
  expect([tally.malformed, take()]).toEqual([5, []]);
});

it.each([
  ['10.0.0.0/8', '10.200.0.1', '11.0.0.1'],
  ['192.0.2.128/25', '192.0.2.200', '192.0.2.1'],
  ['0.0.0.0/0', '1.1.1.1', '::1'],
  ['fd00:db:2::/104', 'fd00:db:2::1:2', 'fd00:db:2::100:0:1'],
  ['2001:db8::1/128', '2001:db8::1', '2001:db8::2'],
])('network %s', (network, inside, outside) => {
  const parsed = filterNetwork(network);
  if (!parsed) throw new Error('not parsed');
  expect(isWithin(octetsOf(inside), parsed)).toBe(true);
  expect(isWithin(octetsOf(outside), parsed)).toBe(false);
});
