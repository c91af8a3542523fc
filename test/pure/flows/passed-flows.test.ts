/** Records of what has passed: their containers, names and entries. */
import { EventEmitter } from 'node:events';
import { describe, expect, it, vi } from 'vitest';
import { keyOfEnds, VerifiedNames } from '../../../src/connections/verified-names.js';
import type { FlowGap } from '../../../src/flows/flow-record.js';
import { NO_SENDER, octetsOf, type PassedFlow } from '../../../src/flows/flow-tally.js';
import { type PassedContact, PassedFlows, type PassedFlowsParts } from '../../../src/flows/passed-flows.js';
import { Current, Signal } from '../../../src/lib/current.js';
import type { ContainerFacts } from '../../../src/policy/container.js';
import { OWN_RESOLVER } from '../../../src/policy/finding.js';
import type { AppliedState } from '../../../src/ruleset/applied-state.js';
import { type Subject, UNATTRIBUTED_ID } from '../../../src/ruleset/desired-state.js';
import { identityMark } from '../../../src/ruleset/marks.js';
import { input, member, shape } from '../ruleset/sample.js';

const facts = (id: string, name: string, labels: Record<string, string> = {}): ContainerFacts =>
  ({
    id,
    name,
    image: 'i',
    imageId: 'i',
    labels,
    imageLabels: {},
    state: 'running',
    networkMode: 'n',
    endpoints: [],
    published: [],
  }) as ContainerFacts;
const SERVER = '93.184.1.1';
const flow = (sender: number, more: Partial<PassedFlow> = {}): PassedFlow => ({
  ...{ sender, family: 4, proto: 6, src: '172.18.0.2', dst: SERVER, dport: 443 },
  ...{ connections: 1, packets: 5, bytes: 500, first: 1_000, last: 1_500 },
  ...more,
});

function make(
  subjects: readonly Subject[],
  containers: readonly ContainerFacts[],
  resolved: readonly string[] = [],
  more: Partial<PassedFlowsParts> = {},
) {
  const clock = { now: 1_000_000 };
  const departing = new Signal<string>();
  const names = new Map([[SERVER, [...resolved]]]);
  const own = new Set<string>();
  const verified = new VerifiedNames({
    marks: shape.marks,
    dns: { learnedNames: () => [], keys: { of: () => undefined } },
    threats: { blockedName: () => undefined },
  });
  const applied = new Current<AppliedState>();
  const passed = new PassedFlows({
    folder: '/nowhere',
    shape,
    kernel: { hostAddresses: () => new Set(['192.0.2.2', '172.18.0.1']) },
    applied,
    docker: { view: () => ({ containers: new Map(containers.map((c) => [c.id, c])) }) },
    dns: {
      namesReader: () => (address) => ({ names: names.get(address) ?? [], isOwn: own.has(address) }),
    },
    departing,
    verified,
    neighbours: { neighbourAt: () => undefined, wasFree: () => false },
    log: { warn: () => undefined, error: () => undefined },
    now: () => clock.now,
    ...more,
  });
  const stateOf = (of: readonly Subject[]): AppliedState =>
    ({
      subjects: new Map(of.map((m) => [m.id, m])),
      vethMap: {
        bindings: new Map(
          of.flatMap((m) =>
            m.host
              ? []
              : m.veths.map((v) => [v.ifindex, { container: m.id, ip4: v.ip4, ip6: v.ip6 }] as const),
          ),
        ),
      },
      input: {
        ...input(...of),
        bridges: [{ name: 'br-test', mac: '', veths: [], subnets: ['172.18.0.0/16', 'fd00:18::/64'] }],
      },
    }) as unknown as AppliedState;
  applied.set(stateOf(subjects));
  const got: PassedContact[] = [];
  passed.recorded.subscribe((contacts) => got.push(...contacts));
  const sendersNow = (of: readonly Subject[] = subjects) => passed.sendersOf(stateOf(of));
  const take = (...flows: readonly PassedFlow[]): PassedContact[] => {
    passed.take({ flows, lost: 0, dropped: 0, malformed: 0 });
    return got.splice(0);
  };
  return { clock, passed, applied, own, stateOf, verified, sendersNow, take };
}

describe('senders', () => {
  it('are the bound addresses, and the identities of the host network', () => {
    const hosted = { ...member(3, 'any'), host: { cgroups: [] } };
    const { sendersNow } = make([member(2, 'any'), hosted], []);
    const { addresses, marks, networks, others, mask } = sendersNow();
    const of = (address: string): number | undefined => addresses.get(octetsOf(address));
    expect(of('172.18.0.2')).toBe(of('fd00:18::2'));
    expect(of('172.18.0.3')).toBeUndefined();
    expect(of('192.0.2.2')).toBe(NO_SENDER);
    expect(marks.get(identityMark(shape.marks, 3))).toBeGreaterThan(0);
    expect(marks.get(identityMark(shape.marks, 2))).toBeUndefined();
    expect([networks.length, mask]).toEqual([2, shape.marks.identity]);
    expect(others).not.toBe(of('172.18.0.2'));
  });

  it('an address that is given out again is another sender; until then it stays with the container that had it', () => {
    const [first, second] = [member(2, 'any'), { ...member(9, 'any'), veths: member(2, '').veths }];
    const { sendersNow, take, passed, clock } = make(
      [first],
      [facts(first.id, 'first'), facts(second.id, 'second')],
    );
    const before = sendersNow().addresses.get(octetsOf('172.18.0.2')) ?? 0;
    expect(sendersNow([]).addresses.get(octetsOf('172.18.0.2'))).toBe(before);
    const after = sendersNow([second]).addresses.get(octetsOf('172.18.0.2')) ?? 0;
    expect(after).not.toBe(before);
    expect(take(flow(before), flow(after)).map((c) => c.container)).toEqual(['first', 'second']);
    clock.now += 61_000;
    sendersNow([second]);
    const missed: number[] = [];
    passed.missed.subscribe((count) => missed.push(count));
    expect(take(flow(before), flow(after)).map((c) => c.container)).toEqual(['second']);
    expect(missed).toEqual([1]); // it is not known any more
  });
});

describe('a record', () => {
  it('has the container, its owner, and all flows to one destination', () => {
    const web = member(2, SERVER);
    const labels = { 'com.docker.compose.project': 'shop', 'com.docker.compose.service': 'web' };
    const { sendersNow, take } = make([web], [facts(web.id, 'shop-web-1', labels)]);
    const number = sendersNow().addresses.get(octetsOf('172.18.0.2')) ?? 0;
    const more = flow(number, {
      src: '172.19.0.2',
      connections: 2,
      packets: 10,
      bytes: 900,
      first: 900,
      last: 2_000,
    });
    expect(take(flow(number), more)).toEqual([
      {
        ...{ id: web.id, container: 'shop-web-1', owner: 'compose:shop/web', verdict: 'allow', proto: 'tcp' },
        ...{ address: SERVER, port: 443, name: null, entry: SERVER, list: null, feed: null },
        reason: 'an entry permits it (its label drawbridge.allow)',
        ...{ count: 3, packets: 15, bytes: 1_400, time: 900, last: 2_000 },
      },
    ]);
  });

  const permitOf = (
    allow: string,
    more: Partial<PassedFlow> = {},
    names: readonly string[] = [],
    mode: 'enforce' | 'observe' | 'off' = 'enforce',
    isOwn = false,
  ) => {
    const { sendersNow, take, own } = make([member(2, allow, mode)], [], names);
    if (isOwn) own.add(SERVER);
    const [contact] = take(flow(sendersNow().addresses.get(octetsOf('172.18.0.2')) ?? 0, more));
    return contact;
  };
  it.each([
    ['a.org', {}, ['a.org'], 'a.org', 'a.org'],
    ['*.a.org', {}, ['b.a.org'], '*.a.org', 'b.a.org'],
    ['a.org', {}, ['other.net', 'a.org'], 'a.org', 'a.org'], // the name that has an entry
    ['a.org:8443, any:443', {}, ['a.org'], 'any:443', 'a.org'],
    ['93.184.0.0/16:443', {}, ['a.org'], '93.184.0.0/16:443', 'a.org'],
    ['93.184.0.0/16:80', {}, [], null, null],
    ['93.184.1.1/udp', { proto: 17 }, [], '93.184.1.1/udp', null],
    ['any', { dst: '10.0.0.1' }, [], null, null],
    ['any', { proto: 1, dport: 0 }, [], 'any', null],
    ['host:443', { dst: '192.0.2.2', to: '172.18.0.9', toPort: 8443 }, [], 'host:443', null],
    ['172.18.0.9:8443', { dst: '192.0.2.2', to: '172.18.0.9', toPort: 8443 }, [], '172.18.0.9:8443', null],
  ] as const)('%s %j: its entry', (allow, more, names, entry, name) => {
    expect(permitOf(allow, more, names)).toMatchObject({ entry, name, verdict: 'allow' });
  });

  it('by a name that only a resolver of the container gave to its address is none that an entry permits', () => {
    const planted = (allow: string) => permitOf(allow, {}, ['a.org'], 'observe', true);
    const told = { name: 'a.org', verdict: 'would-deny', entry: null, reason: OWN_RESOLVER };
    expect(planted('a.org')).toMatchObject(told);
    expect(planted('')).toMatchObject(told);
    expect(planted('93.184.1.1:443')).toMatchObject({ verdict: 'allow', entry: '93.184.1.1:443' });
  });

  it('explains why it passed where no entry permits it', () => {
    expect(permitOf('', {}, [], 'observe')).toMatchObject({ entry: null, reason: /observed, so it passed/ });
    expect(permitOf('', {}, [], 'off')?.reason).toMatch(/mode off/);
    expect(permitOf('', {}, [], 'enforce')?.reason).toMatch(/no entry permits it now/);
  });

  it('has the name that its connection asked for, also in later reports', () => {
    const web = member(2, 'a.org, b.org');
    const { sendersNow, take, verified } = make([web], [], ['b.org']);
    const sender = sendersNow().addresses.get(octetsOf('172.18.0.2')) ?? 0;
    const ends = {
      proto: 'tcp',
      source: '172.18.0.2',
      sourcePort: 40_000,
      address: SERVER,
      port: 443,
    } as const;
    verified.note(keyOfEnds(ends), 'a.org', true);
    const checked = flow(sender, { sport: 40_000 });
    expect(take(checked, flow(sender, { sport: 40_001 })).map((c) => c.name)).toEqual(['a.org', 'b.org']);
    // other connections have taken its place meanwhile
    for (let n = 0; n < 20_000; n++) verified.note(`other ${n}`, 'c.org', true);
    expect(take(checked)).toMatchObject([{ name: 'a.org', entry: 'a.org' }]);
  });

  it('follows a changed policy', () => {
    const web = member(2, '');
    const { sendersNow, take, applied, stateOf } = make([web], []);
    const sender = sendersNow().addresses.get(octetsOf('172.18.0.2')) ?? 0;
    expect(take(flow(sender))[0]?.entry).toBeNull();
    applied.set(stateOf([{ ...member(2, SERVER), id: web.id }]));
    expect(take(flow(sender))[0]?.entry).toBe(SERVER);
  });

  it('of a sender that is no container', () => {
    const { sendersNow, take } = make([], []);
    expect(take(flow(sendersNow().others ?? 0))).toMatchObject([
      { container: UNATTRIBUTED_ID, id: UNATTRIBUTED_ID },
    ]);
  });
});

it('counts what is in no record', () => {
  const { passed } = make([], []);
  const missed: number[] = [];
  passed.missed.subscribe((count) => missed.push(count));
  passed.take({ flows: [], lost: 3, dropped: 2, malformed: 1, error: 'no such table' });
  expect(passed.warning).toBe('open connections are recorded only when they end: no such table');
  passed.take({ flows: [], lost: 4, dropped: 2, malformed: 1 });
  expect([missed, passed.warning]).toEqual([[6, 1], expect.stringContaining('no such table')]);
  passed.take({ flows: [], lost: 4, dropped: 2, malformed: 1, until: 5 });
  expect([missed, passed.warning]).toEqual([[6, 1], undefined]);
});

it('counts a batch that could not be recorded, which covers its time', () => {
  const web = member(2, 'any');
  const { passed, sendersNow } = make([web], [facts(web.id, 'web')]);
  const sender = sendersNow().addresses.get(octetsOf('172.18.0.2')) ?? 0;
  const [missed, until]: [number[], number[]] = [[], []];
  passed.missed.subscribe((count) => missed.push(count));
  passed.recordedUntil.subscribe((time) => until.push(time));
  passed.recorded.subscribe(() => {
    throw new Error('a fault');
  });
  const flows = [flow(sender, { connections: 3 }), flow(sender, { dport: 80, connections: 0 })];
  expect(() => passed.take({ flows, lost: 2, dropped: 0, malformed: 0, until: 7 })).toThrow('a fault');
  expect([missed, until]).toEqual([[6], [7]]);
});

it('warns while the thread has ended, and has a gap from the last read until the next', async () => {
  vi.useFakeTimers();
  const threads: (EventEmitter & { failed?: true })[] = [];
  const start = (): never => {
    if (threads.length === 1) {
      threads.push(new EventEmitter());
      throw new Error('no thread');
    }
    const thread = Object.assign(new EventEmitter(), {
      unref: () => undefined,
      postMessage: ({ end }: { end?: true }) => end && thread.emit('message', 'ended'),
      terminate: async () => thread.emit('exit', 0),
    });
    threads.push(thread);
    return thread as never;
  };
  try {
    const { passed, clock } = make([], [], [], { start });
    const gaps: FlowGap[] = [];
    passed.interrupted.subscribe((gap) => gaps.push(gap));
    passed.begin();
    const read = (until: number) =>
      threads.at(-1)?.emit('message', { flows: [], lost: 0, dropped: 0, malformed: 0, until });
    read(999_000);
    expect([passed.warning, gaps]).toEqual([undefined, []]);
    threads[0]?.emit('error', new Error('out of memory'));
    expect(passed.warning).toBe('connections are not recorded: out of memory');
    clock.now += 10_000;
    await vi.advanceTimersByTimeAsync(10_000);
    expect([threads.length, passed.warning]).toEqual([2, 'connections are not recorded: no thread']);
    await vi.advanceTimersByTimeAsync(10_000);
    expect([threads.length, passed.warning]).toEqual([3, 'connections are not recorded: no thread']);
    read(1_021_000);
    expect(passed.warning).toBeUndefined();
    expect(gaps.map(({ from, to }) => [from, to])).toEqual([
      [999_000, 1_000_000],
      [1_000_000, 1_010_000],
      [1_010_000, 1_021_000],
    ]);
    // the end of the service is no failure: its next start has the gap
    clock.now += 30_000;
    await passed[Symbol.asyncDispose]();
    expect([passed.warning, gaps.length]).toEqual([undefined, 3]);
  } finally {
    vi.useRealTimers();
  }
});
