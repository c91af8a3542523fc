/** One pass after the other, with a kernel that takes everything: what a pass decides by, and what it does not work out again. */

import { isDeepStrictEqual } from 'node:util';
import { describe, expect, it } from 'vitest';
import { ForeignBridges } from '../../../src/enforce/foreign-bridges.js';
import { EnforcementPass } from '../../../src/enforce/pass.js';
import type { Pass } from '../../../src/enforce/pass-trigger.js';
import type { PolicyStamp } from '../../../src/enforce/policies.js';
import { FlowBlocklist } from '../../../src/kernel/delete-flows.js';
import type { Kernel } from '../../../src/kernel/kernel.js';
import { EMPTY_BRIDGE } from '../../../src/kernel/nft-text.js';
import { Current } from '../../../src/lib/current.js';
import type { ContainerFacts, DockerView, NetworkFacts } from '../../../src/policy/container.js';
import type { Policy } from '../../../src/policy/policy.js';
import type { AppliedState, HostLink } from '../../../src/ruleset/applied-state.js';
import { compile } from '../../../src/ruleset/compile.js';
import { type DesiredState, type HostCgroups, NO_HOST_NET } from '../../../src/ruleset/desired-state.js';
import type { Flow } from '../../../src/ruleset/flow.js';
import type { ReservedPort } from '../../../src/ruleset/reserved-ports.js';
import { BARE_FLOW } from '../bare-flow.js';
import { entriesOf, shape, withOwnMaps } from '../ruleset/sample.js';

const nothing = (): void => undefined;
const NETWORK: NetworkFacts = {
  id: 'n',
  name: 'web',
  driver: 'bridge',
  scope: 'local',
  bridge: 'br-web',
  internal: false,
  ipv6: false,
  subnets: ['172.18.0.0/16'],
  gateways: ['172.18.0.1'],
  labels: {},
  options: {},
};
const BRIDGE: HostLink = { index: 3, name: 'br-web', kind: 'bridge', mac: '02:42:00:00:00:01', since: 0 };
const idOf = (n: number): string => `${n}`.padStart(12, '0').padEnd(64, 'c');
const macOf = (n: number): string =>
  `02:42:ac:12:${(n >> 8).toString(16).padStart(2, '0')}:${(n & 255).toString(16).padStart(2, '0')}`;
const containerOf = (n: number): ContainerFacts => ({
  id: idOf(n),
  name: `c${n}`,
  image: 'busybox',
  imageId: 'i',
  labels: {},
  imageLabels: {},
  state: 'running',
  networkMode: 'web',
  endpoints: [
    { networkId: 'n', mac: macOf(n), ip4: `172.18.${n >> 8}.${n & 255}`, dnsNames: [], askedAt: 10 },
  ],
  published: [],
});
const vethOf = (n: number): HostLink => ({
  index: 100 + n,
  name: `veth${n}`,
  kind: 'veth',
  mac: '',
  since: 1,
  master: BRIDGE.index,
  peerMac: macOf(n),
});

const policyWith = (entries: string): Policy => ({
  mode: 'enforce',
  modeSource: { kind: 'label' },
  entries: entries === '' ? [] : entriesOf(entries),
  lists: [],
  notes: [],
});

function house() {
  let now = 1_000_000;
  let present: readonly number[] = [];
  let allow = 'a.example:80';
  const applied: DesiredState[] = [];
  const changed = new Map<number, Partial<ContainerFacts>>();
  let starting: ReadonlySet<string> = new Set();
  let linkReports = 0;
  let closed: readonly ReservedPort[] = [];
  let unattributed = policyWith('');
  let policies = new Map<number, Policy>();
  const read = { links: 0, cgroups: 0, flows: 0 };
  let refill: readonly string[] = [];
  let listings = 0;
  let last: DockerView | undefined;
  let snapshot = { bridge: EMPTY_BRIDGE, isInstalled: false };
  /** What the next apply has written before it fails. */
  let failing: ((desired: DesiredState) => typeof snapshot) | undefined;
  let isLearning = true;
  const table = new Set<Flow>();
  const view = (): DockerView => {
    last ??= viewNow();
    return last;
  };
  const viewNow = (): DockerView => ({
    content: {},
    containers: new Map(present.map((n) => [idOf(n), { ...containerOf(n), ...changed.get(n) }])),
    networks: new Map([[NETWORK.id, NETWORK]]),
    listings: 1,
    listBegan: 0,
    starting,
    attached: new Set(present.map(idOf)),
    connected: true,
  });
  const kernel = {
    links: async () => {
      read.links += 1;
      return [BRIDGE, ...present.map(vethOf)];
    },
    get linkReports() {
      return linkReports;
    },
    readSnapshot: async () => ({
      ...snapshot,
      hostMarks: new Map(),
      hostGates: [],
      hostZones: new Set(),
      sets: new Map(),
    }),
    sets: {
      allEntries: () => {
        listings += 1;
        return new Map();
      },
    },
    apply: async (desired: DesiredState, before: () => Promise<void>) => {
      await before();
      const written = failing?.(desired);
      failing = undefined;
      if (written) {
        snapshot = written;
        throw new Error('nft has failed');
      }
      applied.push(desired);
      return { changed: true, refill, repaired: false };
    },
    invalidate: nothing,
    flows: {
      flows: async (family: 4 | 6) => {
        read.flows += 1;
        return [...table].filter((f) => f.family === family);
      },
      flowsAmong: async () => [...table],
      delete: (f: Flow) => table.delete(f),
      mark: () => true,
    },
    sockets: async () => [],
    members: async () => new Map(),
    add: async () => undefined,
    remove: async () => undefined,
    addToBlocklist: async () => undefined,
    removeFromBlocklist: async () => undefined,
    hostAddresses: () => new Set<string>(),
    routeNeighbours: async () => undefined,
    setStaticEntries: nothing,
    removeSurplusRoutes: async () => undefined,
  } as unknown as Kernel;
  const hosts: HostCgroups = { net: NO_HOST_NET, cgroups: new Map(), late: new Map(), open: new Map() };
  const current = new Current<AppliedState>();
  const enforcer = new EnforcementPass({
    applied: current,
    shape,
    kernel,
    reset: async () => undefined,
    blocklist: new FlowBlocklist(kernel, shape.prefix, () => now),
    threats: { has: () => false, repair: nothing },
    docker: { view },
    policies: {
      policyOf: ({ name }) => {
        const n = Number(name.slice(1));
        const policy = policies.get(n) ?? policyWith(allow);
        policies.set(n, policy);
        return policy;
      },
      eastWest: () => undefined,
      isManaged: () => true,
      isLan: () => false,
      unattributed: () => unattributed,
      stamp: () => ({ policies: new Map(policies), overrides: {} }) as unknown as PolicyStamp,
      changedSince: (was) => {
        const before = (was as unknown as { policies: typeof policies }).policies;
        return new Set([...policies].filter(([n, p]) => before.get(n) !== p).map(([n]) => idOf(n)));
      },
    },
    quotas: { limitsOf: () => undefined },
    foreign: new ForeignBridges(),
    hostMode: {
      senders: {
        find: () => {
          read.cgroups += 1;
          return hosts;
        },
        setInstalled: nothing,
      },
      resolvers: { sync: async () => undefined },
    },
    names: { applied: nothing, inherited: nothing },
    reserved: { list: () => closed },
    dns: { members: () => new Map(), isMember: () => false, learn: async () => undefined },
    log: { debug: nothing, info: nothing, warn: nothing, error: nothing },
    now: () => now,
    verified: { permits: () => true, knows: () => false },
    installInNamespaces: async () => {
      if (!isLearning) throw new Error('a namespace has failed');
    },
  });
  const pass = async (...numbers: number[]): Promise<DesiredState> => {
    present = numbers;
    last = undefined;
    await enforcer.run({ triggers: [], resync: false, later: nothing });
    return applied.at(-1) as DesiredState;
  };
  /** A pass that only changes of policies have requested. Returns what it has looked for. */
  const passOfChanges = async (more: Partial<Pass> = {}): Promise<typeof read> => {
    const before = { ...read };
    await enforcer.run({ triggers: [{ kind: 'changes' }], resync: false, later: nothing, ...more });
    return {
      links: read.links - before.links,
      cgroups: read.cgroups - before.cgroups,
      flows: read.flows - before.flows,
    };
  };
  return {
    current,
    enforcer,
    applied,
    pass,
    passOfChanges,
    table,
    /** What the rules of an earlier run are. */
    found: (is: typeof snapshot) => {
      snapshot = is;
    },
    fails: (written: typeof failing) => {
      failing = written;
    },
    /** Whether the step behind the published state fails. */
    works: (is: boolean) => {
      isLearning = is;
    },
    /** The next passes create these sets. */
    creates: (sets: readonly string[]) => {
      refill = sets;
    },
    /** How often all sets were listed. */
    listings: () => listings,
    /** The policy of one container is another one. */
    grant: (n: number, entries: string) => {
      policies.set(n, policyWith(entries));
    },
    /** Docker has reported something. */
    reported: () => {
      last = undefined;
    },
    /** Docker has listed the same again. */
    listedAgain: () => {
      last = { ...viewNow(), content: view().content, listBegan: 1, listings: 2 };
    },
    linkReported: () => {
      linkReports += 1;
    },
    closes: (ports: readonly ReservedPort[]) => {
      closed = ports;
    },
    permitsOthers: (entries: string) => {
      unattributed = policyWith(entries);
    },
    passes: (ms: number) => {
      now += ms;
    },
    permits: (entries: string) => {
      allow = entries;
      policies = new Map();
    },
    becomes: (n: number, facts: Partial<ContainerFacts>, isStarting: boolean) => {
      changed.set(n, facts);
      starting = new Set(isStarting ? [idOf(n)] : []);
    },
  };
}
describe('a first start that fails on its way', () => {
  /** By a datagram of the container, which answers nothing: conntrack saw what came from outside first. */
  const reversed: Flow = {
    ...BARE_FLOW,
    family: 4,
    proto: 17,
    mark: 0,
    orig: { src: '93.184.1.1', dst: '172.18.0.1', sport: 19, dport: 4000 },
    reply: { src: '172.18.0.1', dst: '93.184.1.1', sport: 4000, dport: 19 },
  };

  it.each([
    ['behind the identities of the veths', false],
    ['behind all rules', true],
  ])('%s: the next pass knows that the host was open', async (_, isInstalled) => {
    const { pass, fails, table } = house();
    table.add(reversed);
    fails(({ bridge }) => ({ bridge, isInstalled }));
    await expect(pass(1)).rejects.toThrow('nft has failed');
    expect(table.size).toBe(1);
    await pass(1);
    expect(table.size).toBe(0);
  });

  it('by the process: the next start knows it from the kernel, which has not all rules', async () => {
    const { bridge } = await house().pass(1);
    const { pass, found, table } = house();
    found({ bridge, isInstalled: false });
    table.add(reversed);
    await pass(1);
    expect(table.size).toBe(0);
  });

  it('between the rules and the revocation: its flows are due', async () => {
    const { pass, works, table } = house();
    table.add(reversed);
    works(false);
    await expect(pass(1)).rejects.toThrow('a namespace has failed');
    expect(table.size).toBe(1);
    works(true);
    await pass(1);
    expect(table.size).toBe(0);
  });
});

const hasChain = (state: DesiredState, n: number): boolean =>
  state.tables.some((t) => t.chains.has(`DB-c-${idOf(n).slice(0, 12)}`));
const chainOf = (state: DesiredState, n: number): unknown =>
  state.tables[0]?.chains.get(`DB-c-${idOf(n).slice(0, 12)}`);

it('rules of a container that went are removed after two seconds, however often a plan is asked for', async () => {
  const { enforcer, pass, passes } = house();
  await pass(1, 2);
  expect(hasChain(await pass(1), 2)).toBe(true);
  for (let n = 0; n < 10; n++) {
    passes(250);
    const wanted = await enforcer.wanted();
    expect(hasChain(wanted, 2)).toBe(n < 7);
  }
  expect(hasChain(await pass(1), 2)).toBe(false);
  expect(hasChain(await enforcer.wanted(), 2)).toBe(false);
});

it('a pass for one container more keeps what was rendered for the others', async () => {
  const { pass, permits } = house();
  await pass(1, 2);
  await new Promise((done) => setTimeout(done, 120)); // their ports are new for 100 ms
  const before = await pass(1, 2);
  const after = await pass(1, 2, 3);
  for (const n of [1, 2]) {
    expect(chainOf(after, n)).toBeDefined();
    expect(chainOf(after, n)).toBe(chainOf(before, n));
  }
  permits('b.example:80, 192.0.2.1:443');
  const changed = await pass(1, 2, 3);
  for (const n of [1, 2, 3]) expect(chainOf(changed, n)).not.toEqual(chainOf(after, n));
});

it('a container in the host network keeps its number when it is created, listed as created, and started', async () => {
  const { current, pass, becomes } = house();
  const host = { networkMode: 'host', endpoints: [] };
  const numbers: (number | undefined)[] = [];
  for (const [state, isStarting] of [
    ['created', true],
    ['created', false],
    ['running', true],
  ] as const) {
    becomes(7, { ...host, state }, isStarting);
    await pass(7);
    numbers.push(current.value?.subjects.get(idOf(7))?.identity);
  }
  expect(numbers[0]).toBeDefined();
  expect(new Set(numbers).size).toBe(1);
});

const settled = async () => {
  const made = house();
  await made.pass(1, 2);
  await new Promise((done) => setTimeout(done, 120)); // their ports are new for 100 ms
  await made.pass(1, 2);
  return made;
};

describe('a pass for changes of policies alone', () => {
  it('looks for nothing else, and renders what has changed', async () => {
    const { current, grant, passOfChanges } = await settled();
    const before = current.value?.desired as DesiredState;
    grant(1, 'a.example:80, 192.0.2.1:443');
    expect(await passOfChanges()).toEqual({ links: 0, cgroups: 0, flows: 0 });
    const { desired, input } = current.value as AppliedState;
    expect(chainOf(desired, 1)).not.toEqual(chainOf(before, 1));
    expect(chainOf(desired, 2)).toBe(chainOf(before, 2));
    expect(isDeepStrictEqual(withOwnMaps(desired), compile(structuredClone(input)))).toBe(true);
  });

  it('says that all places are the same, which no other pass does', async () => {
    const { current, grant, passOfChanges, reported } = await settled();
    const places = () => current.value?.places;
    const before = places();
    grant(1, 'a.example:80, 192.0.2.1:443');
    await passOfChanges();
    expect(places()).toBe(before);
    expect([...(current.value?.subjects.keys() ?? [])]).toHaveLength(3);
    expect(current.value?.subjects.get(idOf(1))).toBe(current.value?.input.subjects[0]);
    reported();
    await passOfChanges();
    expect(places()).not.toBe(before);
    const later = places();
    await passOfChanges({ resync: true });
    expect(places()).not.toBe(later);
  });

  it('deletes flows if an entry has gone, and not if one has come', async () => {
    const { grant, passOfChanges } = await settled();
    grant(1, 'a.example:80, 192.0.2.1:443');
    expect((await passOfChanges()).flows).toBe(0);
    grant(1, 'a.example:80');
    expect((await passOfChanges()).flows).toBeGreaterThan(0);
    expect((await passOfChanges()).flows).toBe(0);
  });

  it('looks for everything if anything that a pass finds may be another', async () => {
    const { enforcer, passOfChanges, reported, linkReported, closes, permitsOthers } = await settled();
    const found = { links: 1, cgroups: 1 };
    const none = { links: 0, cgroups: 0, flows: 0 };
    expect(await passOfChanges({ resync: true })).toMatchObject(found);
    expect(await passOfChanges({ triggers: [{ kind: 'changes' }, { kind: 'waiter' }] })).toMatchObject(found);
    expect(await passOfChanges({ triggers: [{ kind: 'departed' }] })).toMatchObject(found);
    expect(await passOfChanges()).toEqual(none);
    reported();
    expect(await passOfChanges()).toMatchObject(found);
    linkReported();
    expect(await passOfChanges()).toMatchObject(found);
    closes([{ port: 6379 }]);
    expect(await passOfChanges()).toMatchObject(found);
    permitsOthers('192.0.2.1:443');
    expect(await passOfChanges()).toMatchObject(found);
    enforcer.recheck(new Set([idOf(1)]));
    expect(await passOfChanges()).toMatchObject(found);
    expect(await passOfChanges()).toEqual(none);
  });

  it('looks for nothing else after a list of Docker that shows the same', async () => {
    const { current, grant, passOfChanges, listedAgain } = await settled();
    for (const entries of ['192.0.2.1:443', '192.0.2.2:443']) {
      const places = current.value?.places;
      listedAgain();
      grant(1, entries);
      expect(await passOfChanges()).toMatchObject({ links: 0, cgroups: 0 });
      expect(current.value?.places).toBe(places);
      const { desired, input } = current.value as AppliedState;
      expect(isDeepStrictEqual(withOwnMaps(desired), compile(structuredClone(input)))).toBe(true);
    }
  });

  it('looks for everything after a pass that has failed', async () => {
    const { current, enforcer, grant, passOfChanges } = await settled();
    const failing = enforcer.installed.subscribe(() => {
      throw new Error('a step fails');
    });
    grant(1, '192.0.2.1:443');
    await expect(passOfChanges()).rejects.toThrow('a step fails');
    failing[Symbol.dispose]();
    const found = await passOfChanges();
    expect(found).toMatchObject({ links: 1, cgroups: 1 });
    // the flows of the entry that went were not checked by the pass that failed
    expect(found.flows).toBeGreaterThan(0);
    expect(current.value?.subjects.get(idOf(1))?.policy.entries).toHaveLength(1);
  });
});

describe('the learned sets of many containers', () => {
  const many = Array.from({ length: 70 }, (_, n) => n + 1);

  it('are not listed by the first pass, which has read them', async () => {
    const { enforcer, pass, listings } = house();
    await pass(...many);
    expect(listings()).toBe(0);
    await enforcer.run({ triggers: [], resync: true, later: nothing });
    expect(listings()).toBe(1);
  });

  it('are listed by a first pass that has created some', async () => {
    const { creates, pass, listings } = house();
    creates(['DB-x']);
    await pass(...many);
    expect(listings()).toBe(1);
  });
});
