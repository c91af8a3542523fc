/** What would make a flow anew that was cut: from neighbours, the host and elsewhere. */
import { describe, expect, it } from 'vitest';
import { compile } from '../../../src/ruleset/compile.js';
import { markOf } from '../../../src/ruleset/marks.js';
import { type TracePacket, trace } from '../../../src/ruleset/trace.js';
import { input, member, shape } from './sample.js';

const enforced = member(1, '192.0.2.1');
const free = member(2, '', 'observe');
const desired = compile(input(enforced, free));
const addressOf = (m: typeof free, family: 4 | 6): string => m.veths[0]?.[`ip${family}`] ?? '';

describe.each([4, 6] as const)('IPv%i', (family) => {
  const filter =
    desired.tables.find((t) => t.family === family && t.layer === 'verdict')?.chains ?? new Map();
  const verdict = (chain: string, more: Partial<TracePacket>): string => {
    const packet: TracePacket = {
      family,
      mark: 0,
      proto: 'tcp',
      src: addressOf(free, family),
      dst: addressOf(enforced, family),
      dport: 40_000,
      states: ['NEW'],
      ...more,
    };
    const isCut = (set: string): boolean => set === `DB-cut${family}`;
    const isEnforced = (set: string): boolean =>
      set === `DB-enf${family}` && packet.dst === addressOf(enforced, family);
    const isOwn = (set: string): boolean =>
      set === `DB-own${family}` && packet.src === addressOf(free, family);
    return trace(filter, chain, packet, (set) => isCut(set) || isEnforced(set) || isOwn(set)).verdict;
  };
  const mark = markOf(shape.marks, free.identity, 'observe');

  it.each([
    ['a neighbour', 'DB-FORWARD', mark],
    ['the host', 'DB-OUTPUT', 0],
  ])('%s: no segment and no datagram of such a flow, but a new connection', (_, chain, from) => {
    expect(verdict(chain, { mark: from })).toBe('reject');
    expect(verdict(chain, { mark: from, proto: 'udp' })).toBe('drop');
    expect(verdict(chain, { mark: from, syn: true })).toBe('return');
    expect(verdict(chain, { mark: from, states: ['ESTABLISHED'] })).toBe('return');
  });

  it('from an enforced one to a neighbour: no segment that would open a connection reversed', () => {
    const own = markOf(shape.marks, enforced.identity, 'enforce');
    const answer = { mark: own, src: addressOf(enforced, family), dst: addressOf(free, family) };
    const isNeighbour = (set: string): boolean => set === `DB-own${family}`;
    const packet: TracePacket = { family, proto: 'tcp', dport: 40_000, states: ['NEW'], ...answer };
    const [segment, opening] = [packet, { ...packet, syn: true }].map((p) =>
      trace(filter, 'DB-FORWARD', p, isNeighbour),
    );
    expect(segment?.steps.at(-1)?.chain).toBe('DB-LATER');
    expect(segment?.steps.some(({ rule }) => rule.then.k === 'nflog')).toBe(true);
    expect(segment?.verdict).toBe('reject');
    expect(opening?.steps.map(({ chain }) => chain)).not.toContain('DB-LATER');
  });

  it('from elsewhere, to whomever: a threat that only feeds of destinations list may not come back', () => {
    const packet = { src: family === 4 ? '192.0.2.9' : '2001:db8::9', dst: addressOf(free, family) };
    expect(verdict('DB-FORWARD', packet)).toBe('drop');
    expect(verdict('DB-FORWARD', { ...packet, proto: 'udp' })).toBe('drop');
    expect(verdict('DB-FORWARD', { ...packet, syn: true })).toBe('return');
  });

  it('to a socket of the host’s network', () => {
    const dst = family === 4 ? '192.0.2.250' : '2001:db8::250';
    expect(verdict('DB-INPUT', { dst })).toBe('drop');
    expect(verdict('DB-INPUT', { dst, proto: 'udp' })).toBe('drop');
    expect(verdict('DB-INPUT', { dst, syn: true })).toBe('return');
  });
});
