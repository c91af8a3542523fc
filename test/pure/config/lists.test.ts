import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { SCHEMA_FILES } from '../../../scripts/schema-files.js';
import {
  EMPTY_FOLDER,
  type FileRead,
  isListFile,
  nextFolder,
  parseListFile,
} from '../../../src/config/list-files.js';
import { compilePolicy } from '../../../src/policy/policy-compile.js';

const root = new URL('../../../', import.meta.url).pathname;
const files = (texts: Record<string, string>): ReadonlyMap<string, FileRead> =>
  new Map(Object.entries(texts).map(([file, text]) => [file, { text }]));
const names = (state: { lists: ReadonlyMap<string, unknown> }) => [...state.lists.keys()];

const SPECIFIED = `description: GitHub over HTTPS and SSH
match:                      # optional
  name: "runner-*"
  image: "ghcr.io/acme/*"
  labels: { com.docker.compose.project: ci }
  network: ci_default
mode: enforce
allow:
  - .github.com
  - "*.githubusercontent.com"
  - { to: ssh.github.com, ports: 443, tls: off, comment: ssh over the https port }
  - 140.82.112.0/20:22
  - list:fastly
`;

describe('a list file', () => {
  it('as it is specified', () => {
    const parsed = parseListFile('/lists/github.yaml', SPECIFIED);
    expect(parsed).toMatchObject({
      ok: true,
      value: {
        name: 'github',
        source: 'folder',
        file: '/lists/github.yaml',
        mode: 'enforce',
        match: { network: 'ci_default' },
      },
    });
    expect(parsed.ok && parsed.value.allow.map(({ canonical }) => canonical)).toEqual([
      '.github.com',
      '*.githubusercontent.com',
      'ssh.github.com:443 tls=off',
      '140.82.112.0/20:22',
      'list:fastly',
    ]);
  });
  it('mode: off, in YAML 1.1 too', () => {
    for (const text of ['mode: off\nallow: []', '%YAML 1.1\n---\nmode: off\nallow: []'])
      expect(parseListFile('x.yml', text)).toMatchObject({ ok: true, value: { name: 'x', mode: 'off' } });
  });

  it.each<[string, readonly (readonly [number, number, RegExp])[]]>([
    ['', [[1, 1, /allow:/]]],
    ['allow:\n  - *.github.com\n', [[2, 5, /quotes/]]],
    ['allow:\n  - a.org: 443\n', [[2, 5, /"a\.org:443"/]]],
    [
      'allow:\n  - a.org:0\n  - "b.org:0"\n',
      [
        [2, 11, /1-65535/],
        [3, 12, /1-65535/],
      ],
    ],
    ['allow:\n  - { to: 127.1 }\n', [[2, 11, /127\.0\.0\.1/]]],
    [
      'allow:\n  - 10.1.2.3/16\nmode: on\n',
      [
        [3, 7, /enforce/],
        [2, 14, /10\.1\.0\.0/],
      ],
    ],
    ['allow:\n  - a.org\n  - a.org:80,443/tcp\n  - A.org.\n', [[4, 5, /remove/]]],
    ['alow: []\n', [[1, 1, /allow/]]],
    ['allow:\n  - a.org:80, 443\n', [[2, 15, /without a space/]]],
  ])('%j is refused, every problem at its place', (text, places) => {
    const parsed = parseListFile('l.yaml', text);
    const problems = parsed.ok ? [] : parsed.problems;
    expect(problems.map(({ file, line, column }) => [file, line, column])).toEqual(
      places.map(([line, column]) => ['l.yaml', line, column]),
    );
    for (const [index, place] of places.entries()) expect(problems[index]?.remedy).toMatch(place[2]);
  });
});

describe('the folder', () => {
  const good = files({ 'd/a.yaml': 'allow: [a.org]', 'd/b.yml': 'allow: [list:a]' });

  it('names lists by their files', () => {
    expect(names(nextFolder(good, EMPTY_FOLDER))).toEqual(['a', 'b']);
    expect(['x.yaml', 'x.yml', '.x.yaml', 'x.yaml~', 'x.json', 'd/.#x.yml'].filter(isListFile)).toEqual([
      'x.yaml',
      'x.yml',
    ]);
  });
  it('keeps the last good version of a file that is refused, and drops it with the file', () => {
    const first = nextFolder(good, EMPTY_FOLDER);
    const second = nextFolder(files({ 'd/a.yaml': 'allow: [127.1]', 'd/b.yml': 'allow: [b.org]' }), first);
    expect(second.lists.get('a')?.allow).toMatchObject([{ canonical: 'a.org' }]);
    expect(second.lists.get('b')?.allow).toMatchObject([{ canonical: 'b.org' }]);
    expect(second.problems).toHaveLength(1);
    const third = nextFolder(files({ 'd/b.yml': 'allow: [b.org]' }), second);
    expect(names(third)).toEqual(['b']);
    expect(third.problems).toEqual([]);
  });
  it('refuses one name twice, on both files; the last good one stays', () => {
    const first = nextFolder(good, EMPTY_FOLDER);
    const both = nextFolder(files({ 'd/a.yaml': 'allow: [x.org]', 'd/a.yml': 'allow: [y.org]' }), first);
    expect(both.problems.map(({ file }) => file)).toEqual(['d/a.yaml', 'd/a.yml']);
    expect(both.lists.get('a')?.allow).toMatchObject([{ canonical: 'a.org' }]);
    expect(
      names(nextFolder(files({ 'd/a.yaml': 'allow: []', 'd/a.yml': 'allow: []' }), EMPTY_FOLDER)),
    ).toEqual([]);
  });
  it('refuses a cycle; what was good before it stays', () => {
    const first = nextFolder(good, EMPTY_FOLDER);
    const cyclic = nextFolder(files({ 'd/a.yaml': 'allow: [list:b]', 'd/b.yml': 'allow: [list:a]' }), first);
    expect(cyclic.problems).toHaveLength(2);
    expect(cyclic.lists.get('a')?.allow).toMatchObject([{ canonical: 'a.org' }]);
    expect(names(nextFolder(files({ 'd/a.yaml': 'allow: [list:a]' }), EMPTY_FOLDER))).toEqual([]);
  });
});

describe('the lists that ship', () => {
  const shipped = readdirSync(join(root, 'allowlists')).filter(isListFile);
  const texts = new Map(
    shipped.map((file) => [file, { text: readFileSync(join(root, 'allowlists', file), 'utf8') }]),
  );
  const state = nextFolder(texts, EMPTY_FOLDER);

  it('are there, and parse without a problem', () => {
    expect(state.problems).toEqual([]);
    expect(names(state)).toEqual(
      expect.arrayContaining([
        'alpine',
        'anthropic',
        'aws-s3',
        'aws-sts',
        'claude-code',
        'cloudflare-api',
        'codex',
        'crates',
        'debian',
        'docker-hub',
        'gcr',
        'ghcr',
        'github',
        'github-actions-runner',
        'gitlab',
        'golang',
        'google-ai',
        'huggingface',
        'lan-discovery',
        'letsencrypt',
        'maven',
        'mcr',
        'npm',
        'ntp',
        'nuget',
        'openai',
        'pypi',
        'quay',
        'rubygems',
        'sentry',
        'slack',
        'stripe',
        'telegram',
        'terraform',
        'ubuntu',
        'vscode',
      ]),
    );
  });
  it.each(shipped)('%s says what it is for, claims nobody, and names a source for each entry', (file) => {
    const text = texts.get(file)?.text ?? '';
    const list = state.lists.get(file.replace(/\.ya?ml$/, ''));
    expect(list?.description).toBeTruthy();
    expect(list?.match ?? list?.mode).toBeUndefined();
    expect(list?.allow.length).toBeGreaterThan(0);
    // A source stands above its entry, or above the group that it opens.
    const [, entries = ''] = text.split(/^allow:$/m);
    expect(entries.trim()).toMatch(/^# .*https:\/\//);
    for (const comment of entries.match(/^ *#.*$/gm) ?? []) expect(comment).toMatch(/https:\/\/\S+/);
  });
  it('are all in docs/lists.md, with their descriptions', () => {
    const page = readFileSync(join(root, 'docs', 'lists.md'), 'utf8');
    for (const { name, description } of state.lists.values())
      expect(page).toContain(`| [\`${name}\`](../allowlists/${name}.yaml) | ${description} |`);
  });
  it('lists refer to lists that ship', () => {
    const facts = {
      id: 'c',
      name: 'c',
      image: 'i',
      imageId: 'i',
      labels: { 'drawbridge.lists': names(state).join(',') },
      imageLabels: {},
      state: 'running',
      networkMode: 'bridge',
      endpoints: [],
      published: [],
    } as const;
    const policy = compilePolicy({
      facts,
      networks: new Map(),
      lists: state.lists,
      settings: { default: 'observe', baseline: [], trustImages: [] },
      modes: new Map(),
      grants: [],
      now: 0,
    });
    expect(policy).toMatchObject({ mode: 'enforce', notes: [] });
  });
});

describe('schemas for editors', () => {
  it.each([...SCHEMA_FILES])('schemas/%s is current (npm run schemas)', (name, text) =>
    expect(readFileSync(join(root, 'schemas', name), 'utf8')).toBe(text),
  );
  it('ask for no key that has a default', () => {
    const config = JSON.parse(SCHEMA_FILES.get('config.schema.json') ?? '') as {
      required?: unknown;
      properties: object;
    };
    expect(config.required).toBeUndefined();
    expect(Object.keys(config.properties)).toContain('eastWest');
  });
});
