/** What explain reports of the check that decides: by server name, by Host, or by address only. */
import { expect, it } from 'vitest';
import { explain } from '../../../src/coverage/explain.js';
import { isDest, parseEntry } from '../../../src/policy/entry-parse.js';
import type { Mode } from '../../../src/policy/policy.js';
import { NO_THREATS } from '../../../src/policy/threat.js';
import { planClasses } from '../../../src/ruleset/classes.js';
import { compile } from '../../../src/ruleset/compile.js';
import type { Subject } from '../../../src/ruleset/desired-state.js';
import { PolicyEvaluator } from '../../../src/ruleset/policy-evaluator.js';
import { entriesOf, input, member, shape } from '../ruleset/sample.js';

const ADDRESS = '93.184.1.1';
const CHECKS = { verify: true, quic: 'verify', ports: [443] } as const;

interface Where {
  readonly mode?: Mode;
  readonly at?: Partial<Subject>;
  readonly resolved?: boolean;
  /** It is asked what enforce would do. */
  readonly isPreview?: boolean;
}
function reasonOf(
  allow: string,
  to: string,
  { mode = 'enforce', at = {}, resolved = true, isPreview = false }: Where = {},
): string {
  const entries = entriesOf(allow);
  const m: Subject = { ...member(1, allow, mode), classes: planClasses(entries, () => [], CHECKS), ...at };
  const evaluatorOf = (one: Subject): PolicyEvaluator => {
    const state = compile(input(one));
    const isLearned = (set: string): boolean =>
      state.sets.get(set)?.timed === true && state.sets.get(set)?.owner === m.id;
    return new PolicyEvaluator(shape, state, isLearned, new Set());
  };
  const parsed = parseEntry(to);
  if (!parsed.ok || !isDest(parsed.value)) throw new Error(to);
  const as: Subject = { ...m, policy: { ...m.policy, mode: 'enforce' } };
  const view = explain({
    ...(isPreview ? { enforced: { member: as, evaluator: evaluatorOf(as) } } : {}),
    member: m,
    name: 'app',
    to,
    dest: parsed.value,
    evaluator: evaluatorOf(m),
    threats: NO_THREATS,
    decide: () => ({ allow: true, entries, sets: [], allowPrivate: false }),
    resolvedFor: () => (resolved ? [ADDRESS] : []),
    hostAddress: '172.18.0.254',
    holderOf: () => undefined,
    former: () => undefined,
    neighbours: () => [],
  });
  expect(view.verdict).toBe('allow');
  return view.reason;
}

it.each([
  ['a.example', 'a.example:443', /checked by the server name in the hello of TLS/],
  ['a.example', 'a.example:443/udp', /checked by the server name in the hello of QUIC/],
  ['a.example', 'a.example:80', /checked by the Host of each request/],
  ['a.example:8080', 'a.example:8080', /by address only/],
  ['a.example:8443 tls=verify', 'a.example:8443', /checked by the server name/],
  ['a.example tls=off', 'a.example:443', /by address only/],
])('%s, for %s', (allow, to, wanted) => {
  expect(reasonOf(allow, to)).toMatch(wanted);
  expect(reasonOf(allow, to, { resolved: false })).toMatch(wanted);
});

it('by address only where connections are not checked', () => {
  const lan = { links6: [], sandbox: 'x' } as unknown as NonNullable<Subject['lan']>;
  for (const where of [{ at: { lan } }, { mode: 'observe' as const }]) {
    expect(reasonOf('a.example', 'a.example:443', where)).toMatch(/by address only/);
    expect(reasonOf('a.example', 'a.example:443', { ...where, resolved: false })).toMatch(/by address only/);
  }
});

it('by what enforce would check, of an observed container, and that names are not seen until then', () => {
  const where = { mode: 'observe', isPreview: true } as const;
  for (const resolved of [true, false]) {
    const reason = reasonOf('a.example', 'a.example:443', { ...where, resolved });
    expect(reason).toMatch(/checked by the server name .* not seen while the container is observed/);
    expect(reasonOf('a.example:8080', 'a.example:8080', { ...where, resolved })).not.toMatch(/not seen/);
  }
  expect(reasonOf('a.example', 'a.example:443')).not.toMatch(/not seen/);
});
