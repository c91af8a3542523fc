/** The rules for containers about which a person is asked: which packets wait, and what becomes of one that comes again. */
import { describe, expect, it } from 'vitest';
import { compile } from '../../../src/ruleset/compile.js';
import { planPolicy } from '../../../src/ruleset/deny-plan.js';
import type { Subject } from '../../../src/ruleset/desired-state.js';
import { markOf } from '../../../src/ruleset/marks.js';
import { namesFor } from '../../../src/ruleset/naming.js';
import { PolicyEvaluator } from '../../../src/ruleset/policy-evaluator.js';
import type { TracePacket } from '../../../src/ruleset/trace.js';
import { askedMark, refusedBits } from '../../../src/ruleset/verdict-chains.js';
import { entriesOf, input, member, shape } from './sample.js';

const { marks } = shape;
const names = namesFor(shape.prefix);

function asking(allow: string, mode: 'enforce' | 'observe' = 'enforce'): Subject {
  const plain = member(2, '', mode);
  const all = entriesOf(allow);
  const denied = all.filter((pe) => pe.entry.deny);
  const entries = all.filter((pe) => !pe.entry.deny);
  const policy = { ...plain.policy, askMs: 10_000, entries, ...(denied.length > 0 ? { denied } : {}) };
  return { ...plain, policy, ...planPolicy(policy, () => []) };
}
const evaluate = (subject: Subject, more: Partial<TracePacket> = {}) => {
  const evaluator = new PolicyEvaluator(shape, compile(input(subject)), () => false, new Set());
  const packet: TracePacket = {
    ...{ family: 4, proto: 'tcp', src: '172.18.0.2', dst: '93.184.1.1', dport: 443 },
    ...{ states: ['NEW'], syn: true, mark: markOf(marks, subject.identity, subject.policy.mode) },
    ...more,
  };
  const { verdict, steps } = evaluator.evaluate(packet);
  return { verdict, chain: steps.at(-1)?.chain, permits: evaluator.permits(packet), steps };
};
const again = (mark = markOf(marks, 2, 'enforce')) => ({ mark: askedMark(mark, shape) });

describe('of an enforced container that asks, the first packet that no rule permits', () => {
  it.each([
    ['of TCP', {}],
    ['of UDP', { proto: 'udp', syn: false }],
    ['over IPv6', { family: 6, src: 'fd00:18::2', dst: '2600:9000::1' }],
    ['that waited for its container before', { mark: (markOf(marks, 2, 'enforce') | marks.held) >>> 0 }],
  ] as const)('%s waits, and counts as denied meanwhile', (_, packet) => {
    expect(evaluate(asking('93.184.9.9'), packet)).toMatchObject({
      verdict: 'queue',
      chain: names.ask,
      permits: false,
    });
  });

  it('comes again, and is denied unless a rule permits it by then', () => {
    expect(evaluate(asking('93.184.9.9'), again())).toMatchObject({ verdict: 'reject', chain: names.no });
    expect(evaluate(asking('93.184.1.1:443'), again())).toMatchObject({ verdict: 'return', permits: true });
    const held = again((markOf(marks, 2, 'enforce') | marks.held) >>> 0);
    expect(evaluate(asking('93.184.1.1:443'), held)).toMatchObject({ verdict: 'return', permits: true });
  });

  it('never comes again with the mark of a packet that the check of names refuses', () => {
    for (const mark of [0, marks.held, marks.evaluated])
      expect(again(mark).mark & refusedBits(shape)).not.toBe(refusedBits(shape));
  });
});

describe('no person is asked', () => {
  it.each([
    ['about a later packet of TCP', {}, { syn: false }],
    ['about a packet of a flow that has ended', {}, { states: ['ESTABLISHED'] }],
    ['about an ICMP error', {}, { proto: 'icmp', states: ['RELATED'] }],
    ['about an echo request', {}, { proto: 'icmp', echo: true }],
    ['about other protocols', {}, { proto: 47 }],
    ['about DNS', {}, { dport: 53 }],
    ['about what a deny entry covers', { allow: '!93.184.0.0/16, 93.184.9.9' }, {}],
  ] as const)('%s', (_, { allow = '93.184.9.9' }: { allow?: string }, packet) => {
    const { verdict, steps } = evaluate(asking(allow), packet as Partial<TracePacket>);
    expect(verdict).not.toBe('queue');
    expect(steps.some((s) => s.rule.then.k === 'queue')).toBe(false);
  });

  it('about an observed container, or one without a time', () => {
    expect(evaluate(asking('93.184.9.9', 'observe')).verdict).toBe('return');
    expect(evaluate(member(2, '93.184.9.9'))).toMatchObject({ verdict: 'reject', chain: names.no });
  });

  it('while a quota is spent', () => {
    const quota = { name: 'q', bytes: 1, used: 1, spent: true, until: 0, reached: 'quota reached' };
    const { steps } = evaluate({ ...asking('93.184.9.9'), limits: { quota } });
    expect(steps.at(-1)?.chain).toBe(names.quota);
  });
});

it('is counted once: as denied only when it is denied', () => {
  const counted = (packet: Partial<TracePacket>): string[] =>
    evaluate(asking('93.184.9.9'), packet)
      .steps.filter((s) => s.chain.startsWith('DB-c-') && s.rule.then.k === 'goto')
      .map((s) => (s.rule.then.k === 'goto' ? s.rule.then.chain : ''));
  expect(counted({})).toEqual([]);
  expect(counted(again())).toEqual([names.no]);
});
