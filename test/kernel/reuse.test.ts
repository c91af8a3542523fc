/** A random walk of everything that passes react to: the kernel has the same state with and without any reuse of results. */

import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { readConfig } from '../../src/config/config.js';
import { ForeignBridges } from '../../src/enforce/foreign-bridges.js';
import { EnforcementPass } from '../../src/enforce/pass.js';
import type { PassTrigger } from '../../src/enforce/pass-trigger.js';
import { type Overrides, Policies } from '../../src/enforce/policies.js';
import { Dataplane } from '../../src/kernel/dataplane.js';
import { FlowBlocklist } from '../../src/kernel/delete-flows.js';
import type { Kernel } from '../../src/kernel/kernel.js';
import { EMPTY_BRIDGE, hasOurLayout } from '../../src/kernel/nft-text.js';
import { Current } from '../../src/lib/current.js';
import { setReuse } from '../../src/lib/memo.js';
import type { ContainerFacts, DockerView, NetworkFacts } from '../../src/policy/container.js';
import { listFromObject } from '../../src/policy/list-parse.js';
import type { Grant, List, ModeSetting } from '../../src/policy/policy.js';
import type { AppliedState, HostLink } from '../../src/ruleset/applied-state.js';
import { type HostCgroups, NO_HOST_NET, type SubjectLimits } from '../../src/ruleset/desired-state.js';
import { shape } from '../pure/ruleset/sample.js';
import { runs } from '../pure/runs.js';
import { makeNetns, type Netns } from './in-netns.js';

const STEPS = Number(process.env.STEPS ?? runs(40));
const SEED = Number(process.env.SEED ?? Date.now() % 1_000_000);
const START = Date.parse('2026-01-01T00:00:00Z');
const nothing = (): void => undefined;
const log = { debug: nothing, info: nothing, warn: nothing, error: nothing };
const ENTRIES = [
  'a.example:443',
  '*.b.example:80',
  '192.0.2.1:443',
  '192.0.2.0/24:80',
  'any:22',
  'host:8080',
];
const MORE = [
  '!192.0.2.1',
  '!c.example',
  'container:c2:80',
  '224.0.0.251:5353/udp',
  '192.0.2.7:53 dns=direct',
];
const LABELS = ['', 'a.example:443', '192.0.2.9:1-9', 'list:one', 'any:22, !a.example'];
const NAMES = ['n', 'm'] as const;

const networkOf = (name: string, at: number): NetworkFacts => ({
  id: name,
  name,
  driver: 'bridge',
  scope: 'local',
  bridge: `br-${name}`,
  internal: false,
  ipv6: false,
  subnets: [`172.${18 + at}.0.0/16`],
  gateways: [`172.${18 + at}.0.1`],
  labels: {},
  options: {},
});
const NETWORKS = new Map(NAMES.map((name, at) => [name as string, networkOf(name, at)] as const));
const BRIDGES = NAMES.map(
  (name, at): HostLink => ({
    index: 3 + at,
    name: `br-${name}`,
    kind: 'bridge',
    mac: `02:42:00:00:00:0${at}`,
    since: 0,
  }),
);
const idOf = (n: number): string => `${n}`.padStart(12, '0').padEnd(64, 'c');

interface Placed {
  readonly n: number;
  readonly network: number;
  readonly veth: number;
  readonly state: ContainerFacts['state'];
  readonly label: string;
}
const macOf = ({ n, veth }: Placed): string => `02:42:ac:${(veth % 90) + 10}:00:0${n}`;
const factsOf = (c: Placed): ContainerFacts => ({
  id: idOf(c.n),
  name: `c${c.n}`,
  image: 'busybox',
  imageId: 'i',
  labels: {
    ...(c.label === '' ? {} : { 'drawbridge.allow': c.label }),
    ...(c.n < 2 ? { 'drawbridge.limit': 'connections=200, quota=5GB/day' } : {}),
  },
  imageLabels: {},
  state: c.state,
  networkMode: NAMES[c.network] ?? '',
  endpoints: [
    {
      networkId: NAMES[c.network] ?? '',
      mac: macOf(c),
      ip4: `172.${18 + c.network}.0.${2 + c.n}`,
      dnsNames: [],
      askedAt: 10,
    },
  ],
  published: c.n % 2 === 0 ? [] : [{ proto: 'tcp', containerPort: 80 }],
});
const linkOf = (c: Placed): HostLink => ({
  index: c.veth,
  name: `veth${c.veth}`,
  kind: 'veth',
  mac: '',
  since: 1,
  master: 3 + c.network,
  peerMac: macOf(c),
});

/** What happens on the host and by people, the same for both. */
class Scene {
  placed: readonly Placed[] = [];
  limits: ReadonlyMap<string, SubjectLimits> = new Map();
  links = 0;
  view: DockerView = this.#viewNow();
  overrides: Overrides = {
    lists: new Map(),
    absent: new Map(),
    grants: [],
    modes: new Map(),
    pauses: [],
    lockdown: undefined,
  };

  place(placed: readonly Placed[]): void {
    this.placed = placed;
    this.links += 1;
    this.view = this.#viewNow();
  }

  #viewNow(): DockerView {
    return {
      content: {},
      containers: new Map(this.placed.map((c) => [idOf(c.n), factsOf(c)])),
      networks: NETWORKS,
      listings: 1,
      listBegan: 0,
      starting: new Set(),
      attached: new Set(this.placed.map((c) => idOf(c.n))),
      connected: true,
    };
  }
}

/** A service with its kernel. */
class World {
  readonly #ns: Netns;
  readonly #isReusing: boolean;
  readonly #scene: Scene;
  #plane: Dataplane | undefined;
  #pass: EnforcementPass;
  #later: { readonly at: number; readonly trigger: PassTrigger }[] = [];
  #runs = Number.POSITIVE_INFINITY;
  passes = 0;
  short = 0;

  constructor(ns: Netns, isReusing: boolean, scene: Scene) {
    [this.#ns, this.#isReusing, this.#scene] = [ns, isReusing, scene];
    this.#pass = this.#service();
  }

  restart(): void {
    this.#later = [];
    this.#pass = this.#service();
  }

  /** After so many runs of tools that write, one fails. */
  failAfter(runs: number): void {
    this.#runs = runs;
  }

  async run(triggers: readonly PassTrigger[], resync: boolean): Promise<void> {
    setReuse(this.#isReusing);
    if (!this.#isReusing) this.#plane?.invalidate();
    const now = Date.now();
    const due = this.#later.filter(({ at }) => at <= now).map(({ trigger }) => trigger);
    this.#later = this.#later.filter(({ at }) => at > now);
    const later = (trigger: PassTrigger, ms: number): void => {
      this.#later.push({ at: now + ms, trigger });
    };
    try {
      await this.#pass.run({ triggers: [...triggers, ...due], resync, later });
    } catch (e) {
      if (this.#runs > 0) throw e;
      this.failAfter(Number.POSITIVE_INFINITY);
      await this.#pass.run({ triggers: [...triggers, ...due, { kind: 'retry' }], resync: true, later });
    } finally {
      this.failAfter(Number.POSITIVE_INFINITY);
      setReuse(true);
    }
  }

  #service(): EnforcementPass {
    const exec: Netns['exec'] = (file, args, options) => {
      if (options?.input !== undefined) this.#runs -= 1;
      return this.#runs < 0
        ? Promise.reject(new Error('a tool has failed'))
        : this.#ns.exec(file, args, options);
    };
    const plane = new Dataplane(exec, shape, (name) => /^veth(\d+)$/.exec(name)?.slice(1).map(Number)[0]);
    this.#plane = plane;
    const scene = this.#scene;
    const kernel = {
      links: async () => [...BRIDGES, ...scene.placed.filter((c) => c.state !== 'exited').map(linkOf)],
      get linkReports() {
        return scene.links;
      },
      readSnapshot: async () => {
        const { bridge, backstop, sets } = await plane.read();
        const elements = hasOurLayout(shape, bridge) ? bridge.elements : EMPTY_BRIDGE;
        const host = { hostMarks: new Map(), hostGates: [], hostZones: new Set() };
        return { bridge: elements, isInstalled: backstop.rules.length > 0, sets, ...host };
      },
      bulk: { allEntries: () => new Map() },
      apply: (...args: Parameters<Dataplane['apply']>) => {
        this.passes += 1;
        if (args[2]) this.short += 1;
        return plane.apply(...args);
      },
      invalidate: () => plane.invalidate(),
      flows: { flows: async () => [], flowsAmong: async () => [], delete: () => false, mark: () => true },
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
    const config = readConfig({});
    if (!config.ok) throw new Error('the default configuration is wrong');
    const policies = new Policies({
      config: config.value,
      docker: { view: () => scene.view },
      overrides: () => scene.overrides,
      temper: (policy) => policy,
    });
    const hosts: HostCgroups = { net: NO_HOST_NET, cgroups: new Map(), late: new Map(), open: new Map() };
    return new EnforcementPass({
      applied: new Current<AppliedState>(),
      shape,
      kernel,
      policies,
      reset: async () => undefined,
      blocklist: new FlowBlocklist(kernel, shape.prefix, Date.now),
      threats: { has: () => false, repair: nothing },
      docker: { view: () => scene.view },
      quotas: { limitsOf: ({ id }, policy) => (policy.limits ? scene.limits.get(id) : undefined) },
      foreign: new ForeignBridges(),
      hostMode: {
        senders: { find: () => hosts, setInstalled: nothing },
        resolvers: { sync: async () => undefined },
      },
      names: { applied: nothing, inherited: nothing },
      reserved: { list: () => [] },
      dns: { members: () => new Map(), isMember: () => false, learn: async () => undefined },
      log,
      now: Date.now,
      verified: { permits: () => true, knows: () => false },
      installInNamespaces: async () => undefined,
    });
  }
}

const SAVE =
  'iptables-save; echo =; ip6tables-save; echo =; ipset save; echo =; nft -nn list ruleset 2> /dev/null';
/**
 * The rules of each chain in their order; sets and maps with their members in any order. The kernel chooses `initval` at
 * random, and by it when a table of hashes (`hashsize`) grows.
 */
function stateOf(ns: Netns): readonly (readonly string[])[] {
  const [ip4 = '', ip6 = '', sets = '', nft = ''] = ns.run('sh', '-c', SAVE).split('\n=\n');
  const rules = (text: string): string[] =>
    text.split(/^\*/m).flatMap((table) => {
      const lines = table.split('\n').filter((line) => /^(:|-A )/.test(line));
      const keyed = lines.map((line) => [/^(?::|-A )(\S+)/.exec(line)?.[1] ?? '', line] as const);
      const sorted = keyed.sort(([a], [b]) => Number(a > b) - Number(a < b)); // rules of one chain keep their order
      return sorted.map(([, line]) => `${table.split('\n')[0]} ${line.replace(/ \[\d+:\d+\]$/, '')}`);
    });
  const own = nft.split(/^(?=table )/m).filter((table) => /^table (bridge|inet|arp) /.test(table));
  const words = own.flatMap((table) => table.split(/[\n,{}]/).map((word) => word.trim()));
  return [
    rules(ip4),
    rules(ip6),
    sets
      .replace(/ (initval|hashsize) \S+/g, '')
      .split('\n')
      .sort(),
    words.map((word) => word.replace(/counter packets \d+ bytes \d+/, '')).sort(),
  ];
}

function randomOf(seed: number) {
  let state = seed;
  const next = (): number => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
  const below = (n: number): number => Math.floor(next() * n);
  return {
    below,
    one: <T>(from: readonly T[]): T => from[below(from.length)] as T,
    some: <T>(from: readonly T[]): T[] => from.filter(() => next() < 0.3),
  };
}

const LIMITS: readonly (SubjectLimits | undefined)[] = [
  undefined,
  { connections: 7 },
  { quota: { name: 'q-1', bytes: 10, used: 0, spent: true, until: 1, reached: 'reached' } },
  { quota: { name: 'q-1', bytes: 10, used: 0, spent: false, until: 1, reached: 'reached' } },
];

class Walk {
  readonly scene = new Scene();
  readonly spaces = [makeNetns(), makeNetns()] as const;
  readonly worlds = [
    new World(this.spaces[0], true, this.scene),
    new World(this.spaces[1], false, this.scene),
  ] as const;
  readonly #random = randomOf(SEED);
  #veths = 100;
  #grants = 0;
  #resync = false;
  #triggers: readonly PassTrigger[] = [];

  readonly #moves: Readonly<Record<string, () => void>> = {
    start: () => this.#place({ network: this.#random.below(2), veth: this.#veths++, state: 'running' }),
    move: () => this.#place({ network: this.#random.below(2), veth: this.#veths++ }),
    pause: () => this.#place({ state: this.#random.one(['paused', 'running'] as const) }),
    stop: () => this.#place({ state: 'exited' }),
    remove: () => {
      const of = this.#random.below(4);
      this.scene.place(this.scene.placed.filter(({ n }) => n !== of));
    },
    label: () => this.#place({ label: this.#random.one(LABELS) }),
    grant: () => this.#grant(),
    'more grants': () => this.#grant(),
    'end of a grant': () =>
      this.#set({ grants: this.scene.overrides.grants.filter(() => this.#random.below(3) > 0) }),
    list: () => this.#list(),
    mode: () => this.#mode(),
    quota: () => {
      const limits = this.#random.one(LIMITS);
      const of = idOf(this.#random.below(2));
      const others = [...this.scene.limits].filter(([id]) => id !== of);
      this.scene.limits = new Map(limits ? [...others, [of, limits] as const] : others);
    },
    emergency: () => this.#emergency(),
    time: () => this.#pass(this.#random.below(12) * 1_000),
    'a failed tool': () => {
      const runs = this.#random.below(4);
      for (const world of this.worlds) world.failAfter(runs);
      this.#grant();
    },
    flush: () => this.#flush(),
    restart: () => {
      for (const world of this.worlds) world.restart();
    },
  };

  /** The name of what has happened. */
  async step(): Promise<string> {
    const move = this.#random.one(Object.keys(this.#moves));
    [this.#resync, this.#triggers] = [false, [{ kind: 'changes' }]];
    this.#moves[move]?.();
    this.#pass(this.#random.below(3) * 60);
    for (const world of this.worlds) await world.run(this.#triggers, this.#resync);
    return move;
  }

  #pass(ms: number): void {
    vi.advanceTimersByTime(ms);
    const now = Date.now();
    const left = this.scene.overrides.grants.filter((g) => Date.parse(g.expires ?? '9999-01-01') > now);
    if (left.length < this.scene.overrides.grants.length) this.#set({ grants: left });
  }

  readonly #id = (): string => idOf(this.#random.below(4));

  #set(more: Partial<Overrides>): void {
    this.scene.overrides = { ...this.scene.overrides, ...more };
  }

  #place(more: Partial<Placed>): void {
    const n = this.#random.below(4);
    const was = this.scene.placed.find((c) => c.n === n);
    const fresh: Placed = { n, network: 0, veth: this.#veths++, state: 'running', label: '' };
    this.scene.place([...this.scene.placed.filter((c) => c !== was), { ...(was ?? fresh), ...more }]);
  }

  #grant(): void {
    const seconds = this.#random.below(20);
    const grant: Grant = {
      id: `g${this.#grants++}`,
      entry: this.#random.one([...ENTRIES, ...MORE.slice(2)]),
      owner: this.#random.one([`id:${this.#id()}`, `name:c${this.#random.below(4)}`]),
      created: new Date().toISOString(),
      ...(seconds > 8 ? { expires: new Date(Date.now() + seconds * 1_000).toISOString() } : {}),
    };
    this.#set({ grants: [...this.scene.overrides.grants, grant].slice(-9) });
  }

  #list(): void {
    const name = this.#random.one(['one', 'two']);
    const lists = new Map<string, List>(this.scene.overrides.lists);
    const match = this.#random.one([{}, { match: { network: 'n' } }, { match: { name: 'c*' } }]);
    const parsed = listFromObject(name, 'folder', {
      allow: this.#random.some([...ENTRIES, ...MORE]),
      ...match,
    });
    if (parsed.ok && this.#random.below(4) > 0) lists.set(name, parsed.value);
    else lists.delete(name);
    this.#set({ lists });
  }

  #mode(): void {
    const modes = new Map<string, ModeSetting>(this.scene.overrides.modes);
    const owner = `name:c${this.#random.below(4)}`;
    const mode = this.#random.one([undefined, 'enforce', 'observe', 'off'] as const);
    if (mode) modes.set(owner, { mode });
    else modes.delete(owner);
    this.#set({ modes });
  }

  #emergency(): void {
    const [by, created] = ['ann', new Date().toISOString()];
    const owner = this.#random.one(['all', `id:${this.#id()}`]);
    const pause = { owner, by, created, expires: '2027-01-01T00:00:00Z' };
    const lockdown = this.#random.below(3) === 0 ? { since: created, by } : undefined;
    this.#set({ lockdown, pauses: this.#random.below(2) === 0 ? [pause] : [] });
  }

  /** Another process flushes one of our chains. */
  #flush(): void {
    const rules = this.spaces[0].run('iptables', '-S').split('\n');
    const chains = rules
      .filter((line) => line.startsWith('-N DB-'))
      .map((line) => line.slice(3))
      .sort();
    if (chains.length === 0) return;
    const chain = this.#random.one(chains);
    for (const ns of this.spaces) ns.run('iptables', '-F', chain);
    this.#resync = true;
    this.#triggers = [{ kind: 'tampering', what: 'rules' }];
  }

  [Symbol.dispose](): void {
    for (const ns of this.spaces) ns[Symbol.dispose]();
  }
}

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['Date', 'performance'], now: START });
});
afterEach(() => {
  vi.useRealTimers();
  setReuse(true);
});

it(`after each of ${STEPS} steps the kernel has the state that it has without any reuse (SEED=${SEED})`, {
  timeout: 60_000 + STEPS * 2_000,
}, async () => {
  using walk = new Walk();
  for (const ns of walk.spaces) ns.run('iptables', '-N', 'DOCKER-USER');
  const moves: string[] = [];
  for (let n = 0; n < STEPS; n++) {
    moves.push(await walk.step());
    const [reused, fresh] = walk.spaces.map(stateOf);
    expect(reused, `SEED=${SEED}, step ${n}: ${moves.slice(-5).join(', ')}`).toEqual(fresh);
  }
  const [reusing, whole] = walk.worlds;
  expect(whole.short).toBe(0);
  expect(reusing.short).toBeGreaterThan(STEPS / 20);
});
