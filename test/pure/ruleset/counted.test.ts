/** How the rendered rules are counted: each chain where one of a container leads has one class, and each that refuses is compared with its log. */
import { describe, expect, it } from 'vitest';
import type { Mode } from '../../../src/policy/policy.js';
import type { NameChecks } from '../../../src/ruleset/classes.js';
import { compile } from '../../../src/ruleset/compile.js';
import { planPolicy } from '../../../src/ruleset/deny-plan.js';
import type { KernelConfig, Subject } from '../../../src/ruleset/desired-state.js';
import {
  containerChain,
  errorsChain,
  handedTo,
  hostChain,
  limitChain,
  namesFor,
  refusingChains,
} from '../../../src/ruleset/naming.js';
import type { Rule } from '../../../src/ruleset/rules.js';
import { type TracePacket, trace } from '../../../src/ruleset/trace.js';
import { entriesOf, input, member, shape } from './sample.js';

const CHECKS: NameChecks = { verify: true, quic: 'verify', ports: [443] };
const checking: KernelConfig = { ...shape, names: CHECKS };
const names = namesFor(shape.prefix);
const ENTRIES =
  'a.org, b.org:8080 tls=off, 10.0.0.0/8:5432, any:9000, host:22, container:db:5432, 8.8.8.8:53/udp dns=direct';
const DENIED = ', !93.184.1.1, !c.org, !any:25, !host:23, !10.9.0.0/16';

function subject(identity: number, mode: Mode, text: string, more: Partial<Subject> = {}): Subject {
  const all = entriesOf(text);
  const of = (deny: boolean) => all.filter(({ entry }) => (entry.deny === true) === deny);
  const asked = identity % 2 === 0 ? { askMs: 5_000 } : {};
  const policy = {
    mode,
    modeSource: { kind: 'label' } as const,
    entries: of(false),
    denied: of(true),
    lists: [],
    notes: [],
    ...asked,
  };
  const plan = planPolicy(policy, () => [{ family: 4, lo: 0xac120009n, hi: 0xac120009n }], CHECKS);
  return { ...member(identity, ''), neighbours: ['172.18.0.9'], ...more, policy, ...plan };
}
const MODES: readonly Mode[] = ['enforce', 'observe', 'off'];
const quota = { name: 'q', bytes: 1, used: 1, spent: true, until: 0, reached: 'reached' };
const MORE: readonly Partial<Subject>[] = [
  {},
  { limits: { connections: 5 } },
  { limits: { quota } },
  { host: { cgroups: [{ path: 'docker/a', object: '1' }] } },
  { host: { cgroups: [{ path: 'docker/b', object: '2' }] }, limits: { connections: 5 } },
];
const subjects = MODES.flatMap((mode) =>
  MORE.flatMap((more) => ['', ENTRIES, ENTRIES + DENIED].map((text) => ({ mode, more, text }))),
).map(({ mode, more, text }, n) => subject(n + 2, mode, text, more));
const hostNet = { gates: [{ path: 'docker', object: '0' }], exempt: [], builds: [] };
const desired = compile({ ...input(...subjects), shape: checking, hostNet });
const filters = desired.tables.filter((t) => t.layer === 'verdict');
const all = filters.flatMap((t) => [...t.chains].map(([name, rules]) => ({ family: t.family, name, rules })));
const isOwn = (name: string): boolean =>
  subjects.some(({ id }) =>
    [containerChain, limitChain, hostChain].some((chain) => chain(shape.prefix, id) === name),
  );
const own = all.filter(({ name }) => isOwn(name));
const targets = new Set(
  own.flatMap(({ rules }) => rules.flatMap(({ then }) => (then.k === 'goto' ? [then.chain] : []))),
);
const isRefusal = ({ then }: Rule): boolean => then.k === 'drop' || then.k === 'reject';

it('of every container there are its chains', () => {
  expect(own.length).toBeGreaterThan(subjects.length * 2);
});

it('a chain of a container ends in nothing but a goto to a chain with a class; what only logs or asks goes on', () => {
  for (const { name, rules } of own)
    for (const { then } of rules)
      if (then.k === 'goto') expect({ name, to: handedTo(shape.prefix, then.chain) }).not.toEqual({ name });
      else
        expect([name, then.k === 'jump' ? then.chain : then.k]).toEqual([
          name,
          then.k === 'jump' ? names.ask : 'nflog',
        ]);
  // and there is one of each class
  expect(new Set([...targets].map((chain) => handedTo(shape.prefix, chain)))).toEqual(
    new Set(['permits', 'refuses', 'observes', 'errors']),
  );
});

/** What becomes of a packet that comes to the chain. */
function comesTo(chain: string, proto: 'tcp' | 'udp') {
  const of = filters.find((t) => t.family === 4)?.chains ?? new Map<string, readonly Rule[]>();
  const packet: TracePacket = {
    ...{ family: 4, mark: (2 << shape.marks.shift) >>> 0, proto, src: '172.18.0.2', dst: '93.184.7.1' },
    ...{ dport: 443, states: ['NEW'], syn: true },
  };
  const { verdict, mark, steps } = trace(of, chain, packet, () => false);
  const isLogged = steps.some(({ rule: { then } }) => then.k === 'nflog' && then.group === shape.logGroup);
  return { verdict, isLogged, isPermitted: (mark & shape.marks.evaluated) !== 0 };
}
describe.each([...targets].filter((chain) => handedTo(shape.prefix, chain) !== 'errors'))('%s', (chain) => {
  it.each(['tcp', 'udp'] as const)('does with %s what its class says', (proto) => {
    const { verdict, isLogged, isPermitted } = comesTo(chain, proto);
    if (handedTo(shape.prefix, chain) === 'refuses')
      expect({ verdict, isLogged, isPermitted }).toEqual({
        verdict: 'reject',
        isLogged: true,
        isPermitted: false,
      });
    // a datagram that is checked by name waits for the service
    else expect([verdict, isPermitted]).toEqual(verdict === 'queue' ? ['queue', false] : ['return', true]);
  });
});

it('the chains that log and refuse are those whose counters are compared with the log', () => {
  const logs = ({ then }: Rule): boolean => then.k === 'nflog' && then.group === shape.logGroup;
  const found = all.filter(({ name, rules }) => !isOwn(name) && rules.some(logs) && rules.some(isRefusal));
  expect(new Set(found.map(({ name }) => name))).toEqual(new Set(refusingChains(shape.prefix)));
  // a packet that comes to one is logged within the limit first, and counted once by what refuses it
  for (const { name, rules } of found) {
    const [first, ...others] = rules;
    expect([name, first && logs(first), others.every(isRefusal)]).toEqual([name, true, true]);
    expect(others.at(-1)?.when).toEqual([]);
  }
});

it('no chain of ICMP errors is taken for one of connections', () => {
  for (const { id } of subjects) expect(handedTo(shape.prefix, errorsChain(shape.prefix, id))).toBe('errors');
  expect(handedTo(shape.prefix, `${shape.prefix}-NEWCOMER`)).toBeUndefined();
});
