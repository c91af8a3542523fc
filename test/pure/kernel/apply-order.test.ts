/** The order in which the kernel is told: nothing leads to what is not there yet. */
import { expect, it } from 'vitest';
import { applyPlan, type Plan, planSteps } from '../../../src/kernel/apply.js';
import { expectedAfter } from '../../../src/kernel/dataplane.js';
import { EMPTY_BRIDGE } from '../../../src/kernel/nft-text.js';
import { hasNoRules, type Observed } from '../../../src/kernel/read-rules.js';
import { BACKSTOP_TABLE } from '../../../src/ruleset/backstop-table.js';
import { compile } from '../../../src/ruleset/compile.js';
import { input, member, shape } from '../ruleset/sample.js';

const NOTHING = {
  sets: new Map(),
  tables: new Map(),
  bridge: { elements: EMPTY_BRIDGE, rules: [], chains: new Set(), layouts: new Set() },
  backstop: { rules: [], chains: new Set() },
  identity: { rules: [], exists: false },
  arp: { rules: [], chains: new Set() },
} as unknown as Observed;
const port = { ifindex: 7, mac: '02:42:ac:1e:00:07', bridge: 'br-test', ip4: '172.30.0.7', ip6: 'fd00::7' };
const desired = compile(input(member(2, 'a.example, 10.1.0.0/16:5432', 'enforce', [port])));
const plan = planSteps(shape, desired, NOTHING);
const stageOf = (tool: string, text: RegExp): number[] =>
  plan.stages.flatMap((steps, i) => (steps.some((s) => s.tool === tool && text.test(s.script)) ? [i] : []));

it('a veth gets its identity after the rules of its container stand, and those after their sets', () => {
  const [sets] = stageOf('ipset', /create DB-/);
  const [rules4] = stageOf('iptables-restore', /DB-c-/);
  const [rules6] = stageOf('ip6tables-restore', /DB-c-/);
  const identities = stageOf('nft', /element bridge drawbridge id4/);
  const backstop = stageOf('nft', /table inet drawbridge_backstop/);
  expect(identities).toHaveLength(1);
  expect(identities[0]).toBe(plan.stages.length - 1);
  expect(plan.blockingStages).toBe((sets ?? -1) + 1);
  expect(sets).toBeLessThan(rules4 ?? -1);
  expect(rules4).toBe(rules6);
  expect(rules4).toBeLessThan(identities[0] ?? -1);
  expect(backstop[0]).toBeLessThan(identities[0] ?? -1);
});

it('the bridge table comes before anything else where it is missing and no veth gets an identity: the sets of addresses become empty', () => {
  const before = { ...NOTHING, sets: expectedAfter(shape, desired, NOTHING).sets };
  const { stages } = planSteps(shape, compile(input()), before);
  const stageWith = (tool: string, text: RegExp): number =>
    stages.findIndex((all) => all.some((s) => s.tool === tool && text.test(s.script)));
  expect(stageWith('nft', /table bridge drawbridge/)).toBe(0);
  expect(stageWith('ipset', /./)).toBe(1);
});

it('at a start on a host without rules the marks come first: no packet of a container is dropped because it has none yet', () => {
  const isBridge = (of: Plan): boolean =>
    of.stages[0]?.some((s) => s.tool === 'nft' && /table bridge drawbridge/.test(s.script)) ?? false;
  expect(isBridge(planSteps(shape, desired, NOTHING, hasNoRules(NOTHING)))).toBe(true);
  const { stages: openFirst, redirectingStages = 0 } = planSteps(shape, desired, NOTHING, true);
  const stageWith = (text: string): number =>
    openFirst.findIndex((all) => all.some(({ script }) => script.includes(text)));
  // no query of DNS is refused before it is redirected
  expect([stageWith('*nat'), stageWith('*filter')]).toEqual([redirectingStages - 1, redirectingStages]);
  const lastRules = openFirst.findLast((all) => all.some(({ tool }) => tool !== 'ipset')) ?? [];
  expect(lastRules.map((s) => /table (inet \w+)/.exec(s.script)?.[1])).toEqual([BACKSTOP_TABLE]); // it shows that all are installed
  const ours = new Map([['DOCKER-USER', [{ text: '', hash: 'x' }]]]);
  const closed = { ...NOTHING, tables: new Map([[4, new Map([['filter', ours]])]]) } as Observed;
  for (const left of [closed, { ...NOTHING, backstop: { ...NOTHING.backstop, rules: ['drop'] } }])
    expect(isBridge(planSteps(shape, desired, left, hasNoRules(left)))).toBe(false);
});

it('the stages run one after the other, and flows of an earlier holder end when the sets bar new ones, before a veth gets its identity', async () => {
  const ran: string[] = [];
  const stages: Plan['stages'] = [
    [{ tool: 'ipset', script: 'one' }],
    [
      { tool: 'iptables-restore', script: 'two' },
      { tool: 'ip6tables-restore', script: 'two' },
    ],
    [{ tool: 'nft', script: 'three' }],
  ];
  const run = async (tool: string): Promise<{ code: number; stdout: string; stderr: string }> => {
    ran.push(`${tool} begins`);
    await new Promise(setImmediate);
    ran.push(`${tool} ends`);
    return { code: 0, stdout: '', stderr: '' };
  };
  await applyPlan(
    run as never,
    { stages, blockingStages: 1, refill: [] },
    {
      beforeBinding: async () => {
        ran.push('flows begin to end');
        await new Promise((done) => setTimeout(done, 20));
        ran.push('flows have ended');
      },
    },
  );
  expect(ran).toEqual([
    'ipset begins',
    'ipset ends',
    'flows begin to end',
    'iptables-restore begins',
    'ip6tables-restore begins',
    'iptables-restore ends',
    'ip6tables-restore ends',
    'flows have ended',
    'nft begins',
    'nft ends',
  ]);
});

it('at a first start what was looked up before queries are redirected has time to connect', async () => {
  const at: number[] = [];
  const run = async (): Promise<{ code: number; stdout: string; stderr: string }> => {
    at.push(performance.now());
    return { code: 0, stdout: '', stderr: '' };
  };
  const stages: Plan['stages'] = [
    [{ tool: 'iptables-restore', script: 'nat' }],
    [{ tool: 'iptables-restore', script: 'filter' }],
  ];
  await applyPlan(run as never, { stages, blockingStages: 0, refill: [], redirectingStages: 1 });
  expect((at[1] ?? 0) - (at[0] ?? 0)).toBeGreaterThan(190);
});

it.each(['a tool', 'the end of flows'])(
  'of a plan in which %s fails, nothing runs any more when that is known',
  async (failing) => {
    const running = new Set<string>();
    const during = async <T>(what: string, ticks: number, end: () => T): Promise<T> => {
      running.add(what);
      for (let n = 0; n < ticks; n++) await new Promise(setImmediate);
      running.delete(what);
      return end();
    };
    const stages: Plan['stages'] = [
      [{ tool: 'ipset', script: 'sets' }],
      [
        { tool: 'iptables-restore', script: 'long' },
        { tool: 'ip6tables-restore', script: 'short' },
      ],
    ];
    const refuse = (): never => {
      throw new Error('refused');
    };
    const run = (tool: string): Promise<unknown> =>
      tool === 'ip6tables-restore' && failing === 'a tool'
        ? during(tool, 1, refuse)
        : during(tool, 20, () => ({ code: 0, stdout: '', stderr: '' }));
    const beforeBinding = (): Promise<void> =>
      failing === 'the end of flows' ? during('flows', 1, refuse) : during('flows', 40, () => undefined);
    const plan = { stages, blockingStages: 1, refill: [] };
    await expect(applyPlan(run as never, plan, { beforeBinding })).rejects.toThrow('refused');
    expect([...running]).toEqual([]);
  },
);
