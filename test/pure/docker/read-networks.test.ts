import { describe, expect, it } from 'vitest';
import { DockerState } from '../../../src/docker/docker-state.js';
import { readInspect } from '../../../src/docker/read-containers.js';
import { readNetwork, readNetworks, readServices } from '../../../src/docker/read-networks.js';
import type { ContainerFacts, DockerView, NetworkFacts } from '../../../src/policy/container.js';
import { localName } from '../../../src/policy/neighbours.js';
import { containerInspect, ID, networkInspect } from './samples.js';

const OVER = ID('e');
const overlay = (more: object = {}) =>
  networkInspect({ Id: OVER, Name: 'over', Driver: 'overlay', Scope: 'swarm', Containers: {}, ...more });
const task = (name: string, address: string) => ({ Name: name, EndpointID: 'x', EndpointIP: address });
/** As `GET /networks/ID?verbose=true` says it: dnsrr has no address of its own, "" holds what is no service's. */
const VERBOSE = overlay({
  Services: {
    '': { VIP: '<nil>', Tasks: [task('tool', '10.0.1.5')] },
    Crew: {
      VIP: '<nil>',
      Ports: [],
      Tasks: [task('Crew.1.abc', '10.0.1.2'), task('Crew.2.def', '10.0.1.3')],
    },
    shop_db: { VIP: '10.0.1.9', Tasks: [task('shop_db.1.ghi', '10.0.1.10')] },
    idle: { VIP: '', Tasks: [] },
  },
});

describe('services of an overlay', () => {
  it('by name, by task, and all tasks of one', () => {
    expect(readServices(VERBOSE)).toEqual({
      tool: ['10.0.1.5'],
      crew: ['10.0.1.2', '10.0.1.3'],
      'crew.1.abc': ['10.0.1.2'],
      'crew.2.def': ['10.0.1.3'],
      'tasks.crew': ['10.0.1.2', '10.0.1.3'],
      shop_db: ['10.0.1.9'],
      'shop_db.1.ghi': ['10.0.1.10'],
      'tasks.shop_db': ['10.0.1.10'],
    });
  });

  it.each([
    [undefined],
    [{}],
    [{ Services: null }],
    [{ Services: { a: 7, b: { Tasks: [1, { EndpointIP: 'x' }] } } }],
  ])('nothing of %j', (json) => expect(readServices(json)).toEqual({}));

  it('stay when a list tells the network without them', () => {
    const s = new DockerState();
    const plain = readNetworks([overlay()], []) ?? [];
    s.networkList(plain, 0, 0);
    expect(s.services(OVER, readServices(VERBOSE))).toBe(true);
    expect(s.services(OVER, readServices(VERBOSE))).toBe(false);
    expect(s.networkList(plain, 0, 0).changed).toBe(false);
    expect(s.networks.get(OVER)?.services).toHaveProperty('crew');
    expect(s.services(ID('d'), {})).toBe(false);
  });

  it('a member of an overlay is looked for at its gateway, of a bridge not', () => {
    const s = new DockerState();
    s.networkList(readNetworks([overlay(), networkInspect()], []) ?? [], 0, 0);
    const wants = (network: string): string[] =>
      s.event({ kind: 'attach', action: 'connect', network, id: ID('a') }, 1).wants.map((w) => w.id);
    expect(wants(OVER)).toContain('docker_gwbridge');
    expect(wants(ID('f'))).not.toContain('docker_gwbridge');
  });
});

describe('members with another key than the id of a container', () => {
  const member = (MacAddress: string) => ({ EndpointID: ID('9'), MacAddress, IPv4Address: '172.18.0.9/16' });
  const shown = (Containers: object) => {
    const { joining = [], foreign = [] } = readNetwork(networkInspect({ Containers }), [])?.unnamed ?? {};
    return { joining: [...joining], foreign: [...foreign] };
  };
  const MAC = '02:42:ac:12:00:09';

  it.each([
    [`ep-${ID('9')}`, 'joining'],
    ['oewcyby7vje3sacpgf6j1dvfe', 'foreign'], // a step of a build, on Engine 26 and 28
    ['ingress-sbox', 'foreign'],
    ['lb-over', 'foreign'],
    ['endpoint-of-a-later-engine', 'joining'],
    ['', 'joining'],
  ] as const)('%s: %s', (key, kind) => {
    expect(shown({ [key]: member('02:42:AC:12:00:09') })).toEqual({
      joining: [],
      foreign: [],
      [kind]: [MAC],
    });
  });
  it('a container is none of them, and an endpoint without a MAC stays one', () => {
    expect(shown({ [ID('a')]: member(MAC) })).toEqual({ joining: [], foreign: [] });
    expect(shown({ 'ep-1': member(''), 'ep-2': null, 'ep-3': member(MAC) })).toEqual({
      joining: ['', MAC],
      foreign: [],
    });
  });
});

describe('names that a member of an overlay may ask', () => {
  const network = readNetwork(overlay(), [])?.network as NetworkFacts;
  const view = {
    containers: new Map(),
    networks: new Map([[OVER, { ...network, services: readServices(VERBOSE) }]]),
  } as unknown as DockerView;
  const asker = (labels: Record<string, string> = {}, networkId = OVER): ContainerFacts => ({
    ...(readInspect(containerInspect()) as unknown as ContainerFacts),
    labels,
    imageLabels: {},
    endpoints: [{ networkId, mac: '', ip4: '10.0.1.7', dnsNames: [] }],
  });
  const ask = (name: string, who = asker()): string[] | undefined => localName(view, who, name);
  const mate = asker({ 'com.docker.stack.namespace': 'shop' });

  it('services and tasks, of its own networks alone', () => {
    expect(ask('crew')).toEqual(['10.0.1.2', '10.0.1.3']);
    expect(ask('TASKS.Crew')).toEqual(['10.0.1.2', '10.0.1.3']);
    expect(ask('crew.1.abc')).toEqual(['10.0.1.2']);
    expect(ask('crew', asker({}, ID('f')))).toBeUndefined();
    expect(ask('constructor')).toBeUndefined();
  });

  it('by the short name within a stack', () => {
    expect(ask('db', mate)).toEqual(['10.0.1.9']);
    expect(ask('tasks.db', mate)).toEqual(['10.0.1.10']);
    expect(ask('db')).toBeUndefined();
    expect(ask('db', { ...mate, imageLabels: mate.labels })).toBeUndefined();
  });
});
