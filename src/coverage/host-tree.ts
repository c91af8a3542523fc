import { hash } from 'node:crypto';
import { lstatSync, readdirSync, readFileSync, readlinkSync, type Stats } from 'node:fs';
import { lstat, readdir, readFile, readlink } from 'node:fs/promises';
import { setImmediate as turn } from 'node:timers/promises';
import { joined, type Location, type Mount, MountTable, parseMountInfo } from '../kernel/mount-info.js';
import { listeningSockets } from '../kernel/sockets.js';
import type { ContainerFacts } from '../policy/container.js';
import { type DeviceNode, givenPaths, majorOf, minorOf } from './device-findings.js';
import type { HostPlace, Mounted, OwnPlaces, Place } from './sensitive-places.js';

export interface FoundPath {
  /** The requested path, with `*` replaced. */
  readonly asked: string;
  /** Without symbolic links, as far as they could be read. */
  readonly path: string;
  /** Absent if the path is behind a file system that may not answer, or the files of the host cannot be read. */
  readonly stat: Stats | undefined;
}
const MOST_LINKS = 40;
const MOST_MATCHES = 200;
const MOST_NODES = 500;
const DEEPEST = 3;
/** File systems with a server or daemon that may not answer: a system call on them could block without end. */
const MAY_HANG =
  /^(nfs4?|cifs|smb3?|smbfs|ceph|9p|virtiofs|glusterfs|lustre|afs|beegfs|gpfs|ocfs2|gfs2|davfs|coda|autofs|fuse(\..*)?|fuseblk)$/;

/** File systems of local disks, of memory and of the kernel: a stamp is read in place, which takes a tenth of the time of another thread. */
const LOCAL = /^(ext[234]|xfs|btrfs|f2fs|tmpfs|ramfs|devtmpfs|proc|sysfs|cgroup2?|squashfs|mqueue)$/;

/** Files of procfs are not on a disk: to read one in place takes less than to hand it to another thread. */
export const readProc = (path: string): string => readFileSync(`/proc/${path}`, 'utf8');

/** The root of process 1, which a container without SYS_PTRACE cannot enter. */
const ROOT = '/proc/1/root';

/** Whether a path without symbolic links in it exists on the host; undefined: the host's files cannot be read from here. */
export const existsOnHost = (path: string): boolean | undefined =>
  isThere(`${ROOT}/proc`) ? isThere(`${ROOT}${path}`) : undefined;

const isThere = (path: string): boolean => {
  try {
    return lstatSync(path) !== undefined;
  } catch {
    return false; // ENOENT, or EACCES
  }
};

/** The tables that were read last, by the digest of their text: on a host with many containers it has thousands of lines. */
const tables = new Map<string, MountTable>();
/** Of process 1, and of this one. */
const MOST_TABLES = 2;

function mountsOf(pid: string): MountTable {
  const text = readProc(`${pid}/mountinfo`);
  const digest = hash('sha1', text, 'base64');
  const table = tables.get(digest) ?? new MountTable(parseMountInfo(text));
  tables.delete(digest);
  tables.set(digest, table);
  for (const oldest of tables.keys()) if (tables.size > MOST_TABLES) tables.delete(oldest);
  return table;
}

/**
 * The files of the host (of process 1), read without ever waiting for a network file system or a FUSE daemon. What was found at a path
 * is kept, because many paths begin alike: one tree is for one reading, and `again` is for the next one.
 */
export class HostTree {
  readonly mounts: MountTable;
  /** Of this process, where its files are not the host's (in a container). */
  readonly own: MountTable | undefined;
  /** Prefix of every path; undefined: files cannot be read (a container without SYS_PTRACE), mounts can. */
  readonly #prefix: string | undefined;
  readonly #stats = new Map<string, Promise<Stats | undefined> | Stats | undefined>();

  /** @param prefix a folder that is the root of the host */
  constructor(mounts: MountTable, prefix: string | undefined, own?: MountTable) {
    this.mounts = mounts;
    this.own = own;
    this.#prefix = prefix;
  }

  /** Rejects when the mounts of process 1 cannot be read. */
  static async read(): Promise<HostTree> {
    const [first, own] = [mountsOf('1'), mountsOf('self')];
    const isOpen = await lstat('/proc/1/root/proc').then(
      () => true,
      () => false, // EACCES: a container without SYS_PTRACE
    );
    const [a, b] = [first.mountOf('/'), own.mountOf('/')];
    const isHosts = a?.device === b?.device && a?.root === b?.root;
    const apart = isHosts ? undefined : own;
    if (isOpen) return new HostTree(first, '/proc/1/root', apart);
    return isHosts ? new HostTree(own, '') : new HostTree(first, undefined, apart);
  }

  /** The same mounts, and files that are looked up again. */
  again(): HostTree {
    return new HostTree(this.mounts, this.#prefix, this.own);
  }

  get isReadable(): boolean {
    return this.#prefix !== undefined;
  }

  /**
   * Find the existing files of a path or pattern, where `*` is one whole component. If files cannot be read, a path is returned
   * unchanged, and a pattern gives nothing.
   */
  async find(pattern: string): Promise<FoundPath[]> {
    const star = pattern.indexOf('/*');
    if (star < 0) return this.#one(pattern);
    if (this.#prefix === undefined) return [];
    const [folder, rest] = [pattern.slice(0, star), pattern.slice(star + 2)];
    const names = await this.#names(folder);
    const found = await Promise.all(names.map((name) => this.find(`${folder}/${name}${rest}`)));
    return found.flat();
  }

  /** Device nodes at the path, or below it where it is a folder (as `--device FOLDER` gives them). */
  async devices(path: string, depth = 0): Promise<FoundPath[]> {
    const [found] = await this.find(path);
    if (!found?.stat?.isDirectory() || depth >= DEEPEST) return found ? [found] : [];
    const below: FoundPath[] = [];
    for (const name of await this.#names(found.path)) {
      if (below.length >= MOST_NODES) break;
      below.push(...(await this.devices(`${found.path}/${name}`, depth + 1)));
    }
    return below.filter((f) => f.stat?.isBlockDevice() || f.stat?.isCharacterDevice());
  }

  /** How a mount is shown: by a path of the host, as far as the host has one to it. */
  shown(at: Location, type: string): string {
    return this.mounts.pathOf(at) ?? `${at.path} of ${type} ${at.device}`;
  }

  /** A mount of a container. `isSettled`: its file was found, or the files of the host have none for it. */
  async mounted(m: Mount): Promise<{ mounted: Mounted; isSettled: boolean }> {
    const location = { device: m.device, path: m.root };
    const path = this.isReadable ? this.mounts.pathOf(location) : undefined;
    const [found] = path === undefined ? [] : await this.find(path);
    // The path could lead elsewhere meanwhile: then it is another file system's, or another path.
    const inode = found?.path === path ? inodeOf({ stat: found?.stat }) : {};
    const mounted = {
      destination: m.point,
      path: this.shown(location, m.type),
      location,
      ...inode,
      isReadOnly: m.isReadOnly,
      type: m.type,
    };
    return { mounted, isSettled: path === undefined || inode.inode !== undefined };
  }

  async #one(asked: string): Promise<FoundPath[]> {
    if (this.#prefix === undefined)
      return [{ asked, path: asked.replace(/^\/var\/run(?=\/|$)/, '/run'), stat: undefined }];
    const found = await this.#resolve(asked);
    return found ? [{ asked, ...found }] : [];
  }

  async #names(folder: string): Promise<string[]> {
    const at = await this.#resolve(folder);
    if (!at?.stat?.isDirectory()) return [];
    const names = await readdir(`${this.#prefix}${at.path}`).catch(() => []); // gone meanwhile
    return names.slice(0, MOST_MATCHES);
  }

  /** Returns undefined when the path does not exist. Absolute links start at the root of the host. */
  async #resolve(path: string): Promise<Omit<FoundPath, 'asked'> | undefined> {
    let todo = path.split('/').filter((c) => c !== '' && c !== '.');
    let at = '/';
    let stat: Stats | undefined;
    for (let links = 0; todo.length > 0; ) {
      const [name = '', ...rest] = todo;
      todo = rest;
      if (name === '..') {
        at = at.slice(0, at.lastIndexOf('/')) || '/';
        stat = undefined;
        continue;
      }
      const next = joined(at, name);
      if (this.#mayHang(next)) return { path: joined(next, rest.join('/')), stat: undefined };
      stat = await this.#stat(next);
      if (!stat) return undefined;
      if (!stat.isSymbolicLink()) {
        at = next;
        continue;
      }
      links += 1;
      const target =
        links > MOST_LINKS ? undefined : await readlink(`${this.#prefix}${next}`).catch(() => undefined);
      if (target === undefined) return undefined;
      if (target.startsWith('/')) at = '/';
      todo = [...target.split('/').filter((c) => c !== '' && c !== '.'), ...todo];
    }
    return { path: at, stat: stat ?? (await this.#stat(at)) };
  }

  /** Undefined: ENOENT or ENOTDIR. */
  #stat(path: string): Promise<Stats | undefined> | Stats | undefined {
    const known = this.#stats.get(path);
    if (known || this.#stats.has(path)) return known;
    const file = `${this.#prefix}${path}`;
    const isLocal = LOCAL.test(this.mounts.mountOf(path)?.type ?? '');
    const stat = isLocal ? statNow(file) : lstat(file).catch(() => undefined);
    this.#stats.set(path, stat);
    return stat;
  }

  #mayHang(path: string): boolean {
    const m = this.mounts.mountOf(path);
    return m !== undefined && m.point !== '/' && MAY_HANG.test(m.type);
  }
}

/** In a container the paths of the configuration are the container's: what is mounted there is of the host. */
export function ownPlaces(wanted: readonly Place[], own: OwnPlaces, tree: HostTree): HostPlace[] {
  const paths = new Set(Object.values(own));
  return wanted.flatMap((place) => {
    const location = paths.has(place.path) ? tree.own?.locate(place.path) : undefined;
    return location ? [{ ...place, location }] : [];
  });
}

/** Decides by the file if it can be read, else by the listening sockets. */
export const isSocket = ({ stat, path }: FoundPath, listening: ReadonlySet<string>): boolean =>
  stat ? stat.isSocket() : listening.has(path);

/** The resolved path of a socket; the usual path of a folder. */
export const shownPath = (f: FoundPath, by: HostPlace['by']): string => (by === 'connect' ? f.path : f.asked);

export const inodeOf = ({ stat }: Pick<FoundPath, 'stat'>): { inode?: string } =>
  stat ? { inode: `${stat.dev}:${stat.ino}` } : {};

function statNow(path: string): Stats | undefined {
  try {
    return lstatSync(path, { throwIfNoEntry: false });
  } catch {
    return undefined;
  }
}

/** Programs with sockets by which containers can be started. The kernel keeps 15 characters of a name. */
const ENGINES = new Set([
  'dockerd',
  'containerd',
  'podman',
  'crio',
  'cri-dockerd',
  'buildkitd',
  'lxd',
  'incusd',
  'k3s-server',
  'kubelet',
]);
const ENGINE_NAME = /\/(docker|containerd|podman|crio|cri-dockerd|buildkitd)[\w.-]*\.(sock|ttrpc)$/;

interface UnixSockets {
  /** Paths on which any process listens, with /run for /var/run. */
  readonly listening: ReadonlySet<string>;
  /** Those of container engines: by the name of the socket, or by the process. */
  readonly engines: readonly string[];
}

/** Unix sockets of this host (of this network namespace) on which processes listen. */
export async function readUnixSockets(): Promise<UnixSockets> {
  const listening = listeningSockets(await readFile('/proc/net/unix', 'utf8'));
  const owned = await enginesFds();
  return {
    listening: new Set([...listening.values()].map((path) => path.replace(/^\/var\/run\//, '/run/'))),
    engines: [...listening]
      .filter(([inode, path]) => owned.has(inode) || ENGINE_NAME.test(path))
      .map(([, path]) => path),
  };
}

/** Processes and descriptors that are looked at before other tasks have their turn: each takes some µs. */
const AT_ONCE = 100;

/** What `read` returns; `otherwise` if the process has ended, or may not be read. */
function ofProcess<T>(read: () => T, otherwise: T): T {
  try {
    return read();
  } catch {
    return otherwise;
  }
}

/** Inodes of the sockets that engines hold. What may not be read (no SYS_PTRACE), or ends meanwhile, is left out. */
async function enginesFds(): Promise<ReadonlySet<string>> {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  const inodes = new Set<string>();
  for (const [n, pid] of pids.entries()) {
    if (n % AT_ONCE === AT_ONCE - 1) await turn();
    if (!ENGINES.has(ofProcess(() => readProc(`${pid}/comm`).trim(), ''))) continue;
    for (const [m, fd] of ofProcess(() => readdirSync(`/proc/${pid}/fd`), []).entries()) {
      if (m % AT_ONCE === AT_ONCE - 1) await turn();
      const target = ofProcess(() => readlinkSync(`/proc/${pid}/fd/${fd}`), '');
      const inode = /^socket:\[(\d+)\]$/.exec(target)?.[1];
      if (inode) inodes.add(inode);
    }
  }
  return inodes;
}

/** The device nodes that the settings of a container name. */
export async function deviceNodes(p: ContainerFacts['privileges'], tree: HostTree): Promise<DeviceNode[]> {
  const nodes: DeviceNode[] = [];
  if (!tree.isReadable || !p) return nodes;
  for (const given of givenPaths(p))
    for (const { path, stat } of await tree.devices(given)) {
      if (!stat || !(stat.isBlockDevice() || stat.isCharacterDevice())) continue;
      const kind = stat.isBlockDevice() ? 'block' : 'char';
      nodes.push({ given, path, kind, major: majorOf(stat.rdev), minor: minorOf(stat.rdev) });
    }
  return nodes;
}
