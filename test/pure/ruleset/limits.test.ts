import { describe, expect, it } from 'vitest';
import { bridgeScript, EMPTY_BRIDGE } from '../../../src/kernel/nft-text.js';
import { portLimits } from '../../../src/ruleset/bridge-elements.js';
import { compile } from '../../../src/ruleset/compile.js';
import type { DesiredState, Subject, SubjectLimits } from '../../../src/ruleset/desired-state.js';
import { PolicyEvaluator } from '../../../src/ruleset/policy-evaluator.js';
import { iptablesRule } from '../../../src/ruleset/render/iptables.js';
import { input, member, shape } from './sample.js';

const HOST = new Set(['172.18.0.1']);
const quota = (spent: boolean): SubjectLimits => ({
  quota: { name: 'q-00-24-1', bytes: 100, used: spent ? 100 : 7, spent, until: 0, reached: 'reached' },
});
const with_ = (m: Subject, limits: SubjectLimits): Subject => ({ ...m, limits });
const chain = (d: DesiredState, name: string): string[] =>
  (d.tables.find((t) => t.family === 4 && t.layer === 'verdict')?.chains.get(name) ?? []).map((r) =>
    iptablesRule(r, 4),
  );
function permits(m: Subject, dst: string): boolean {
  const judge = new PolicyEvaluator(shape, compile(input(m)), () => false, HOST);
  const packet = {
    family: 4,
    proto: 'tcp',
    src: '172.18.0.7',
    dst,
    dport: 80,
    states: ['NEW'],
    syn: true,
  } as const;
  return judge.permits({ ...packet, mark: judge.markOf(m) });
}

describe('limits in the rules', () => {
  it('every enforced permit is bounded; an observed one is not', () => {
    const m = member(7, '10.0.0.1:80, host:22');
    const d = compile(input(m));
    const permitting = chain(d, `DB-c-${m.id.slice(0, 12)}`).filter(
      (r) => r.includes('10.0.0.1') || r.includes('--match-set'),
    );
    expect(permitting.length).toBeGreaterThan(0);
    expect(permitting.every((r) => r.endsWith('-g DB-BOUND'))).toBe(true);
    expect(permits(m, '10.0.0.1')).toBe(true);
    const seen = member(8, '10.0.0.1:80', 'observe');
    expect(chain(compile(input(seen)), `DB-c-${seen.id.slice(0, 12)}`).join()).not.toContain('BOUND');
  });

  it('open connections of every container are counted by a random sample, and all of a source that has too many', () => {
    const d = compile(input(member(7, '10.0.0.1:80')));
    const bound = chain(d, 'DB-BOUND');
    expect(bound[0]).toMatch(/--hashlimit-above 1000\/sec .* -g DB-FLOOD$/);
    expect(bound.slice(1)).toEqual([
      '-m set --match-set DB-full4 src -g DB-COUNT',
      '-m statistic --mode random --probability 0.0625 -g DB-COUNT',
      '-g DB-OK',
    ]);
    expect(chain(d, 'DB-COUNT')).toEqual([
      '-m connlimit --connlimit-above 896 --connlimit-mask 32 -g DB-OVERFULL',
      '-m set --match-set DB-full4 src -j SET --del-set DB-full4 src',
      '-g DB-OK',
    ]);
    expect(chain(d, 'DB-OVERFULL')).toEqual([
      '-j SET --add-set DB-full4 src --exist --timeout 300',
      '-g DB-FLOOD',
    ]);
    expect(d.sets.get('DB-full4')).toMatchObject({ of: 'address', timed: true, evicts: true });
  });

  it('connections are counted in a chain that no other change of the policy touches', () => {
    const m = with_(member(7, '10.0.0.1:80'), { connections: 5 });
    const name = `DB-l-${m.id.slice(0, 12)}`;
    const before = chain(compile(input(m)), name);
    expect(before[0]).toContain('--connlimit-above 5 --connlimit-mask 0 -g DB-MANY');
    const other = with_(member(7, '10.0.0.1:80, 10.9.9.9:443'), { connections: 5 });
    expect(chain(compile(input(other)), name)).toEqual(before);
    expect(permits(m, '10.0.0.1')).toBe(true);
  });

  it('a spent quota permits nothing, the host included, and only where it is enforced', () => {
    const m = with_(member(7, '10.0.0.1:80, host:80'), quota(true));
    expect([permits(m, '10.0.0.1'), permits(m, '172.18.0.1')]).toEqual([false, false]);
    expect(permits(with_(member(7, '10.0.0.1:80'), quota(false)), '10.0.0.1')).toBe(true);
    expect(permits(with_(member(7, '', 'observe'), quota(true)), '10.0.0.1')).toBe(true);
  });
});

describe('limits at the port', () => {
  it('all ports of a container share one rate and one quota', () => {
    const [port] = member(7, '').veths;
    const two = port ? [port, { ...port, ifindex: 999 }] : [];
    const m = with_({ ...member(7, ''), veths: two }, { bytesPerSecond: 1000, ...quota(false) });
    const { limits, rates, quotas, allowances } = portLimits([m]);
    expect([limits.size, allowances.size]).toEqual([1, 1]);
    expect([new Set(rates.values()).size, [...rates.keys()]]).toEqual([1, [107, 999]]);
    expect([...quotas.keys()]).toEqual([107, 999]);
  });

  it('observed ports are counted, and not slowed; a spent one of an enforced container is refused by its chain', () => {
    const seen = with_(member(7, '', 'observe'), { bytesPerSecond: 1000, ...quota(true) });
    expect([portLimits([seen]).rates.size, portLimits([seen]).quotas.size]).toEqual([0, 1]);
    const spent = portLimits([with_(member(7, ''), quota(true))]);
    expect([spent.quotas.size, spent.allowances.size]).toEqual([0, 1]);
  });

  it('objects stand before what leads to them, and go after it', () => {
    const m = with_(member(7, ''), { bytesPerSecond: 1000, ...quota(false) });
    const desired = compile(input(m)).bridge;
    const none = { exists: true, rules: [], elements: EMPTY_BRIDGE };
    const made = bridgeScript(shape, desired, none);
    expect(made.indexOf('add limit')).toBeLessThan(made.indexOf('element bridge drawbridge rates'));
    expect(made).toContain('add quota bridge drawbridge q-00-24-1 { over 100 bytes used 7 bytes }');
    const gone = bridgeScript(shape, compile(input(member(7, ''))).bridge, { ...none, elements: desired });
    expect(gone.indexOf('delete element bridge drawbridge quotas')).toBeLessThan(
      gone.indexOf('delete quota'),
    );
    expect(gone).toContain('delete limit');
  });

  it('what has been used is no difference, another size is', () => {
    const m = with_(member(7, ''), quota(false));
    const elements = compile(input(m)).bridge;
    const used = { ...elements, allowances: new Map([['q-00-24-1', { bytes: 100, used: 55 }]]) };
    const script = (have: typeof elements) =>
      bridgeScript(shape, elements, { exists: true, rules: [], elements: have });
    expect(script(used)).not.toContain('add quota');
    expect(script({ ...used, allowances: new Map([['q-00-24-1', { bytes: 99, used: 55 }]]) })).toContain(
      'add quota',
    );
  });
});
