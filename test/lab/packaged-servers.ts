/**
 * Web servers of Debian, unpacked from their packages into a cache folder: nginx, HAProxy, Caddy, Apache and lighttpd. They are not installed,
 * because an installed one starts at once and listens on the machine's own ports. apt checks each package by the signed index.
 */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { run } from './process.js';

const CACHE = '/var/cache/drawbridge';
const UNPACKED = join(CACHE, 'servers-1');
const PACKAGES = [
  'nginx',
  'haproxy',
  'caddy',
  'apache2-bin',
  'lighttpd',
  // libraries of them that a minimal system does not have
  'libapr1t64',
  'libaprutil1t64',
  'liblua5.4-0',
  'libopentracing1',
  'libopentracing-c-wrapper0t64',
];

const apt = (dir: string, ...words: readonly string[]): Promise<unknown> =>
  run(['env', '-C', dir, 'apt-get', '-qq', '-o', 'APT::Sandbox::User=root', ...words], {
    check: true,
    timeoutMs: 300_000,
  });

async function unpackInto(dir: string): Promise<void> {
  const packages = join(dir, 'packages');
  const root = join(dir, 'root');
  for (const folder of [packages, root]) mkdirSync(folder);
  // the machine's own lists may be missing or older than the mirror
  await apt(packages, 'download', ...PACKAGES).catch(async () => {
    await apt(packages, 'update');
    await apt(packages, 'download', ...PACKAGES);
  });
  for (const file of readdirSync(packages).filter((f) => f.endsWith('.deb')))
    await run(['dpkg', '-x', join(packages, file), root], { check: true });
  for (const program of ['sbin/nginx', 'sbin/haproxy', 'bin/caddy', 'sbin/apache2', 'sbin/lighttpd'])
    await checkLibraries(root, join(root, 'usr', program));
  renameSync(root, UNPACKED); // whole or not at all
}

async function checkLibraries(root: string, program: string): Promise<void> {
  const { stdout } = await run(['ldd', program], { env: librariesOf(root) }); // exit 1 for a static program
  const missing = stdout.split('\n').filter((line) => line.includes('not found'));
  if (missing.length > 0)
    throw new Error(`${program} lacks libraries of this machine: ${missing.join(', ').trim()}`);
}

/** The environment of a process that uses the libraries there. */
function librariesOf(root: string): NodeJS.ProcessEnv {
  const libraries = join(root, 'usr', 'lib');
  const folders = readdirSync(libraries).filter((f) => f.endsWith('-linux-gnu'));
  return { ...process.env, LD_LIBRARY_PATH: folders.map((f) => join(libraries, f)).join(':') };
}

export interface PackagedServers {
  /** Folder that has `usr/sbin/nginx` and so on. */
  readonly root: string;
  readonly env: NodeJS.ProcessEnv;
}
/** From the cache folder or the mirror; throws with the reason if they cannot be had. */
export async function provideServers(): Promise<PackagedServers> {
  if (!existsSync(UNPACKED)) {
    mkdirSync(CACHE, { recursive: true });
    const dir = mkdtempSync(join(CACHE, 'fetch-'));
    try {
      await unpackInto(dir);
    } catch (e) {
      if (!existsSync(UNPACKED)) throw new Error(`the web servers cannot be had: ${(e as Error).message}`);
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  }
  return { root: UNPACKED, env: librariesOf(UNPACKED) };
}
