/** After a restart: what the kernel says of veths and identities, and whom it is still true of. */
import { expect, it } from 'vitest';
import { Identities, restoreBindings } from '../../../src/enforce/identities.js';
import type { KernelSnapshot } from '../../../src/kernel/read-rules.js';
import type { ContainerFacts, DockerView } from '../../../src/policy/container.js';
import { identityMark, layoutMarks, UNATTRIBUTED } from '../../../src/ruleset/marks.js';

const marks = layoutMarks(0xffff0000);
const MAC = '02:42:ac:1e:00:07';
const HOST = 'e'.repeat(64);
const c = (id: string, more: Partial<ContainerFacts> = {}): ContainerFacts =>
  ({
    id,
    endpoints: [{ networkId: 'net', mac: MAC, ip4: '172.30.0.7', ip6: 'fd00::7', dnsNames: [] }],
    ...more,
  }) as unknown as ContainerFacts;
const viewOf = (...all: ContainerFacts[]): DockerView =>
  ({ containers: new Map(all.map((x) => [x.id, x])) }) as unknown as DockerView;
const standing = (
  id4: readonly (readonly [string, number])[],
  hostMarks: readonly (readonly [string, number])[] = [],
): KernelSnapshot =>
  ({
    bridge: { id4: new Map(id4), id6: new Map() },
    hostMarks: new Map(hostMarks),
  }) as unknown as KernelSnapshot;
const mark = (n: number): number => (identityMark(marks, n) | marks.enforced) >>> 0;

it('a veth stays its container’s, with the identity that the kernel knows', () => {
  const ids = new Identities(100);
  const bindings = restoreBindings(
    standing([[`7 . ${MAC} . 172.30.0.7`, mark(5)]]),
    viewOf(c('a')),
    marks,
    ids,
  );
  expect(bindings).toEqual(
    new Map([
      [
        7,
        {
          container: 'a',
          bridge: '',
          networkId: 'net',
          mac: MAC,
          ip4: '172.30.0.7',
          ip6: 'fd00::7',
          ifindex: 7,
        },
      ],
    ]),
  );
  expect(ids.of('a')).toBe(5);
});

it('nobody is taken for the container by its MAC or its address alone', () => {
  for (const key of [`7 . ${MAC} . 172.30.0.8`, '7 . 02:42:ac:1e:00:08 . 172.30.0.7']) {
    const ids = new Identities(100);
    expect(restoreBindings(standing([[key, mark(5)]]), viewOf(c('a')), marks, ids).size).toBe(0);
    expect(ids.of('a')).toBeUndefined();
  }
});

it('what belonged to no container, or to one that has gone, is not taken over', () => {
  const ids = new Identities(100);
  const key = `7 . ${MAC} . 172.30.0.7`;
  expect(restoreBindings(standing([[key, mark(UNATTRIBUTED)]]), viewOf(c('a')), marks, ids).size).toBe(0);
  expect(restoreBindings(standing([[key, mark(5)]]), viewOf(), marks, ids).size).toBe(0);
});

it('in the host’s network the cgroup’s own container keeps its identity, or whose namespace it shares', () => {
  const ids = new Identities(100);
  const path = `docker/${HOST}`;
  restoreBindings(
    standing([], [[path, mark(9)]]),
    viewOf(c(HOST, { endpoints: [], sharesWith: 'owner' })),
    marks,
    ids,
  );
  expect([ids.of(HOST), ids.of('owner')]).toEqual([undefined, 9]);
  const none = new Identities(100);
  restoreBindings(standing([], [[path, mark(9)]]), viewOf(), marks, none);
  expect(none.of(HOST)).toBeUndefined();
});
