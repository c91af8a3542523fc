import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { closeSync, mkdirSync, readdirSync, readFileSync, rmdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { textIfThere } from '../lib/small-file.js';
import type { Cgroup } from '../ruleset/desired-state.js';
import { type Exec, must } from './exec.js';
import { RESTORE } from './iptables-text.js';
import { makeNamespace, udpSocketFd } from './netlink/namespace.js';
import { NetlinkError } from './netlink/netlink-error.js';
import { NftElements } from './netlink/nft-codec.js';

/**
 * Paths that the cgroup match of iptables accepts (xt_cgroup: 512 bytes with the final NUL), and iptables-restore
 * without quotes.
 */
const PATH = /^[\w.:@+\\/-]{1,511}$/;

/** The folder in which nft resolves the names of cgroups (nftables, src/socket.c and datatype cgroupsv2). */
const NFT_ROOT = '/sys/fs/cgroup';

/**
 * The unified cgroup hierarchy, also where the older hierarchies are mounted as well. Paths are relative to its root,
 * without a leading slash. Within a cgroup namespace of its own the class returns nothing: the paths there differ from
 * those of the kernel.
 */
export class Cgroups {
  /** Undefined when there is no unified hierarchy, or when only a part of it is visible. */
  readonly #root: string | undefined;
  /** nft and the kernel support matching the cgroup of a socket: see `askNft`. */
  isInNft = false;

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
    this.isInNft = root !== undefined && (await run('nft', ['--check', '-f', '-'], { input })).code === 0;
    return this.isInNft;
  }

  /** As nft names the cgroup at a path. Undefined when rules of nft cannot name it; "." is the root of the hierarchy. */
  nftName(path: string): string | undefined {
    const name = this.isInNft ? this.#nftName(path) : undefined;
    return name === '' ? '.' : name;
  }

  /** The path of a cgroup as nft names it. */
  pathOf(nftName: string): string {
    const root = `${this.#nftName('') ?? ''}/`;
    return nftName.startsWith(root) ? nftName.slice(root.length) : nftName;
  }

  #nftName(path: string): string | undefined {
    const name = join(this.#root ?? '', path);
    if (name === NFT_ROOT) return '';
    return name.startsWith(`${NFT_ROOT}/`) ? name.slice(NFT_ROOT.length + 1) : undefined;
  }

  /**
   * The cgroup of a process now. Undefined when the process has exited, or when its cgroup is outside the visible part.
   */
  of(pid: number | 'self'): string | undefined {
    const path = /^0::\/(.*)$/m.exec(textIfThere(`/proc/${pid}/cgroup`) ?? '')?.[1];
    return path === undefined || path.startsWith('..') ? undefined : path;
  }

  /** The object at a path now. Its inode number is the kernel's own id of it, which is not used again (kernfs). */
  at(path: string): Cgroup | undefined {
    if (this.#root === undefined || !PATH.test(path)) return undefined;
    const stats = statSync(this.folder(path), { bigint: true, throwIfNoEntry: false });
    if (!stats?.isDirectory()) return undefined;
    const nft = this.nftName(path);
    return { path, object: String(stats.ino), ...(nft === undefined ? {} : { nft }) };
  }

  /** Child cgroups, and whether processes are in the cgroup itself. Undefined when there is no such cgroup. */
  inside(path: string): { readonly children: readonly string[]; readonly hasProcesses: boolean } | undefined {
    if (this.#root === undefined) return undefined;
    const folder = this.folder(path);
    const processes = textIfThere(join(folder, 'cgroup.procs'));
    if (processes === undefined) return undefined;
    return { children: foldersIn(folder), hasProcesses: processes.trim() !== '' };
  }

  /** Its folder in the file system. */
  folder(path: string): string {
    return join(this.#root ?? '', path);
  }

  /** Makes an empty cgroup. Returns false when it exists already or cannot be made. */
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

function foldersIn(path: string): string[] {
  try {
    return readdirSync(path, { withFileTypes: true })
      .filter((e) => e.isDirectory())
      .map((e) => e.name);
  } catch {
    return []; // The cgroup was removed in the meantime.
  }
}

function succeeds(action: () => void): boolean {
  try {
    action();
    return true;
  } catch {
    return false; // The return value reports it, and nothing depends on it.
  }
}

const TRY = '*raw\n-A OUTPUT -j CT --zone-orig 1\nCOMMIT\n';

/** Whether the command iptables is iptables-legacy. */
export const isLegacy = async (run: Exec): Promise<boolean> =>
  (await run('iptables', ['--version'])).stdout.includes('legacy');

/**
 * Whether `raw` accepts rules that assign a conntrack zone (xt_CT), tried with `--test`. Returns false for
 * iptables-legacy:
 * it replaces whole tables, so that the rule of a removed cgroup would keep Docker from changing its own rules.
 */
export async function canZone(run: Exec, asked: Promise<boolean> = isLegacy(run)): Promise<boolean> {
  if (await asked) return false;
  const tried = await Promise.all(
    Object.values(RESTORE).map((tool) => run(tool, ['--test', '--noflush', '-w', '10'], { input: TRY })),
  );
  return tried.every(({ code }) => code === 0);
}

/** The same statements as in ruleset/host-identity.ts. Only a datagram with the mark and the zone of the sender arrives. */
const identifyProgram = (sender: string, depth: number): string => `table inet drawbridge_try {
  chain identify {
    type filter hook output priority -310;
    socket cgroupv2 level ${depth} "${sender}" meta mark set meta mark & 0x0 | 0x20 goto zones
    meta mark set 0
  }
  chain zones { meta l4proto 17 ct original zone set 7; }
  chain output {
    type filter hook output priority 200;
    meta l4proto 17 meta mark 0x20 ct original zone 7 accept
    meta l4proto 17 drop
  }
}
`;
const ARRIVES_MS = 1_000;

/** What tables of nft can do for senders in the host network. */
export interface NftAbilities {
  /** Identify a sender by its cgroup, and give its datagrams a conntrack zone. Otherwise the rules of iptables do. */
  readonly identifies: boolean;
  /** Queue packets of unknown senders. Otherwise `raw` does. */
  readonly queues: boolean;
  /** Take options out of headers of TCP (Linux 5.18, nft 1.0.2). */
  readonly strips?: boolean;
}
const NONE: NftAbilities = { identifies: false, queues: false };
const TRY_STRIP =
  'table inet drawbridge_strip { chain first { tcp flags syn reset tcp option mptcp; tcp flags syn reset tcp option fastopen; }; }';
const SCRIPT = `ip link set lo up && nft -f - && { nft '${TRY_STRIP}' && echo strips || true; }`;

/** A datagram of this process is sent in a network namespace of its own, where the rule that queues is tried, too. */
export async function nftAbilities(run: Exec, cgroups: Cgroups): Promise<NftAbilities> {
  const path = cgroups.of('self');
  const sender = path === undefined ? undefined : cgroups.nftName(path);
  if (path === undefined || sender === undefined) return NONE;
  let namespace: number | undefined;
  try {
    namespace = makeNamespace();
    const depth = path === '' ? 0 : path.split('/').length;
    const input = identifyProgram(sender, depth);
    const inside = [`--net=/proc/${process.pid}/fd/${namespace}`, '--'];
    const said = await must(run, 'nsenter', [...inside, 'sh', '-c', SCRIPT], { input });
    const identifies = await arrives(namespace);
    return {
      identifies,
      queues: identifies && takesQueueRule(namespace),
      strips: said.includes('strips'),
    };
  } catch {
    return NONE; // doctor reports what nft and the kernel accept
  } finally {
    if (namespace !== undefined) closeSync(namespace);
  }
}

function takesQueueRule(namespace: number): boolean {
  using elements = new NftElements({ namespace });
  try {
    elements.setQueueRule({ table: 'drawbridge_try', chain: 'queue', queue: 1, comment: 'tried' });
    return true;
  } catch (error) {
    if (!(error instanceof NetlinkError)) throw error;
    return false; // no nft_compat, or no xt_NFQUEUE
  }
}

async function arrives(namespace: number): Promise<boolean> {
  const address = '127.0.0.1';
  const socket = createSocket('udp4');
  try {
    const received = once(socket, 'message').then(
      () => true,
      () => false, // the socket cannot be bound, or the send is refused
    );
    socket.bind({ fd: udpSocketFd({ family: 4, address, port: 0, namespace }) });
    socket.send('drawbridge', socket.address().port, address);
    return await Promise.race([received, sleep(ARRIVES_MS, false, { ref: false })]);
  } finally {
    socket.close();
  }
}
