import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { NamesPolicy } from '../../../src/dns/names-policy.js';
import type { DockerWatch } from '../../../src/docker/watch.js';
import { parseCidr, type Range } from '../../../src/lib/ip.js';
import type { ContainerFacts, DockerView } from '../../../src/policy/container.js';
import type { ResolverFacts } from '../../../src/policy/engine.js';
import { NO_THREATS } from '../../../src/policy/threat.js';
import type { AppliedState, Binding, ManagedBridge } from '../../../src/ruleset/applied-state.js';
import { partsOf } from '../../../src/ruleset/container-chains.js';
import { planPolicy } from '../../../src/ruleset/deny-plan.js';
import { type Subject, UNATTRIBUTED_ID } from '../../../src/ruleset/desired-state.js';
import { entriesOf, input, member, shape } from '../ruleset/sample.js';

const INSIDE = [parseCidr('45.45.0.0/24') as Range];

/** Docker as it has reported itself until now. */
const dockerOf = (
  view: Pick<DockerView, 'starting' | 'attached'>,
): Pick<DockerWatch, 'view' | 'resolver'> => ({
  view: () => view as DockerView,
  resolver: () => Promise.reject(new Error('no resolv.conf')),
});

/** The policy for these members, as a pass that applied them leaves it. */
function policyOf(...members: Subject[]): NamesPolicy {
  const policy = new NamesPolicy({
    prefix: 'DB',
    kernel: { hostAddresses: () => new Set() },
    threats: NO_THREATS,
    docker: dockerOf({ starting: new Set(), attached: new Set() }),
  });
  const state: Pick<AppliedState, 'subjects' | 'vethMap' | 'input' | 'unattributed'> = {
    unattributed: new Set(),
    subjects: new Map(members.map((m) => [m.id, m])),
    vethMap: {
      bindings: new Map(),
      bridges: new Map(),
      exempt: [],
      unbound: [],
      outdated: new Set(),
      namespaces: new Set(),
    },
    input: { ...input(...members), inside: INSIDE },
  };
  policy.applied(state as AppliedState);
  return policy;
}

describe('resolvers that a container may ask itself (dns=direct)', () => {
  const m = member(2, '10.0.0.53:53/udp dns=direct, 10.0.0.54:53,853/tcp dns=direct, 10.0.0.99:53/udp');
  const direct = policyOf(m).directResolvers(m.id);

  it.each([
    ['10.0.0.53', 53, 'udp', true],
    ['10.0.0.53', 53, 'tcp', false],
    ['10.0.0.53', 54, 'udp', false],
    ['10.0.0.54', 853, 'tcp', true],
    ['10.0.0.54', 853, 'udp', false],
    ['10.0.0.55', 53, 'udp', false],
    ['10.0.0.99', 53, 'udp', false],
  ] as const)('%s, port %i over %s: %s', (address, port, proto, isDirect) => {
    expect(direct?.({ address, port, proto })).toBe(isDirect);
  });

  it('are none without such an entry, whatever else is permitted there', () => {
    const other = member(3, '10.0.0.53:53/udp');
    expect(policyOf(other).directResolvers(other.id)).toBeUndefined();
  });
});

describe('where answers go', () => {
  it('to the sets of the classes that name it', () => {
    const [held, watched] = [member(2, 'a.example:80'), member(3, 'a.example:80', 'observe')];
    const policy = policyOf(held, watched);
    for (const { id } of [held, watched])
      expect(policy.decide(id, 'a.example')).toMatchObject({ allow: true, sets: [{}] });
    expect(policy.decide(held.id, 'b.example').allow).toBe(false);
  });

  it('knows the public space of Docker networks', () => {
    expect(policyOf(member(2, '')).inside()).toEqual(INSIDE);
  });
});

describe('the client of a query', () => {
  const GATEWAY = '172.30.0.1';
  const BOUND = '172.30.0.7';
  const bridge = (index: number, ...subnets: string[]) =>
    ({ link: { index }, network: { subnets } }) as unknown as ManagedBridge;
  /** A bridge (3) with a bound and an unbound veth (7, 8), and one (4) with another unbound veth (9). */
  const stateWith = (unattributed: readonly number[]): AppliedState =>
    ({
      subjects: new Map(),
      vethMap: {
        bindings: new Map([[7, { ifindex: 7, container: 'c', ip4: BOUND, since: 0 }]]),
        bridges: new Map([
          ['a', bridge(3, '172.30.0.0/24', 'fd00::/64')],
          ['b', bridge(4, '172.31.0.0/24')],
        ]),
        unbound: [
          { index: 8, master: 3 },
          { index: 9, master: 4 },
        ],
      },
      unattributed: new Set(unattributed),
    }) as unknown as AppliedState;
  const withHost = (): NamesPolicy =>
    new NamesPolicy({
      prefix: 'DB',
      kernel: { hostAddresses: () => new Set([GATEWAY]) },
      threats: NO_THREATS,
      docker: dockerOf({ starting: new Set(), attached: new Set() }),
    });

  it('is unattributed from any free address of a network with such a veth, though no held packet announced it', () => {
    const policy = withHost();
    policy.applied(stateWith([8]));
    expect(['172.30.0.9', 'fd00::9'].map((a) => policy.containerAt(a))).toEqual([
      UNATTRIBUTED_ID,
      UNATTRIBUTED_ID,
    ]);
    expect(policy.containerAt(BOUND)).toBe('c');
    for (const other of [GATEWAY, '172.31.0.9', '8.8.8.8', 'fd01::9', 'x'])
      expect(policy.containerAt(other)).toBeUndefined();
  });

  it('is unknown where no veth is proven to belong to no container, and once that veth has gone', () => {
    const policy = withHost();
    policy.applied(stateWith([]));
    expect(policy.containerAt('172.30.0.9')).toBeUndefined();
    policy.applied(stateWith([8]));
    policy.applied(stateWith([9]));
    expect(policy.containerAt('172.30.0.9')).toBeUndefined();
    policy.unattributedSender('172.30.0.9');
    expect(policy.containerAt('172.30.0.9')).toBe(UNATTRIBUTED_ID);
  });
});

describe('a query that has waited', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());
  const bound = (container: string, since: number, ip4 = '172.30.0.7') =>
    new Map([[since, { ifindex: since, container, ip4, since }]]) as unknown as ReadonlyMap<number, Binding>;
  const apply = (policy: NamesPolicy, bindings: ReadonlyMap<number, Binding>): void =>
    policy.applied({
      subjects: new Map(),
      vethMap: { bindings, bridges: new Map(), unbound: [] },
      unattributed: new Set(),
    } as unknown as AppliedState);
  const emptyPolicy = (): NamesPolicy =>
    new NamesPolicy({
      prefix: 'DB',
      kernel: { hostAddresses: () => new Set() },
      threats: NO_THREATS,
      docker: dockerOf({ starting: new Set(), attached: new Set() }),
    });
  const at = (policy: NamesPolicy, time: number) => policy.containerAt('172.30.0.7', time);

  it('since before this process is of the container whose veth is still there, and of no next one', () => {
    const policy = emptyPolicy();
    vi.advanceTimersByTime(1_000);
    const received = performance.now();
    vi.advanceTimersByTime(1_000);
    policy.inherited(new Set(['172.30.0.7']), new Map());
    expect(at(policy, received)).toBeUndefined();
    // its veth was listed before the sockets of the earlier process were read
    apply(policy, bound('next', received - 500));
    expect([at(policy, received), at(policy, performance.now()), policy.containerAt('172.30.0.7')]).toEqual([
      undefined,
      'next',
      'next',
    ]);
    const same = emptyPolicy();
    same.inherited(new Set(['172.30.0.7']), bound('same', 0));
    apply(same, bound('same', 0));
    expect(at(same, received)).toBe('same');
  });

  it('is not of an unattributed sender either that has the address now', () => {
    const policy = emptyPolicy();
    vi.advanceTimersByTime(1_000);
    const received = performance.now();
    vi.advanceTimersByTime(1_000);
    policy.inherited(new Set(['172.30.0.7', '172.30.0.8']), bound('same', 0, '172.30.0.8'));
    apply(policy, bound('same', 0, '172.30.0.8'));
    for (const address of ['172.30.0.7', '172.30.0.9']) policy.unattributedSender(address);
    expect(at(policy, received)).toBeUndefined();
    expect(at(policy, performance.now())).toBe(UNATTRIBUTED_ID);
    expect(policy.containerAt('172.30.0.9', received)).toBe(UNATTRIBUTED_ID);
  });

  it('since before the veth of the container that has the address now is of the one before', () => {
    const policy = emptyPolicy();
    vi.advanceTimersByTime(1_000);
    apply(policy, bound('first', 0));
    vi.advanceTimersByTime(1_000);
    const received = performance.now();
    expect(at(policy, received)).toBe('first');
    vi.advanceTimersByTime(1_000);
    apply(policy, bound('next', received + 10));
    expect([at(policy, received), at(policy, received + 10)]).toEqual([undefined, 'next']);
    apply(policy, new Map());
    policy.unattributedSender('172.30.0.7');
    expect([at(policy, received), at(policy, performance.now())]).toEqual([undefined, UNATTRIBUTED_ID]);
  });
});

describe('a question of a container whose networks are not known', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());
  const WHO = 'c'.repeat(64);
  function waiting() {
    const live = { starting: new Set<string>(), attached: new Set<string>() };
    const policy = new NamesPolicy({
      prefix: 'DB',
      kernel: { hostAddresses: () => new Set() },
      threats: NO_THREATS,
      docker: dockerOf(live),
    });
    const apply = (): void =>
      policy.applied({
        view: { attached: new Set(live.attached) },
        subjects: new Map(),
        vethMap: { bindings: new Map(), bridges: new Map(), unbound: [] },
        unattributed: new Set(),
      } as unknown as AppliedState);
    apply();
    let answer: boolean | undefined;
    void policy.awaitNetworks(WHO, 2_000).then((known) => {
      answer = known;
    });
    return { live, apply, answer: () => answer, wait: (ms: number) => vi.advanceTimersByTimeAsync(ms) };
  }

  it('waits two seconds, when Docker says nothing of it', async () => {
    const q = waiting();
    await q.wait(1_900);
    expect(q.answer()).toBeUndefined();
    await q.wait(200);
    expect(q.answer()).toBe(false);
  });

  it('waits while it starts, and while the pass is late that brings its networks, until they are known', async () => {
    const q = waiting();
    q.live.starting.add(WHO);
    await q.wait(4_000);
    q.live.starting.clear();
    q.live.attached.add(WHO);
    await q.wait(4_000);
    expect(q.answer()).toBeUndefined();
    q.apply();
    await q.wait(0);
    expect(q.answer()).toBe(true);
  });

  it('waits ten seconds at most', async () => {
    const q = waiting();
    q.live.starting.add(WHO);
    await q.wait(9_900);
    expect(q.answer()).toBeUndefined();
    await q.wait(300);
    expect(q.answer()).toBe(false);
  });
});

describe('the revision of the policy', () => {
  const hosts = { now: new Set(['192.0.2.1']) };
  const threats = { ...NO_THREATS, version: {} };
  const policy = new NamesPolicy({
    prefix: 'DB',
    kernel: { hostAddresses: () => hosts.now },
    threats,
    docker: dockerOf({ starting: new Set(), attached: new Set() }),
  });
  const state = {
    subjects: new Map(),
    vethMap: { bindings: new Map(), bridges: new Map(), unbound: [] },
    unattributed: new Set(),
    input: input(),
  } as unknown as AppliedState;

  it.each([
    ['a pass', true, () => policy.applied(state)],
    ['another version of the threats', true, () => Object.assign(threats, { version: {} })],
    ['other addresses of the host', true, () => Object.assign(hosts, { now: new Set(['192.0.2.2']) })],
    ['nothing', false, () => undefined],
  ])('after %s: changed is %s', (_, isChanged, change) => {
    const before = policy.revision;
    expect(policy.revision).toBe(before);
    change();
    expect(policy.revision !== before).toBe(isChanged);
    expect(policy.revision).toBe(policy.revision);
  });
});

describe('search domains', () => {
  const inspected = { privileges: {} } as unknown as ContainerFacts;
  const unread = { privileges: undefined } as unknown as ContainerFacts;
  const facts = (more: Partial<ResolverFacts>): ResolverFacts => ({
    embedded: true,
    hostAsked: false,
    search: [],
    servers: [],
    ...more,
  });
  /** Reads of resolv.conf files, of which each gives `answer`. */
  function readBy(answer: () => ResolverFacts): { policy: NamesPolicy; reads: string[] } {
    const reads: string[] = [];
    const docker = dockerOf({ starting: new Set(), attached: new Set() });
    const policy = new NamesPolicy({
      prefix: 'DB',
      kernel: { hostAddresses: () => new Set() },
      threats: NO_THREATS,
      docker: {
        ...docker,
        resolver: (id) => {
          reads.push(id);
          return Promise.resolve(answer());
        },
      },
    });
    return { policy, reads };
  }
  const settled = (): Promise<void> => new Promise((resume) => setImmediate(resume));

  it('are read after an inspect, and once, also where there are none', async () => {
    for (const search of [[], ['lan']]) {
      const { policy, reads } = readBy(() => facts({ search }));
      policy.refreshResolvers(new Map([['c', unread]]));
      expect(reads).toEqual([]);
      for (let n = 0; n < 3; n++) {
        policy.refreshResolvers(new Map([['c', inspected]]));
        await settled();
      }
      expect(reads).toEqual(['c']);
      expect(policy.searchDomains('c')).toEqual(search);
    }
  });
  it('are read again while the file is unknown, and for a container that has come back', async () => {
    let answer = facts({ isUnknown: true });
    const { policy, reads } = readBy(() => answer);
    const refresh = (...ids: string[]): void =>
      policy.refreshResolvers(new Map(ids.map((id) => [id, inspected])));
    refresh('c');
    await settled();
    answer = facts({ search: ['lan'] });
    refresh('c');
    await settled();
    expect(reads).toEqual(['c', 'c']);
    expect(policy.searchDomains('c')).toEqual(['lan']);
    refresh();
    expect(policy.searchDomains('c')).toEqual([]);
    refresh('c');
    expect(reads).toHaveLength(3);
  });
});

describe('deny entries', () => {
  const subject = (text: string): Subject => {
    const all = entriesOf(text);
    const denied = all.filter((e) => e.entry.deny);
    const policy = { ...member(2, '').policy, entries: all.filter((e) => !e.entry.deny), denied };
    return { ...member(2, ''), policy, ...planPolicy(policy, () => []) };
  };
  const decided = (text: string, name: string) => policyOf(subject(text)).decide(subject(text).id, name);

  it('deny a name on every port', () => {
    const text = '*.x.org, !a.x.org, !*.deep.x.org';
    expect(decided(text, 'b.x.org')).toMatchObject({ allow: true });
    expect(decided(text, 'a.x.org')).toMatchObject({
      allow: false,
      reason: expect.stringContaining('!a.x.org denies it'),
    });
    expect(decided(text, 'y.deep.x.org')).toMatchObject({
      allow: false,
      deniedBy: { entry: { canonical: '!*.deep.x.org' } },
    });
    expect(decided(text, 'deep.x.org')).toMatchObject({ allow: true });
  });
  it('give a name with denied ports sets of its own, without them', () => {
    const text = '*.x.org:22,8080, !a.x.org:22';
    const [a, b] = [decided(text, 'a.x.org'), decided(text, 'b.x.org')];
    expect([a.allow, b.allow]).toEqual([true, true]);
    expect(a.sets).not.toEqual(b.sets);
    const rules = partsOf(subject(text), shape).families[4].chain;
    const portsOf = (set: string | undefined) =>
      rules
        .filter((r) => r.when.some((m) => m.k === 'set' && m.set === set))
        .flatMap((r) => r.when.flatMap((m) => (m.k === 'dports' ? m.ports.map((p) => p.lo) : [])));
    expect(portsOf(a.sets[0]?.v4)).toEqual([8080]);
    expect(portsOf(b.sets[0]?.v4)).toEqual([22, 8080]);
  });
  it('deny a name of which they leave no port', () => {
    expect(decided('a.x.org:22, !a.x.org:22', 'a.x.org')).toMatchObject({
      allow: false,
      deniedBy: expect.anything(),
    });
    expect(decided('!a.x.org:22', 'a.x.org').deniedBy).toBeUndefined();
  });
  it('deny a resolver that dns=direct permits', () => {
    const m = subject('10.0.0.53:53/udp dns=direct, 10.0.0.54:53/udp dns=direct, !10.0.0.54');
    const direct = policyOf(m).directResolvers(m.id);
    expect(direct?.({ address: '10.0.0.53', port: 53, proto: 'udp' })).toBe(true);
    expect(direct?.({ address: '10.0.0.54', port: 53, proto: 'udp' })).toBe(false);
  });
});
