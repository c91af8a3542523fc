/** The comparison of the documentation with the product finds what it is for. */
import { describe, expect, it } from 'vitest';
import { type Limit, problemsOf } from '../../../scripts/docs-check.js';
import { factsOf, type Page, pages } from '../../../scripts/docs-facts.js';

const facts = await factsOf();
const real = pages();
const lists = real.filter(({ path }) => path === 'docs/lists.md');
const page = (text: string, path = 'docs/example.md'): Page => ({ path, text });
/** Problems of a page. */
const found = (text: string, limits: readonly Limit[] = []): readonly string[] =>
  problemsOf([...lists, page(text)], facts, limits).filter((p) => p.includes('docs/example.md'));
/** Problems after a change of a real page. */
const without = (path: string, from: string, to = ''): readonly string[] =>
  problemsOf(
    real.map((p) => (p.path === path ? { path, text: p.text.replaceAll(from, to) } : p)),
    facts,
    [],
  ).filter((p) => p.startsWith(path));

describe('a page that names', () => {
  it.each([
    ['a command', '`drawbridge forbid web`', 'there is no command drawbridge forbid'],
    [
      'a command in a pipe',
      '```sh\nsudo drawbridge lists | drawbridge forbid\n```',
      'there is no command drawbridge forbid',
    ],
    ['an option', '`drawbridge allow web a.org --until 10m`', 'drawbridge allow has no option --until'],
    [
      'an option of a command of two words',
      '`drawbridge lists show ci --all`',
      'drawbridge lists show has no option --all',
    ],
    ['a label', '`drawbridge.allowed: a.org`', 'there is no label drawbridge.allowed'],
    ['a key', 'set `dns.upstream`', 'the configuration has no key dns.upstream'],
    ['a metric', '`drawbridge_denied_total`', 'there is no metric drawbridge_denied_total'],
    ['an operation', '`PUT /v1/status`', 'there is no operation PUT /v1/status'],
    ['a file', '`scripts/deinstall`', 'there is no file scripts/deinstall'],
  ])('%s that does not exist is found', (_, text, problem) => {
    expect(found(text)).toEqual([expect.stringContaining(problem)]);
  });

  it('what exists is right', () => {
    const text = [
      '```sh',
      'sudo drawbridge allow web a.org --for 10m; drawbridge flows -f web --denied | head',
      'docker compose exec drawbridge drawbridge ps',
      'systemctl restart drawbridge && journalctl -u drawbridge',
      '```',
      '`drawbridge.allow`, `dns.upstreams`, `drawbridge_ready`, `drawbridge_dns_duration_seconds_bucket`,',
      '`GET /v1/containers/{id or name}`, `scripts/install`, `drawbridge.service`, [a list](lists.md#entries)',
    ].join('\n');
    expect(found(text)).toEqual([]);
  });

  const long = `${'a '.repeat(60)}end.`;
  it.each([
    ['a line of more than 120 characters', `${long}\n`, '124 characters, at most 120'],
    ['a command of more than 120 characters', `\`\`\`sh\n${long}\n\`\`\`\n`, '124 characters, at most 120'],
    [
      'a sentence of more than 40 words',
      `- ${'a '.repeat(40)}\n  b end. Another one.\n`,
      'a sentence of 42 words',
    ],
    ['a long cell', `| ${'word. '.repeat(80)} |\n`, 'a cell of 479 characters, at most 400'],
  ])('%s is found', (_, text, problem) => {
    expect(found(text)).toContainEqual(expect.stringContaining(problem));
  });

  it('what a program prints may be longer, and so may a row of a table', () => {
    const cells = `| ${'word. '.repeat(30)} | ${'word. '.repeat(30)} |`;
    expect(found(`\`\`\`console\n$ true\n${long}\n\`\`\`\n\n${cells}\n`)).toEqual([]);
  });

  it('a link without its heading or its page is found', () => {
    expect(found('[a](lists.md#no-such-heading) [b](none.md)')).toHaveLength(2);
  });
});

describe('what is missing', () => {
  const claims = [
    'It is not yet there.',
    'This does\nnot exist.',
    'Podman is untested.',
    'Engine 30 is not tested.',
  ];

  it.each(claims)('%s needs an entry with a reason', (text) => {
    expect(found(text)).toEqual([expect.stringContaining('needs an entry in scripts/docs-limits.json')]);
    const limit = { page: 'docs/example.md', text: text.replace('\n', ' ') };
    expect(found(text, [{ ...limit, reason: 'there is no such machine' }])).toEqual([]);
    expect(problemsOf([page(text)], facts, [{ ...limit, reason: ' ' }])).toContainEqual(
      expect.stringContaining('has no reason'),
    );
  });

  it('an entry whose sentence is gone is found', () => {
    const limit = { page: 'docs/example.md', text: 'Podman is untested', reason: 'none' };
    expect(problemsOf([page('Podman is tested.')], facts, [limit])).toContainEqual(
      expect.stringContaining('does not say "Podman is untested" any more'),
    );
  });
});

describe('what exists and is not documented is found:', () => {
  it.each([
    ['a command', 'docs/cli.md', '### explain\n'],
    ['a label', 'docs/concepts.md', 'drawbridge.ask'],
    ['a metric', 'docs/monitoring.md', 'drawbridge_kernel_in_sync'],
  ])('%s', (_, path, text) => {
    expect(without(path, text)).toContainEqual(expect.stringMatching(/is not documented$/));
  });
});
