/** Neighbours by compose labels: only the container's own count, on both sides. */
import { describe, expect, it } from 'vitest';
import { formatAddress } from '../../../src/lib/ip.js';
import type { ContainerFacts, DockerView, NetworkFacts } from '../../../src/policy/container.js';
import { freeNeighbours, localName, resolveContainer } from '../../../src/policy/neighbours.js';

const ID = `sha256:${'1'.repeat(64)}`;
const shop = (service: string) => ({
  'com.docker.compose.project': 'shop',
  'com.docker.compose.service': service,
});
const network = { id: 'n1', name: 'shop_default', subnets: [] } as unknown as NetworkFacts;
let count = 1;
const container = (name: string, more: Partial<ContainerFacts> = {}, dnsNames = [name]): ContainerFacts => ({
  id: String(++count).padStart(64, '0'),
  name,
  image: 'shop-web',
  imageId: ID,
  labels: {},
  imageLabels: {},
  state: 'running',
  networkMode: 'shop_default',
  endpoints: [{ networkId: 'n1', mac: '', ip4: `10.0.0.${count}`, dnsNames }],
  published: [],
  privileges: { pid: 7 } as NonNullable<ContainerFacts['privileges']>,
  ...more,
});
const db = container('shop-db-1', { labels: shop('db') }, ['shop-db-1', 'db']);
/** Of an image that compose has built, which therefore has the labels, too. */
const built = container('shop-web-1', {
  labels: { ...shop('web'), 'com.docker.compose.image': ID },
  imageLabels: shop('web'),
});
/** `docker run` of an image that has them. */
const posing = container('posing', { labels: shop('db'), imageLabels: shop('db') });
const dotted = container('dotted', {
  labels: shop('good.example'),
  imageLabels: shop('good.example'),
});
const view = {
  containers: new Map([db, built, posing, dotted].map((c) => [c.id, c])),
  networks: new Map([['n1', network]]),
} as unknown as DockerView;

const address = (c: ContainerFacts): string => c.endpoints[0]?.ip4 ?? '';
const free = (c: ContainerFacts): string[] => freeNeighbours(view, c, () => undefined);
const targets = (c: ContainerFacts, name: string): string[] =>
  resolveContainer(view, c, name).map((r) => formatAddress(r.family, r.lo));

describe('one compose project', () => {
  it('is the containers that compose has made, of built images, too', () => {
    expect(free(db)).toEqual([address(built)]);
    expect(free(built)).toEqual([address(db)]);
  });
  it("an image's labels join none, neither way", () => {
    expect(free(posing)).toEqual([]);
    expect(free(dotted)).toEqual([]);
  });
});

it("container:SERVICE is never a container by its image's labels", () => {
  expect(targets(built, 'db')).toEqual([address(db)]);
  expect(targets(db, 'web')).toEqual([address(built)]);
  expect(targets(built, 'posing')).toEqual([address(posing)]);
});

describe('names', () => {
  it('are those that Docker resolves: names and aliases', () => {
    expect(localName(view, built, 'db')).toEqual([address(db)]);
    expect(localName(view, built, 'db.shop_default')).toEqual([address(db)]);
    expect(localName(view, db, 'web')).toBeUndefined(); // labelled so, without an alias: as docker compose run does
    expect(localName(view, db, 'shop-web-1')).toEqual([address(built)]);
  });
  it("an image's labels answer none", () => {
    expect(localName(view, built, 'good.example')).toBeUndefined();
    expect(localName(view, posing, 'good.example')).toBeUndefined();
  });
  it('until it is inspected a service is known by its own label, unless that could be a public name', () => {
    const starting = (service: string, pid: number): string[] | undefined => {
      const c = container('starting', {
        labels: shop(service),
        privileges: { pid } as NonNullable<ContainerFacts['privileges']>,
      });
      return localName({ ...view, containers: new Map([[c.id, c]]) }, c, service);
    };
    expect(starting('cache', 0)).toHaveLength(1);
    expect(starting('cache', 7)).toBeUndefined();
    expect(starting('good.example', 0)).toBeUndefined();
  });
});
