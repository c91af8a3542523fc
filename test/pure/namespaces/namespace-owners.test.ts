/** Whose a new namespace is: only by what Docker was asked for after it appeared. */
import { expect, it } from 'vitest';
import { NamespaceOwners, type NamespaceOwnersOptions } from '../../../src/namespaces/namespace-owners.js';
import type { ContainerFacts } from '../../../src/policy/container.js';

const ADDRESS = '10.66.0.7';
const quiet = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
};
interface Awaited {
  readonly facts: ContainerFacts;
  readonly isEnforced: boolean;
}
const awaited = (id: string, askedAt: number, isEnforced: boolean): Awaited => ({
  facts: {
    id,
    state: 'starting',
    endpoints: [{ networkId: 'n', mac: '', ip4: ADDRESS, dnsNames: [], askedAt }],
  } as unknown as ContainerFacts,
  isEnforced,
});

function claiming(first: readonly Awaited[], isNeeded = true) {
  let all = first;
  const done: string[] = [];
  const asked: string[] = [];
  const view = () => ({
    networks: new Map([['n', { driver: 'macvlan' }]]),
    containers: new Map(all.map(({ facts }) => [facts.id, facts])),
  });
  const claims = new NamespaceOwners({
    tables: {
      close: () => void done.push('closed'),
      remove: () => done.push('opened') > 0,
      ends: async () => [{ mac: '', addresses: [ADDRESS] } as never],
    },
    docker: {
      view: view as unknown as NamespaceOwnersOptions['docker']['view'],
      inspectNetwork: async (network) => void asked.push(network),
    },
    policies: {
      isLan: () => isNeeded,
      policyOf: (c) =>
        ({ mode: all.some((a) => a.facts === c && a.isEnforced) ? 'enforce' : 'observe' }) as never,
    },
    onClaim: (container) => void done.push(`claimed by ${container}`),
    log: quiet,
  });
  claims.appeared('/sandbox');
  return { claims, done, asked, set: (next: readonly Awaited[]) => (all = next) };
}
const settled = () => new Promise((done) => setTimeout(done, 40));

it('an observed container that was asked for before does not open the namespace of the next holder of its address', async () => {
  const { claims, done, asked, set } = claiming([awaited('gone', 0, false), awaited('other', 0, true)]);
  await settled();
  expect(done).toEqual(['closed']);
  expect(asked).toEqual(['n']);
  set([awaited('heir', performance.now(), true)]);
  await expect.poll(() => done).toEqual(['closed', 'claimed by heir']);
  claims.end();
});

it('what was asked for after it appeared tells, and opens where nothing is enforced', async () => {
  const { done, set } = claiming([awaited('a', 0, false)]);
  set([awaited('a', performance.now() + 1, false)]);
  await expect.poll(() => done).toEqual(['opened']);
});

it('a container that Docker reports after its namespace is told by it, and its namespace is not closed a second time', async () => {
  const { done, set, claims } = claiming([]);
  await settled();
  set([awaited('late', 0, true)]);
  await settled();
  expect(done).toEqual([]);
  set([awaited('late', performance.now(), true)]);
  await expect.poll(() => done).toEqual(['claimed by late']);
  claims.end();
});

it('without a network that is held inside, nothing is closed or told', async () => {
  const { done } = claiming([awaited('a', performance.now() + 1_000, true)], false);
  await settled();
  expect(done).toEqual([]);
});
