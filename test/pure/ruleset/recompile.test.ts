/** What is exchanged in the state of the pass before is what a compilation of the whole would have made. */
import { isDeepStrictEqual } from 'node:util';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isWider } from '../../../src/enforce/revocation.js';
import { planDelta, planSteps } from '../../../src/kernel/apply.js';
import { expectedAfter, expectedAfterDelta } from '../../../src/kernel/dataplane.js';
import { EMPTY_BRIDGE } from '../../../src/kernel/nft-text.js';
import type { Observed } from '../../../src/kernel/read-rules.js';
import { planClasses } from '../../../src/ruleset/classes.js';
import { compile } from '../../../src/ruleset/compile.js';
import type { DesiredInput, Subject } from '../../../src/ruleset/desired-state.js';
import { PolicyEvaluator } from '../../../src/ruleset/policy-evaluator.js';
import { recompile, withChanges } from '../../../src/ruleset/recompile.js';
import { runs } from '../runs.js';
import { entriesOf, input, member, shape, withOwnMaps } from './sample.js';

const ENTRIES = [
  'a.example:80',
  '*.b.example:443',
  '192.0.2.1:443',
  '192.0.2.0/24:443',
  '[2001:db8::1]:443',
  'any:22',
  'host:8080',
  '192.0.2.7:53 dns=direct',
  '224.0.0.251:5353/udp',
];
const LIMITS = [
  undefined,
  { connections: 7 },
  { quota: { name: 'q-1', bytes: 10, used: 0, spent: true, until: 1, reached: 'reached' } },
];
const change = fc.record({
  at: fc.nat(2),
  // Most changes are of entries alone.
  mode: fc.oneof(
    { weight: 6, arbitrary: fc.constant('enforce' as const) },
    fc.constantFrom('observe' as const, 'off' as const),
  ),
  entries: fc.subarray(ENTRIES),
  neighbours: fc.subarray(['172.18.0.77', 'fd00:18::77']),
  limits: fc.oneof({ weight: 6, arbitrary: fc.constant(undefined) }, fc.constantFrom(...LIMITS)),
  published: fc.oneof({ weight: 6, arbitrary: fc.constant<number[]>([]) }, fc.subarray([80, 443])),
  isHost: fc.oneof({ weight: 8, arbitrary: fc.constant(false) }, fc.boolean()),
});
type Change = typeof change extends fc.Arbitrary<infer T> ? T : never;

function changed(was: Subject, c: Change): Subject {
  const entries = entriesOf(c.entries.join(', '));
  const { limits: _limits, host: _host, ...others } = was;
  return {
    ...others,
    policy: { mode: c.mode, modeSource: { kind: 'label' }, entries, lists: [], notes: [] },
    classes: planClasses(entries, () => []),
    neighbours: c.neighbours,
    published: c.published.map((port) => ({ proto: 'tcp' as const, port })),
    ...(c.limits ? { limits: c.limits } : {}),
    ...(c.isHost ? { host: { cgroups: [{ path: `docker/${was.id}`, object: '11' }] } } : {}),
  };
}

const REST: Omit<Change, 'entries'> = {
  at: 0,
  mode: 'enforce',
  neighbours: [],
  limits: undefined,
  published: [],
  isHost: false,
};

const FIRST = [member(2, 'a.example:80'), member(3, '192.0.2.1:443'), member(20, '')];
const around = input(...FIRST);
const inputOf = (subjects: readonly Subject[]): DesiredInput => ({ ...around, subjects });
const NOTHING: Observed = {
  tables: new Map(),
  sets: new Map(),
  bridge: { exists: false, rules: [], elements: EMPTY_BRIDGE },
  backstop: { exists: false, rules: [] },
  arp: { exists: false, rules: [] },
  identity: { exists: false, rules: [] },
};
/** Each line of each tool, in any order: sets and chains are independent of each other within a stage. */
const linesOf = (stages: ReturnType<typeof planSteps>['stages']): string[][] =>
  stages.map((stage) => stage.flatMap((s) => s.script.split('\n').map((line) => `${s.tool} ${line}`)).sort());

const ownMapsOf = (observed: Observed): Observed => ({
  ...observed,
  sets: new Map(observed.sets),
  tables: new Map(
    [...observed.tables].map(
      ([family, tables]) =>
        [family, new Map([...tables].map(([table, chains]) => [table, new Map(chains)] as const))] as const,
    ),
  ),
});

const KEYS = Array.from({ length: 121 }, (_, k) => k);

it('a map with changes has what a copy with them has, and leaves the former one as it is', () => {
  const key = fc.integer({ min: 0, max: 120 });
  const value = fc.option(fc.record({ n: fc.integer() }), { nil: undefined });
  const changesOf = fc.array(fc.tuple(key, value), { maxLength: 40 });
  fc.assert(
    fc.property(
      fc.array(fc.tuple(key, fc.record({ n: fc.integer() }))),
      fc.array(changesOf),
      (first, all) => {
        let [map, copy]: [ReadonlyMap<number, object>, Map<number, object>] = [
          new Map(first),
          new Map(first),
        ];
        for (const changes of all) {
          const [former, before] = [map, new Map(copy)];
          map = withChanges(map, new Map(changes));
          for (const [k, v] of new Map(changes))
            if (v) copy.set(k, v);
            else copy.delete(k);
          copy = new Map(copy);
          expect(new Map(map)).toEqual(copy);
          expect([map.size, [...map.keys()].length]).toEqual([copy.size, copy.size]);
          expect([...map.values()].every((v) => [...copy.values()].includes(v))).toBe(true);
          const read = (from: ReadonlyMap<number, object>) => KEYS.map((k) => [from.get(k), from.has(k)]);
          expect(read(map)).toEqual(read(copy));
          expect(new Map(former)).toEqual(before);
        }
      },
    ),
  );
});

describe('a state with some subjects exchanged', () => {
  it('is that of a compilation, and so are its steps and what is installed then', () => {
    let partial = 0;
    fc.assert(
      fc.property(
        fc.array(fc.array(change, { minLength: 1, maxLength: 3 }), { minLength: 3, maxLength: 8 }),
        (passes) => {
          let subjects: readonly Subject[] = FIRST;
          let desired = compile(inputOf(subjects));
          let observed = expectedAfter(shape, desired, NOTHING);
          for (const changes of passes) {
            const next = [...subjects];
            for (const c of changes) next[c.at] = changed(subjects[c.at] as Subject, c);
            const replaced = next.flatMap((is, i) => {
              const was = subjects[i] as Subject;
              return is === was ? [] : [{ was, is }];
            });
            const now = recompile(desired, inputOf(next), replaced);
            const fresh = compile(structuredClone(inputOf(next)));
            expect(isDeepStrictEqual(withOwnMaps(now.desired), fresh)).toBe(true);
            if (now.delta) {
              partial += 1;
              const [some, all] = [
                planDelta(shape, now.desired, observed, now.delta),
                planSteps(shape, fresh, structuredClone(ownMapsOf(observed))),
              ];
              expect(linesOf(some.stages)).toEqual(linesOf(all.stages));
              expect([...some.refill].sort()).toEqual([...all.refill].sort());
              expect(some.blockingStages).toBe(all.blockingStages);
              const after = expectedAfterDelta(now.desired, observed, now.delta);
              expect(isDeepStrictEqual(ownMapsOf(after), expectedAfter(shape, fresh, observed))).toBe(true);
              observed = after;
            } else observed = expectedAfter(shape, fresh, observed);
            expect(planSteps(shape, fresh, observed).stages).toEqual([]);
            [subjects, desired] = [next, now.desired];
          }
        },
      ),
      { numRuns: runs(40) },
    );
    expect(partial).toBeGreaterThan(0);
  });

  it('a set and a chain that have not changed stay the same objects', () => {
    const [was, other] = FIRST as [Subject, Subject];
    const before = compile(inputOf(FIRST));
    const is = changed(was, { ...REST, entries: ['192.0.2.1:443'] });
    const { desired, delta } = recompile(before, inputOf([is, ...FIRST.slice(1)]), [{ was, is }]);
    expect(delta?.base).toBe(before);
    expect(desired.bridge).toBe(before.bridge);
    const ofOther = [...before.sets.values()].filter((s) => s.owner === other.id);
    expect(ofOther.length).toBeGreaterThan(0);
    for (const set of ofOther) expect(desired.sets.get(set.name)).toBe(set);
    expect([...(delta?.sets ?? [])].every((name) => name.includes(is.id.slice(0, 12)))).toBe(true);
  });
});

const PACKETS = ['192.0.2.1', '192.0.2.7', '192.0.2.99', '8.8.8.8', '172.18.0.77', '224.0.0.251'].flatMap(
  (dst) =>
    ([80, 443, 22, 8080, 53, 5353] as const).flatMap((dport) =>
      (['tcp', 'udp'] as const).map((proto) => ({ dst, dport, proto })),
    ),
);

it('whatever a subject was permitted, a wider one is permitted, too', () => {
  let wider = 0;
  fc.assert(
    fc.property(change, fc.subarray(ENTRIES), (c, more) => {
      const was = changed(FIRST[0] as Subject, c);
      const is = changed(FIRST[0] as Subject, { ...c, entries: [...new Set([...more, ...c.entries])] });
      if (!isWider(was, is)) return;
      wider += 1;
      const evaluators = [was, is].map(
        (m) => [m, new PolicyEvaluator(shape, compile(inputOf([m])), () => true, new Set())] as const,
      );
      const lost = PACKETS.filter(({ dst, dport, proto }) => {
        const [before, after] = evaluators.map(([m, evaluator]) => {
          return evaluator.permits(
            evaluator.sentBy(m, { family: 4, src: '172.18.0.2', dst, proto, dport, states: ['NEW'] }),
          );
        });
        return before && !after;
      });
      expect(lost).toEqual([]);
    }),
    { numRuns: 60 },
  );
  expect(wider).toBeGreaterThan(10);
});

it('a subject that has lost anything is not wider', () => {
  const was = changed(FIRST[0] as Subject, { ...REST, entries: [...ENTRIES], neighbours: ['172.18.0.77'] });
  expect(isWider(was, structuredClone(was))).toBe(true);
  for (const entry of ENTRIES) {
    const entries = ENTRIES.filter((e) => e !== entry);
    expect(isWider(was, changed(was, { ...REST, entries, neighbours: ['172.18.0.77'] })), entry).toBe(false);
  }
  for (const c of [{ neighbours: [] }, { mode: 'observe' as const }, { limits: LIMITS[1] }])
    expect(
      isWider(was, changed(was, { ...REST, entries: [...ENTRIES], neighbours: ['172.18.0.77'], ...c })),
    ).toBe(false);
});
