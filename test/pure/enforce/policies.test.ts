/** A policy that is kept is the one that would be compiled now, whatever has changed since it was, and however the clock goes. */
import fc from 'fast-check';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { CurrentOverrides } from '../../../src/changes/current-overrides.js';
import { ChangesState } from '../../../src/changes/stored-state.js';
import { readConfig } from '../../../src/config/config.js';
import { EMPTY_FOLDER, type FolderState } from '../../../src/config/list-files.js';
import { Policies } from '../../../src/enforce/policies.js';
import type { ContainerFacts, DockerView, NetworkFacts } from '../../../src/policy/container.js';
import { listFromObject } from '../../../src/policy/list-parse.js';
import type { List } from '../../../src/policy/policy.js';

const START = Date.parse('2026-01-01T00:00:00Z');
const SECOND = 1_000;
const at = (seconds: number): string => new Date(START + seconds * SECOND).toISOString();
const nothing = (): void => undefined;
const log = { debug: nothing, info: nothing, warn: nothing, error: nothing };

const NAMES = ['web', 'db'] as const;
const LABELS = [
  {},
  { 'drawbridge.allow': 'a.example:443' },
  { 'drawbridge.lists': 'one' },
  { 'drawbridge.mode': 'observe' },
  { 'drawbridge.allow': '::' },
  { 'com.docker.compose.project': 'p', 'com.docker.compose.service': 's' },
];
const ENTRIES = ['b.example:443', '192.0.2.1:80', 'list:two'];
const MATCHES = [undefined, { network: 'front' }, { name: 'w*' }];
const name = fc.constantFrom(...NAMES);
const owner = fc.constantFrom('name:web', 'name:db', 'id:web', 'id:db', 'compose:p/s');
const end = fc.option(fc.integer({ min: -3, max: 9 }), { nil: undefined });

const step = fc.oneof(
  fc.record({ kind: fc.constant('labels' as const), name, labels: fc.constantFrom(...LABELS) }),
  fc.record({ kind: fc.constant('image labels' as const), name, isKnown: fc.boolean() }),
  fc.record({ kind: fc.constant('network' as const), name: fc.constantFrom('front', 'back') }),
  fc.record({ kind: fc.constant('asked again' as const) }),
  fc.record({
    kind: fc.constant('list' as const),
    list: fc.constantFrom('one', 'two'),
    from: fc.constantFrom('store', 'folder' as const),
    isGone: fc.boolean(),
    entries: fc.subarray(ENTRIES),
    expires: end,
    match: fc.constantFrom(...MATCHES),
  }),
  fc.record({
    kind: fc.constant('grant' as const),
    id: fc.constantFrom('g1', 'g2'),
    isGone: fc.boolean(),
    owner,
    expires: end,
  }),
  fc.record({
    kind: fc.constant('mode' as const),
    owner,
    mode: fc.constantFrom(undefined, 'enforce', 'observe', 'off' as const),
  }),
  fc.record({ kind: fc.constant('pause' as const), owner: fc.constantFrom('all', 'id:web'), expires: end }),
  fc.record({ kind: fc.constant('lockdown' as const), isOn: fc.boolean() }),
  fc.record({ kind: fc.constant('clock' as const), seconds: fc.integer({ min: -4, max: 6 }) }),
);
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

class World {
  readonly state = new ChangesState(
    log,
    () => this.#monotonic,
    async (list, source, body) => listFromObject(list, source, body),
  );
  folder: { state: FolderState } = { state: EMPTY_FOLDER };
  readonly facts = new Map<string, ContainerFacts>(NAMES.map((n) => [n, factsOf(n)]));
  #network = 'front';
  #askedAt = 0;
  #monotonic = 0;
  #revision = 0;
  #view: DockerView | undefined;
  #content = {};
  readonly kept = this.policies(new CurrentOverrides(this.folder, this.state));

  policies(current: CurrentOverrides): Policies {
    const config = readConfig({});
    if (!config.ok) throw new Error('the default configuration is wrong');
    return new Policies({
      config: config.value,
      docker: { view: () => this.view() },
      overrides: () => current.read(Date.now()),
      temper: (policy) => policy,
    });
  }

  view(): DockerView {
    this.#view ??= {
      content: this.#content,
      containers: new Map(this.facts),
      networks: new Map([['n', { ...NETWORK, name: this.#network, askedAt: this.#askedAt }]]),
      listings: 1,
      listBegan: 0,
      starting: new Set(),
      attached: new Set(NAMES),
      connected: true,
    };
    return this.#view;
  }

  do(s: Step): void {
    if (['labels', 'image labels', 'network', 'asked again'].includes(s.kind)) this.#view = undefined;
    if (['labels', 'image labels', 'network'].includes(s.kind)) this.#content = {};
    if (s.kind === 'labels') this.#change(s.name, { labels: s.labels });
    else if (s.kind === 'image labels') {
      const { imageLabels: _, ...others } = this.facts.get(s.name) as ContainerFacts;
      this.facts.set(s.name, s.isKnown ? { ...others, imageLabels: {} } : others);
    } else if (s.kind === 'network') this.#network = s.name;
    else if (s.kind === 'asked again') {
      this.#askedAt += 1;
      for (const [id, facts] of this.facts) this.facts.set(id, structuredClone(facts));
    } else if (s.kind === 'list') this.#list(s);
    else if (s.kind === 'grant')
      this.#store(
        `grant/${s.id}`,
        s.isGone ? undefined : { id: s.id, entry: 'g.example:443', owner: s.owner, ...spanOf(s.expires) },
      );
    else if (s.kind === 'mode') this.#store(`mode/${s.owner}`, s.mode && { mode: s.mode });
    else if (s.kind === 'pause')
      this.#store(
        `pause/${s.owner}`,
        s.expires === undefined ? undefined : { owner: s.owner, by: 'a', ...spanOf(s.expires) },
      );
    else if (s.kind === 'lockdown')
      this.#store('lockdown/all', s.isOn ? { since: at(0), by: 'a' } : undefined);
    else {
      vi.setSystemTime(Date.now() + s.seconds * SECOND);
      this.#monotonic += Math.max(0, s.seconds) * SECOND;
    }
  }

  #change(id: string, more: Partial<ContainerFacts>): void {
    this.facts.set(id, { ...(this.facts.get(id) as ContainerFacts), ...more });
  }

  #store(key: string, value: unknown): void {
    this.state.apply(key, value, ++this.#revision);
  }

  #list(s: Extract<Step, { kind: 'list' }>): void {
    const [first, ...others] = s.entries;
    const [, to, ports] = /^(.*):(\d+)$/.exec(first ?? '') ?? [];
    const timed =
      to && s.expires !== undefined ? { to, ports: Number(ports), expires: at(s.expires) } : first;
    const allow = timed === undefined ? [] : [timed, ...others];
    const body = { allow, ...(s.match ? { match: s.match } : {}) };
    if (s.from === 'store') {
      this.#store(`list/${s.list}`, s.isGone ? undefined : body);
      return;
    }
    const lists = new Map<string, List>(this.folder.state.lists);
    const parsed = listFromObject(s.list, 'folder', body);
    if (s.isGone || !parsed.ok) lists.delete(s.list);
    else lists.set(s.list, parsed.value);
    this.folder.state = { ...this.folder.state, lists };
  }
}

const spanOf = (expires: number | undefined) => ({
  created: at(-1),
  ...(expires === undefined ? {} : { expires: at(expires) }),
});
const NETWORK: NetworkFacts = {
  id: 'n',
  name: 'front',
  driver: 'bridge',
  scope: 'local',
  internal: false,
  ipv6: false,
  subnets: [],
  gateways: [],
  labels: {},
  options: {},
};
const factsOf = (n: string): ContainerFacts => ({
  id: n,
  name: n,
  image: 'busybox',
  imageId: 'i',
  labels: {},
  imageLabels: {},
  state: 'running',
  networkMode: 'front',
  endpoints: [{ networkId: 'n', mac: '02:42:ac:12:00:02', ip4: '172.18.0.2', dnsNames: [] }],
  published: [],
});

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['Date'] });
});
afterEach(() => {
  vi.useRealTimers();
});

it('equals a fresh compilation after any sequence of changes, and is the same object if nothing has changed', () => {
  let [kept, all, left] = [0, 0, 0];
  fc.assert(
    fc.property(fc.array(step, { maxLength: 25 }), (steps) => {
      vi.setSystemTime(START);
      const world = new World();
      for (const s of steps) {
        const before = NAMES.map((n) => world.kept.policyOf(world.facts.get(n) as ContainerFacts));
        const stamp = world.kept.stamp();
        world.do(s);
        const changed = world.kept.changedSince(stamp);
        const fresh = world.policies(new CurrentOverrides(world.folder, world.state));
        for (const [i, n] of NAMES.entries()) {
          const facts = world.facts.get(n) as ContainerFacts;
          const policy = world.kept.policyOf(facts);
          const wanted = fresh.policyOf(facts);
          expect(policy).toEqual(wanted);
          expect(world.kept.policyOf(facts)).toBe(policy);
          all += 1;
          if (policy === before[i]) kept += 1;
          if (!changed || changed.has(n)) continue;
          expect(policy).toBe(before[i]);
          left += 1;
        }
        expect(world.kept.unattributed()).toEqual(fresh.unattributed());
      }
    }),
    { numRuns: 60 },
  );
  expect(kept).toBeGreaterThan(all / 4);
  expect(left).toBeGreaterThan(all / 8);
  expect(kept).toBeLessThan(all);
});

it('any policy can have changed when an entry of a list has expired, also after the clock was set back', () => {
  vi.setSystemTime(START);
  const world = new World();
  const list = { kind: 'list', list: 'one', from: 'folder', isGone: false } as const;
  world.do({ ...list, entries: ['b.example:443'], expires: 3, match: { name: 'w*' } });
  const entries = (): number[] =>
    NAMES.map((n) => world.kept.policyOf(world.facts.get(n) as ContainerFacts).entries.length);
  expect(entries()).toEqual([1, 0]);
  const stamp = world.kept.stamp();
  expect(world.kept.changedSince(stamp)).toEqual(new Set());
  world.do({ kind: 'clock', seconds: 4 });
  expect(world.kept.changedSince(stamp)).toBeUndefined();
  expect(entries()).toEqual([0, 0]);
  expect(world.kept.changedSince(world.kept.stamp())).toEqual(new Set());
  world.do({ kind: 'clock', seconds: -4 });
  expect(world.kept.changedSince(stamp)).toBeUndefined();
  expect(entries()).toEqual([1, 0]);
});

it('a list of Docker that shows the same changes no policy, and one that shows another label can change any', () => {
  vi.setSystemTime(START);
  const world = new World();
  const stamp = world.kept.stamp();
  world.do({ kind: 'asked again' });
  expect(world.kept.changedSince(stamp)).toEqual(new Set());
  world.do({ kind: 'labels', name: 'web', labels: { 'drawbridge.allow': 'c.example' } });
  expect(world.kept.changedSince(stamp)).toBeUndefined();
});

it('only policies of the owner can have changed when a grant has come or gone', () => {
  vi.setSystemTime(START);
  const world = new World();
  const grant = { kind: 'grant', id: 'g1', owner: 'name:web', expires: undefined } as const;
  const none = world.kept.stamp();
  world.do({ ...grant, isGone: false });
  expect(world.kept.changedSince(none)).toEqual(new Set(['web']));
  const granted = world.kept.stamp();
  world.do({ ...grant, isGone: true });
  expect(world.kept.changedSince(granted)).toEqual(new Set(['web']));
  expect(world.kept.changedSince(none)).toEqual(new Set());
});
