import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { checkFiles } from '../../../src/config/check.js';
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
    expect(loaded.ok).toBe(false);
    expect(JSON.stringify(loaded)).toContain(`${name}: the text of the file`);
    expect(JSON.stringify(loaded)).not.toContain('hunter2');
  }
});

describe('checkFiles', () => {
  it('finds nothing wrong in what is right', async () =>
    expect(await checkFiles([at('config.yaml'), at('npm.yaml')])).toEqual([]));
  it('tells every problem of every file at its place', async () => {
    const problems = await checkFiles([at('bad.yaml'), at('loop.yaml'), at('nope.yaml')]);
    expect(problems.map(({ file, line, column }) => [file, line, column])).toEqual([
      [at('nope.yaml'), undefined, undefined],
      [at('bad.yaml'), 3, 5],
      [at('bad.yaml'), 2, 5],
      [at('loop.yaml'), 1, 1],
    ]);
    for (const { remedy } of problems) expect(remedy).toBeTruthy();
  });
  it('judges a whole folder', async () => expect((await checkFiles([folder])).length).toBeGreaterThan(2));
});
