/** Whose resolver a namespace that was furnished ahead becomes: nobody's question may wait in it for long. */
import { expect, it, vi } from 'vitest';
import type { InForce } from '../../../src/control/enforcer.js';
import { NamespaceDns } from '../../../src/control/namespace-dns.js';
import type { Logger } from '../../../src/ports.js';

const silent: Logger = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
};
const WHO = 'c1';

function furnisher(behind: Record<number, string>, inspected?: string) {
  const answers: string[] = [];
  const detached: string[] = [];
  const dns = new NamespaceDns({
    embedded: () => true,
    needs: async () => false,
    always: () => false,
    onAttached: () => undefined,
    isSettled: () => true,
    pathOf: () => inspected,
    pathBehind: (port) => behind[port],
    awaited: () => [WHO],
    exists: () => true,
    isEnforced: () => true,
    prepare: async (path) => ({
      claim: () => {
        answers.push(path);
        return { [Symbol.dispose]: () => void answers.splice(answers.indexOf(path), 1) };
      },
      drop: () => undefined,
    }),
    detach: async (path) => void detached.push(path),
    log: silent,
  });
  return { dns, answers, detached };
}
const state = {
  members: new Map([[WHO, { policy: { mode: 'enforce' } }]]),
  view: { containers: new Map() },
} as unknown as InForce;

it('a container that is started again is answered in its new namespace', async () => {
  const { dns, answers } = furnisher({ 1: '/a', 2: '/b' });
  dns.appeared('/a');
  dns.arrived(WHO, 1);
  await vi.waitFor(() => expect(answers).toEqual(['/a']));
  dns.appeared('/b');
  dns.arrived(WHO, 2);
  await vi.waitFor(() => expect(answers).toEqual(['/b']));
});

it('a second port into the same namespace changes nothing', async () => {
  const { dns, answers, detached } = furnisher({ 1: '/a', 2: '/a' });
  dns.appeared('/a');
  dns.arrived(WHO, 1);
  await vi.waitFor(() => expect(answers).toEqual(['/a']));
  dns.arrived(WHO, 2);
  dns.applied(state);
  await dns.close();
  expect(detached).toEqual([]);
});

it('what was furnished ahead is claimed by the pass that knows whose it is, needed or not', async () => {
  const { dns, answers } = furnisher({}, '/a');
  dns.appeared('/a');
  dns.applied(state);
  await vi.waitFor(() => expect(answers).toEqual(['/a']));
});

it('a namespace that has gone with its container is no warning; one that stays away is one warning', async () => {
  const warnings: string[] = [];
  const dns = new NamespaceDns({
    embedded: () => true,
    needs: async () => true,
    always: () => true,
    onAttached: () => undefined,
    isSettled: () => true,
    pathOf: () => '/gone',
    pathBehind: () => '/gone',
    awaited: () => [],
    exists: () => true,
    isEnforced: () => true,
    prepare: async (path) =>
      Promise.reject(Object.assign(new Error(`ENOENT: no such file, open ${path}`), { code: 'ENOENT' })),
    detach: async () => undefined,
    log: { ...silent, warn: (_, text) => void warnings.push(text ?? '') },
  });
  const counts: number[] = [];
  for (let n = 0; n < 4; n++) {
    dns.applied(state);
    await dns.whole(10);
    counts.push(warnings.length);
  }
  await dns.close();
  expect([counts[0], counts.at(-1)]).toEqual([0, 1]);
});
