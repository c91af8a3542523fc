import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { checkFiles } from '../../../src/config/check-files.js';
import { loadConfig } from '../../../src/config/load.js';

let folder = '';
const at = (name: string): string => join(folder, name);
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'drawbridge-config-'));
  await writeFile(at('config.yaml'), 'dns: { grace: 2h }\n');
  await writeFile(at('other.yaml'), 'dns: { grace: 3h }\n');
  await writeFile(at('secret'), 'redis://:pw@127.0.0.1:6379\n');
  await writeFile(at('npm.yaml'), 'allow: [registry.npmjs.org]\n');
  await writeFile(at('bad.yaml'), 'allow:\n  - 127.1\n  - *.x.org\n');
  await writeFile(at('loop.yaml'), 'allow: [list:loop]\n');
});
afterAll(() => rm(folder, { recursive: true }));

describe('loadConfig', () => {
  const grace = async (options: Parameters<typeof loadConfig>[0]) => {
    const loaded = await loadConfig(options);
    return loaded.ok ? loaded.value.config.dns.graceMs : loaded.problems;
  };
  it('--config, else DRAWBRIDGE_CONFIG', async () => {
    const env = { DRAWBRIDGE_CONFIG: at('other.yaml') };
    expect(await grace({ env })).toBe(10_800_000);
    expect(await grace({ env, file: at('config.yaml') })).toBe(7_200_000);
    expect(await loadConfig({ env })).toMatchObject({ value: { file: at('other.yaml') } });
  });
  it('a file that was named must be there; another problem is told beside', async () => {
    const problems = await grace({ file: at('nope.yaml'), env: { DRAWBRIDGE_DENY: 'x' } });
    expect(problems).toMatchObject([
      { file: at('nope.yaml') },
      { detail: expect.stringContaining('DRAWBRIDGE_DENY') },
    ]);
    expect(await grace({ file: folder, env: {} })).toMatchObject([
      { detail: expect.stringContaining('EISDIR') },
    ]);
  });
  it('_FILE reads a secret', async () => {
    const env = { DRAWBRIDGE_CONFIG: at('config.yaml'), DRAWBRIDGE_STORE_REDIS_FILE: at('secret') };
    const loaded = await loadConfig({ env });
    expect(loaded).toMatchObject({ value: { config: { store: { redis: 'redis://:pw@127.0.0.1:6379' } } } });
    expect(await grace({ env: { ...env, DRAWBRIDGE_STORE_REDIS: 'redis://x' } })).toMatchObject([
      { remedy: expect.stringContaining('unset') },
    ]);
    expect(await grace({ env: { ...env, DRAWBRIDGE_STORE_REDIS_FILE: at('nope') } })).toMatchObject([
      { detail: expect.stringContaining('DRAWBRIDGE_STORE_REDIS_FILE') },
    ]);
  });
});

it('does not quote the text of a _FILE', async () => {
  for (const name of ['DRAWBRIDGE_STORE_REDIS_FILE', 'DRAWBRIDGE_API_TOKENS_FILE', 'DRAWBRIDGE_DENY_FILE']) {
    await writeFile(at('wrong'), 'root:hunter2:19000\n');
    const loaded = await loadConfig({ env: { DRAWBRIDGE_CONFIG: at('config.yaml'), [name]: at('wrong') } });
    expect(loaded.ok && loaded.value.config.faults.length === 0).toBe(false);
    expect(JSON.stringify(loaded)).toContain(`${name}: the text of the file`);
    expect(JSON.stringify(loaded)).not.toContain('hunter2');
  }
});

describe('checkFiles', () => {
  it('finds nothing wrong in what is right', async () =>
    expect(await checkFiles([at('config.yaml'), at('npm.yaml')])).toEqual({ problems: [], warnings: [] }));
  it('tells every problem of every file at its place', async () => {
    const { problems } = await checkFiles([at('bad.yaml'), at('loop.yaml'), at('nope.yaml')]);
    expect(problems.map(({ file, line, column }) => [file, line, column])).toEqual([
      [at('nope.yaml'), undefined, undefined],
      [at('bad.yaml'), 3, 5],
      [at('bad.yaml'), 2, 5],
      [at('loop.yaml'), 1, 1],
    ]);
    for (const { remedy } of problems) expect(remedy).toBeTruthy();
  });
  it('judges a whole folder', async () =>
    expect((await checkFiles([folder])).problems.length).toBeGreaterThan(2));
});

describe('checkFiles: references between what is checked', () => {
  let dir = '';
  const here = (name: string): string => join(dir, name);
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'drawbridge-check-'));
    await mkdir(here('lists'));
    await writeFile(here('lists/web.yaml'), 'allow:\n  - a.org\n  - list:nothere\n');
    await writeFile(here('lists/npm.yaml'), 'allow: [registry.npmjs.org]\n');
    await writeFile(
      here('config.yaml'),
      `allowlists: ${here('none')}\nbaseline: [npm, nothere]\nunattributed: { lists: [gone] }\n`,
    );
    await writeFile(here('open.yaml'), 'api: { listen: "0.0.0.0:7070" }\n');
    await mkdir(here('mixed'));
    await writeFile(here('mixed/config.yaml'), 'default: enforce\ndns: { grace: 2h }\n');
    await writeFile(here('mixed/ci.yaml'), 'allow: [a.org]\n');
  });
  afterAll(() => rm(dir, { recursive: true }));

  it('a list that does not exist is an error in a folder, at its place', async () => {
    expect(await checkFiles([here('lists')])).toMatchObject({
      problems: [
        { file: here('lists/web.yaml'), line: 3, column: 5, detail: expect.stringContaining('"nothere"') },
      ],
      warnings: [],
    });
    expect(await checkFiles([here('lists')], ['nothere'])).toEqual({ problems: [], warnings: [] });
  });
  it('of one file it is a warning: the others are not known', async () => {
    expect(await checkFiles([here('lists/web.yaml')])).toMatchObject({
      problems: [],
      warnings: [{ line: 3, detail: expect.stringContaining('"nothere"') }],
    });
  });
  it('a configuration is checked against the lists beside it, and those of its folder', async () => {
    const { problems } = await checkFiles([here('config.yaml'), here('lists/npm.yaml')]);
    expect(problems.map(({ line, detail }) => [line, /"(\w+)"/.exec(detail)?.[1]])).toEqual([
      [2, 'nothere'],
      [3, 'gone'],
    ]);
    const elsewhere = await checkFiles([here('config.yaml')]);
    expect(elsewhere.problems).toHaveLength(3);
  });
  it('a TCP listener without tokens is a warning', async () => {
    expect(await checkFiles([here('open.yaml')])).toMatchObject({
      problems: [],
      warnings: [{ line: 1, detail: expect.stringContaining('0.0.0.0:7070') }],
    });
  });
  it('a configuration in a folder of lists is read as one', async () => {
    expect(await checkFiles([here('mixed')])).toEqual({ problems: [], warnings: [] });
  });
});

describe('checkFiles: tests of lists', () => {
  let dir = '';
  const here = (name: string): string => join(dir, name);
  const write = (name: string, text: string) => writeFile(here(name), text);
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'drawbridge-tests-'));
    await mkdir(here('lists'));
    await write('lists/pay.yaml', 'allow: ["*.stripe.com:443", "!evil.stripe.com"]\n');
    await write(
      'lists/web.yaml',
      `allow: [list:pay, 10.0.0.0/8, "!10.0.0.5:22", any:8443]
hosts: [web-*]
tests:
  - allow: api.stripe.com
  - deny: evil.stripe.com
  - deny: pastebin.com
  - deny: api.stripe.com:80
  - allow: 10.0.0.5:80
  - deny: 10.0.0.5:22
  - allow: 93.184.1.1:8443
  - deny: 192.168.0.1:8443
  - allow: 10.0.0.1/icmp
`,
    );
    await write(
      'failing.yaml',
      `allow:
  - "*.stripe.com:443"
  - "!evil.stripe.com"
  - { to: old.org, expires: "2020-01-01T00:00:00Z" }
tests:
  - { allow: evil.stripe.com }
  - { deny: "api.stripe.com:443" }
  - allow: old.org
`,
    );
    await write(
      'alone.yaml',
      'allow: [list:pay, a.org]\ntests: [{ allow: api.stripe.com }, { allow: a.org }]\n',
    );
  });
  afterAll(() => rm(dir, { recursive: true }));

  it('warns of a place where anyone can receive data, once for each name of the table', async () => {
    await write(
      'risky.yaml',
      'allow:\n  - a.org\n  - "*.github.com"\n  - gist.github.com\n  - gist.github.com:80\n',
    );
    const { problems, warnings } = await checkFiles([here('risky.yaml')]);
    expect(problems).toEqual([]);
    expect(warnings).toMatchObject([
      {
        line: 3,
        column: 5,
        detail: expect.stringMatching(/permits gist\.github\.com.* \(and 2 more of the file\)$/),
      },
    ]);
    await write('denied.yaml', 'allow: ["*.github.com", "!gist.github.com"]\n');
    expect(await checkFiles([here('denied.yaml')])).toEqual({ problems: [], warnings: [] });
  });
  it('warns of addresses that many parties share, once for each owner', async () => {
    await write('shared.yaml', 'allow:\n  - 192.0.2.7\n  - 104.16.1.1:443\n  - 104.16.1.2:443\n');
    expect((await checkFiles([here('shared.yaml')])).warnings).toMatchObject([
      {
        line: 3,
        detail: expect.stringMatching(/^104\.16\.1\.1:443 permits addresses of Cloudflare, .* \(and 1 more/),
        remedy: expect.stringContaining('write the name'),
      },
    ]);
  });
  it('pass by the entries of the list, of the lists that it names, and by deny entries', async () =>
    expect(await checkFiles([here('lists')])).toEqual({ problems: [], warnings: [] }));
  it('a test that fails is an error at its place, with what decided', async () => {
    const { problems } = await checkFiles([here('failing.yaml')]);
    expect(problems.map(({ line, column, detail }) => [line, column, detail])).toEqual([
      [
        6,
        14,
        'test failed: evil.stripe.com is to be allowed, and !evil.stripe.com of list failing denies it',
      ],
      [
        7,
        13,
        'test failed: api.stripe.com:443 is to be denied, and *.stripe.com:443 of list failing permits it',
      ],
      [8, 12, 'test failed: old.org is to be allowed, and no entry covers it'],
    ]);
    for (const { remedy } of problems) expect(remedy).toBeTruthy();
  });
  it('what a list decides that is not among the files is a warning', async () => {
    expect(await checkFiles([here('alone.yaml')], ['pay'])).toMatchObject({
      problems: [],
      warnings: [{ line: 2, detail: expect.stringContaining('test not run') }],
    });
    expect(await checkFiles([here('alone.yaml'), here('lists')])).toEqual({ problems: [], warnings: [] });
  });
});
