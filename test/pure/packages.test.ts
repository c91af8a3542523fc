/** What runs in production: which packages, on which Node, without scripts of theirs. */
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { dependenciesPage, productionPackages, reasons } from '../../scripts/packages.js';

const manifest = JSON.parse(readFileSync('package.json', 'utf8')) as {
  engines: { node: string };
  dependencies: Record<string, string>;
  overrides: Record<string, string>;
};
const packages = productionPackages();

/** Understands what the packages write: "*", "N", ">=N", "^N" and "A || B". Throws at anything else. */
function admits(range: string, version: readonly number[]): boolean {
  return range.split('||').some((part) => {
    const match = /^(>=|\^)?\s*v?(\d+|\*)(?:\.(\d+|x))?(?:\.(\d+|x))?(?:-\d+)?$/.exec(part.trim());
    if (!match) throw new Error(`engines.node "${range}": this test cannot read it`);
    const [, sign, ...numbers] = match;
    if (numbers[0] === '*') return true;
    const wanted = numbers.map((n) => Number(n === 'x' || n === undefined ? 0 : n));
    const differs = wanted.findIndex((n, i) => n !== version[i]);
    const isLater = differs < 0 || (version[differs] ?? 0) > (wanted[differs] ?? 0);
    return isLater && (sign === '>=' || wanted[0] === version[0]);
  });
}

it('docs/dependencies.md lists each: after a change, look at what came, and run npm run packages', () => {
  expect(readFileSync('docs/dependencies.md', 'utf8')).toBe(dependenciesPage());
});

it('each direct one has its reason, and no reason is left over', () => {
  expect(Object.keys(reasons().direct).sort()).toEqual(Object.keys(manifest.dependencies).sort());
});

it('each is needed by a direct one', () => {
  expect(packages.filter(({ neededBy }) => neededBy.length === 0)).toEqual([]);
});

it('what is replaced by an empty package is so wherever it is installed, and has its reason', () => {
  const overridden = Object.entries(manifest.overrides).filter(([, by]) => by.startsWith('npm:'));
  expect(overridden.map(([name]) => name).sort()).toEqual(Object.keys(reasons().replaced).sort());
  for (const [name, by] of overridden) {
    const found = packages.filter((p) => p.name === name);
    expect(found.length, name).toBeGreaterThan(0);
    for (const { standIn, version } of found) expect(`npm:${standIn}@${version}`).toBe(by);
  }
});

it('none wants a newer Node than package.json says', () => {
  const oldest = (/^>=(\d+)\.(\d+)$/.exec(manifest.engines.node) ?? []).slice(1).map(Number);
  expect(oldest).toEqual([20, 19]);
  const refusing = packages.filter(({ engines }) => !admits(engines?.node ?? '*', [...oldest, 0]));
  expect(refusing.map(({ name, engines }) => `${name}: ${engines?.node}`)).toEqual([]);
});

it.each([
  ['>=20', true],
  ['>= 20.19', true],
  ['>=20.20', false],
  ['^18.19.0 || >=20.5.0', true],
  ['^18 || ^22', false],
  ['20', true],
  ['>=22', false],
  ['>= 10.x', true],
])('the check itself: %s admits 20.19: %s', (range, is) => expect(admits(range, [20, 19, 0])).toBe(is));

it('install scripts are known', () => {
  const names = packages.filter((p) => p.hasInstallScript === true).map(({ name }) => name);
  expect(names).toEqual(Object.keys(reasons().installScripts));
});

it('all have a licence that permits distribution with its text', () => {
  const licences = [...new Set(packages.map(({ license }) => license))].sort();
  expect(licences).toEqual(['Apache-2.0', 'BSD-3-Clause', 'ISC', 'MIT']);
});
