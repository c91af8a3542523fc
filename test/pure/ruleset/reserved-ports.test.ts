import { describe, expect, it } from 'vitest';
import { closedPlaces } from '../../../src/enforce/policies.js';
import type { PublishedPort } from '../../../src/policy/container.js';
import { compile } from '../../../src/ruleset/compile.js';
import type { DesiredInput } from '../../../src/ruleset/desired-state.js';
import type { Flow } from '../../../src/ruleset/flow.js';
import { markOf } from '../../../src/ruleset/marks.js';
import { membershipOf, PolicyEvaluator } from '../../../src/ruleset/policy-evaluator.js';
import type { ReservedPort } from '../../../src/ruleset/reserved-ports.js';
import { type TracePacket, trace } from '../../../src/ruleset/trace.js';
import { BARE_FLOW } from '../bare-flow.js';
import { input, member, shape } from './sample.js';

const MODES = ['enforce', 'observe', 'off'] as const;
const HOST = '172.18.0.1';
const CGROUP = { path: 'docker/abc', object: '17' };

/** A container that may reach the whole host, by the letter of its entries. */
function world(mode: (typeof MODES)[number], closed: readonly ReservedPort[]): DesiredInput {
  return { ...input(member(2, `host:1-65535, ${HOST}:1-65535, any:1-65535`, mode)), closed };
}
function verdict(from: DesiredInput, chain: string, change: Partial<TracePacket>): string {
  const [m] = from.subjects;
  const desired = compile(from);
  const found = desired.tables.find((t) => t.layer === 'verdict' && t.family === (change.family ?? 4));
  const packet: TracePacket = {
    family: 4,
    mark: m ? markOf(shape.marks, m.identity, m.policy.mode) : 0,
    proto: 'tcp',
    src: '172.18.0.2',
    dst: HOST,
    dport: 7070,
    states: ['NEW'],
    syn: true,
    in: 'br-test',
    ...change,
  };
  return trace(
    found?.chains ?? new Map(),
    chain,
    packet,
    membershipOf(desired, () => false),
  ).verdict;
}

describe.each(MODES)('from a container in mode %s', (mode) => {
  const everywhere = world(mode, [{ port: 7070 }]);
  it('a closed port is refused at every address of the host, and nothing else is', () => {
    for (const dst of [HOST, '192.0.2.2', '10.0.0.1'])
      expect(verdict(everywhere, 'DB-INPUT', { dst })).toBe('reject');
    expect(verdict(everywhere, 'DB-INPUT', { family: 6, src: 'fd00:18::2', dst: 'fd00:18::1' })).toBe(
      'reject',
    );
    expect(verdict(everywhere, 'DB-INPUT', { dport: 7071 })).toBe('return');
    expect(verdict(everywhere, 'DB-INPUT', { proto: 'udp', syn: false })).toBe(
      mode === 'enforce' ? 'reject' : 'return',
    );
  });

  it('at one address only, where it listens at one', () => {
    const one = world(mode, [{ address: HOST, port: 7070 }]);
    expect(verdict(one, 'DB-INPUT', {})).toBe('reject');
    expect(verdict(one, 'DB-INPUT', { family: 6, src: 'fd00:18::2', dst: 'fd00:18::1' })).not.toBe('accept');
    if (mode !== 'enforce') expect(verdict(one, 'DB-INPUT', { dst: '192.0.2.2' })).toBe('return');
  });

  it('as a published port of another container', () => {
    const behind = { dst: '172.19.0.5', dport: 6379, sentTo: 7070, states: ['NEW', 'DNAT'] } as const;
    expect(verdict(everywhere, 'DB-FORWARD', behind)).toBe('reject');
    expect(verdict(everywhere, 'DB-FORWARD', { dst: '93.184.1.1', dport: 7070 })).toBe('return');
  });

  it.each([
    [4, '172.19.0.5'],
    [6, 'fd00:19::5'],
  ] as const)('in a container of its own, IPv%i, also for neighbours of its bridge', (family, address) => {
    const inside = world(mode, [{ address, port: 6379, container: 'r' }]);
    const src = family === 4 ? '172.18.0.2' : 'fd00:18::2';
    const packet = { family, src, dst: address, dport: 6379 };
    expect(verdict(inside, 'DB-FORWARD', packet)).toBe('reject');
    expect(verdict(inside, 'DB-FORWARD', { ...packet, dport: 6380 })).toBe(
      mode === 'enforce' ? 'reject' : 'return',
    );
    const { bridge } = compile(inside);
    expect([...bridge.closed4, ...bridge.closed6]).toEqual([`${address} . 6379`]);
    const hosted: DesiredInput = {
      ...inside,
      subjects: inside.subjects.map((m) => ({ ...m, veths: [], host: { cgroups: [CGROUP] } })),
      hostNet: { gates: [{ path: 'docker', object: '9' }], exempt: [], builds: [] },
    };
    expect(verdict(hosted, 'DB-OUTPUT', { ...packet, cgroup: CGROUP.path })).toBe('reject');
  });

  it('in the host network, on loopback too', () => {
    const inHost: DesiredInput = {
      ...everywhere,
      subjects: everywhere.subjects.map((m) => ({ ...m, veths: [], host: { cgroups: [CGROUP] } })),
      hostNet: { gates: [{ path: 'docker', object: '9' }], exempt: [], builds: [] },
    };
    const sent = { cgroup: CGROUP.path, toHost: true, dst: '127.0.0.1' };
    expect(verdict(inHost, 'DB-OUTPUT', sent)).toBe('reject');
    expect(verdict(inHost, 'DB-OUTPUT', { ...sent, dport: 22 })).toBe('return');
    expect(verdict(inHost, 'DB-OUTPUT', { cgroup: CGROUP.path, dst: '93.184.1.1' })).toBe('return');
  });
});

describe.each([4, 6] as const)('flows that stand to what is closed, IPv%i', (family) => {
  const [src, inside, address] =
    family === 4 ? ['172.18.0.2', '172.19.0.5', '192.0.2.2'] : ['fd00:18::2', 'fd00:19::5', '2001:db8::2'];
  const places: readonly ReservedPort[] = [{ port: 7070 }, { address: inside, port: 6379, container: 'r' }];
  const flow = (dst: string, dport: number, to = dst, port = dport, proto = 6): Flow => ({
    ...BARE_FLOW,
    family,
    proto,
    mark: 0,
    orig: { src, dst, sport: 4000, dport },
    reply: { src: to, dst: src, sport: port, dport: 4000 },
  });
  it.each(MODES)('end in mode %s, and no others', (mode) => {
    const from = world(mode, places);
    const [m] = from.subjects;
    const judge = new PolicyEvaluator(shape, compile(from), () => false, new Set([address]));
    const keeps = (f: Flow): boolean => m !== undefined && judge.keeps(m, f);
    expect(keeps(flow(address, 7070))).toBe(false);
    expect(keeps(flow(inside, 6379))).toBe(false);
    expect(keeps(flow(address, 7070, inside, 80))).toBe(false);
    expect(keeps(flow(address, 16_379, inside, 6379))).toBe(false);
    expect(keeps(flow(address, 7071))).toBe(true);
    if (mode === 'enforce') return;
    expect(keeps(flow(inside, 6380))).toBe(true);
    expect(keeps(flow(address, 7070, address, 7070, 17))).toBe(true);
  });
});

describe('what is closed', () => {
  const own = new Set(['192.0.2.2', '2001:db8::2']);
  it.each([
    ['unix:/run/drawbridge/api.sock', [], []],
    ['127.0.0.1:7070', [], [{ address: '127.0.0.1', port: 7070 }]],
    ['localhost:7070', [], [{ address: '127.0.0.1', port: 7070 }]],
    ['0.0.0.0:7070', [], [{ port: 7070 }]],
    ['[::]:7070', [], [{ port: 7070 }]],
    ['[2001:db8::2]:7070', [], [{ address: '2001:db8::2', port: 7070 }]],
    ['unix:/x', [{ address: '127.0.0.1', port: 6379 }], [{ port: 6379 }]],
    ['unix:/x', [{ address: '::ffff:192.0.2.2', port: 6379 }], [{ port: 6379 }]],
    [
      'unix:/x',
      [
        { address: '2001:db8::2', port: 1 },
        { address: '::1', port: 1 },
      ],
      [{ port: 1 }],
    ],
    ['unix:/x', [{ address: '192.0.2.9', port: 6379 }], []],
  ])('api.listen %s and Redis at %j', (listen, redis, wanted) => {
    expect(
      closedPlaces({ api: { listen, tokens: [] } }, redis, { hostAddresses: own, containers: [] }),
    ).toEqual(wanted);
  });

  describe('and Redis in a container', () => {
    const published = (address: string): PublishedPort[] => [
      { proto: 'tcp', containerPort: 6379, hosts: [{ address, port: 16_379 }] },
      { proto: 'tcp', containerPort: 80, hosts: [{ address, port: 8080 }] },
    ];
    const at = (address: string) => ({
      id: 'r',
      published: published(address),
      endpoints: [
        { networkId: 'n', mac: '', ip4: '172.18.0.5', ip6: 'fd00:18::5', dnsNames: [] },
        { networkId: 'm', mac: '', ip4: '172.19.0.5', dnsNames: [] },
      ],
    });
    const ends = ['172.18.0.5', '172.19.0.5', 'fd00:18::5'];
    const places = (server: string, port: number, address: string) =>
      closedPlaces({ api: { listen: 'unix:/x', tokens: [] } }, [{ address: server, port }], {
        hostAddresses: own,
        containers: [at(address)],
      });
    it.each([
      ['127.0.0.1', '0.0.0.0'],
      ['127.0.0.1', '127.0.0.1'],
      ['::1', '::'],
      ['192.0.2.2', ''],
      ['::ffff:192.0.2.2', '192.0.2.2'],
    ])('behind a published port, asked at %s, published at "%s"', (server, address) => {
      expect(places(server, 16_379, address)).toEqual([
        { port: 16_379 },
        ...ends.map((e) => ({ address: e, port: 6379, container: 'r' })),
      ]);
    });
    it('not another port, another address of the host, or a server elsewhere', () => {
      expect(places('127.0.0.1', 9, '0.0.0.0')).toEqual([{ port: 9 }]);
      expect(places('127.0.0.1', 16_379, '192.0.2.2')).toEqual([{ port: 16_379 }]);
      expect(places('198.51.100.7', 16_379, '0.0.0.0')).toEqual([]);
    });
    it('named by its own address, at all of its addresses', () => {
      for (const server of ['172.19.0.5', 'fd00:18:0::5'])
        expect(places(server, 7000, '')).toEqual(
          ends.map((e) => ({ address: e, port: 7000, container: 'r' })),
        );
    });
  });
});
