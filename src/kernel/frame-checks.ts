/** The programs of frame-check.ts at their hooks, for as long as the rules: they outlive the service. */
import { createHash } from 'node:crypto';
import { readdirSync, statfsSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { bpf, loadProgram, objectAt, pinObject } from './bpf.js';
import { Btf } from './btf.js';
import { type FrameCheckOptions, frameCheckLines, type Layout } from './frame-check.js';
import { closeDescriptor, namespaceCookie } from './netlink/libc.js';

/** BPF_LINK_CREATE, BPF_PROG_TYPE_NETFILTER and BPF_NETFILTER (include/uapi/linux/bpf.h; since Linux 6.4). */
const [LINK_CREATE, TYPE, ATTACH] = [28, 32, 45] as const;
/** NFPROTO_*, NF_INET_PRE_ROUTING, and before NF_IP_PRI_CONNTRACK_DEFRAG: a reassembled packet shows the metadata of its first fragment alone. */
const PROTOCOL = { 4: 2, 6: 10 } as const;
const [PRE_ROUTING, PRIORITY] = [0, -450] as const;
const FAMILIES = [4, 6] as const;

/** Where the kernel keeps what has a name there (bpf(2), BPF_OBJ_PIN). */
const FOLDER = '/sys/fs/bpf';
const BPF_FS_MAGIC = 0xcafe4a11;

/** Whether frames are checked before all rules. */
export interface FrameCheckState {
  readonly isOn: boolean;
  /** The checks stay when the service ends. */
  readonly isKept: boolean;
  /** Why not, and what to do. */
  readonly why?: string;
}

export class FrameChecks implements Disposable {
  readonly #folder: string;
  readonly #fds: number[] = [];
  #state: FrameCheckState = { isOn: false, isKept: false, why: 'they have not begun' };

  /** `folder`: a file system of BPF, if it is mounted. */
  constructor(folder: string = FOLDER) {
    this.#folder = folder;
  }

  get state(): FrameCheckState {
    return this.#state;
  }

  /** Takes over the checks of an earlier start, or begins them. Never throws: `state` says why there are none. */
  begin(enforced: number): void {
    try {
      this.#attach(enforced);
    } catch (error) {
      this[Symbol.dispose]();
      this.#state = { isOn: false, isKept: false, why: reasonOf(error) };
    }
  }

  #attach(enforced: number): void {
    const ours = isBpfMounted(this.#folder) ? prefixHere() : undefined;
    let btf: Btf | undefined;
    const layout = (): Btf => {
      btf ??= new Btf();
      return btf;
    };
    const names = FAMILIES.map((family) => {
      const options = { family, enforced };
      const name = `${ours ?? ''}${family}-${tagOf(options)}`;
      const path = join(this.#folder, name);
      const known = ours === undefined ? undefined : objectAt(path);
      const fd = known ?? attached(options, layout());
      this.#fds.push(fd);
      if (ours !== undefined && known === undefined) pinObject(fd, path);
      return name;
    });
    this.#state =
      ours === undefined
        ? { isOn: true, isKept: false, why: notKept(this.#folder) }
        : { isOn: true, isKept: true };
    if (ours !== undefined) removeOthers(this.#folder, ours, new Set(names));
  }

  /** They go on if they are kept. */
  [Symbol.dispose](): void {
    for (const fd of this.#fds.splice(0)) closeDescriptor(fd);
  }
}

/** Ends the checks in this network namespace. Returns what was removed. */
export function releaseFrameChecks(folder: string = FOLDER): string[] {
  const ours = isBpfMounted(folder) ? prefixHere() : undefined;
  return ours === undefined || removeOthers(folder, ours, new Set()) === 0
    ? []
    : ['the checks of frames before all rules'];
}

const notKept = (folder: string): string =>
  `they end with the service, because ${folder} has no file system of BPF: mount -t bpf bpf ${folder}`;
const reasonOf = (error: unknown): string =>
  `the kernel does not take them: ${error instanceof Error ? error.message : String(error)}`;

function attached(options: FrameCheckOptions, layout: Layout): number {
  const { family } = options;
  const lines = frameCheckLines(layout, options);
  const program = loadProgram({ type: TYPE, attach: ATTACH, name: `drawbridge_ip${family}`, lines });
  try {
    return bpf('check frames before all rules', LINK_CREATE, [
      [0, program],
      [8, ATTACH],
      [16, PROTOCOL[family]],
      [20, PRE_ROUTING],
      [24, PRIORITY],
    ]);
  } finally {
    closeDescriptor(program);
  }
}

function isBpfMounted(folder: string): boolean {
  try {
    return statfsSync(folder).type === BPF_FS_MAGIC;
  } catch {
    return false;
  }
}
/** The cookie of a network namespace is never given again before the host starts anew. Undefined: the kernel has none (before Linux 5.14). */
function prefixHere(): string | undefined {
  const cookie = namespaceCookie();
  return cookie === undefined ? undefined : `drawbridge-${cookie}-`;
}
function removeOthers(folder: string, ours: string, kept: ReadonlySet<string>): number {
  const others = readdirSync(folder).filter((name) => name.startsWith(ours) && !kept.has(name));
  for (const name of others) unlinkSync(join(folder, name));
  return others.length;
}

/** Differs for programs that differ. The fields of the kernel's structures are the same until it starts anew. */
function tagOf(options: FrameCheckOptions): string {
  const number = (...names: string[]): number =>
    createHash('sha256').update(names.join('.')).digest().readUInt16LE() >> 1;
  const names: Layout = {
    struct: number,
    func: number,
    offset: number,
    bitField: (struct, field) => ({ at: number(struct, field), shift: 0 }),
  };
  const lines = JSON.stringify([frameCheckLines(names, options), PRIORITY]);
  return createHash('sha256').update(lines).digest('hex').slice(0, 12);
}
