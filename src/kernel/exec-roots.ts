import { readdir, readFile, readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { listeningSockets } from './sockets.js';

const DEFAULT_CONFIG = '/etc/docker/daemon.json';
const DEFAULT_ROOT = '/var/run/docker';

/**
 * Exec roots of the dockerd processes that listen on this unix socket; of all dockerd processes in this network namespace
 * where none of them holds it (a proxy listens there). From their arguments and configuration files: before the first
 * container, no answer of the API contains the exec root. A process that ends meanwhile or may not be read (another PID
 * namespace, no SYS_PTRACE) is left out.
 */
export async function execRoots(socket: string): Promise<readonly string[]> {
  const engines = await dockerdPids();
  const inodes = [...listeningSockets(await readFile('/proc/net/unix', 'utf8'))]
    .filter(([, path]) => withoutVar(path) === withoutVar(socket))
    .map(([inode]) => `socket:[${inode}]`);
  const held = await Promise.all(engines.map(async (pid) => (await socketsOf(pid, inodes)).length > 0));
  const listeners = engines.filter((_, i) => held[i]);
  const roots = await Promise.all((listeners.length > 0 ? listeners : engines).map(execRootOf));
  return [...new Set(roots.filter((root) => root !== undefined))];
}

/** The value of a long option of dockerd, `--name=value` or `--name value`. */
export function optionOf(argv: readonly string[], name: string): string | undefined {
  for (const [i, arg] of argv.entries()) {
    if (arg === `--${name}`) return argv[i + 1];
    if (arg.startsWith(`--${name}=`)) return arg.slice(name.length + 3);
  }
  return undefined;
}

/** /var/run is a link to /run. */
const withoutVar = (path: string): string => path.replace(/^\/var\/run\//, '/run/');

async function dockerdPids(): Promise<readonly string[]> {
  const own = await readlink('/proc/self/ns/net');
  const pids: string[] = [];
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const comm = await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '');
    if (comm.trim() !== 'dockerd') continue;
    const namespace = await readlink(`/proc/${pid}/ns/net`).catch(() => '');
    if (namespace === own) pids.push(pid);
  }
  return pids;
}

async function socketsOf(pid: string, wanted: readonly string[]): Promise<readonly string[]> {
  const fds = await readdir(`/proc/${pid}/fd`).catch(() => []);
  const targets = await Promise.all(fds.map((fd) => readlink(`/proc/${pid}/fd/${fd}`).catch(() => '')));
  return targets.filter((target) => wanted.includes(target));
}

async function execRootOf(pid: string): Promise<string | undefined> {
  const argv = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0');
  const given = optionOf(argv, 'exec-root');
  if (given !== undefined) return absolute(given);
  const config = optionOf(argv, 'config-file') ?? DEFAULT_CONFIG;
  const seen = config.startsWith('/') ? join(`/proc/${pid}/root`, config) : join(`/proc/${pid}/cwd`, config);
  const text = await readFile(seen, 'utf8').catch(() => '{}'); // dockerd needs no configuration file
  return absolute(configuredRoot(text) ?? DEFAULT_ROOT);
}

/** From the text of a daemon.json; undefined: it names none. */
export function configuredRoot(text: string): string | undefined {
  try {
    const config: unknown = JSON.parse(text);
    const root = config && (config as { readonly 'exec-root'?: unknown })['exec-root'];
    return typeof root === 'string' && root !== '' ? root : undefined;
  } catch {
    return undefined; // edited since dockerd read it: the first container's sandbox shows the folder
  }
}

const absolute = (root: string): string | undefined => (root.startsWith('/') ? root : undefined);
