/** Which open connections their names still permit. */
import { describe, expect, it } from 'vitest';
import { keyOfEnds, VerifiedNames } from '../../../src/connections/verified-names.js';
import { planClasses } from '../../../src/ruleset/classes.js';
import type { Subject } from '../../../src/ruleset/desired-state.js';
import type { Flow } from '../../../src/ruleset/flow.js';
import { BARE_FLOW } from '../bare-flow.js';
import { entriesOf, member, shape } from '../ruleset/sample.js';

const CHECKS = { verify: true, quic: 'verify', ports: [443] } as const;
const { marks } = shape;
const subject = (allow: string): Subject => ({
  ...member(2, allow),
  classes: planClasses(entriesOf(allow), () => [], CHECKS),
});
const [SOURCE, SERVER] = ['172.18.0.2', '93.184.7.1'];
const ends = { proto: 'tcp', source: SOURCE, sourcePort: 40_000, address: SERVER, port: 443 } as const;
const flow = (state = marks.check?.verified ?? 0): Flow => ({
  ...BARE_FLOW,
  family: 4,
  proto: 6,
  mark: state,
  orig: { src: SOURCE, dst: SERVER, sport: 40_000, dport: 443 },
  reply: { src: SERVER, dst: SOURCE, sport: 443, dport: 40_000 },
});
const namesFor = (...learned: readonly string[]): VerifiedNames =>
  new VerifiedNames({
    marks,
    dns: { learnedNames: () => learned, keys: { of: () => undefined } },
    threats: { blockedName: () => undefined },
  });

describe('an open connection', () => {
  it('is permitted while each of its names is', () => {
    const names = namesFor();
    names.note(keyOfEnds(ends), 'a.example', true);
    names.note(keyOfEnds(ends), 'b.example', false);
    expect(names.permits(subject('a.example, b.example'), flow())).toBe(true);
    expect(names.permits(subject('a.example'), flow())).toBe(false);
    expect(names.permits(subject('b.example'), flow())).toBe(false);
  });
  it('forgets the names of an earlier connection of the same ends', () => {
    const names = namesFor();
    names.note(keyOfEnds(ends), 'a.example', true);
    names.note(keyOfEnds(ends), 'b.example', true);
    expect(names.permits(subject('b.example'), flow())).toBe(true);
    expect(names.permits(subject('a.example'), flow())).toBe(false);
  });
  it('whose names are not known needs a permit for each name of its address', () => {
    const names = namesFor('a.example', 'b.example');
    expect(names.knows(flow())).toBe(false);
    expect(names.permits(subject('a.example, b.example'), flow())).toBe(true);
    expect(names.permits(subject('a.example'), flow())).toBe(false);
  });
  it('is left to the rules for addresses if it is one of those that were not checked', () => {
    expect(namesFor('a.example').permits(subject('b.example'), flow(0))).toBe(true);
  });
});

it('of many connections, those that were used least recently are forgotten', () => {
  const names = namesFor();
  const at = (sourcePort: number): string => keyOfEnds({ ...ends, sourcePort });
  const begin = (from: number, to: number): void => {
    for (let port = from; port < to; port++) names.note(at(port), 'a.example', true);
  };
  begin(1, 4);
  begin(10_000, 30_000);
  names.note(at(1), 'a.example', false);
  expect(names.namesOf({ ...ends, sourcePort: 2 })).toEqual(['a.example']); // it was seen in use
  begin(30_000, 80_000);
  const known = [1, 2, 3, 10_000, 79_999].map((sport) => {
    const one = flow();
    return names.knows({ ...one, orig: { ...one.orig, sport } });
  });
  expect(known).toEqual([true, true, false, false, true]);
});
