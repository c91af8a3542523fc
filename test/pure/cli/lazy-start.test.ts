/** The modules that a command loads, as esbuild finds them when it builds: imports of types are gone. */
import { existsSync } from 'node:fs';
import { relative, resolve } from 'node:path';
import { build } from 'esbuild';
import { expect, it } from 'vitest';

const SRC = resolve('src');

interface Imports {
  readonly files: readonly string[];
  readonly packages: readonly string[];
}

const { metafile } = await build({
  entryPoints: ['src/main.ts'],
  outdir: 'dist',
  write: false,
  bundle: true,
  splitting: true,
  format: 'esm',
  platform: 'node',
  packages: 'external',
  metafile: true,
});

/** All files and packages that are loaded with these files, before anything is imported dynamically. */
function loadedWith(...entries: readonly string[]): Imports {
  const files = new Set<string>();
  const packages = new Set<string>();
  const queue = entries.map((entry) => `src/${entry}`);
  for (let file = queue.pop(); file !== undefined; file = queue.pop()) {
    if (files.has(file)) continue;
    files.add(file);
    const input = metafile.inputs[file];
    if (input === undefined) throw new Error(`src/main.ts never loads ${file}`);
    for (const { external, path } of input.imports.filter((i) => i.kind === 'import-statement')) {
      if (!external) queue.push(path);
      else if (!path.startsWith('node:')) packages.add(path);
    }
  }
  return { files: [...files].map((file) => relative('src', file)).sort(), packages: [...packages].sort() };
}

const GROUPS = ['inspect', 'access', 'list', 'store', 'feed', 'admin', 'service', 'completion', 'bugreport'];
/** Packages of the service alone. */
const HEAVY = /^(@fastify|fastify|dockerode|ioredis|koffi|libsql|undici|execa|pino)/;
const SERVICE = /^(app|kernel|docker|store|threats|dns|enforce|namespaces|coverage|ops)\b/;

it('the entry loads commander and nothing else, whatever the command', () => {
  const { files, packages } = loadedWith('main.ts');
  expect(packages).toEqual(['commander']);
  expect(files.filter((file) => !/^(cli|lib|api\/client|config\/service-socket)|^main/.test(file))).toEqual(
    [],
  );
});

it('drawbridge ps loads few modules, and with a configuration file the YAML reader in addition', () => {
  const ps = loadedWith('main.ts', 'cli/inspect-commands.ts');
  expect(ps.packages).toEqual(['commander']);
  expect(ps.files.length).toBeLessThanOrEqual(14);
  const configured = loadedWith('main.ts', 'cli/inspect-commands.ts', 'lib/yaml.ts');
  expect(configured.packages).toEqual(['commander', 'yaml']);
  expect(configured.files.length).toBeLessThanOrEqual(16);
});

it('the whole configuration loads no package and no module of the service', () => {
  const { files, packages } = loadedWith('main.ts', 'config/load.ts');
  expect(packages.filter((name) => HEAVY.test(name))).toEqual([]);
  expect(files.filter((file) => SERVICE.test(file))).toEqual([]);
});

it.each(GROUPS)('the group %s loads what the service needs only when it is asked for', (group) => {
  const { files, packages } = loadedWith(
    ['commands', 'command']
      .map((end) => `cli/${group}-${end}.ts`)
      .find((file) => existsSync(resolve(SRC, file))) ?? '',
  );
  expect(packages.filter((name) => HEAVY.test(name))).toEqual([]);
  expect(files.filter((file) => SERVICE.test(file))).toEqual([]);
});
