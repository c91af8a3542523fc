import { mkdirSync, readdirSync, readFileSync, rmdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { Cgroup } from '../ruleset/desired-state.js';
import type { Exec } from './exec.js';
import { RESTORE } from './read-rules.js';

/** What iptables' cgroup match takes as it is (xt_cgroup: 512 bytes with the final NUL), and iptables-restore without quotes. */
const PATH = /^[\w.:@+\\/-]{1,511}$/;

/** Where nft looks for the names of cgroups (nftables, src/socket.c and datatype cgroupsv2). */
const NFT_ROOT = '/sys/fs/cgroup';

/**
 * The unified cgroup hierarchy, also where it stands beside the older ones. Paths are from its root, without a slash before
 * them. Asked from within a cgroup namespace of its own it says nothing: its paths would not be the kernel's.
 */
export class Cgroups {
  /** Undefined: there is no unified hierarchy, or we see only a part of it. */
  readonly #root: string | undefined;
  /** nft and the kernel can ask for the cgroup of a socket. */
  #isInNft = false;

  constructor(mountInfo = readFileSync('/proc/self/mountinfo', 'utf8')) {
    this.#root = unifiedRoot(mountInfo);
  }

  get isKnown(): boolean {
    return this.#root !== undefined;
  }

  /** Whether rules of nft may name cgroups: tried, and taken back by nft itself (`--check`). */
  async askNft(run: Exec): Promise<boolean> {
    const root = this.#nftName('');
    const rule = `socket cgroupv2 level 0 "${root === '' ? '.' : root}" accept`;
    const input = `table inet drawbridge_try {\n  chain output {\n    type filter hook output priority 200;\n    ${rule}\n  }\n}\n`;
    this.#isInNft = root !== undefined && (await run('nft', ['--check', '-f', '-'], { input })).code === 0;
    return this.#isInNft;
  }

  #nftName(path: string): string | undefined {
    const name = join(this.#root ?? '', path);
    if (name === NFT_ROOT) return '';
    return name.startsWith(`${NFT_ROOT}/`) ? name.slice(NFT_ROOT.length + 1) : undefined;
  }

  /** Where a process is now; undefined: it ended, or lies outside of what we see. */
  of(pid: number | 'self'): string | undefined {
    const path = /^0::\/(.*)$/m.exec(textOf(`/proc/${pid}/cgroup`) ?? '')?.[1];
    return path === undefined || path.startsWith('..') ? undefined : path;
  }

  /** The object at a path now. Its inode number is the kernel's own id of it, which is not used again (kernfs). */
  at(path: string): Cgroup | undefined {
    if (this.#root === undefined || !PATH.test(path)) return undefined;
    const stats = statSync(this.folder(path), { bigint: true, throwIfNoEntry: false });
    if (!stats?.isDirectory()) return undefined;
    const nft = this.#isInNft ? this.#nftName(path) : undefined;
    return { path, object: String(stats.ino), ...(nft === undefined ? {} : { nft }) };
  }

  /** Cgroups in it, and whether processes are in it themselves; undefined: there is none. */
  inside(path: string): { readonly children: readonly string[]; readonly hasProcesses: boolean } | undefined {
    if (this.#root === undefined) return undefined;
    const folder = this.folder(path);
    const processes = textOf(join(folder, 'cgroup.procs'));
    if (processes === undefined) return undefined;
    return { children: foldersIn(folder), hasProcesses: processes.trim() !== '' };
  }

  /** Its folder in the file system. */
  folder(path: string): string {
    return join(this.#root ?? '', path);
  }

  /** Makes an empty cgroup; false: it was there, or cannot be made. */
  make(path: string): boolean {
    if (this.#root === undefined || !PATH.test(path)) return false;
    return succeeds(() => mkdirSync(this.folder(path)));
  }

  /** Removes an empty cgroup; false: it is in use, or there is none. */
  remove(path: string): boolean {
    if (this.#root === undefined || !PATH.test(path)) return false;
    return succeeds(() => rmdirSync(this.folder(path)));
  }
}

/** proc(5): fields are id, parent, device, root, mount point, options, optional fields, "-", type … */
function unifiedRoot(mountInfo: string): string | undefined {
  const lines = mountInfo.split('\n').filter((l) => / - cgroup2 /.test(l));
  const whole = lines.map((l) => l.split(' ')).find((fields) => fields[3] === '/');
  return whole?.[4]?.replace(/\\(\d{3})/g, (_, octal: string) =>
    String.fromCharCode(Number.parseInt(octal, 8)),
  );
}

function textOf(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined; // the process or the cgroup has ended
  }
}

function foldersIn(path: string): string[] {
  try {
    return readdirSync(path, { withFileTypes: true })
      .filter((e) => e.isDirectory())
      .map((e) => e.name);
  } catch {
    return []; // it has ended since
  }
}

function succeeds(action: () => void): boolean {
  try {
    action();
    return true;
  } catch {
    return false; // the caller is told; nothing depends on it
  }
}

const TRY = '*raw\n-A OUTPUT -j CT --zone-orig 1\nCOMMIT\n';

/**
 * Whether `raw` takes rules that give a packet a zone of conntrack (xt_CT): tried without laying them. Not with
 * iptables-legacy: it replaces whole tables, so that the rule of a cgroup that has ended would keep Docker out of its own.
 */
export async function canZone(run: Exec): Promise<boolean> {
  if ((await run('iptables', ['--version'])).stdout.includes('legacy')) return false;
  const tried = await Promise.all(
    Object.values(RESTORE).map((tool) => run(tool, ['--test', '--noflush', '-w', '10'], { input: TRY })),
  );
  return tried.every(({ code }) => code === 0);
}
