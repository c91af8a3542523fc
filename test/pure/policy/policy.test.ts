import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { ContainerFacts, NetworkFacts } from '../../../src/policy/container.js';
import { parseEntries } from '../../../src/policy/entry-parse.js';
import { readLabels } from '../../../src/policy/labels.js';
import { ownerKey } from '../../../src/policy/own-labels.js';
import type { Grant, List, ListMatch, Mode, ModeSetting, Policy } from '../../../src/policy/policy.js';
import { lockedDown } from '../../../src/policy/policy.js';
import { compilePolicy, compileUnattributed, type PolicyInput } from '../../../src/policy/policy-compile.js';

const NOW = Date.parse('2030-01-01T00:00:00Z');

const facts = (labels: Record<string, string> = {}, over: Partial<ContainerFacts> = {}): ContainerFacts => ({
  id: 'c0ffee',
  name: 'web',
  image: 'ghcr.io/acme/web:1',
  imageId: 'sha256:1',
  labels,
  imageLabels: {},
  state: 'running',
  networkMode: 'ci_default',
  endpoints: [{ networkId: 'n1', mac: '02:42:ac:11:00:02', dnsNames: [] }],
  published: [],
  ...over,
});
const network = (id: string, name: string): readonly [string, NetworkFacts] => [
  id,
  {
    id,
    name,
    driver: 'bridge',
    scope: 'local',
    internal: false,
    ipv6: false,
    subnets: [],
    gateways: [],
    labels: {},
    options: {},
  },
];
const list = (
  name: string,
  allow: string,
  more: { match?: ListMatch; mode?: Mode; hosts?: readonly string[] } = {},
): readonly [string, List] => {
  const parsed = parseEntries(allow);
  if (!parsed.ok) throw new Error(parsed.problems[0]?.detail);
  return [name, { name, source: 'folder', allow: parsed.value, ...more }];
};
const grant = (entry: string, owner: string, expires?: string): Grant => ({
  id: `g-${entry}`,
  entry,
  owner,
  created: '2029-01-01T00:00:00Z',
  ...(expires !== undefined && { expires }),
});

type Over = Partial<Omit<PolicyInput, 'settings'>> & { settings?: Partial<PolicyInput['settings']> };
const compile = (over: Over = {}): Policy =>
  compilePolicy({
    facts: facts(),
    networks: new Map([network('n1', 'ci_default')]),
    lists: new Map(),
    modes: new Map(),
    grants: [],
    now: NOW,
    ...over,
    settings: { default: 'observe', baseline: [], trustImages: [], ...over.settings },
  });
const entries = (policy: Policy): readonly string[] =>
  policy.entries.map(({ entry, source }) => `${entry.canonical} ${Object.values(source).join(' ')}`);
const notes = (policy: Policy): string => policy.notes.map(({ detail }) => detail).join('\n');

describe('labels', () => {
  it('reads each', () => {
    const intent = readLabels(
      facts({
        'drawbridge.allow': 'api.github.com, *.npmjs.org, 10.1.0.0/16:5432\na.org:80,443',
        'drawbridge.lists': 'github, npm',
        'drawbridge.list': 'pypi',
        'drawbridge.mode': 'enforce',
        'drawbridge.limit': 'rate=20mbit, connections=200, quota=5GB/day',
        'drawbridge.ask': '30s',
        'com.example.other': 'x',
      }),
      [],
    );
    expect(intent).toMatchObject({
      mode: 'enforce',
      askMs: 30_000,
      hasEntries: true,
      broken: false,
      notes: [],
    });
    expect(intent.allow.map(({ canonical }) => canonical)).toEqual([
      'api.github.com',
      '*.npmjs.org',
      '10.1.0.0/16:5432',
      'a.org:80,443',
    ]);
    expect([...intent.lists].sort()).toEqual(['github', 'npm', 'pypi']);
    expect(intent.limits).toMatchObject({ rateBitsPerSecond: 20_000_000, connections: 200 });
  });

  it.each([
    ['drawbridge.allow', 'https://a.org'],
    ['drawbridge.allow', 'a.org, a.org'],
    ['drawbridge.lists', 'list:npm'],
    ['drawbridge.lists', 'a/b'],
    ['drawbridge.mode', 'Enforce'],
    ['drawbridge.mode', 'false'],
    ['drawbridge.mode', ''],
    ['drawbridge.limit', 'fast'],
    ['drawbridge.ask', 'soon'],
    ['drawbridge.alow', 'a.org'],
    ['drawbridge.', ''],
    ['drawbridge.Allow', 'a.org'],
    ['drawbridge.__proto__', 'x'],
  ])('%s=%j: enforced, with an empty policy, and coverage says why', (key, text) => {
    const broken = facts({ 'drawbridge.lists': 'npm', [key]: text });
    const policy = compile({
      facts: broken,
      lists: new Map([
        list('npm', 'registry.npmjs.org'),
        list('base', 'b.org'),
        list('claim', 'c.org', { match: { name: 'web' } }),
      ]),
      settings: { default: 'off', baseline: ['base'] },
      grants: [grant('g.org', 'name:web')],
    });
    expect(policy).toMatchObject({ mode: 'enforce', modeSource: { kind: 'broken label' }, entries: [] });
    expect(notes(policy)).toContain(key);
    expect(policy.notes[0]?.remedy).toBeTruthy();
  });

  it('never throws', () => {
    const key = fc.oneof(
      fc.string(),
      fc.constantFrom('allow', 'lists', 'mode', 'limit', 'ask').map((one) => `drawbridge.${one}`),
    );
    fc.assert(
      fc.property(fc.dictionary(key, fc.string({ unit: 'binary' })), fc.boolean(), (labels, known) => {
        const { imageLabels, ...rest } = facts(labels);
        const policy = compile({ facts: known ? { ...rest, ...(imageLabels && { imageLabels }) } : rest });
        const ours = Object.keys(labels).some((name) => name.startsWith('drawbridge.'));
        if (!ours) expect(policy).toMatchObject({ mode: 'observe', modeSource: { kind: 'default' } });
      }),
    );
  });
});

describe('precedence of modes', () => {
  const claims = new Map([
    list('loose', 'a.org', { match: { name: 'w*' }, mode: 'off' }),
    list('mid', 'b.org', { match: { name: 'w*' }, mode: 'observe' }),
  ]);
  const strict = new Map([...claims, list('plain', 'c.org', { match: { name: 'w*' } })]);
  const labelled = facts({ 'drawbridge.mode': 'off', 'drawbridge.allow': 'a.org' });

  it('default', () =>
    expect(compile({ settings: { default: 'off' } })).toMatchObject({
      mode: 'off',
      modeSource: { kind: 'default' },
    }));
  it('has allow or lists: enforce', () => {
    for (const key of ['drawbridge.allow', 'drawbridge.lists', 'drawbridge.list'])
      expect(compile({ facts: facts({ [key]: '' }) })).toMatchObject({
        mode: 'enforce',
        modeSource: { kind: 'has entries' },
      });
  });
  it('the strictest claim, before that', () =>
    expect(compile({ facts: facts({ 'drawbridge.allow': 'x.org' }), lists: claims })).toMatchObject({
      mode: 'observe',
      modeSource: { kind: 'claim', name: 'mid' },
    }));
  it('a claim without a mode enforces', () =>
    expect(compile({ lists: strict })).toMatchObject({
      mode: 'enforce',
      modeSource: { kind: 'claim', name: 'plain' },
    }));
  it('the label, before claims', () =>
    expect(compile({ facts: labelled, lists: strict })).toMatchObject({
      mode: 'off',
      modeSource: { kind: 'label' },
    }));
  it('the API, before all', () =>
    expect(
      compile({ facts: labelled, lists: strict, modes: new Map([['name:web', { mode: 'observe' }]]) }),
    ).toMatchObject({ mode: 'observe', modeSource: { kind: 'api' } }));
  it("others' modes do not count", () =>
    expect(compile({ modes: new Map([['name:other', { mode: 'off' }]]) }).modeSource.kind).toBe('default'));
});

describe('entries', () => {
  const lists = new Map([
    list('npm', 'registry.npmjs.org, list:fastly'),
    list('fastly', '151.101.0.0/16:443'),
    list('base', 'ntp.org:123/udp'),
    list('claimed', 'c.org, list:fastly', {
      match: { image: 'ghcr.io/acme/*', network: 'ci_*', labels: { tier: 'w?b' } },
    }),
    list('unclaimed', 'u.org', { match: { image: 'ghcr.io/acme/*', network: 'prod_*' } }),
  ]);

  it('are the union of labels, lists, claims, baseline and grants, each with its source', () => {
    const policy = compile({
      facts: facts({ 'drawbridge.allow': 'a.org, list:fastly', 'drawbridge.lists': 'npm', tier: 'web' }),
      lists,
      settings: { baseline: ['base'] },
      grants: [grant('g.org', 'name:web'), grant('t.org', 'id:c0ffee', '2030-01-01T00:00:01Z')],
    });
    expect(entries(policy)).toEqual([
      'a.org label',
      '151.101.0.0/16:443 list fastly',
      'registry.npmjs.org list npm',
      'c.org claim claimed',
      '151.101.0.0/16:443 claim fastly',
      'ntp.org:123/udp baseline base',
      'g.org grant g-g.org',
      't.org grant g-t.org',
    ]);
    expect([...policy.lists].sort()).toEqual(['base', 'claimed', 'fastly', 'npm']);
    expect(policy.notes).toEqual([]);
  });

  it('of others, of expired grants and of expired entries are not', () => {
    const expired = new Map([
      [
        'x',
        {
          name: 'x',
          source: 'folder' as const,
          allow: [
            {
              kind: 'dest' as const,
              canonical: 'x.org',
              target: { kind: 'any' as const },
              ports: [],
              flags: [],
              expires: '2030-01-01T00:00:00Z',
            },
          ],
        },
      ],
    ]);
    const policy = compile({
      facts: facts({ 'drawbridge.lists': 'x' }),
      lists: expired,
      grants: [
        grant('o.org', 'name:other'),
        grant('i.org', 'id:other'),
        grant('e.org', 'id:c0ffee', '2030-01-01T00:00:00Z'),
      ],
    });
    expect(policy.entries).toEqual([]);
  });

  it('a list that does not exist adds nothing, and coverage says so', () => {
    const policy = compile({
      facts: facts({ 'drawbridge.lists': 'npm, nope', 'drawbridge.allow': 'list:nope' }),
      lists,
    });
    expect(policy.notes).toHaveLength(1);
    expect(notes(policy)).toContain('"nope" does not exist');
    expect(policy.mode).toBe('enforce');
    expect(policy.lists).not.toContain('nope');
  });

  it('cycles end', () => {
    const cyclic = new Map([list('a', 'a.org, list:b'), list('b', 'b.org, list:a')]);
    expect(entries(compile({ facts: facts({ 'drawbridge.lists': 'a' }), lists: cyclic }))).toEqual([
      'a.org list a',
      'b.org list b',
    ]);
  });

  it('a grant that no longer parses adds nothing, and is told', () => {
    const policy = compile({ grants: [grant('nonsense', 'name:web')] });
    expect(policy.entries).toEqual([]);
    expect(notes(policy)).toContain('g-nonsense');
  });

  describe('a person is asked', () => {
    const asking = { 'drawbridge.allow': 'a.org', 'drawbridge.ask': '10s' };
    const claiming = (name: string, askMs?: number) =>
      list(name, 'b.org', { match: { name: 'web' }, ...(askMs === undefined ? {} : { askMs }) });
    const ask = (
      labels: Record<string, string>,
      more: Parameters<typeof facts>[1] = {},
      all = [claiming('l')],
    ) => compile({ facts: facts(labels, more), lists: new Map(all) }).askMs;

    it('by the label of an enforced container, or for the longest time of the lists that claim it', () => {
      expect(ask(asking)).toBe(10_000);
      expect(ask({}, {}, [claiming('l', 5_000), claiming('m', 20_000)])).toBe(20_000);
      expect(ask(asking, {}, [claiming('l', 20_000)])).toBe(10_000);
      expect(ask({ 'drawbridge.allow': 'a.org' }, {}, [claiming('l')])).toBeUndefined();
    });
    it('not of one that is not enforced, in a lockdown, or with a broken label', () => {
      expect(ask({ ...asking, 'drawbridge.mode': 'observe' })).toBeUndefined();
      expect(ask({ ...asking, 'drawbridge.x': '' })).toBeUndefined();
      expect(lockedDown(compile({ facts: facts(asking) })).askMs).toBeUndefined();
    });
    it('not by a label of the image, and coverage reports that', () => {
      const policy = compile({ facts: facts(asking, { imageLabels: asking }) });
      expect(policy.askMs).toBeUndefined();
      expect(notes(policy)).toMatch(/drawbridge\.ask=10s comes with the image: it is ignored/);
    });
  });

  it('limits of an observed container and ask are told as not held', () => {
    const policy = compile({
      facts: facts({ 'drawbridge.limit': 'connections=1', 'drawbridge.ask': '30s' }),
    });
    expect(notes(policy)).toMatch(
      /drawbridge\.limit is not enforced: in mode observe[\s\S]*drawbridge\.ask has no effect/,
    );
  });

  it('what is no container has the lists of `unattributed`', () => {
    const policy = compileUnattributed({ mode: 'enforce', lists: ['npm', 'nope'] }, lists, NOW);
    expect(policy).toMatchObject({
      mode: 'enforce',
      modeSource: { kind: 'unattributed' },
      lists: ['npm', 'fastly'],
    });
    expect(policy.entries).toHaveLength(2);
    expect(policy.notes).toHaveLength(1);
  });
});

describe('images do not choose their policy', () => {
  const image = (labels: Record<string, string>, own: Record<string, string> = {}) =>
    facts({ ...labels, ...own }, { imageLabels: labels });
  const npm = new Map([list('npm', 'registry.npmjs.org')]);

  it("an image's allow and lists enforce, and add nothing", () => {
    const policy = compile({
      facts: image({ 'drawbridge.allow': 'evil.org', 'drawbridge.lists': 'npm' }),
      lists: npm,
    });
    expect(policy).toMatchObject({ mode: 'enforce', modeSource: { kind: 'has entries' }, entries: [] });
    expect(notes(policy)).toContain('comes with the image');
  });
  it("an image's off, observe and limit are ignored", () => {
    for (const mode of ['off', 'observe']) {
      const policy = compile({
        facts: image({ 'drawbridge.mode': mode, 'drawbridge.limit': 'connections=1' }),
        settings: { default: 'enforce' },
      });
      expect(policy).toMatchObject({ mode: 'enforce', modeSource: { kind: 'default' } });
      expect(policy.notes).toHaveLength(2);
    }
  });
  it("an image's enforce tightens", () =>
    expect(compile({ facts: image({ 'drawbridge.mode': 'enforce' }) })).toMatchObject({
      mode: 'enforce',
      modeSource: { kind: 'label' },
      notes: [],
    }));
  it("the container's own value counts in full", () => {
    const own = image(
      { 'drawbridge.allow': 'evil.org', 'drawbridge.mode': 'off' },
      { 'drawbridge.allow': 'a.org', 'drawbridge.mode': 'observe' },
    );
    const policy = compile({ facts: own });
    expect(policy).toMatchObject({ mode: 'observe', modeSource: { kind: 'label' }, notes: [] });
    expect(entries(policy)).toEqual(['a.org label']);
  });
  it('trustImages lifts it', () => {
    const policy = compile({
      facts: image({ 'drawbridge.allow': 'a.org', 'drawbridge.mode': 'off' }),
      settings: { trustImages: ['ghcr.io/acme/*'] },
    });
    expect(policy).toMatchObject({ mode: 'off', modeSource: { kind: 'label' }, notes: [] });
    expect(entries(policy)).toEqual(['a.org label']);
  });
  it("while the image's labels are unknown, every one counts as the image's", () => {
    const { imageLabels: _, ...unknown } = facts({ 'drawbridge.allow': 'a.org', 'drawbridge.mode': 'off' });
    const policy = compile({ facts: unknown });
    expect(policy).toMatchObject({ mode: 'enforce', modeSource: { kind: 'has entries' }, entries: [] });
    expect(notes(policy)).toContain('not known yet');
  });
  it("a broken label of the image's leaves nothing, either", () =>
    expect(compile({ facts: image({ 'drawbridge.x': '' }) })).toMatchObject({
      mode: 'enforce',
      modeSource: { kind: 'broken label' },
    }));

  it("a claim that fits by the image's labels may only tighten", () => {
    const match = { labels: { team: 'ci' } };
    const loose = compile({
      facts: image({ team: 'ci' }),
      lists: new Map([list('l', 'a.org', { match, mode: 'off' })]),
    });
    expect(loose).toMatchObject({ mode: 'observe', modeSource: { kind: 'default' }, entries: [] });
    expect(notes(loose)).toContain('only those that deny count');
    const strict = compile({ facts: image({ team: 'ci' }), lists: new Map([list('l', 'a.org', { match })]) });
    expect(strict).toMatchObject({ mode: 'enforce', modeSource: { kind: 'claim', name: 'l' }, entries: [] });
    const own = compile({
      facts: image({}, { team: 'ci' }),
      lists: new Map([list('l', 'a.org', { match })]),
    });
    expect(entries(own)).toEqual(['a.org claim l']);
  });
});

describe('labels are anybody’s text', () => {
  it('notes are few and short, and carry no control characters', () => {
    for (const imageLabels of [{}, { 'drawbridge.allow': `\u001b[2J${','.repeat(100_000)}` }]) {
      const labels = {
        'drawbridge.allow': `\u001b[2J${','.repeat(100_000)}`,
        [`drawbridge.${'x'.repeat(5_000)}\n`]: '',
      };
      const policy = compile({ facts: facts(labels, { imageLabels }) });
      expect(policy.mode).toBe('enforce');
      expect(policy.notes.length).toBeLessThan(20);
      for (const { detail, remedy } of policy.notes) {
        expect(detail.length + remedy.length).toBeLessThan(1_000);
        expect(detail + remedy).not.toMatch(/\p{Cc}/u);
      }
    }
  });
});

describe('claims: all given fields must fit', () => {
  const claims = (match: ListMatch, over: Partial<ContainerFacts> = {}): boolean =>
    compile({ facts: facts({ tier: 'web' }, over), lists: new Map([list('l', 'a.org', { match })]) }).lists
      .length === 1;
  it.each<[ListMatch, boolean]>([
    [{ name: 'w*' }, true],
    [{ name: 'x*' }, false],
    [{ image: 'ghcr.io/acme/*' }, true],
    [{ image: 'ghcr.io/*', name: 'x' }, false],
    [{ labels: { tier: '*' } }, true],
    [{ labels: { tier: 'db' } }, false],
    [{ labels: { toString: '*' } }, false],
    [{ network: 'ci_default' }, true],
    [{ network: 'prod' }, false],
    [{ name: 'web', image: '*web:1', labels: { tier: 'web' }, network: '*' }, true],
  ])('%j: %s', (match, is) => expect(claims(match)).toBe(is));
  it('a network that it joins may tighten, and adds nothing', () => {
    const joining = (match: ListMatch, mode?: Mode, over: Partial<ContainerFacts> = {}) =>
      compile({
        facts: facts({}, { joining: ['n2'], ...over }),
        networks: new Map([network('n1', 'ci_default'), network('n2', 'prod')]),
        lists: new Map([list('l', 'a.org', { match, ...(mode && { mode }) })]),
      });
    expect(joining({ network: 'prod' })).toMatchObject({ mode: 'enforce', entries: [] });
    expect(joining({ network: 'prod' }, 'off')).toMatchObject({ mode: 'observe', entries: [] });
    expect(joining({ network: 'prod', name: 'x' })).toMatchObject({ mode: 'observe' });
    const joined = { joining: [], endpoints: [{ networkId: 'n2', mac: '02:42:ac:11:00:02', dnsNames: [] }] };
    expect(joining({ network: 'prod' }, undefined, joined)).toMatchObject({ mode: 'enforce', lists: ['l'] });
  });
  it('host mode is a network by its name', () =>
    expect(claims({ network: 'host' }, { networkMode: 'host', endpoints: [] })).toBe(true));
});

describe('owners', () => {
  const ID = `sha256:${'a'.repeat(64)}`;
  const compose = { 'com.docker.compose.project': 'shop', 'com.docker.compose.service': 'db' };
  const grants = [grant('g.org', 'compose:shop/db')];
  /** Labels of a container that compose has made of an image that compose has built. */
  const built = facts({ ...compose, 'com.docker.compose.image': ID }, { imageId: ID, imageLabels: compose });
  const posing = facts(compose, { imageId: ID, imageLabels: compose });
  const unknown = (of: ContainerFacts): ContainerFacts => {
    const { imageLabels: _, ...rest } = of;
    return rest;
  };
  const modes = (key: string, mode: Mode) => new Map([[key, { mode }]]);

  it('the compose service, else the name', () => {
    expect(ownerKey(facts(compose))).toBe('compose:shop/db');
    expect(ownerKey(facts())).toBe('name:web');
  });
  it('a service that compose has built is that service, though its image has the same labels', () => {
    for (const one of [built, unknown(built)]) {
      expect(ownerKey(one)).toBe('compose:shop/db');
      expect(compile({ facts: one, modes: modes('compose:shop/db', 'off') }).mode).toBe('off');
      expect(entries(compile({ facts: one, grants }))).toEqual(['g.org grant g-g.org']);
      expect(compile({ facts: one }).notes).toEqual([]);
    }
  });
  it("an image cannot pose as a service: it gets none of the service's grants, nor a looser mode", () => {
    expect(ownerKey(posing)).toBe('name:web');
    const policy = compile({ facts: posing, grants });
    expect(policy.entries).toEqual([]);
    expect(notes(policy)).toMatch(/project=shop, com\.docker\.compose\.service=db came with the image/);
    for (const mode of ['off', 'observe'] as const)
      expect(
        compile({
          facts: posing,
          modes: modes('compose:shop/db', mode),
          settings: { default: 'enforce' },
        }),
      ).toMatchObject({ mode: 'enforce', modeSource: { kind: 'default' } });
  });
  it('an image cannot leave the mode that was set for the service, or for the name', () => {
    for (const one of [posing, built, unknown(posing), unknown(built)])
      for (const key of ['compose:shop/db', 'name:web'])
        expect(compile({ facts: one, modes: modes(key, 'enforce') })).toMatchObject({
          mode: 'enforce',
          modeSource: { kind: 'api' },
        });
    const both = new Map<string, ModeSetting>([
      ['name:web', { mode: 'off' }],
      ['compose:shop/db', { mode: 'enforce' }],
    ]);
    for (const one of [posing, built]) expect(compile({ facts: one, modes: both }).mode).toBe('enforce');
  });
  it("what belongs to a service waits, or only tightens, until the image's labels are known", () => {
    const of = (mode: Mode) =>
      compile({ facts: unknown(facts(compose)), grants, modes: modes('compose:shop/db', mode) });
    expect(of('off')).toMatchObject({ mode: 'observe', entries: [] });
    expect(of('enforce')).toMatchObject({ mode: 'enforce', modeSource: { kind: 'api' }, entries: [] });
    expect(notes(of('off'))).toContain('is not known yet');
    expect(entries(compile({ facts: facts(compose), grants }))).toEqual(['g.org grant g-g.org']);
  });
  it('a list that claims a project gives its built services their entries, and an image none', () => {
    const match = { labels: { 'com.docker.compose.project': 'shop' } };
    const lists = new Map([list('l', 'a.org', { match })]);
    expect(entries(compile({ facts: built, lists }))).toEqual(['a.org claim l']);
    expect(compile({ facts: posing, lists })).toMatchObject({ mode: 'enforce', entries: [] });
  });
});

describe('lists of some hosts', () => {
  const lists = new Map([
    list('here', 'h.org', { hosts: ['web-*'] }),
    list('there', 't.org', { hosts: ['db-*'] }),
    list('both', 'list:here\nlist:there'),
    list('claim', 'c.org', { hosts: ['db-*'], match: { name: '*' }, mode: 'enforce' }),
  ]);
  const labels = facts({ 'drawbridge.lists': 'here, there, both' });
  it('add nothing and claim nobody at others, and say so', () => {
    const policy = compile({ facts: labels, lists, settings: { node: 'web-1' } });
    expect(entries(policy)).toEqual(['h.org list here']);
    expect(policy.lists).toEqual(['here', 'both']);
    expect(notes(policy)).toBe('list "there" is for other hosts (db-*), and adds nothing here');
    expect(compile({ lists, settings: { node: 'web-1' } }).mode).toBe('observe');
    expect(compile({ lists, settings: { node: 'db-1' } })).toMatchObject({
      mode: 'enforce',
      modeSource: { kind: 'claim', name: 'claim' },
    });
  });
  it('hold for what is no container, too', () => {
    const settings = { mode: 'enforce', lists: ['here', 'there'], node: 'db-7' } as const;
    expect(entries(compileUnattributed(settings, lists, NOW))).toEqual(['t.org list there']);
  });
});

describe('a list in place of the policy', () => {
  const since = '2030-01-01T00:00:00Z';
  const against = (name: string): ReadonlyMap<string, ModeSetting> =>
    new Map([['name:web', { mode: 'observe', against: { list: name, since } }]]);
  const lists = new Map([
    list('candidate', 'in.org, list:nested'),
    list('nested', 'nested.org'),
    list('own', 'own.org, !own-denied.org'),
    list('claiming', 'claimed.org, !claim-denied.org', { match: { name: 'web' } }),
    list('base', 'base.org'),
  ]);
  const labelled = facts({
    'drawbridge.allow': 'label.org, !label-denied.org',
    'drawbridge.lists': 'own',
    'drawbridge.mode': 'enforce',
  });
  const grants = [grant('granted.org', 'name:web')];
  const settings = { baseline: ['base'] };

  it('is all that permits, with the baseline; what denies anywhere else counts as always', () => {
    const policy = compile({ facts: labelled, lists, grants, settings, modes: against('candidate') });
    expect(policy).toMatchObject({
      mode: 'observe',
      modeSource: { kind: 'api' },
      against: { list: 'candidate', since },
    });
    expect(entries(policy)).toEqual([
      'in.org list candidate',
      'nested.org list nested',
      'base.org baseline base',
    ]);
    expect(policy.denied?.map((pe) => pe.entry.canonical)).toEqual([
      '!label-denied.org',
      '!own-denied.org',
      '!claim-denied.org',
    ]);
    expect(policy.lists).toEqual(['candidate', 'nested', 'base']);
  });
  it('permits nothing while it does not exist, and coverage reports it', () => {
    const policy = compile({ facts: labelled, lists, modes: against('nope') });
    expect(policy.entries).toEqual([]);
    expect(policy.notes).toMatchObject([{ code: 'missing-list', detail: expect.stringContaining('"nope"') }]);
  });
  it('counts while the container is observed for it: a stricter mode of another owner has its own policy', () => {
    const stricter = new Map([...against('candidate'), ['compose:shop/db', { mode: 'enforce' } as const]]);
    const labels = { 'com.docker.compose.project': 'shop', 'com.docker.compose.service': 'db' };
    const one = { ...facts({ ...labels, 'drawbridge.allow': 'label.org' }), imageLabels: labels };
    const policy = compile({ facts: one, lists, modes: stricter });
    expect(policy.mode).toBe('enforce');
    expect(policy.against).toBeUndefined();
    expect(entries(policy)).toContain('label.org label');
  });
  it('a trial enforces the policy itself, and shows its end', () => {
    const trial = { created: since, expires: '2030-01-01T00:15:00Z' };
    const modes = new Map([['name:web', { mode: 'enforce', trial } as const]]);
    expect(compile({ modes })).toMatchObject({
      mode: 'enforce',
      modeSource: { kind: 'api' },
      trialUntil: trial.expires,
    });
  });
});
