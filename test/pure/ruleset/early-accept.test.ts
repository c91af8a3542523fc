/** What lets a packet of an established flow leave first, and for which packets it does not. */
import { describe, expect, it } from 'vitest';
import { backstopProgram } from '../../../src/ruleset/backstop-table.js';
import { compile } from '../../../src/ruleset/compile.js';
import { type DesiredInput, NO_HOST_NET, type Subject } from '../../../src/ruleset/desired-state.js';
import { hex, markOf } from '../../../src/ruleset/marks.js';
import { trace } from '../../../src/ruleset/trace.js';
import { input, member, shape } from './sample.js';

const { marks } = shape;
const m = member(2, 'any:443');
const HEAD = '0x0242aabbccdd0242ac120002080045';
const KEY = `102 . ${HEAD} . 172.18.0.2`;
const routed = (from: DesiredInput) => [...compile(from).bridge.routed4];
const limited = (limits: NonNullable<Subject['limits']>): Subject => ({ ...m, limits });

describe('routed4', () => {
  it('has the frames of a bound veth to its own bridge, with the mark of its mode', () => {
    for (const mode of ['enforce', 'observe', 'off'] as const)
      expect(routed(input(member(2, '', mode)))).toEqual([[KEY, markOf(marks, 2, mode)]]);
  });
  it('leaves out veths that another rule limits or counts', () => {
    const quota = { name: 'q', bytes: 10, used: 0, spent: false };
    expect(routed(input(limited({ bytesPerSecond: 1000 })))).toEqual([]);
    expect(routed(input(limited({ quota } as NonNullable<Subject['limits']>)))).toEqual([]);
  });
  it('leaves out veths on no bridge, and without an IPv4 address', () => {
    const base = input(m);
    expect(routed({ ...base, bridges: [] })).toEqual([]);
    const [{ ip4: _, ...veth } = { ifindex: 0, mac: '', bridge: '' }] = m.veths;
    expect(routed(input({ ...m, veths: [veth] }))).toEqual([]);
  });
});

describe.each([4, 6] as const)('the jumps from FORWARD, IPv%i', (family) => {
  const jump = (table: 'filter' | 'security', mark: number): boolean => {
    const found = compile(input(m)).tables.find((t) => t.table === table && t.family === family);
    const hook = found?.hooks.find((h) => /^(?:DOCKER-USER|FORWARD)$/.test(h.chain));
    const packet = { family, mark: mark >>> 0, proto: 'tcp', src: '', dst: '', states: ['NEW'] } as const;
    const chains = new Map([['HOOK', hook ? [hook.rule] : []]]);
    return trace(chains, 'HOOK', packet, () => false).steps.length > 0;
  };
  it.each(['filter', 'security'] as const)('%s: evaluated packets do not meet it, all others do', (table) => {
    const own = markOf(marks, 2, 'enforce');
    expect(jump(table, own | marks.evaluated)).toBe(false);
    for (const mark of [0, own, own | marks.held, marks.unknown | marks.enforced | 5])
      expect([mark, jump(table, mark)]).toEqual([mark, true]);
    // failure: open
    expect(jump(table, marks.unknown | marks.enforced | marks.evaluated | 5)).toBe(true);
  });
});

it('only packets of established flows get the bit before the rules, none that the rules check by more than their state', () => {
  const lines = backstopProgram(shape, NO_HOST_NET).rules.get('early') ?? [];
  const setting = lines.flatMap((l, i) => (l.includes(' set ') ? [i] : []));
  expect(setting).toHaveLength(2);
  for (const i of setting)
    expect(lines[i]).toMatch(/ ct state established meta mark set meta mark \| \S+ accept$/);
  const before = lines.slice(0, setting[0]);
  expect(before).toContain(`meta mark & ${hex(marks.identity)} == 0 accept`);
  expect(before).toContain(`meta mark & ${hex((marks.unknown | marks.held) >>> 0)} != 0 accept`);
  // echo requests are limited in length; options and extension headers are dropped
  expect(lines[setting[0] ?? 0]).toMatch(/^@nh,0,8 0x45 meta l4proto != icmp /);
  expect(lines[setting[1] ?? 0]).toMatch(/^ip6 nexthdr \{ tcp, udp \} /);
});
