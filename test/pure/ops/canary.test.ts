/** What the canary concludes, and how the rules know its veth. */
import { expect, it } from 'vitest';
import { verdictOf } from '../../../src/ops/canary.js';
import type { VethMap } from '../../../src/ruleset/applied-state.js';
import { CANARY_ID, canarySubject, withCanary } from '../../../src/ruleset/canary-subject.js';

const both = new Set(['tcp', 'udp'] as const);
const none = new Set<'tcp' | 'udp'>();
const works = { permitted: both, forbidden: none };

it('is ok only if all of the permitted and nothing of the forbidden has arrived', () => {
  expect(
    verdictOf([
      { family: 4, ...works },
      { family: 6, ...works },
    ]),
  ).toEqual({
    ok: true,
    isLeak: false,
    detail: 'permitted reached, forbidden not (IPv4 and IPv6, tcp and udp)',
  });
  expect(verdictOf([{ family: 4, ...works }]).detail).toContain('IPv6 is not checked');
  const silent = { family: 4 as const, permitted: none, forbidden: none };
  expect(verdictOf([silent, { family: 6, ...works }])).toMatchObject({
    ok: false,
    isLeak: false,
    detail: expect.stringContaining('a permitted address was not reached (IPv4 tcp, IPv4 udp)'),
  });
  const leak = { family: 6 as const, permitted: none, forbidden: new Set(['udp'] as const) };
  expect(verdictOf([{ family: 4, ...works }, leak])).toMatchObject({
    ok: false,
    isLeak: true,
    detail: expect.stringContaining('a forbidden address was reached (IPv6 udp)'),
  });
});

const place = {
  ifindex: 7,
  mac: '02:00:00:00:00:07',
  addresses: [
    { family: 4 as const, source: '198.18.219.1', permitted: '198.18.219.2' },
    { family: 6 as const, source: 'fd64:7262:d0ca::1', permitted: 'fd64:7262:d0ca::2' },
  ],
};
const veth = (index: number, master: number) => ({
  index,
  name: `veth${index}`,
  kind: 'veth',
  mac: '02:00:00:00:00:01',
  since: 0,
  master,
});
const bridge = {
  link: { ...veth(3, 0), name: 'docker0' },
  network: { id: 'net' },
  ports: [7, 8],
  mixed: false,
};
const map = {
  bindings: new Map(),
  unbound: [veth(7, 3), veth(8, 3)],
  namespaces: new Set(),
  exempt: [],
  outdated: new Set(),
  bridges: new Map([['docker0', bridge]]),
} as unknown as VethMap;

it('binds the veth of the canary, and no other', () => {
  const { bindings, unbound, canary } = withCanary(map, place);
  expect(canary).toBe(place);
  expect([...bindings]).toEqual([
    [
      7,
      {
        ifindex: 7,
        container: CANARY_ID,
        bridge: 'docker0',
        networkId: 'net',
        mac: place.mac,
        since: 0,
        ip4: '198.18.219.1',
        ip6: 'fd64:7262:d0ca::1',
      },
    ],
  ]);
  expect(unbound.map((u) => u.index)).toEqual([8]);
});

it('binds nothing that is on no managed bridge', () => {
  expect(withCanary(map, undefined)).toBe(map);
  expect(withCanary(map, { ...place, ifindex: 9 })).toBe(map);
  const elsewhere = { ...map, unbound: [veth(7, 4)] };
  expect(withCanary(elsewhere, place)).toBe(elsewhere);
});

it('is enforced, with its permitted addresses as the only entries', () => {
  const subject = canarySubject(place, 5, [...withCanary(map, place).bindings.values()]);
  expect(subject).toMatchObject({ id: CANARY_ID, identity: 5, policy: { mode: 'enforce', lists: [] } });
  expect(subject.policy.entries.map(({ entry }) => entry.canonical)).toEqual([
    '198.18.219.2:9/tcp+udp',
    '[fd64:7262:d0ca::2]:9/tcp+udp',
  ]);
});
