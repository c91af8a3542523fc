import { describe, expect, it } from 'vitest';
import { markOf } from '../../../src/desired/bridge.js';
import type { Place } from '../../../src/desired/closed.js';
import { compile } from '../../../src/desired/compile.js';
import { membershipOf } from '../../../src/desired/membership.js';
import type { DesiredInput } from '../../../src/desired/state.js';
import { type TracePacket, trace } from '../../../src/desired/trace.js';
import { closedPlaces } from '../../../src/service/closed.js';
import { input, member, shape } from './sample.js';

const MODES = ['enforce', 'observe', 'off'] as const;
const HOST = '172.18.0.1';
const CGROUP = { path: 'docker/abc', object: '17' };

/** A container that may reach the whole host, by the letter of its entries. */
function world(mode: (typeof MODES)[number], closed: readonly Place[]): DesiredInput {
  return { ...input(member(2, `host:1-65535, ${HOST}:1-65535, any:1-65535`, mode)), closed };
}
function verdict(from: DesiredInput, chain: string, change: Partial<TracePacket>): string {
  const [m] = from.members;
  const desired = compile(from);
  const found = desired.tables.find((t) => t.table === 'filter' && t.family === (change.family ?? 4));
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

  it('in the host network, on loopback too', () => {
    const inHost: DesiredInput = {
      ...everywhere,
      members: everywhere.members.map((m) => ({ ...m, ports: [], host: { cgroups: [CGROUP] } })),
      hostNet: { gates: [{ path: 'docker', object: '9' }], exempt: [], builds: [] },
    };
    const sent = { cgroup: CGROUP.path, toHost: true, dst: '127.0.0.1' };
    expect(verdict(inHost, 'DB-OUTPUT', sent)).toBe('reject');
    expect(verdict(inHost, 'DB-OUTPUT', { ...sent, dport: 22 })).toBe('return');
    expect(verdict(inHost, 'DB-OUTPUT', { cgroup: CGROUP.path, dst: '93.184.1.1' })).toBe('return');
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
    expect(closedPlaces({ api: { listen, tokens: [] } }, redis, own)).toEqual(wanted);
  });
});
