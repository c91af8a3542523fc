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
  const jump = (table: 'verdict' | 'backstop', mark: number): boolean => {
    const found = compile(input(m)).tables.find((t) => t.layer === table && t.family === family);
    const hook = found?.hooks.find((h) => h.at === 'forward');
    const packet = { family, mark: mark >>> 0, proto: 'tcp', src: '', dst: '', states: ['NEW'] } as const;
    const chains = new Map([['HOOK', hook ? [hook.rule] : []]]);
    return trace(chains, 'HOOK', packet, () => false).steps.length > 0;
  };
  it.each(['verdict', 'backstop'] as const)(
    '%s: evaluated packets do not meet it, all others do',
    (table) => {
      const own = markOf(marks, 2, 'enforce');
      expect(jump(table, own | marks.evaluated)).toBe(false);
      for (const mark of [0, own, own | marks.held, marks.unknown | marks.enforced | 5])
        expect([mark, jump(table, mark)]).toEqual([mark, true]);
      // failure: open
      expect(jump(table, marks.unknown | marks.enforced | marks.evaluated | 5)).toBe(true);
    },
  );
});

describe.each([4, 6] as const)('the jumps from INPUT, IPv%i', (family) => {
  const states = ['NEW', 'ESTABLISHED', 'RELATED', 'INVALID'] as const;
  const own = markOf(marks, 2, 'enforce');
  const identified = [own, own | marks.evaluated, marks.unknown | marks.enforced | marks.held | 5];
  const tables = compile(input(m)).tables.filter((t) => t.family === family);
  it.each(['verdict', 'backstop'] as const)(
    '%s: answers to the host do not meet it, all others do',
    (name) => {
      const table = tables.find((t) => t.layer === name);
      const rules = table?.hooks.flatMap((h) => (h.at === 'input' ? [h.rule] : [])) ?? [];
      const chains = new Map([...(table?.chains ?? []), ['HOOK', rules] as const]);
      const follow = (mark: number, state: (typeof states)[number]) => {
        const packet = { family, mark: mark >>> 0, proto: 'tcp', src: '', dst: '', states: [state] } as const;
        return trace(chains, 'HOOK', { ...packet, in: 'eth0' }, () => false);
      };
      for (const state of states) {
        // bits of other programs are no identity
        for (const mark of [0, ~marks.all])
          expect([state, follow(mark, state).steps.length > 0]).toEqual([state, state !== 'ESTABLISHED']);
        for (const mark of identified)
          expect([mark, follow(mark, state).steps.length > 0]).toEqual([mark, true]);
      }
    },
  );
  it.each(['verdict', 'backstop'] as const)('%s: its chain would let those answers return', (name) => {
    const table = tables.find((t) => t.layer === name);
    const target = table?.hooks.find((h) => h.at === 'input')?.rule.then;
    const chain = target?.k === 'jump' ? target.chain : '';
    expect(table?.chains.get(chain)).not.toBeUndefined();
    for (const proto of ['tcp', 'udp', 'icmp'] as const)
      for (const from of ['lo', 'eth0', 'br-test'])
        for (const isListed of [true, false]) {
          const packet = { family, mark: 0, proto, src: '', dst: '', in: from } as const;
          const answer = { ...packet, states: ['ESTABLISHED'] } as const;
          expect(trace(table?.chains ?? new Map(), chain, answer, () => isListed).verdict).toBe('return');
        }
  });
});

it('only packets of established flows get the bit before the rules, none that the rules check by more than their state', () => {
  const [checked = '', ...others] = backstopProgram(shape, NO_HOST_NET).rules.get('early') ?? [];
  expect(checked).toBe(`ct mark & ${hex(marks.check?.mask ?? 0)} != 0 ct state established goto checking`);
  const lines = others.filter((l) => l.includes(' ct state established '));
  expect(lines).toHaveLength(3);
  for (const line of others.filter((l) => !lines.includes(l)))
    expect(line).toMatch(
      /^meta mark & 0x20000000 != 0 .* tcp flags & \(syn \| ack\) == syn .* (drop|snaplen 128)$/,
    );
  for (const line of lines) expect(line).toMatch(/ ct state established meta mark set \S.* accept$/);
  // echo requests are limited in length; options and extension headers are dropped
  const plain = ['@nh,0,8 0x45 meta l4proto != icmp', 'ip6 nexthdr { tcp, udp }'];
  const own =
    `meta mark & ${hex(marks.identity)} != 0 ` +
    `meta mark & ${hex((marks.unknown | marks.held) >>> 0)} == 0`;
  for (const what of plain)
    expect(lines.filter((l) => l.startsWith(`${own} ${what} ct state established `))).toHaveLength(1);
  // of others, those only that have no mark at all: programs compare theirs as a whole
  expect(lines.filter((l) => l.startsWith('meta mark 0 ct state established '))).toHaveLength(1);
});

describe.each([4, 6] as const)('an answer from elsewhere, IPv%i', (family) => {
  it.each([
    ['verdict', 'DB-FORWARD'],
    ['backstop', 'DB-BACKSTOP'],
  ] as const)('%s %s would let it return, whatever it is', (name, chain) => {
    const table = compile(input(m)).tables.find((t) => t.layer === name && t.family === family);
    for (const proto of ['tcp', 'udp', 'icmp'] as const)
      for (const isListed of [true, false]) {
        const packet = { family, mark: 0, proto, src: '', dst: '', states: ['ESTABLISHED'] } as const;
        expect(trace(table?.chains ?? new Map(), chain, packet, () => isListed).verdict).toBe('return');
      }
  });
});
