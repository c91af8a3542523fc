/**
 * What runs in production: `npm run packages` writes docs/dependencies.md from package-lock.json and scripts/packages.json,
 * which has the reason of each direct package. A test compares all three, so that no package appears unseen.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { wrapped } from './markdown.js';

interface Locked {
  /** Only where it is not that of the folder: another package was put in its place. */
  readonly name?: string;
  readonly version: string;
  readonly license?: string;
  readonly dev?: boolean;
  readonly optional?: boolean;
  readonly hasInstallScript?: boolean;
  readonly engines?: { readonly node?: string };
  readonly dependencies?: Readonly<Record<string, string>>;
}
interface Reasons {
  readonly direct: Readonly<Record<string, string>>;
  readonly replaced: Readonly<Record<string, string>>;
  readonly installScripts: Readonly<Record<string, string>>;
}
export interface Package extends Locked {
  readonly name: string;
  /** The package that is installed under this name, where it is another. */
  readonly standIn: string | undefined;
  /** Direct packages that need it, itself included. */
  readonly neededBy: readonly string[];
}

const ROOT = join(import.meta.dirname, '..');
const PAGE = join(ROOT, 'docs', 'dependencies.md');
const read = (file: string): unknown => JSON.parse(readFileSync(join(ROOT, file), 'utf8'));

const FOLDER = 'node_modules/';
const nameOf = (path: string): string => path.slice(path.lastIndexOf(FOLDER) + FOLDER.length);

/** The path of what `name` means inside the package at `from`; undefined: an optional one that is not there. */
function resolve(packages: ReadonlyMap<string, Locked>, from: string, name: string): string | undefined {
  for (let folder = from; ; folder = folder.slice(0, Math.max(0, folder.lastIndexOf(`/${FOLDER}`)))) {
    const path = `${folder === '' ? '' : `${folder}/`}${FOLDER}${name}`;
    if (packages.has(path)) return path;
    if (folder === '' || !folder.includes(FOLDER)) return undefined;
    if (!folder.includes(`/${FOLDER}`)) folder = '';
  }
}

function closure(packages: ReadonlyMap<string, Locked>, start: string): ReadonlySet<string> {
  const found = new Set<string>();
  const open = [start];
  for (let path = open.pop(); path !== undefined; path = open.pop()) {
    if (found.has(path)) continue;
    found.add(path);
    for (const name of Object.keys(packages.get(path)?.dependencies ?? {})) {
      const needed = resolve(packages, path, name);
      if (needed !== undefined) open.push(needed);
    }
  }
  return found;
}

/** Packages of production; the binaries of koffi for other systems, which are optional, are left out. */
export function productionPackages(): readonly Package[] {
  const { packages } = read('package-lock.json') as { packages: Record<string, Locked> };
  const all = new Map(Object.entries(packages));
  const direct = Object.keys(all.get('')?.dependencies ?? {});
  const closures = direct.map((name) => [name, closure(all, `${FOLDER}${name}`)] as const);
  return Object.entries(packages)
    .filter(([path, locked]) => path !== '' && locked.dev !== true && locked.optional !== true)
    .map(([path, locked]) => ({
      ...locked,
      name: nameOf(path),
      standIn: locked.name,
      neededBy: closures.filter(([, paths]) => paths.has(path)).map(([name]) => name),
    }));
}
export const reasons = (): Reasons => read('scripts/packages.json') as Reasons;

const row = (...cells: readonly string[]): string => `| ${cells.join(' | ')} |`;

export function dependenciesPage(): string {
  const packages = productionPackages();
  const { direct, replaced, installScripts } = reasons();
  const indirect = packages.filter(({ name, standIn }) => !(name in direct) && standIn === undefined);
  return wrapped(`# Packages that run in production

Written by \`npm run packages\` from package-lock.json and scripts/packages.json; a test fails when a package appears that is
not on this page, when one wants a newer Node than \`engines\` in package.json, or when one wants an install script.
\`npm run --silent sbom\` prints the same as CycloneDX.

${packages.length} packages, and one binary of koffi for the processor (\`@koromix/koffi-linux-…\`). Installation runs no scripts of packages
(\`npm ci --ignore-scripts\`).

## Direct

| package | version | licence | for | brings |
| --- | --- | --- | --- | --- |
${packages
  .filter(({ name }) => name in direct)
  .map(({ name, version, license }) => {
    const brought = indirect.filter(({ neededBy }) => neededBy.includes(name)).length;
    return row(`\`${name}\``, version, license ?? '', direct[name] ?? '', `${brought}`);
  })
  .join('\n')}

## Indirect

| package | version | licence | needed by |
| --- | --- | --- | --- |
${indirect.map(({ name, version, license, neededBy }) => row(`\`${name}\``, version, license ?? '', neededBy.join(', '))).join('\n')}

## Replaced by an empty package

\`overrides\` in package.json puts another package in their place, which has no code: the program refers to them, and never
calls them. Overrides count in this repository alone, so install with scripts/install or from an archive of scripts/pack.

| package | in its place | why it is not needed |
| --- | --- | --- |
${packages
  .filter(({ standIn }) => standIn !== undefined)
  .map(({ name, standIn, version }) => row(`\`${name}\``, `\`${standIn}\` ${version}`, replaced[name] ?? ''))
  .join('\n')}

## Install scripts

| package | why it has one |
| --- | --- |
${Object.entries(installScripts)
  .map(([name, why]) => row(`\`${name}\``, why))
  .join('\n')}
`);
}

if (process.argv[1] === import.meta.filename) writeFileSync(PAGE, dependenciesPage());
