import { readFileSync, readlinkSync } from 'node:fs';
import { readdir, readFile, readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { PROTOCOL_NUMBERS, withoutMapping } from '../lib/ip.js';
import { bracketed } from '../lib/units.js';
import { type Exec, must } from './exec.js';

/** An endpoint as ss(8) prints it: address, scope and port. */
const END = /^(?:\[([0-9a-f:.]+)\]|([0-9.]+|\*))(?:%\S+?)?:(\d+|\*)$/;
const PROTO: Readonly<Record<string, SocketEnds['proto']>> = PROTOCOL_NUMBERS;
const EVERYWHERE = new Set(['*', '0.0.0.0', '::']);

/**
 * TCP and UDP sockets of this network namespace that were created in one of these cgroups (paths) or below. Listening
 * sockets are left out. Throws KernelError when ss does not print cgroups (iproute2 before 5.9).
 */
export async function socketsIn(run: Exec, cgroups: readonly string[]): Promise<readonly SocketEnds[]> {
  const text = await must(run, 'ss', ['-H', '-n', '-t', '-u', '-a', '-O', '--cgroup']);
  return text.split('\n').flatMap((line) => {
    const [netid = '', state, , , local = '', peer = ''] = line.trim().split(/\s+/);
    const cgroup = / cgroup:\/(\S*)/.exec(line)?.[1];
    const isOurs = cgroups.some((c) => cgroup === c || cgroup?.startsWith(`${c}/`));
    const proto = PROTO[netid];
    const from = endOf(local);
    if (!isOurs || state === 'LISTEN' || proto === undefined || from?.port === undefined) return [];
    const to = endOf(peer);
    return [
      {
        proto,
        port: from.port,
        ...(from.address === undefined ? {} : { address: from.address }),
        ...(to?.address === undefined || to.port === undefined
          ? {}
          : { peer: { address: to.address, port: to.port } }),
      },
    ];
  });
}

function endOf(text: string): { readonly address?: string; readonly port?: number } | undefined {
  const [, v6, v4, port] = END.exec(text) ?? [];
  const said = v6 ?? v4;
  if (said === undefined) return undefined;
  const address = withoutMapping(said);
  return {
    ...(EVERYWHERE.has(address) ? {} : { address }),
    ...(port === '*' ? {} : { port: Number(port) }),
  };
}

/** A socket of the host's network namespace that may send. */
export interface SocketEnds {
  /** IANA protocol number. */
  readonly proto: 6 | 17;
  /** The local address. Absent for a socket that is bound to every address of the host. */
  readonly address?: string;
  readonly port: number;
  /** Absent for an unconnected socket. */
  readonly peer?: { readonly address: string; readonly port: number };
}

/** Paths of listening unix sockets, by inode of the socket, from /proc/net/unix. */
export function listeningSockets(text: string): ReadonlyMap<string, string> {
  const lines = text.split('\n').map((line) => line.trim().split(/\s+/));
  return new Map(
    lines.flatMap(([, , , flags, , , inode, path]) =>
      flags === LISTENING && inode && path?.startsWith('/') ? [[inode, path] as const] : [],
    ),
  );
}

/** __SO_ACCEPTCON */
const LISTENING = '00010000';

const DEFAULT_CONFIG = '/etc/docker/daemon.json';
const DEFAULT_ROOT = '/var/run/docker';

/**
 * Exec roots of the dockerd processes that listen on this unix socket, or of all dockerd processes in this network
 * namespace if another program listens on it (a proxy). They are read from arguments and configuration files: before
 * the first container is created, no response of the API contains the exec root. A process that exits in the meantime
 * or may not be read (another PID namespace, no SYS_PTRACE) is left out.
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

/**
 * Files of /proc that are read before other tasks have their turn. Each takes some 10 µs: three times as long in another encoding, for which
 * Node has no call of its own, and twenty times as long through a promise.
 */
const READ_AT_ONCE = 100;

async function dockerdPids(): Promise<readonly string[]> {
  const own = readlinkSync('/proc/self/ns/net');
  const pids: string[] = [];
  const all = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  for (const [n, pid] of all.entries()) {
    if (n % READ_AT_ONCE === READ_AT_ONCE - 1) await new Promise((resume) => setImmediate(resume));
    if (isDockerd(pid, own)) pids.push(pid);
  }
  return pids;
}

/** Returns whether the process is a dockerd in this network namespace. False if it has exited, or its namespace cannot be read. */
function isDockerd(pid: string, namespace: string): boolean {
  try {
    const comm = readFileSync(`/proc/${pid}/comm`, 'utf8');
    return comm.trim() === 'dockerd' && readlinkSync(`/proc/${pid}/ns/net`) === namespace;
  } catch {
    return false;
  }
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

/** Parses the text of a daemon.json. Returns undefined when it has no exec root. */
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

/** The ends of a TCP connection, as its socket has them. */
interface SocketTuple {
  readonly src: string;
  readonly sport?: number;
  readonly dst: string;
  readonly dport?: number;
}

/** The kernel compares each socket of the namespace with each connection, and takes no more than 64 KiB of comparisons. */
const MOST_RESETS = 500;
/** The kernel waits for the lock of a socket without an end, and a program can keep that lock: this command never counts as hanging. */
const RESET_TIMEOUT_MS = 86_400_000;

/**
 * Reset TCP connections at their sockets, in the network namespace of this path or in the own one: the kernel sends a reset to the other side,
 * and the program gets ECONNABORTED. Sockets that listen stay, and those of TIME_WAIT, which older kernels cannot end. Does nothing where
 * the kernel has no CONFIG_INET_DIAG_DESTROY. Throws KernelError.
 */
export async function resetSockets(
  run: Exec,
  namespace: string | undefined,
  connections: readonly SocketTuple[],
): Promise<void> {
  const filter = connections
    .slice(0, MOST_RESETS)
    .map(({ src, sport = 0, dst, dport = 0 }) => `( src ${endText(src, sport)} dst ${endText(dst, dport)} )`);
  const ss = ['ss', '-H', '-n', '-t', '-K', '-F', '-', 'state', 'connected', 'exclude', 'time-wait'];
  const [file = 'ss', ...args] =
    namespace === undefined ? ss : ['nsenter', `--net=${namespace}`, '--', ...ss];
  await must(run, file, args, { input: `${filter.join('\nor ')}\n`, timeoutMs: RESET_TIMEOUT_MS });
}

const endText = (address: string, port: number): string => `${bracketed(address)}:${port}`;
