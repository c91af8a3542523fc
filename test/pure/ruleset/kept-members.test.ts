/** What is rendered once and kept: a rule that is older than its policy would be a leak. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { signatureOf } from '../../../src/enforce/revocation.js';
import { planSteps } from '../../../src/kernel/apply.js';
import { expectedAfter } from '../../../src/kernel/dataplane.js';
import { EMPTY_BRIDGE } from '../../../src/kernel/nft-text.js';
import type { Observed } from '../../../src/kernel/read-rules.js';
import { planClasses } from '../../../src/ruleset/classes.js';
import { compile } from '../../../src/ruleset/compile.js';
import {
  type DesiredInput,
  type DesiredState,
  keepSubject,
  type Subject,
} from '../../../src/ruleset/desired-state.js';
import { chainHashes } from '../../../src/ruleset/render/iptables.js';
import { rule } from '../../../src/ruleset/rules.js';
import { runs } from '../runs.js';
import { entriesOf, input, member, shape } from './sample.js';

const ENTRIES = [
  'a.example:80',
  '192.0.2.1:443',
  'any:22',
  'host:8080',
  '192.0.2.7:53 dns=direct',
  '*.b.example',
];
const quota = (spent: boolean) => ({
  name: 'q-1',
  bytes: 1000,
  used: 0,
  spent,
  until: 1,
  reached: 'reached',
});

/** Everything of a member that a pass may change. */
const change = fc.record({
  mode: fc.constantFrom('enforce', 'observe', 'off' as const),
  entries: fc.subarray(ENTRIES),
  address: fc.constantFrom('172.18.0.9', '172.18.0.10'),
  isNew: fc.boolean(),
  isBound: fc.boolean(),
  neighbours: fc.subarray(['172.18.0.77', 'fd00:18::77']),
  families: fc.subarray([4, 6] as const, { minLength: 1 }),
  published: fc.subarray([80, 443]),
  identity: fc.constantFrom(3, 4),
  limits: fc.constantFrom(
    undefined,
    { connections: 7 },
    { connections: 8 },
    { quota: quota(true) },
    { quota: quota(false) },
  ),
  cgroup: fc.constantFrom(undefined, '11', '12'),
});
type Change = typeof change extends fc.Arbitrary<infer T> ? T : never;

function memberBy(id: string, c: Change): Subject {
  const entries = entriesOf(c.entries.join(', '));
  const { veths: ports } = member(9, '');
  const bound = ports.map((p) => ({ ...p, ip4: c.address, ...(c.isNew ? { isNew: true as const } : {}) }));
  return {
    ...member(9, ''),
    id,
    identity: c.identity,
    policy: { mode: c.mode, modeSource: { kind: 'label' }, entries, lists: [], notes: [] },
    classes: planClasses(entries, () => []),
    neighbours: c.neighbours,
    families: new Set(c.families),
    veths: c.isBound && c.cgroup === undefined ? bound : [],
    published: c.published.map((port) => ({ proto: 'tcp' as const, port })),
    ...(c.limits ? { limits: c.limits } : {}),
    ...(c.cgroup ? { host: { cgroups: [{ path: `docker/${id}`, object: c.cgroup }] } } : {}),
  };
}
const stateOf = (m: Subject): DesiredInput => input(m, member(20, 'c.example:443'));
const ID = 'f'.repeat(64);

/** As text: maps and sets in their order, numbers of any size. */
const told = (value: unknown): string =>
  JSON.stringify(value, (_, v: unknown) => {
    if (v instanceof Map || v instanceof Set) return [...v];
    return typeof v === 'bigint' ? `${v}n` : v;
  });
const hashesOf = (state: DesiredState): unknown =>
  state.tables.map((t) => [...t.chains].map(([name, rules]) => [name, chainHashes(rules, t.family)]));
const NOTHING: Observed = {
  tables: new Map(),
  sets: new Map(),
  bridge: { exists: false, rules: [], elements: EMPTY_BRIDGE },
  backstop: { exists: false, rules: [] },
  arp: { exists: false, rules: [] },
  identity: { exists: false, rules: [] },
};

describe('what is kept of members', () => {
  it('renders as if nothing had been kept, whatever changes from pass to pass', () => {
    fc.assert(
      fc.property(fc.array(change, { minLength: 2, maxLength: 6 }), (changes) => {
        let kept: Subject | undefined;
        let observed = NOTHING;
        for (const c of changes) {
          const made = memberBy(ID, c);
          kept = keepSubject(kept, made);
          const state = compile(stateOf(kept));
          const fresh = compile(structuredClone(stateOf(made)));
          expect(told(state)).toBe(told(fresh));
          expect(hashesOf(state)).toEqual(hashesOf(fresh));
          expect(signatureOf(kept)).toBe(signatureOf(structuredClone(made)));
          // the steps from what is installed, by kept objects and by copies of them
          const steps = planSteps(shape, state, observed).stages;
          expect(steps).toEqual(planSteps(shape, fresh, structuredClone(observed)).stages);
          observed = expectedAfter(shape, state, observed);
          expect(told(observed)).toBe(told(expectedAfter(shape, fresh, observed)));
          expect(planSteps(shape, state, observed).stages).toEqual([]);
        }
      }),
      { numRuns: runs(10) },
    );
  });

  it('keeps the rules of a member that has not changed', () => {
    const c = fc.sample(change, 1)[0] as Change;
    const first = memberBy(ID, { ...c, mode: 'enforce', families: [4, 6], cgroup: undefined });
    const kept = keepSubject(first, structuredClone(first));
    expect(kept).toBe(first);
    const chains = [first, kept].map(
      (m) => compile(stateOf(m)).tables[0]?.chains.get(`DB-c-${ID.slice(0, 12)}`) ?? [],
    );
    expect(chains[0]).toBe(chains[1]);
    expect(chains[0]?.length).toBeGreaterThan(0);
  });

  it('rules that both families share are hashed for each', () => {
    const rules = [rule([{ k: 'proto', proto: 'icmp' }], { k: 'reject', tcp: false })];
    const four = chainHashes(rules, 4);
    const six = chainHashes(rules, 6);
    expect(six).not.toEqual(four);
    expect(six).toEqual(chainHashes(structuredClone(rules), 6));
  });
});
