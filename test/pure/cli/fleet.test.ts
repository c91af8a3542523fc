import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Bench } from './bench.js';

let bench: Bench;
beforeEach(async () => {
  bench = await Bench.make();
  await bench.serve();
});
afterEach(() => bench.end());
const last = () => bench.controller.calls.at(-1);

describe('tokens', () => {
  it('prints a new one once, on a line of its own', async () => {
    const ran = await bench.run('tokens', 'create', 'ci', '--role', 'write', '--expires', '90d');
    expect(ran).toMatchObject({ code: 0, out: 'drawbridge_secret\n' });
    expect(ran.err).toMatch(/not shown again/);
    expect(last()).toEqual(['createToken', 'ci', 'write', 90 * 86_400_000, 'local:ann']);
    expect(
      JSON.parse((await bench.run('tokens', 'create', 'x', '--role', 'read', '--json')).out),
    ).toMatchObject({
      token: 'drawbridge_secret',
    });
  });
  it('lists them without secrets, and revokes', async () => {
    await bench.run('tokens', 'create', 'ci', '--role', 'write');
    const listed = await bench.run('tokens', 'list');
    expect(listed.out).toBe('ci\twrite\tnever\tlocal:ann\n');
    expect((await bench.run('tokens')).out).toBe(listed.out);
    expect(await bench.run('tokens', 'revoke', 'ci')).toMatchObject({ code: 0, out: 'ci is revoked\n' });
    expect(last()).toEqual(['revokeToken', 'ci', 'local:ann']);
  });
  it('needs a role that there is', async () => {
    expect(await bench.run('tokens', 'create', 'ci')).toMatchObject({
      code: 2,
      err: expect.stringMatching(/--role is missing/),
    });
    expect(await bench.run('tokens', 'create', 'ci', '--role', 'root')).toMatchObject({ code: 2 });
    expect((await bench.run('tokens', 'create', 'ci', '--role', 'read', '--expires', 'soon')).code).toBe(2);
  });
});

it('nodes shows what each host holds, and forgets one', async () => {
  bench.controller.nodesSeen = [
    {
      node: 'web-1',
      state: 'stale',
      version: '0.1.0',
      revision: 7,
      inSync: true,
      containers: 4,
      fullyEnforced: 2,
      enforced: 3,
      observed: 1,
      partial: 0,
      unenforced: 0,
      lastSeen: '2030-01-01T00:00:00.000Z',
    },
  ];
  expect((await bench.run('nodes')).out).toBe(
    'web-1\tSTALE\t7\t3 of 4\t2\t1\t0\t0\t2030-01-01T00:00:00.000Z\t0.1.0\n',
  );
  expect(await bench.run('nodes', 'forget', 'web-1')).toMatchObject({ code: 0, out: 'web-1 is forgotten\n' });
});

describe('export, import, sync', () => {
  it('an export is YAML that import reads', async () => {
    const { out } = await bench.run('export');
    expect(out).toContain('lists:\n  ci:\n    allow:\n      - a.org\n');
    const file = join(bench.dir, 'all.yaml');
    await writeFile(file, out);
    bench.controller.planOfMany = [{ action: 'create', kind: 'list', name: 'ci' }];
    const ran = await bench.run('import', file, '--replace', '--dry-run', '--exit-code');
    expect(ran).toMatchObject({ code: 1, out: 'create list ci\n', err: '1 change would be made\n' });
    expect(last()).toEqual([
      'importAll',
      { lists: { ci: { allow: ['a.org'] } }, modes: {}, grants: [], tokens: [] },
      { replace: true, dryRun: true },
      'local:ann',
    ]);
  });
  it('import refuses broken YAML with its place, and a file that is not there', async () => {
    const file = join(bench.dir, 'all.yaml');
    await writeFile(file, 'lists: [\n');
    expect((await bench.run('import', file)).err).toMatch(/all\.yaml:\d+/);
    expect((await bench.run('import', join(bench.dir, 'none'))).err).toMatch(/cannot read .*ENOENT/);
  });

  it('sync sends every list file of a folder', async () => {
    const dir = join(bench.dir, 'git');
    await mkdir(dir);
    await writeFile(join(dir, 'npm.yaml'), 'description: npm\nallow: [registry.npmjs.org]\n');
    await writeFile(join(dir, 'ci.yml'), 'hosts: ["ci-*"]\nallow:\n  - list:npm\n');
    await writeFile(join(dir, 'README.md'), 'no list');
    bench.controller.planOfMany = [{ action: 'delete', kind: 'list', name: 'old' }];
    const ran = await bench.run('sync', dir, '--owner', 'platform');
    expect(ran).toMatchObject({ code: 0, out: 'delete list old\n', err: '1 change is in force\n' });
    expect(last()).toEqual([
      'syncLists',
      'platform',
      {
        ci: { hosts: ['ci-*'], allow: ['list:npm'] },
        npm: { description: 'npm', allow: ['registry.npmjs.org'] },
      },
      { dryRun: false, adopt: false },
      'local:ann',
    ]);
    expect(await readFile(join(dir, 'npm.yaml'), 'utf8')).toContain('npm');
  });
  it('a bad file stops the whole, with every problem of all files', async () => {
    const dir = join(bench.dir, 'git');
    await mkdir(dir);
    await writeFile(join(dir, 'a.yaml'), 'allow: [https://a.org]\n');
    await writeFile(join(dir, 'b.yaml'), 'alow: [a.org]\n');
    await writeFile(join(dir, 'c.yaml'), 'allow: [c.org]\n');
    await writeFile(join(dir, 'c.yml'), 'allow: [c.org]\n');
    const { code, err } = await bench.run('sync', dir);
    expect(code).toBe(1);
    for (const what of [/a\.yaml:1:\d+/, /b\.yaml:1:\d+/, /"c" has two files/]) expect(err).toMatch(what);
    expect(bench.controller.calls.filter(([what]) => what === 'syncLists')).toEqual([]);
  });
});
