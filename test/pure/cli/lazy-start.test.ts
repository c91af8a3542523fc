/** The modules that a command loads: read from the JavaScript that the compiler writes, where imports of types are gone. */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, relative, resolve } from 'node:path';
import ts from 'typescript';
import { expect, it } from 'vitest';

const SRC = resolve('src');

interface Imports {
  readonly files: readonly string[];
  readonly packages: readonly string[];
}

/** Static imports and re-exports of one source file, as it is emitted. */
function importsOf(file: string): readonly string[] {
  const { outputText } = ts.transpileModule(readFileSync(file, 'utf8'), {
    compilerOptions: {
      target: ts.ScriptTarget.ES2022,
      module: ts.ModuleKind.ESNext,
      verbatimModuleSyntax: true,
    },
  });
  const emitted = ts.createSourceFile(file, outputText, ts.ScriptTarget.ES2022);
  return emitted.statements.flatMap((statement) => {
    const isImport = ts.isImportDeclaration(statement) || ts.isExportDeclaration(statement);
    const from = isImport ? statement.moduleSpecifier : undefined;
    return from && ts.isStringLiteral(from) ? [from.text] : [];
  });
}

/** All files and packages that are loaded with these files, before anything is imported dynamically. */
function loadedWith(...entries: readonly string[]): Imports {
  const files = new Set<string>();
  const packages = new Set<string>();
  const queue = entries.map((entry) => resolve(SRC, entry));
  for (let file = queue.pop(); file !== undefined; file = queue.pop()) {
    if (files.has(file)) continue;
    files.add(file);
    for (const name of importsOf(file)) {
      if (name.startsWith('.')) {
        const source = resolve(dirname(file), name).replace(/\.js$/, '.ts');
        if (existsSync(source)) queue.push(source);
      } else if (!name.startsWith('node:')) packages.add(name);
    }
  }
  return { files: [...files].map((file) => relative(SRC, file)).sort(), packages: [...packages].sort() };
}

const GROUPS = ['inspect', 'access', 'list', 'store', 'feed', 'admin', 'service', 'completion', 'bugreport'];
/** Packages of the service alone. */
const HEAVY = /^(@fastify|fastify|dockerode|ioredis|koffi|libsql|undici|execa|pino)/;
const SERVICE = /^(app|kernel|docker|store|threats|dns|enforce|netns-rules|coverage|ops)\b/;

it('the entry loads commander and nothing else, whatever the command', () => {
  const { files, packages } = loadedWith('main.ts');
  expect(packages).toEqual(['commander']);
  expect(
    files.filter((file) => !/^(cli|lib|api\/(client|event-reader)|config\/service-socket)|^main/.test(file)),
  ).toEqual([]);
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
