/** Deny entries: their text, what they cover, and from where they count. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseYaml } from '../../../src/lib/yaml.js';
import type { ContainerFacts } from '../../../src/policy/container.js';
import { coversEntry, mayOverlap } from '../../../src/policy/deny-entries.js';
import type { DestEntry, Entry } from '../../../src/policy/entry.js';
import { entryFromObject } from '../../../src/policy/entry-object.js';
import { isDest, parseEntries } from '../../../src/policy/entry-parse.js';
import type { List } from '../../../src/policy/policy.js';
import { compilePolicy, compileUnattributed } from '../../../src/policy/policy-compile.js';

function entries(text: string): readonly DestEntry[] {
  const parsed = parseEntries(text);
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.problems));
  return parsed.value.filter(isDest);
}
const one = (text: string): DestEntry => entries(text)[0] as DestEntry;
const problem = (parsed: ReturnType<typeof entryFromObject>) => (parsed.ok ? undefined : parsed.problems[0]);

describe('the text of a deny entry', () => {
  it.each([
    '!*.corp.example',
    '!10.0.0.0/8:22',
    '![2001:db8::/32]:443',
    '!2001:db8::/32',
    '!container:db',
    '!host:80',
    '!any:25',
    '!a.org/udp',
    '!0.0.0.0/0',
    '!*.com',
  ])('%s is canonical', (text) => {
    expect(one(text)).toMatchObject({ canonical: text, deny: true, flags: [] });
  });
  it('has the canonical text of the entry that it denies', () => {
    expect(entries('!API.GitHub.com:443/tcp, !a.org:443,80').map((e) => e.canonical)).toEqual([
      '!api.github.com:443',
      '!a.org:80,443',
    ]);
  });
  it('may follow the same entry without !', () => {
    expect(entries('a.org, !a.org').map((e) => e.canonical)).toEqual(['a.org', '!a.org']);
  });
  it.each([
    ['!a.org tls=off', 'a deny entry takes no flags, such as tls=off'],
    ['!10.0.0.0/8 dns=direct', 'a deny entry takes no flags, such as dns=direct'],
    ['!list:npm', 'a list cannot be denied'],
    ['!!a.org', '"!!a.org" is not a deny entry'],
    ['! a.org', '"!" is not a deny entry'],
  ])('%s is refused', (text, detail) => {
    const parsed = parseEntries(text);
    expect(parsed.ok ? [] : parsed.problems).toMatchObject([{ detail }]);
  });
  it('is written as an object, too', () => {
    const objects = [
      { to: 'a.org', deny: true },
      { to: '!a.org' },
      { to: 'a.org', ports: 22, deny: true, comment: 'x' },
    ];
    expect(objects.map((o) => entryFromObject(o))).toMatchObject([
      { value: { canonical: '!a.org' } },
      { value: { canonical: '!a.org' } },
      { value: { canonical: '!a.org:22', comment: 'x' } },
    ]);
    expect(problem(entryFromObject({ to: 'a.org', deny: true, tls: 'off' }))?.detail).toContain('no flags');
    expect(problem(entryFromObject({ to: 'list:a', deny: true }))).toBeDefined();
    expect(problem(entryFromObject({ to: '!a.org', deny: false }))).toBeDefined();
  });
  it.each([
    '- !gist.github.com',
    '- !*.corp.example',
    '- ! gist.github.com',
    '- { to: !a.org }',
    '- !a.org,!b.org',
  ])('without quotes in YAML is refused: %s', (line) => {
    const { value, problems } = parseYaml(`allow:\n  ${line}\n`, 'x.yaml');
    expect(value).toBeUndefined();
    expect(problems[0]).toMatchObject({ remedy: expect.stringContaining('in quotes'), line: 2 });
  });
  it('is the text of the entry with ! before it', () => {
    const text = fc.constantFrom(
      'a.org',
      '*.a.org',
      '.a.org:22',
      '10.0.0.0/8',
      '10.0.0.5:80-90',
      'any:25',
      'host',
      'container:db:1',
    );
    fc.assert(
      fc.property(text, (entry) => {
        const [allowed, denied] = entries(`${entry}\n!${entry}`) as [DestEntry, DestEntry];
        expect(denied).toEqual({ ...allowed, canonical: `!${allowed.canonical}`, deny: true });
      }),
    );
  });
});

describe('what a deny entry covers as a whole', () => {
  it.each([
    ['!*.github.com', 'gist.github.com', true],
    ['!*.github.com', 'github.com', false],
    ['!.github.com', '*.github.com:443', true],
    ['!*.github.com', '.github.com', false],
    ['!gist.github.com', '*.github.com', false],
    ['!a.org:443', 'a.org:443', true],
    ['!a.org:443', 'a.org', false],
    ['!a.org/tcp', 'a.org:22,80-90', true],
    ['!10.0.0.0/8', '10.1.0.0/16:22', true],
    ['!10.0.0.0/8:22', '10.1.0.0/16', false],
    ['!10.1.0.0/16', '10.0.0.0/8', false],
    ['!any', '93.184.7.1:443', true],
    ['!any', '10.0.0.1', false],
    ['!host', 'host:80', true],
    ['!container:db', 'container:db:5432', true],
    ['!container:db', 'container:web', false],
  ])('%s, %s: %s', (denied, entry, covers) => {
    expect(coversEntry(one(denied), one(entry))).toBe(covers);
  });
  it.each([
    ['!*.corp.example', '*.example', true],
    ['!*.corp.example', 'a.corp.example', true],
    ['!*.corp.example', 'corp.test', false],
    ['!a.org', 'a.org', true],
  ])('%s and %s may match one name: %s', (a, b, overlaps) => {
    expect(mayOverlap(one(a), one(b.startsWith('*.example') ? `${b} broad` : b))).toBe(overlaps);
  });
});

describe('deny entries of a policy', () => {
  const list = (name: string, text: string, more: Partial<List> = {}): [string, List] => [
    name,
    { name, source: 'folder', allow: parsed(text), ...more },
  ];
  const parsed = (text: string): readonly Entry[] => {
    const all = parseEntries(text);
    return all.ok ? all.value : [];
  };
  const compile = (
    labels: Record<string, string>,
    lists: readonly [string, List][] = [],
    over: Partial<ContainerFacts> = {},
  ) =>
    compilePolicy({
      facts: {
        id: 'c',
        name: 'web',
        image: 'i',
        imageId: 'sha256:1',
        labels,
        imageLabels: {},
        state: 'running',
        networkMode: 'bridge',
        endpoints: [],
        published: [],
        ...over,
      },
      networks: new Map(),
      lists: new Map(lists),
      settings: { default: 'observe', baseline: ['base'], trustImages: [] },
      modes: new Map(),
      grants: [],
      now: 0,
    });
  const texts = (all: readonly { entry: DestEntry }[] | undefined) => all?.map((e) => e.entry.canonical);

  it('are kept apart, whatever they come from', () => {
    const lists = [list('l', 'b.org, !c.org, list:m'), list('m', '!d.org'), list('base', '!e.org')] as const;
    const policy = compile({ 'drawbridge.allow': 'a.org, !a.org:22', 'drawbridge.lists': 'l' }, [...lists]);
    expect(texts(policy.entries)).toEqual(['a.org', 'b.org']);
    expect(texts(policy.denied)).toEqual(['!a.org:22', '!c.org', '!d.org', '!e.org']);
    expect(policy.denied?.at(-1)?.source).toEqual({ kind: 'baseline', name: 'base' });
  });
  it('are absent where there are none, and when they have expired', () => {
    const over = { expires: '1969-01-01T00:00:00Z' };
    const expired = parsed('!a.org').map((e) => ({ ...e, ...over }));
    expect(compile({ 'drawbridge.allow': 'a.org' }).denied).toBeUndefined();
    expect(
      compile({ 'drawbridge.lists': 'l' }, [['l', { name: 'l', source: 'store', allow: expired }]]).denied,
    ).toBeUndefined();
  });
  it("of an image's labels and of lists that they name count, and nothing else of them", () => {
    const labels = { 'drawbridge.allow': 'a.org, !b.org', 'drawbridge.lists': 'l' };
    const policy = compile(labels, [list('l', 'c.org, !d.org')], { imageLabels: labels });
    expect(policy.entries).toEqual([]);
    expect(policy.lists).toEqual([]);
    expect(texts(policy.denied)).toEqual(['!b.org', '!d.org']);
    expect(policy.notes.map((n) => n.detail).join()).toContain('only those that deny count');
  });
  it('of a list that claims by labels of the image count', () => {
    const labels = { team: 'ci' };
    const claim = list('l', 'a.org, !b.org', { match: { labels } });
    const policy = compile(labels, [claim], { imageLabels: labels });
    expect([texts(policy.entries), texts(policy.denied)]).toEqual([[], ['!b.org']]);
  });
  it('of an image are few', () => {
    const many = Array.from({ length: 201 }, (_, n) => `!10.0.0.1:${n + 1}`).join('\n');
    const labels = { 'drawbridge.allow': many };
    expect(compile(labels, [], { imageLabels: labels })).toMatchObject({
      modeSource: { kind: 'broken label' },
    });
    expect(compile(labels).denied?.length).toBe(201);
  });
  it('hold for what is no container', () => {
    const policy = compileUnattributed(
      { mode: 'enforce', lists: ['l'] },
      new Map([list('l', 'any, !a.org')]),
      0,
    );
    expect(texts(policy.denied)).toEqual(['!a.org']);
  });
});
