/** An endpoint whose veth has gone counts for nothing until Docker has been asked again. */
import { expect, it } from 'vitest';
import { DepartedEndpoints } from '../../../src/enforce/veth-table.js';
import type { ContainerFacts, DockerView } from '../../../src/policy/container.js';
import type { Binding } from '../../../src/ruleset/applied-state.js';

const viewOf = (askedAt: number): DockerView =>
  ({
    containers: new Map(
      ['a', 'b'].map((id) => [
        id,
        {
          id,
          endpoints: ['n', 'm'].map((networkId) => ({ networkId, mac: '', dnsNames: [], askedAt })),
        } as unknown as ContainerFacts,
      ]),
    ),
  }) as unknown as DockerView;
const bindings = (...of: (readonly [number, string, string])[]): ReadonlyMap<number, Binding> =>
  new Map(
    of.map(([ifindex, container, networkId]) => [ifindex, { ifindex, container, networkId } as Binding]),
  );
const networksOf = (view: DockerView, id: string) =>
  view.containers.get(id)?.endpoints.map((e) => e.networkId);

it('is left out from when its veth is missed until it was asked for later, and the others stay', () => {
  let now = 100;
  const departed = new DepartedEndpoints(() => now);
  const before = bindings([7, 'a', 'n'], [8, 'a', 'm'], [9, 'b', 'n']);
  const after = bindings([8, 'a', 'm'], [9, 'b', 'n']);
  const first = departed.without(viewOf(50), before, after);
  expect([networksOf(first, 'a'), networksOf(first, 'b')]).toEqual([['m'], ['n', 'm']]);
  now = 200;
  for (const askedAt of [50, 100])
    expect(networksOf(departed.without(viewOf(askedAt), after, after), 'a')).toEqual(['m']);
  expect(networksOf(departed.without(viewOf(101), after, after), 'a')).toEqual(['n', 'm']);
  expect(networksOf(departed.without(viewOf(50), after, after), 'a')).toEqual(['n', 'm']); // it was shown since
});

it('is back as soon as a veth is bound to it again; a bound veth that is exchanged for another is no end', () => {
  const departed = new DepartedEndpoints(() => 100);
  expect(networksOf(departed.without(viewOf(50), bindings([7, 'a', 'n']), bindings()), 'a')).toEqual(['m']);
  const view = viewOf(50);
  expect(departed.without(view, bindings(), bindings([8, 'a', 'n']))).toBe(view);
  expect(departed.without(view, bindings([8, 'a', 'n']), bindings([9, 'a', 'n']))).toBe(view);
});
