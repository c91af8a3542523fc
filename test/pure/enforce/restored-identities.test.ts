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
const there = (...indexes: number[]) => ({ links: indexes.map((index) => ({ index })), now: 0 });
const mark = (n: number): number => (identityMark(marks, n) | marks.enforced) >>> 0;

it('a veth stays its container’s, with the identity that the kernel knows', () => {
  const ids = new Identities(100);
  const bindings = restoreBindings(
    standing([[`7 . ${MAC} . 172.30.0.7`, mark(5)]]),
    viewOf(c('a')),
    marks,
    ids,
    there(7),
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
          since: 0,
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
    expect(restoreBindings(standing([[key, mark(5)]]), viewOf(c('a')), marks, ids, there(7)).size).toBe(0);
    expect(ids.of('a')).toBeUndefined();
  }
});

it('what belonged to no container, or to one that has gone, is not taken over', () => {
  const ids = new Identities(100);
  const key = `7 . ${MAC} . 172.30.0.7`;
  expect(
    restoreBindings(standing([[key, mark(UNATTRIBUTED)]]), viewOf(c('a')), marks, ids, there(7)).size,
  ).toBe(0);
  expect(restoreBindings(standing([[key, mark(5)]]), viewOf(), marks, ids, there(7)).size).toBe(0);
});

it('in the host’s network the cgroup’s own container keeps its identity, or whose namespace it shares', () => {
  const ids = new Identities(100);
  const path = `docker/${HOST}`;
  restoreBindings(
    standing([], [[path, mark(9)]]),
    viewOf(c(HOST, { endpoints: [], sharesWith: 'owner' })),
    marks,
    ids,
    there(7),
  );
  expect([ids.of(HOST), ids.of('owner')]).toEqual([undefined, 9]);
  const none = new Identities(100);
  restoreBindings(standing([], [[path, mark(9)]]), viewOf(), marks, none, there());
  expect(none.of(HOST)).toBeUndefined();
});

it('the next container with its MAC and addresses is not taken for one whose veth has gone, and does not get its identity', () => {
  const ids = new Identities(100);
  const keys = [`7 . ${MAC} . 172.30.0.7`, `9 . ${MAC} . 172.30.0.7`];
  const snapshot = standing([
    [keys[0] ?? '', mark(2)],
    [keys[1] ?? '', mark(4)],
  ]);
  expect([...restoreBindings(snapshot, viewOf(c('a')), marks, ids, there(9)).keys()]).toEqual([9]);
  expect([ids.of('a'), ids.assign('b', 1), ids.assign('d', 2)]).toEqual([4, 3, 5]);
  const none = new Identities(100);
  expect(restoreBindings(snapshot, viewOf(c('a')), marks, none, there(11)).size).toBe(0);
  expect([none.assign('a', 1), none.assign('b', 29_999), none.assign('d', 30_000)]).toEqual([3, 5, 2]);
});

it('the identity of a container in the host’s network that has gone rests', () => {
  const ids = new Identities(100);
  restoreBindings(standing([], [[`docker/${HOST}`, mark(2)]]), viewOf(), marks, ids, there());
  expect(ids.assign('b', 1)).toBe(3);
});
