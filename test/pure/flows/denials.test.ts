/** What becomes of a logged packet and of a denied name. */
import { describe, expect, it } from 'vitest';
import type { NameEvent } from '../../../src/dns/names-policy.js';
import { type DenialEvent, Denials } from '../../../src/flows/denials.js';
import { Tallies } from '../../../src/flows/tallies.js';
import type { LoggedFacts } from '../../../src/kernel/denied-log.js';
import { OWN_RESOLVER } from '../../../src/policy/finding.js';
import type { ThreatLook } from '../../../src/policy/threat.js';
import type { AppliedState } from '../../../src/ruleset/applied-state.js';
import { planClasses } from '../../../src/ruleset/classes.js';
import type { LogWord } from '../../../src/ruleset/log-words.js';
import { mayReach } from '../../../src/ruleset/policy-evaluator.js';
import { entriesOf, member, shape } from '../ruleset/sample.js';

const NO_THREATS = new Proxy({} as ThreatLook, { get: () => () => undefined });
function make(
  reaches = false,
  names: readonly string[] = [],
  isOwn = false,
  mode: 'enforce' | 'observe' = 'enforce',
) {
  const clock = { now: 1_000_000 };
  const tallies = new Tallies();
  const base = member(9, '');
  const policy = { ...base.policy, mode };
  const subject = { ...base, policy, neighbours: reaches ? ['172.18.0.3'] : [] };
  const denials = new Denials({
    marks: shape.marks,
    applied: {
      value: { subjects: new Map([['c', subject]]) } as unknown as AppliedState,
    },
    names: { containerAt: () => 'c', searchDomains: () => [] },
    changes: {
      justLeft: () => undefined,
      hasJustJoined: () => false,
      isThere: () => false,
      isTaken: () => false,
      returned: () => [],
    },
    dns: { namesReader: () => () => ({ names, isOwn }) },
    threats: NO_THREATS,
    tallies,
    now: () => clock.now,
  });
  const ask = (type: string, more: Partial<NameEvent> = {}): void =>
    denials.name({ container: 'c', name: 'a.org', type, verdict: 'deny', reason: 'no entry', ...more });
  const packet = (word: LogWord, isLater = false, more: Partial<LoggedFacts> = {}): void =>
    denials.packet({
      isLater,
      word,
      mark: 2,
      proto: 'tcp',
      src: '172.18.0.2',
      dst: '172.18.0.3',
      dport: 22,
      ...more,
    });
  /** For what a packet that `log` takes is a copy: counters that grow by three packets lack one less. */
  const copiesOf = (log: () => void): readonly string[] => {
    let missing = 0;
    denials.notLogged.subscribe((count) => (missing += count));
    log();
    denials.counted({ own: new Map([['c', { sum: 3, grown: 3 }]]), refused: { sum: 3, grown: 3 } }, 0);
    return [missing === 2 ? 'refused' : [], tallies.of('c').denied === 2 ? 'c' : []].flat();
  };
  const seen: DenialEvent[] = [];
  denials.onEvent((e) => seen.push(e));
  return { clock, denials, seen, ask, packet, tallies, copiesOf };
}

describe('a denied name', () => {
  it('counts once for A and AAAA together, and again when it is looked up again', () => {
    const { clock, denials, seen, ask } = make();
    for (const type of ['A', 'AAAA']) ask(type);
    expect(seen).toHaveLength(1);
    for (const type of ['AAAA', 'A']) ask(type);
    expect(seen).toHaveLength(2);
    clock.now += 60_000;
    ask('AAAA');
    expect(seen).toHaveLength(3);
    expect(denials.totals.name).toBe(3);
  });

  it('of an observed container is handed on, and counts as no denial', () => {
    const { denials, seen, ask } = make();
    for (const type of ['A', 'AAAA']) ask(type, { verdict: 'would-deny' });
    expect([seen.map((e) => e.name), denials.totals.name]).toEqual([['a.org'], 0]);
  });
});

describe('a packet of an observed container', () => {
  it('is would-deny, and handed on', () => {
    const { seen, packet } = make();
    packet('would');
    packet('near');
    packet('deny');
    expect(seen.filter((e) => e.verdict === 'would-deny')).toHaveLength(2);
    expect(seen).toHaveLength(3);
  });

  it('to a neighbour that enforce lets it reach is nothing', () => {
    const { seen, packet } = make(true);
    packet('near');
    expect(seen).toEqual([]);
  });
});

it.each([
  // of the container's own rules, and refused
  ['deny', ['refused', 'c']],
  ['connections', ['refused', 'c']],
  ['quota', ['refused', 'c']],
  // of the container's own rules, and passed
  ['would', ['c']],
  // refused by rules that all containers share
  ['flood', ['refused']],
  ['threat', ['refused']],
  // passed, and logged by rules that all containers share
  ['seen', []],
  ['near', []],
] as const)('a packet with the word %s is a copy for %j', (word, expected) => {
  const { copiesOf, packet } = make();
  expect(
    copiesOf(() => {
      packet(word);
      packet(word, false, { elsewhere: true });
    }),
  ).toEqual(expected);
});

it('compares counters with copies after it has taken those that had come', () => {
  const { denials, packet, copiesOf } = make();
  denials.follow({ drain: () => packet('deny') });
  expect(copiesOf(() => undefined)).toEqual(['refused', 'c']);
});

it.each([
  ['enforce', 6],
  ['observe', 0],
] as const)('in mode %s, of six packets without a copy %i were denied', (mode, expected) => {
  const { denials, tallies } = make(false, [], false, mode);
  const missing: number[] = [];
  denials.notLogged.subscribe((count) => missing.push(count));
  denials.counted({ own: new Map([['c', { sum: 6, grown: 6 }]]), refused: { sum: 8, grown: 8 } }, 0);
  expect([missing, tallies.of('c').denied]).toEqual([[8], expected]);
});

it('a packet that a watched feed lists is counted where it passes or is refused, unless it comes from outside', () => {
  const { seen, packet } = make();
  packet('seen');
  packet('seen', false, { mark: 0 });
  expect(seen.map((e) => e.hasPassed)).toEqual([true, undefined]);
});

it('a packet of a connection that may be of either side is counted, and recorded as no attempt', () => {
  const { denials, seen, packet, copiesOf } = make();
  expect(copiesOf(() => packet('later', true))).toEqual(['refused']);
  expect([seen, denials.totals.other]).toEqual([[], 1]);
});

describe('a denied packet of TCP that begins no connection', () => {
  const LATE = 'it begins no connection: the one that it belongs to has ended, was refused, or is not known';
  it.each([
    ['to an address that was resolved has that as its reason', ['a.org'], true, LATE],
    ['to another address is denied as the first one would be', [], true, 'no entry permits it'],
    ['differs from one that does', ['a.org'], false, 'no entry permits it'],
  ])('%s', (_, names, isLater, reason) => {
    const { seen, packet } = make(false, names);
    packet('deny', isLater);
    expect(seen).toMatchObject([{ verdict: 'deny', reason }]);
  });
});

it('mayReach is what the chain says of neighbours: eastWest, networks, entries by port and protocol', () => {
  const classes = planClasses(entriesOf('container:db:5432, 172.18.5.0/24:9000/udp'), () => [
    { family: 4, lo: 0xac120009n, hi: 0xac120009n },
  ]);
  const m = { ...member(2, ''), classes, neighbours: ['172.18.0.7', '172.19.0.0/16'] };
  const reaches = (dst: string, proto: string, dport: number): boolean => mayReach(m, { dst, proto, dport });
  expect([
    reaches('172.18.0.7', 'udp', 1),
    reaches('172.19.3.3', 'icmp', 0),
    reaches('172.18.0.9', 'tcp', 5432),
    reaches('172.18.5.1', 'udp', 9000),
  ]).toEqual([true, true, true, true]);
  expect([
    reaches('172.18.0.8', 'tcp', 1),
    reaches('172.18.0.9', 'udp', 5432),
    reaches('172.18.0.9', 'tcp', 5433),
    reaches('172.18.5.1', 'tcp', 9000),
  ]).toEqual([false, false, false, false]);
});

it('a name that a client has written into its hello is no neighbour in the record', () => {
  const { denials, seen } = make();
  const to = { container: 'c', proto: 'tcp', address: '93.184.1.1', port: 443, name: '' } as const;
  for (const name of ['container:db', 'a.org'])
    denials.checked({ ...to, refusal: { reason: 'server-name', name, detail: 'no host name' } });
  expect(seen.map((e) => e.name)).toEqual([null, 'a.org']);
});

it('an address that only a resolver of the container gave for a name is told as that, and counts as an address', () => {
  const { seen, packet, denials } = make(false, ['good.test'], true);
  packet('would');
  expect(seen).toMatchObject([{ verdict: 'would-deny', name: 'good.test', reason: OWN_RESOLVER }]);
  packet('deny');
  expect(seen[1]).toMatchObject({ verdict: 'deny', reason: 'no entry permits it' });
  expect(denials.totals).toMatchObject({ address: 1, port: 0 });
});
