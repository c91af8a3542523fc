/** The rules of the check of names: which packets begin a check, which wait, and which state the flow has after each. */
import { describe, expect, it } from 'vitest';
import { backstopProgram } from '../../../src/ruleset/backstop-table.js';
import { NO_HOST_NET } from '../../../src/ruleset/desired-state.js';
import { hex } from '../../../src/ruleset/marks.js';
import { namesFor } from '../../../src/ruleset/naming.js';
import { type TracePacket, trace } from '../../../src/ruleset/trace.js';
import { checkChains, refusedBits } from '../../../src/ruleset/verdict-chains.js';
import { shape } from './sample.js';

const { marks } = shape;
const check = marks.check ?? { mask: 0, queued: 0, open: 0, requests: 0, verified: 0 };
const names = namesFor(shape.prefix);
const chains = checkChains(shape, names);
const own = (2 << marks.shift) >>> 0;
const released = (state: number): number => (own | marks.held | state) >>> 0;

/** What becomes of a packet of a container that comes to the chain `start`. */
function follow(start: string, packet: Partial<TracePacket>) {
  const whole: TracePacket = {
    ...{ family: 4, mark: own, proto: 'tcp', src: '172.18.0.2', dst: '93.184.7.1', dport: 443 },
    ...{ states: ['NEW'], ...packet },
  };
  const { steps, mark } = trace(chains, start, whole, () => false);
  const targets = steps.map(({ rule }) => rule.then);
  let state = ((whole.connmark ?? 0) & check.mask) >>> 0;
  for (const target of targets)
    if (target.k === 'connMark') state = (state | target.bits) >>> 0;
    else if (target.k === 'saveMark') state = ((state & ~target.mask) | (whole.mark & target.mask)) >>> 0;
  const last = targets.at(-1);
  const end = last?.k === 'goto' ? last.chain : last?.k === 'queue' ? last.queue : last?.k;
  const reported = targets.flatMap((t) => (t.k === 'nflog' ? [t.prefix] : []));
  return { end, state, reported, mark };
}

describe('a new flow that only a name permits', () => {
  it.each([443, 80])('to port %i: a SYN begins a check, and is reported', (dport) => {
    const syn = follow(names.checked, { dport, syn: true });
    expect(syn).toMatchObject({ end: names.bound, reported: ['DB:syn'], state: check.open });
  });
  it('whose entry in conntrack was there before is reported as such', () => {
    expect(follow(names.checked, { syn: true, connmark: check.open }).reported).toEqual(['DB:again']);
  });
  it('is no TCP without a SYN, and no invalid packet', () => {
    expect(follow(names.checked, { syn: false }).end).toBe(names.no);
    expect(follow(names.checked, { syn: true, states: ['INVALID'] }).end).toBe(names.no);
    expect(follow(names.checked, { proto: 'udp', states: ['INVALID'] }).end).toBe(names.no);
  });
  it('of datagrams waits, and comes again with its state', () => {
    expect(follow(names.checked, { proto: 'udp' })).toMatchObject({ end: shape.datagramQueue, state: 0 });
    const again = follow(names.checked, { proto: 'udp', mark: released(check.open) });
    expect(again).toMatchObject({ end: names.bound, state: check.open });
  });
});

describe('a packet of a flow that is being checked', () => {
  it.each([
    ['tcp', shape.checkQueue],
    ['udp', shape.datagramQueue],
  ] as const)('of %s waits in the queue of its protocol', (proto, queue) => {
    for (const start of [names.checking, names.inspect])
      expect(follow(start, { proto, connmark: check.open }).end).toBe(queue);
  });
  it('that the service refuses is answered, and not queued again', () => {
    const mark = (own | refusedBits(shape)) >>> 0;
    expect(follow(names.checking, { mark, connmark: check.open })).toMatchObject({
      end: 'reject',
      state: check.open,
    });
  });
  it.each(['open', 'requests', 'verified'] as const)(
    'that the service refuses does not go on, also if it has the state %s of its flow',
    (state) => {
      const mark = (own | refusedBits(shape) | check[state]) >>> 0;
      for (const start of [names.checking, names.checked, names.hostChecked])
        expect(follow(start, { proto: 'udp', mark, connmark: check[state] })).toMatchObject({
          end: 'reject',
          state: check[state],
        });
    },
  );
  it.each(['open', 'requests', 'verified'] as const)(
    'that was released gives its flow the state %s',
    (state) => {
      const packet = { mark: released(check[state]), connmark: check.requests };
      expect(follow(names.checking, packet)).toEqual({
        end: 'return',
        state: check[state],
        reported: [],
        mark: (own | marks.evaluated) >>> 0,
      });
    },
  );
  it.each(['open', 'requests'] as const)(
    'that was released with the state %s leaves a flow verified',
    (state) => {
      const packet = { mark: released(check[state]), connmark: check.verified };
      expect(follow(names.checking, packet)).toMatchObject({ end: 'return', state: check.verified });
    },
  );
});

describe('the table that no command of iptables changes', () => {
  const rules = backstopProgram(shape, NO_HOST_NET).rules;
  // answers to containers of the host's network come in without the bit
  it.each([
    ['forward', ''],
    ['input', 'ct direction original '],
  ])('%s: the backstop drops what should have been queued', (chain, of) => {
    const lines = rules.get(chain) ?? [];
    const dropped = lines.indexOf(
      `${of}ct mark & ${hex(check.queued)} != 0 meta mark & ${hex(marks.evaluated)} == 0 ct state established drop`,
    );
    expect(dropped).toBeGreaterThan(0);
    expect(dropped).toBeLessThan(lines.indexOf('ct state established accept'));
    // only what has no identity, or was evaluated, is accepted ahead of it
    const before = lines.slice(0, dropped).filter((line) => line.endsWith(' accept'));
    const both = hex((marks.enforced | marks.evaluated) >>> 0);
    for (const line of before)
      expect(line).toMatch(
        new RegExp(
          `^(meta mark & ${both} == ${both} |meta mark ${hex(marks.evaluated)} |meta mark & ${hex(marks.enforced)} == 0 |icmpv6 )`,
        ),
      );
  });
});
