import { expect, it } from 'vitest';
import { FREE_NEIGHBOUR, type SeenDestination } from '../../../src/flows/flow-record.js';
import type { ContainerFacts } from '../../../src/policy/container.js';
import { suggestFor } from '../../../src/suggest/suggest.js';
import { entriesOf, member, shape } from '../ruleset/sample.js';
import { NOW, SHIPPED, seen, texts } from './sample.js';

const ADDRESS = '172.18.0.9';
const networks = new Map([
  ['front', { driver: 'bridge', subnets: ['172.18.0.0/16'] }],
  ['lan', { driver: 'macvlan', subnets: ['192.168.1.0/24'] }],
]);
const facts = {
  id: member(7, 'a.org').id,
  name: 'web',
  labels: { 'drawbridge.lists': 'npm' },
  imageLabels: {},
  imageId: '',
  image: 'x',
  endpoints: [{ networkId: 'front', ip4: '172.18.0.2', dnsNames: [] }],
} as unknown as ContainerFacts;

const neighbour = (id: string, ip4: string): ContainerFacts =>
  ({ ...facts, id, name: id, labels: {}, endpoints: [{ networkId: 'front', ip4, dnsNames: [] }] }) as never;
/** Of a service that two projects have. */
const cache = (project: string, ip4: string): ContainerFacts => ({
  ...neighbour(`${project}-cache-1`, ip4),
  labels: { 'com.docker.compose.project': project, 'com.docker.compose.service': 'cache' },
});
const neighbours = [neighbour('db', '172.18.0.3'), neighbour('free', '172.18.0.4')];
const caches = [cache('shop', '172.18.0.4'), cache('other', '172.18.0.5')];
const containers = new Map([facts, ...neighbours, ...caches].map((c) => [c.id, c]));

/** `described`: what is found for each address. */
function partsOf(
  described: Readonly<Record<string, { kind: string; entry: string | null }>>,
  policy: object = {},
): Parameters<typeof suggestFor>[0] {
  const plain = member(7, 'a.org', 'enforce');
  const m = { ...plain, policy: { ...plain.policy, ...policy }, neighbours: ['172.18.0.4'] };
  const parts = {
    applied: { value: { subjects: new Map([[m.id, m]]) } },
    docker: { view: () => ({ containers, networks }), resolver: async () => undefined },
    shape,
    policies: { isManaged: () => true, policyOf: () => ({ ...m.policy, entries: entriesOf('a.org') }) },
    destinations: {
      describe: (_m: unknown, _f: unknown, { address }: { address: string }) =>
        described[address] ?? { kind: 'address', entry: `${address}:443` },
    },
  };
  return parts as never;
}
const ask = (
  container: ContainerFacts | string,
  all: readonly SeenDestination[],
  described = {},
  policy: object = {},
) =>
  suggestFor(
    partsOf(described, policy),
    { lists: SHIPPED },
    {
      container,
      record: { owner: 'name:web', since: 1, gaps: [], starts: 1, dropped: 0, seen: all },
      options: { includeDenied: false, unusedMs: 1 },
      now: NOW,
    },
  );
const left = (s: Awaited<ReturnType<typeof ask>>) => s.left.map((l) => `${l.entry} ${l.why}`).join('\n');

const toNeighbour = (name: string, address: string, more: Partial<SeenDestination> = {}) =>
  seen(`x.org:80`, { name: `container:${name}`, address, ...more });

it('a container that exists: neighbours by their service, free ones, and addresses of which nothing is known', async () => {
  const rows = [toNeighbour('db', '172.18.0.3'), toNeighbour('free', '172.18.0.99'), seen(`${ADDRESS}:6379`)];
  const found = await ask(facts, rows);
  expect(texts(found)).toContain('container:db:80');
  expect(texts(found).join()).not.toMatch(/free|172/);
  expect(found.notes.join()).toMatch(/container:free: permitted without an entry/);
  expect(left(found)).toMatch(/^172\.18\.0\.9:6379\/tcp it is not known which container had this address/);
});

it('a service that two projects have is offered to neither, and is not free where one of them is', async () => {
  for (const container of [facts, 'gone']) {
    const found = await ask(container, [toNeighbour('cache', '172.18.0.5')]);
    expect(texts(found).join()).not.toMatch(/cache/);
    expect(left(found)).toMatch(/^container:cache:80\/tcp containers of several projects have this name now/);
    expect(found.notes.join()).not.toMatch(/permitted without an entry/);
    expect(texts(await ask(container, [toNeighbour('other-cache-1', '172.18.0.5')]))).toContain(
      'container:other-cache-1:80',
    );
  }
});

it('not the neighbour that has the address by now', async () => {
  const now = { '172.18.0.3': { kind: 'neighbour', entry: 'container:notifier:5432' } };
  const found = await ask(facts, [seen('172.18.0.3:5432'), toNeighbour('db', '172.18.0.3')], now);
  expect(texts(found)).toEqual(['container:db:80,5432']);
  expect(texts(await ask(facts, [seen('172.18.0.3:5432')], now)).join()).not.toMatch(/notifier/);
});

it('a neighbour that is not there now, and needed no entry, needs none', async () => {
  const found = await ask(facts, [toNeighbour('worker', ADDRESS, { reason: FREE_NEIGHBOUR })]);
  expect([texts(found).join(), left(found)]).toEqual([expect.not.stringMatching('worker'), '']);
});

it('what has left is not named as the container resolved it', async () => {
  for (const container of [facts, 'gone']) {
    const found = await ask(container, [seen('x.org:6379', { name: 'vault', address: ADDRESS })]);
    expect(texts(found).join()).not.toMatch(/vault|172/);
    expect(left(found)).toMatch(/it is not known which container had this address/);
  }
});

it.each(['any', 'host', '10.0.0.9', 'container\\058db'])(
  'a name %s of a container is no other destination, in whatever record it is',
  async (name) => {
    const rows = [
      seen('x.org:443', { name }),
      seen('x.org:8443', { name, address: '93.184.1.1' }),
      seen('x.org:443', { name, address: '10.0.0.5' }),
      seen('x.org/dns', { name }),
      seen('93.184.1.1:22'),
    ];
    for (const container of [facts, 'gone'])
      expect(
        texts(await ask(container, rows)).filter((e) => /any|host|10\.0\.0\.9|container/.test(e)),
      ).toEqual([]);
  },
);

it('a former address of a neighbour that needed no entry needs none', async () => {
  const found = await ask(facts, [seen(`${ADDRESS}:6379`, { reason: FREE_NEIGHBOUR })]);
  expect(texts(found).join()).not.toMatch(/172/);
  expect(left(found)).toBe('');
});

it('a device of the LAN that a macvlan network shares keeps its address', async () => {
  expect(texts(await ask(facts, [seen('192.168.1.7:443')]))).toContain('192.168.1.7:443');
});

it('metadata services are left out', async () => {
  const entry = '169.254.169.254:80';
  const found = await ask(facts, [seen(entry)], { '169.254.169.254': { kind: 'address', entry } });
  expect(left(found)).toMatch(/instance metadata service of AWS.*act as the host/);
});

it('a container that is gone: names and public addresses, not what had a private address', async () => {
  const rows = [
    seen('b.org'),
    seen('93.184.1.1:22'),
    seen('10.0.0.5:5432'),
    seen('c.org:443', { address: '10.0.0.6' }),
  ];
  const found = await ask('gone', rows);
  expect(texts(found)).toEqual(['93.184.1.1:22', 'b.org', 'c.org private']);
  expect(left(found)).toMatch(/^10\.0\.0\.5:5432\/tcp it is not known which container had this address/);
  expect(found.notes.join()).toMatch(/gone does not exist now/);
});

it('is observed only if it exists and is not paused: nothing else shows that no label enforces it', async () => {
  const modeOf = async (container: ContainerFacts | string, policy = {}) =>
    (await ask(container, [], {}, policy)).mode;
  expect([
    await modeOf(facts, { mode: 'observe', modeSource: { kind: 'default' } }),
    await modeOf(facts, { mode: 'observe', modeSource: { kind: 'pause' } }),
    await modeOf('gone', { mode: 'observe', modeSource: { kind: 'default' } }),
  ]).toEqual(['observe', 'enforce', 'enforce']);
});
