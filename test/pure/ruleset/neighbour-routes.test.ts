import { expect, it } from 'vitest';
import { type HostSubnet, neighbourRoutes } from '../../../src/ruleset/bridge-forwarding.js';
import type { Bridge } from '../../../src/ruleset/desired-state.js';

const bridge = (name: string, ifindex: number, ...subnets: string[]): Bridge => ({
  name,
  mac: '02:00:00:00:00:01',
  veths: [],
  withoutGateway: { ifindex, subnets },
});
const summary = (bridges: readonly Bridge[], host: readonly HostSubnet[] = []) => {
  const { rules, routes } = neighbourRoutes(bridges, host);
  return {
    rules: rules.map((r) => `${r.bridge} ${r.subnet} ${r.kind}`),
    routes: routes.map((r) => `${r.index} ${r.subnet}`),
  };
};
const A = '10.1.0.0/24';

it('a bridge with addresses needs no routes', () => {
  expect(summary([bridge('br-a', 3)])).toEqual({ rules: [], routes: [] });
});

it('a bridge without an address gets a route, what leads to it, and a rule that drops without it', () => {
  expect(summary([bridge('br-a', 3, A)], [{ index: 2, address: '192.0.2.2', prefix: 24 }])).toEqual({
    rules: [`br-a ${A} missing`, `br-a ${A} forwarded`, `br-a ${A} reset`, `br-a ${A} icmp`],
    routes: [`3 ${A}`],
  });
});

it('an address of the bridge itself changes nothing: its route goes with it, also while the service is away', () => {
  const own = { index: 3, address: '10.1.0.9', prefix: 24 };
  expect(summary([bridge('br-a', 3, A)], [own])).toEqual(summary([bridge('br-a', 3, A)]));
  expect(summary([bridge('br-a', 3, A)]).routes).toEqual([`3 ${A}`]);
});

it("the host's own packets stay with an interface that has an address in the subnet", () => {
  expect(summary([bridge('br-a', 3, A)], [{ index: 2, address: '10.1.3.9', prefix: 16 }])).toEqual({
    rules: [`br-a ${A} missing`, `br-a ${A} forwarded`],
    routes: [`3 ${A}`],
  });
});

it('bridges whose subnets overlap exchange nothing: their packets are dropped', () => {
  const all = [bridge('br-a', 3, A), bridge('br-b', 4, '10.1.0.128/25'), bridge('br-c', 5, '10.2.0.0/24')];
  const { rules, routes } = summary(all);
  expect(rules.filter((r) => !r.startsWith('br-c'))).toEqual([
    `br-a ${A} missing`,
    'br-b 10.1.0.128/25 missing',
  ]);
  expect(routes).toEqual(['5 10.2.0.0/24']);
});
