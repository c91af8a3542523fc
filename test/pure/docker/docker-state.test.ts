import { describe, expect, it } from 'vitest';
import { DockerState, showSame, viewOf } from '../../../src/docker/docker-state.js';
import { readContainers, readInspect } from '../../../src/docker/read-containers.js';
import { readNetwork } from '../../../src/docker/read-networks.js';
import { hasSandbox } from '../../../src/namespaces/container-namespaces.js';
import type { DockerView } from '../../../src/policy/container.js';
import { containerInspect, ID, listItem, networkInspect } from './samples.js';

const A = ID('a');
const B = ID('b');
const F = ID('f');
const attach = (action: 'connect' | 'disconnect', id = A) =>
  ({ kind: 'attach', action, network: F, id }) as const;
const life = (action: 'create' | 'start' | 'die' | 'destroy' | 'pause' | 'unpause' | 'rename', id = A) =>
  ({ kind: 'container', action, id }) as const;
const list = (...items: object[]) => readContainers(items, []) ?? [];
const front = (over: object = {}) => readNetwork(networkInspect({ ...over }), []);
const view = (s: DockerState): DockerView =>
  viewOf(s, () => undefined, { listings: 1, listBegan: 0, connected: true });

/** Created, listed, attached, started, inspected. */
function running(): DockerState {
  const s = new DockerState();
  s.event(life('create'), 0);
  s.list(list(listItem({ State: 'created', NetworkSettings: {}, Ports: [] })), new Set([A]), s.seq, 1);
  s.event(attach('connect'), 2);
  s.network(F, front(), s.seq, 3);
  s.event(life('start'), 4);
  s.list(list(listItem()), new Set([A]), s.seq, 5);
  const inspected = readInspect(containerInspect());
  if (inspected) s.inspected(inspected, s.seq, 6);
  return s;
}

describe('a start', () => {
  it('is in progress from the create event until everything is known, each step in its order', () => {
    const s = new DockerState();
    expect(s.event(life('create'), 0).wants).toEqual([{ kind: 'list', id: A }]);
    expect(view(s).containers.size).toBe(0); // labels unknown is not "no labels"
    expect([...view(s).starting]).toEqual([A]);
    s.list(list(listItem({ State: 'created', NetworkSettings: {} })), new Set([A]), s.seq, 1);
    expect(view(s).starting.size).toBe(0);
    expect(s.event(attach('connect'), 2).wants).toEqual([
      { kind: 'network', id: F },
      { kind: 'network', id: 'docker_gwbridge' }, // a network that nobody knows yet may be an overlay
    ]);
    expect(view(s).containers.get(A)).toMatchObject({ state: 'starting', endpoints: [] });
    s.network(F, front(), s.seq, 3);
    expect(view(s).containers.get(A)).toMatchObject({
      state: 'starting',
      endpoints: [
        {
          networkId: F,
          mac: '02:42:ac:12:00:02',
          ip4: '172.18.0.2',
          ip6: 'fd00:aa::2',
          dnsNames: ['web', 'aaaaaaaaaaaa'],
        },
      ],
    });
    expect([...view(s).starting]).toEqual([A]);
    s.event(life('start'), 4);
    expect(s.list(list(listItem()), new Set([A]), s.seq, 5).wants).toEqual([{ kind: 'inspect', id: A }]);
    expect([...view(s).starting]).toEqual([A]);
    const inspected = readInspect(containerInspect());
    if (inspected) s.inspected(inspected, s.seq, 6);
    expect(view(s).starting.size).toBe(0);
    expect(view(s).containers.get(A)).toMatchObject({ state: 'running', privileges: { pid: 4711 } });
    expect(view(s).containers.get(A)?.endpoints[0]?.dnsNames).toEqual(['web', 'www', 'aaaaaaaaaaaa']);
  });

  it('is not undone by a list that still says "created"', () => {
    const s = new DockerState();
    s.event(life('create'), 0);
    const begun = s.seq;
    s.event(attach('connect'), 1);
    s.network(F, front(), s.seq, 2);
    s.list(list(listItem({ State: 'created' })), 'all', begun, 3);
    s.list(list(listItem({ State: 'created' })), 'all', s.seq, 4);
    expect(view(s).containers.get(A)).toMatchObject({
      state: 'starting',
      endpoints: [{ ip4: '172.18.0.2' }],
    });
  });

  it('that fails ends with its last endpoint', () => {
    const s = new DockerState();
    s.event(life('create'), 0);
    s.list(list(listItem({ State: 'created' })), 'all', s.seq, 1);
    s.event(attach('connect'), 2);
    s.network(F, front(), s.seq, 3);
    const asked = [
      { kind: 'network', id: F },
      { kind: 'list', id: A },
    ];
    expect(s.event(attach('disconnect'), 4).wants).toEqual(asked);
    expect(view(s).containers.get(A)).toMatchObject({ state: 'created', endpoints: [] });
    expect([...view(s).starting]).toEqual([A]); // until the network has said so, too
    s.network(F, front({ Containers: {} }), s.seq, 5);
    s.list(list(listItem({ State: 'created' })), 'all', s.seq, 6);
    expect(view(s).starting.size).toBe(0);
    expect(view(s).containers.get(A)).toMatchObject({ state: 'created', endpoints: [] });
  });

  it('that fails ends, too, when the list speaks before the network', () => {
    const s = new DockerState();
    s.event(life('create'), 0);
    s.list(list(listItem({ State: 'created' })), 'all', s.seq, 1);
    s.event(attach('connect'), 2);
    s.event(attach('disconnect'), 3);
    s.list(list(listItem({ State: 'created' })), new Set([A]), s.seq, 4);
    expect([...view(s).starting]).toEqual([A]);
    s.network(F, front({ Containers: {} }), s.seq, 5);
    expect(view(s).starting.size).toBe(0);
    expect(view(s).containers.get(A)).toMatchObject({ state: 'created', endpoints: [] });
  });

  it('that fails ends with its network, too', () => {
    const s = new DockerState();
    s.event(life('create'), 0);
    s.event(attach('connect'), 1);
    s.event(attach('disconnect'), 2);
    s.list(list(listItem({ State: 'created' })), new Set([A]), s.seq, 3);
    s.network(F, undefined, s.seq, 4);
    expect(view(s).starting.size).toBe(0);
    expect(view(s).containers.get(A)).toMatchObject({ state: 'created', endpoints: [] });
  });

  it('does not last for ever', () => {
    const s = new DockerState();
    s.list(list(listItem({ State: 'created' })), 'all', s.seq, 0);
    s.event(attach('connect'), 1);
    s.network(F, front(), s.seq, 2);
    s.list(list(listItem({ State: 'created' })), 'all', s.seq, 60_100);
    s.network(F, front(), s.seq, 60_101);
    expect(view(s).starting.size).toBe(0);
  });

  it('of a container that nobody has announced asks for it', () => {
    const s = new DockerState();
    expect(s.event(attach('connect'), 0).wants).toContainEqual({ kind: 'list', id: A });
    const t = new DockerState();
    expect(t.network(F, front(), 0, 0).wants).toEqual([{ kind: 'list', id: A }]);
    expect([...view(t).starting]).toEqual([A]);
  });
});

describe('an end', () => {
  it('drops endpoints at the disconnect, the process at the die, the container at the destroy', () => {
    const s = running();
    s.event(attach('disconnect'), 10);
    expect(view(s).containers.get(A)).toMatchObject({ state: 'running', endpoints: [] });
    s.event(life('die'), 11);
    expect(view(s).containers.get(A)).toMatchObject({
      state: 'exited',
      privileges: { pid: 0, sandboxKey: '' },
    });
    s.event(life('destroy'), 12);
    expect(view(s).containers.size).toBe(0);
  });

  it('is not undone by answers begun before it', () => {
    const s = running();
    const begun = s.seq;
    s.event(life('die'), 10);
    s.network(F, front(), begun, 11);
    s.list(list(listItem()), 'all', begun, 12);
    expect(view(s).containers.get(A)).toMatchObject({ state: 'exited', endpoints: [] });
    s.event(life('destroy'), 13);
    s.list(list(listItem()), 'all', begun, 14);
    s.network(F, front(), begun, 15);
    expect(view(s).containers.size).toBe(0);
    expect(view(s).starting.size).toBe(0);
  });

  it('of a network takes its endpoints, and an older inspect does not bring it back', () => {
    const s = running();
    const begun = s.seq;
    s.event({ kind: 'network', action: 'destroy', network: F }, 10);
    s.network(F, front(), begun, 11);
    expect(view(s).networks.size).toBe(0);
    expect(view(s).containers.get(A)?.endpoints).toEqual([]);
  });

  it('shows in a list, unless the container came after the list was begun', () => {
    const s = running();
    const begun = s.seq;
    s.event(life('create', B), 10);
    s.list([], 'all', begun, 11);
    expect(view(s).containers.size).toBe(0);
    expect([...view(s).starting]).toEqual([B]);
  });
});

describe('in between', () => {
  it('a list that is older than the start event returns the name, by which a list of entries may claim it', () => {
    const s = new DockerState();
    s.event(life('create'), 0);
    const begun = s.seq;
    s.event(life('start'), 1);
    s.list(list(listItem()), new Set([A]), begun, 2);
    expect(view(s).containers.get(A)).toMatchObject({ name: 'web', state: 'running' });
    expect([...view(s).starting]).toEqual([A]);
  });

  it('one that is renamed while the first list is asked for is not known until the next', () => {
    const s = new DockerState();
    s.event(life('create'), 0);
    const begun = s.seq;
    expect(s.event(life('rename'), 1).wants).toContainEqual({ kind: 'list', id: A });
    s.list(list(listItem()), new Set([A]), begun, 2);
    expect(view(s).containers.size).toBe(0);
    s.list(list(listItem({ Names: ['/shop'] })), new Set([A]), s.seq, 3);
    expect(view(s).containers.get(A)?.name).toBe('shop');
  });

  describe('one that Docker renames while it is listed has two names in the list', () => {
    const both = listItem({ Names: ['/shop', '/web'] });
    const inspected = (Name: string) => {
      const read = readInspect(containerInspect({ Name }));
      if (!read) throw new Error('the sample cannot be read');
      return read;
    };
    it('it keeps the former name until an inspect returns the new one', () => {
      const s = running();
      s.event(life('rename'), 10);
      const begun = s.seq;
      expect(s.list(list(both), new Set([A]), begun, 11).wants).toEqual([{ kind: 'inspect', id: A }]);
      expect(view(s).containers.get(A)?.name).toBe('web');
      expect(s.inspected(inspected('/shop'), begun, 12).changed).toBe(true);
      expect(view(s).containers.get(A)?.name).toBe('shop');
    });
    it('also when it does not run', () => {
      const s = new DockerState();
      s.list(list(listItem({ State: 'created' })), 'all', 0, 0);
      s.event(life('rename'), 1);
      const item = listItem({ Names: ['/shop', '/web'], State: 'created' });
      expect(s.list(list(item), new Set([A]), s.seq, 2).wants).toEqual([{ kind: 'inspect', id: A }]);
      s.inspected(inspected('/shop'), s.seq, 3);
      expect(view(s).containers.get(A)?.name).toBe('shop');
    });
    it('one that is not known yet is not known until the inspect', () => {
      const s = new DockerState();
      s.event(life('create'), 0);
      s.list(list(both), new Set([A]), s.seq, 1);
      expect(view(s).containers.size).toBe(0);
      expect([...view(s).starting]).toEqual([A]);
      s.inspected(inspected('/shop'), s.seq, 2);
      expect(view(s).containers.get(A)?.name).toBe('shop');
    });
    it('one that runs when the service begins counts as starting until then: its packets belong to nobody else', () => {
      const s = new DockerState();
      s.list(list(both), 'all', 0, 0);
      s.network(F, front(), 0, 1);
      expect([...view(s).starting]).toEqual([A]);
      expect(view(s).attached.size).toBe(0);
      s.inspected(inspected('/shop'), s.seq, 2);
      expect([view(s).starting.size, [...view(s).attached]]).toEqual([0, [A]]);
    });
    it('an inspect that is older than the rename does not return the name', () => {
      const s = running();
      const begun = s.seq;
      s.event(life('rename'), 10);
      s.list(list(listItem({ Names: ['/shop'] })), new Set([A]), s.seq, 11);
      s.inspected(inspected('/web'), begun, 12);
      expect(view(s).containers.get(A)?.name).toBe('shop');
    });
  });

  it('an inspect that is older than the start event does not return the namespace of this start', () => {
    const s = new DockerState();
    s.list(list(listItem()), new Set([A]), s.seq, 1); // it runs already, and its start event is late
    const begun = s.seq;
    s.event(life('start'), 2);
    const inspected = readInspect(containerInspect());
    if (!inspected) throw new Error('the sample cannot be read');
    const sandbox = (): boolean => [...view(s).containers.values()].some(hasSandbox);
    s.inspected(inspected, begun, 3);
    expect(view(s).containers.get(A)).toMatchObject({ state: 'running', privileges: { pid: 0 } });
    expect(sandbox()).toBe(false);
    s.inspected(inspected, s.seq, 4);
    expect(sandbox()).toBe(true);
  });

  it('one that runs and joins a network counts as starting until that network has spoken', () => {
    const s = running();
    s.event({ kind: 'attach', action: 'disconnect', network: F, id: A }, 10);
    const before = s.seq; // an inspect that was begun before the event
    expect(s.event(attach('connect'), 11).wants).toContainEqual({ kind: 'network', id: F });
    expect([...view(s).starting]).toEqual([A]);
    const { wants } = s.network(F, front(), before, 12);
    expect([...view(s).starting]).toEqual([A]);
    expect(view(s).containers.get(A)).toMatchObject({ endpoints: [], joining: [F] });
    expect(wants).toEqual([{ kind: 'network', id: F }]);
    s.network(F, front(), s.seq, 13);
    expect(view(s).starting.size).toBe(0);
    expect(view(s).containers.get(A)?.endpoints).toHaveLength(1);
  });

  it('a late event makes an answer doubtful that says the contrary: it is asked for again, and nobody is done until then', () => {
    const s = running();
    const begun = s.seq;
    s.event(attach('disconnect'), 10); // of an earlier time
    expect(view(s).containers.get(A)).toMatchObject({ endpoints: [], joining: [F] });
    expect(s.network(F, front(), begun, 11).wants).toEqual([{ kind: 'network', id: F }]);
    expect([...view(s).starting]).toEqual([A]);
    s.network(F, front(), s.seq, 12);
    expect(view(s).starting.size).toBe(0);
    expect(view(s).containers.get(A)?.endpoints).toHaveLength(1);
  });

  it('a late disconnect or end takes nothing that a later request has shown, and asks again', () => {
    const s = running();
    s.network(F, front(), s.seq, 10, 10);
    const ends = s.event(attach('disconnect'), 20, 9);
    expect(ends.wants).toEqual([{ kind: 'network', id: F }]);
    expect(view(s).containers.get(A)?.endpoints).toHaveLength(1);
    expect(s.event(life('die'), 21, 9).wants).toEqual([
      { kind: 'list', id: A },
      { kind: 'network', id: F },
    ]);
    // its process may be another, and no list has shown that it runs
    expect(view(s).containers.get(A)).toMatchObject({
      state: 'starting',
      endpoints: [{ networkId: F }],
      privileges: { pid: 0 },
    });
    expect([...view(s).starting]).toEqual([A]);
    s.list(list(listItem()), new Set([A]), s.seq, 22, 22);
    s.network(F, front(), s.seq, 23, 23);
    expect(view(s).containers.get(A)).toMatchObject({ state: 'running', endpoints: [{ networkId: F }] });
    s.event(life('die'), 30, 9);
    expect(view(s).containers.get(A)).toMatchObject({ state: 'running', endpoints: [{ networkId: F }] });
    // and the answers have the last word
    s.list(list(listItem({ State: 'exited' })), new Set([A]), s.seq, 31, 31);
    s.network(F, front({ Containers: {} }), s.seq, 32, 32);
    expect(view(s).containers.get(A)?.endpoints).toEqual([]);
    expect(view(s).attached.has(A)).toBe(false);
  });

  it('an end takes all that was shown before it', () => {
    const s = running();
    s.network(F, front(), s.seq, 10, 10);
    s.list(list(listItem()), new Set([A]), s.seq, 10, 10);
    s.event(life('die'), 20, 10);
    expect(view(s).containers.get(A)).toMatchObject({ state: 'exited', endpoints: [] });
  });

  it('a late end is undone by what list and network say, and nobody is done until then', () => {
    const s = running();
    expect(s.event(life('die'), 10).wants).toEqual([{ kind: 'list', id: A }]);
    expect([...view(s).starting]).toEqual([A]);
    const { wants } = s.list(list(listItem()), new Set([A]), s.seq, 11);
    expect(wants).toContainEqual({ kind: 'network', id: F });
    expect([...view(s).starting]).toEqual([A]);
    s.network(F, front(), s.seq, 12);
    expect(view(s).starting.size).toBe(0);
    expect(view(s).containers.get(A)).toMatchObject({ state: 'running', endpoints: [{ networkId: F }] });
  });

  it('an inspect of one network says nothing of another', () => {
    const s = new DockerState();
    const E = ID('e');
    s.event(attach('connect'), 0);
    const first = s.seq;
    s.event({ kind: 'attach', action: 'connect', network: E, id: A }, 1);
    s.network(F, front(), first, 2);
    s.list(list(listItem({ State: 'created' })), 'all', s.seq, 3);
    expect(
      view(s)
        .containers.get(A)
        ?.endpoints.map((e) => e.networkId),
    ).toEqual([F]);
  });

  it('a list alone neither gives nor takes an endpoint on a local network', () => {
    const s = running();
    s.event(attach('disconnect'), 10);
    s.list(list(listItem()), 'all', s.seq, 11);
    expect(view(s).containers.get(A)?.endpoints).toEqual([]);
  });

  it('of networks without members of their own the list decides', () => {
    const s = new DockerState();
    s.network(F, front({ Scope: 'swarm', Driver: 'overlay', Containers: {} }), 0, 0);
    s.list(list(listItem()), 'all', 0, 1);
    expect(view(s).containers.get(A)?.endpoints).toMatchObject([{ ip4: '172.18.0.2' }]);
    s.list(list(listItem({ NetworkSettings: {} })), 'all', 0, 2);
    expect(view(s).containers.get(A)?.endpoints).toEqual([]);
  });

  it('pause, unpause and rename', () => {
    const s = running();
    s.event(life('pause'), 10);
    expect(view(s).containers.get(A)?.state).toBe('paused');
    s.event(life('unpause'), 11);
    expect(view(s).containers.get(A)?.state).toBe('running');
    expect(s.event(life('rename'), 12).wants.map((w) => w.kind)).toEqual(['list', 'inspect']);
    s.list(list(listItem({ Names: ['/shop'] })), new Set([A]), s.seq, 13);
    expect(view(s).containers.get(A)?.name).toBe('shop');
  });

  it('on the default bridge no names are resolved', () => {
    const s = new DockerState();
    s.list(list(listItem()), 'all', 0, 0);
    s.network(F, front({ Options: { 'com.docker.network.bridge.default_bridge': 'true' } }), 0, 1);
    expect(view(s).containers.get(A)?.endpoints[0]?.dnsNames).toEqual([]);
  });
});

describe('shared namespaces', () => {
  const member = (id: string, name: string, mode: string) =>
    listItem({ Id: id, Names: [`/${name}`], HostConfig: { NetworkMode: mode }, NetworkSettings: {} });
  const owners = (...items: object[]): Record<string, string | undefined> => {
    const s = new DockerState();
    s.list(list(...items), 'all', 0, 0);
    return Object.fromEntries([...view(s).containers.values()].map((c) => [c.name, c.sharesWith]));
  };
  it('by id, name, beginning of an id, and through another', () => {
    const all = owners(
      member(A, 'a', 'front'),
      member(B, 'b', `container:${A}`),
      member(ID('c'), 'c', 'container:b'),
      member(ID('d'), 'd', 'container:aaaa'),
      member(ID('e'), 'e', `container:${ID('9')}`),
    );
    expect(all).toEqual({ a: undefined, b: A, c: A, d: A, e: ID('9') });
  });
  it('a loop or an unknown name has no owner', () => {
    expect(
      owners(
        member(A, 'a', `container:${B}`),
        member(B, 'b', `container:${A}`),
        member(ID('c'), 'c', 'container:x'),
      ),
    ).toEqual({
      a: undefined,
      b: undefined,
      c: undefined,
    });
  });
});

describe('when Docker was asked', () => {
  const endpoint = (s: DockerState) => view(s).containers.get(A)?.endpoints[0];

  it('is kept with each endpoint and network: the time of the request, not of its answer', () => {
    const s = running();
    s.network(F, front(), s.seq, 900, 500);
    expect(endpoint(s)?.askedAt).toBe(500);
    expect(view(s).networks.get(F)?.askedAt).toBe(500);
    expect(s.network(F, front(), s.seq, 901, 600).changed).toBe(false); // no news, but newer
    expect(endpoint(s)?.askedAt).toBe(600);
  });

  it('an answer to an older request says nothing any more, whatever order they arrive in', () => {
    const s = running();
    s.network(F, front({ Containers: {} }), s.seq, 800, 700);
    expect(endpoint(s)).toBeUndefined();
    expect(s.network(F, front(), s.seq, 801, 500)).toEqual({ changed: false, wants: [] });
    expect(endpoint(s)).toBeUndefined();
    s.network(F, front(), s.seq, 802, 701);
    expect(endpoint(s)?.askedAt).toBe(701);
  });

  it('an answer that an event has overtaken makes no endpoint newer', () => {
    const s = running();
    const { seq } = s;
    s.network(F, front(), seq, 800, 700);
    s.event(attach('connect'), 801);
    s.network(F, front(), seq, 802, 750);
    expect(endpoint(s)?.askedAt).toBe(700);
  });

  it('the next stay of a container begins with nothing known', () => {
    const s = running();
    s.network(F, front(), s.seq, 800, 700);
    s.event(life('die'), 801);
    expect(view(s).containers.get(A)?.endpoints).toEqual([]);
    s.event(attach('connect'), 802);
    s.network(F, front(), s.seq, 803, 750);
    expect(endpoint(s)?.askedAt).toBe(750);
  });

  it('is all that differs between views that show the same', () => {
    const s = running();
    const before = view(s);
    s.network(F, front(), s.seq, 801, 600);
    expect(view(s).networks.get(F)?.askedAt).not.toBe(before.networks.get(F)?.askedAt);
    expect(showSame(before, { ...view(s), listings: 2, listBegan: 700 })).toBe(true);
  });

  it.each<[string, (s: DockerState) => void]>([
    ['a name', (s) => s.list(list(listItem({ Names: ['/other'] })), new Set([A]), s.seq, 9)],
    [
      'a label',
      (s) =>
        s.list(list(listItem({ Labels: { a: 'b' } }), listItem({ Id: B, Names: ['/b'] })), 'all', s.seq, 9),
    ],
    ['a state', (s) => s.event(life('pause'), 9)],
    ['an address', (s) => s.network(F, front({ Containers: {} }), s.seq, 9, 9)],
    ['a network', (s) => s.network(F, front({ Options: { a: 'b' } }), s.seq, 9, 9)],
    ['no network', (s) => s.networkList([], s.seq, 9, 9)],
    ['what joins', (s) => s.event(attach('connect'), 9)],
    ['a container that starts', (s) => s.event(life('create', B), 9)],
    ['no container', (s) => s.event(life('destroy'), 9)],
    [
      'a process',
      (s) => {
        const i = readInspect(containerInspect({ State: { Pid: 77 } }));
        if (i) s.inspected(i, s.seq, 9);
      },
    ],
  ])('and views with another of these do not: %s', (_, change) => {
    const s = running();
    const before = view(s);
    change(s);
    expect(showSame(before, view(s))).toBe(false);
    expect(showSame(view(s), before)).toBe(false);
  });

  it('nor do those with and without a connection', () => {
    const now = view(running());
    expect(showSame(now, { ...now, connected: false })).toBe(false);
  });
});

describe('endpoints that Docker shows without a container', () => {
  const EP = { MacAddress: '02:42:ac:12:00:09', IPv4Address: '172.18.0.9/16' };
  const withEp = () => front({ Containers: { 'ep-1': EP } });
  const joining = (s: DockerState): string[] => [...(view(s).unnamed?.get(F)?.joining ?? ['unread'])];

  it('are those of the newest answer, whatever order the answers come in', () => {
    const s = new DockerState();
    expect(joining(s)).toEqual(['unread']);
    s.network(F, withEp(), s.seq, 1, 100);
    expect(joining(s)).toEqual([EP.MacAddress]);
    s.network(F, front({ Containers: {} }), s.seq, 2, 99);
    expect(joining(s)).toEqual([EP.MacAddress]);
    s.network(F, front({ Containers: {} }), s.seq, 3, 101);
    expect(joining(s)).toEqual([]);
    s.network(F, undefined, s.seq, 4);
    expect(joining(s)).toEqual(['unread']);
  });
  it('change nothing that rules are made of, but what was settled before counts no more', () => {
    const s = new DockerState();
    s.network(F, front({ Containers: {} }), s.seq, 1, 100);
    const [before, version] = [view(s), s.version];
    expect(s.network(F, withEp(), s.seq, 2, 101)).toEqual({ changed: false, wants: [] });
    expect(showSame(before, view(s))).toBe(true);
    expect(s.version).toBeGreaterThan(version);
    const known = s.version;
    s.network(F, withEp(), s.seq, 3, 102);
    expect(s.version).toBe(known);
  });
});
