import { expect, it } from 'vitest';
import { EXPECTED_MS, Newcomers } from '../../../src/enforce/ruleset-input.js';
import {
  type ContainerFacts,
  type DockerView,
  expectedFamilies,
  type NetworkFacts,
} from '../../../src/policy/container.js';

const container = (id: string, state: string, networkMode = 'bridge') =>
  ({ id, state, networkMode }) as ContainerFacts;
const viewOf = (...all: ContainerFacts[]) =>
  ({ containers: new Map(all.map((c) => [c.id, c])) }) as unknown as DockerView;
const network = (id: string, name: string, ...subnets: string[]) =>
  ({ id, name, subnets }) as unknown as NetworkFacts;
const NETWORKS = new Map(
  [network('n1', 'bridge', '172.17.0.0/16'), network('n2', 'app', '172.18.0.0/16', 'fd00:18::/64')].map(
    (n) => [n.id, n] as const,
  ),
);
const managed = new Set(NETWORKS.keys());

it('a container that was created is expected for a while, and no longer once it runs or has gone', () => {
  const newcomers = new Newcomers();
  const of = (now: number, ...all: ContainerFacts[]) => [...newcomers.of(viewOf(...all), now)];
  expect(of(0, container('a', 'created'), container('b', 'running'), container('c', 'exited'))).toEqual([
    'a',
  ]);
  expect(of(EXPECTED_MS - 1, container('a', 'created'))).toEqual(['a']);
  expect(of(EXPECTED_MS, container('a', 'created'))).toEqual([]);
  expect(of(EXPECTED_MS + 1, container('a', 'running'))).toEqual([]);
});

it.each([
  ['default', [4]],
  ['bridge', [4]],
  ['app', [4, 6]],
  ['n2', [4, 6]],
  ['host', []],
  ['none', []],
  ['container:a', []],
])('network mode %s: families %j', (mode, families) => {
  expect([...expectedFamilies(container('a', 'created', mode), NETWORKS, managed)]).toEqual(families);
  expect([...expectedFamilies(container('a', 'created', mode), NETWORKS, new Set())]).toEqual([]);
});
