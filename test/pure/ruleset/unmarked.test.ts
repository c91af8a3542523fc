import { describe, expect, it } from 'vitest';
import { compile } from '../../../src/ruleset/compile.js';
import type { Bridge, DesiredInput, Layer } from '../../../src/ruleset/desired-state.js';
import { markOf } from '../../../src/ruleset/marks.js';
import { membershipOf } from '../../../src/ruleset/policy-evaluator.js';
import { type TracePacket, trace } from '../../../src/ruleset/trace.js';
import { input, member, shape } from './sample.js';

const m = member(2, 'any:443');
const { marks } = shape;
const enforced = markOf(marks, m.identity, 'enforce');
const syn: TracePacket = {
  family: 4,
  mark: 0,
  proto: 'tcp',
  src: '172.18.0.2',
  dst: '93.184.1.1',
  dport: 443,
  states: ['NEW'],
  syn: true,
  in: 'br-test',
};

function through(table: Layer, chain: string, packet: TracePacket, from: DesiredInput = input(m)) {
  const desired = compile(from);
  const found = desired.tables.find((t) => t.layer === table && t.family === packet.family);
  return trace(
    found?.chains ?? new Map(),
    chain,
    packet,
    membershipOf(desired, () => false),
  ).verdict;
}
const LAYERS = [
  ['verdict', 'DB-FORWARD'],
  ['verdict', 'DB-INPUT'],
  ['backstop', 'DB-BACKSTOP'],
  ['backstop', 'DB-BACKSTOP-IN'],
] as const;

describe.each(LAYERS)('%s %s, each by itself', (table, chain) => {
  it.each([4, 6] as const)('drops a new IPv%d packet of a managed bridge that has no mark', (family) => {
    const packet = family === 4 ? syn : { ...syn, family, src: 'fd00:18::2', dst: '2600:9000::1' };
    expect(through(table, chain, packet)).toBe('drop');
    expect(through(table, chain, { ...packet, states: ['ESTABLISHED'], syn: false })).toBe('return');
    expect(through(table, chain, { ...packet, in: 'eth0' })).toBe('return');
  });

  it('leaves a bridge alone on which not only veths stand, and a name that iptables takes for many', () => {
    const base = input(m);
    const on = (change: Partial<Bridge>): DesiredInput => ({
      ...base,
      bridges: base.bridges.map((b) => ({ ...b, ...change })),
    });
    expect(through(table, chain, syn, on({ mixed: true }))).toBe('return');
    expect(through(table, chain, { ...syn, in: 'br+' }, on({ name: 'br+' }))).toBe('return');
  });

  it('drops every packet of a port that nobody knows', () => {
    const mark = (marks.unknown | marks.enforced | marks.held | 5) >>> 0;
    for (const states of [['NEW'], ['ESTABLISHED']] as const)
      expect(through(table, chain, { ...syn, mark, states })).toBe('drop');
  });
});

describe('the backstop', () => {
  it.each(
    ([4, 6] as const).flatMap((f) => ['DB-BACKSTOP', 'DB-BACKSTOP-IN'].map((chain) => [f, chain] as const)),
  )('wants a permit of an enforced port, and only of that: IPv%i %s', (family, chain) => {
    const packet = family === 4 ? syn : { ...syn, family, src: 'fd00:18::2', dst: '2600:9000::1' };
    const at = (mark: number) => through('backstop', chain, { ...packet, mark: mark >>> 0 });
    expect(at(enforced)).toBe('drop');
    expect(at(enforced | marks.evaluated)).toBe('return');
    expect(at(markOf(marks, 3, 'observe'))).toBe('return');
  });
  it.each([4, 6] as const)('is hooked for both ways in: IPv%i', (family) => {
    const table = compile(input(m)).tables.find((t) => t.family === family && t.layer === 'backstop');
    expect(table?.hooks.map((h) => [h.at, h.rule.then])).toEqual([
      ['forward', { k: 'jump', chain: 'DB-BACKSTOP' }],
      // with an identity, and without one
      ['input', { k: 'jump', chain: 'DB-BACKSTOP-IN' }],
      ['input', { k: 'jump', chain: 'DB-BACKSTOP-IN' }],
      ['output', { k: 'jump', chain: 'DB-BACKSTOP-OUT' }],
    ]);
  });
});

describe('a set that somebody emptied', () => {
  it('permits nothing that `any` would not', () => {
    const desired = compile(input(m));
    const filter = desired.tables.find((t) => t.layer === 'verdict' && t.family === 4)?.chains ?? new Map();
    const packet = { ...syn, mark: enforced };
    for (const dst of ['93.184.1.1', '10.0.0.1', '169.254.169.254'])
      for (const [has, verdict] of [
        [(set: string) => set === 'DB-own4', 'reject'],
        [() => false, 'drop'],
      ] as const)
        expect(trace(filter, 'DB-FORWARD', { ...packet, dst }, has).verdict).toBe(verdict);
  });
});
