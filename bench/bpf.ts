/**
 * Programs of BPF for measurements: links to hooks, and the offsets of fields of the running kernel from its BTF. Nothing is pinned: maps,
 * programs and links exist as long as their descriptors, which `Programs` closes and which end with the process.
 */
import { existsSync, readFileSync } from 'node:fs';
import { type BpfField, BpfMap, bpf, type Line, loadProgram, op } from '../src/kernel/bpf.js';
import { closeDescriptor } from '../src/kernel/netlink/libc.js';
import { withNamespace } from '../src/kernel/netlink/namespace.js';

const LINK_CREATE = 28;
/** enum bpf_prog_type and, where it has one, the attach type (include/uapi/linux/bpf.h). */
const KINDS = {
  netfilter: { type: 32, attach: 45 },
  tcxIngress: { type: 3, attach: 46 },
  tcxEgress: { type: 3, attach: 47 },
  cgroupEgress: { type: 8, attach: 1 },
  cgroupSocket: { type: 9, attach: 2 },
  cgroupOption: { type: 25, attach: 22 },
} as const;
export type Kind = keyof typeof KINDS;
const [BTF_STRUCT, BTF_UNION, BTF_FUNC] = [4, 5, 12] as const;
const BTF_FILE = '/sys/kernel/btf/vmlinux';
/** The types of a kernel (Documentation/bpf/btf.rst). */
export class Btf {
  readonly #data: Buffer;
  readonly #strings: number;
  /** Where the description of each type is. Type 0 is void. */
  readonly #at: number[] = [0];
  readonly #ids = new Map<string, number>();

  constructor(data: Buffer = readFileSync(BTF_FILE)) {
    this.#data = data;
    const header = data.readUInt32LE(4);
    const [types, length, strings] = [8, 12, 16].map((o) => data.readUInt32LE(o)) as [number, number, number];
    this.#strings = header + strings;
    for (let at = header + types; at < header + types + length; ) {
      const kind = this.#kind(at);
      if (kind === BTF_STRUCT || kind === BTF_FUNC)
        this.#ids.set(`${kind} ${this.#text(data.readUInt32LE(at))}`, this.#at.length);
      this.#at.push(at);
      at += 12 + this.#more(kind, data.readUInt16LE(at + 4));
    }
  }

  #kind(at: number): number {
    return (this.#data.readUInt32LE(at + 4) >>> 24) & 0x1f;
  }
  /** Bytes that follow the description, by its kind. */
  #more(kind: number, count: number): number {
    const each = { 4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12 }[kind];
    if (each !== undefined) return each * count;
    return { 1: 4, 3: 12, 14: 4, 17: 4 }[kind] ?? 0;
  }
  #text(offset: number): string {
    const from = this.#strings + offset;
    return this.#data.toString('latin1', from, this.#data.indexOf(0, from));
  }

  struct(name: string): number {
    return this.#id(BTF_STRUCT, name);
  }
  func(name: string): number {
    return this.#id(BTF_FUNC, name);
  }
  #id(kind: number, name: string): number {
    const id = this.#ids.get(`${kind} ${name}`);
    if (id === undefined) throw new Error(`the BTF of the kernel has no ${name}`);
    return id;
  }

  /** The offset of a field in bytes, also of one within members that have no name. */
  offset(struct: string, field: string): number {
    const bits = this.#find(this.struct(struct), field);
    if (bits === undefined || bits % 8 !== 0) throw new Error(`struct ${struct} has no field ${field}`);
    return bits / 8;
  }
  #find(id: number, field: string): number | undefined {
    const at = this.#at[id] as number;
    const info = this.#data.readUInt32LE(at + 4);
    const kind = this.#kind(at);
    if (kind !== BTF_STRUCT && kind !== BTF_UNION) return undefined;
    for (let n = 0; n < (info & 0xffff); n++) {
      const member = at + 12 + n * 12;
      const [name, type, bits] = [0, 4, 8].map((o) => this.#data.readUInt32LE(member + o)) as [
        number,
        number,
        number,
      ];
      // with the flag of the kind, the upper byte is the width of a bit field
      const from = info >>> 31 ? bits & 0xff_ffff : bits;
      if (name !== 0) {
        if (this.#text(name) === field) return from;
        continue;
      }
      const inner = this.#find(type, field);
      if (inner !== undefined) return from + inner;
    }
    return undefined;
  }
}

export type Hook = 'input' | 'forward' | 'output';
const HOOKS: Readonly<Record<Hook, number>> = { input: 1, forward: 2, output: 3 };
const NFPROTO_IPV4 = 2;

/** Maps, programs and links of one measurement. */
export class Programs implements Disposable {
  readonly #fds: number[] = [];

  #keep(fd: number): number {
    this.#fds.push(fd);
    return fd;
  }

  map(...of: ConstructorParameters<typeof BpfMap>): BpfMap {
    const map = new BpfMap(...of);
    this.#keep(map.fd);
    return map;
  }

  load(kind: Kind, name: string, lines: readonly Line[]): number {
    return this.#keep(loadProgram({ ...KINDS[kind], name, lines }));
  }

  /** For IPv4, in a network namespace. */
  atHook(program: number, namespace: string, hook: Hook, priority: number): void {
    this.#link('netfilter', program, 0, namespace, [
      [16, NFPROTO_IPV4],
      [20, HOOKS[hook]],
      [24, priority],
    ]);
  }
  atLink(kind: 'tcxIngress' | 'tcxEgress', program: number, namespace: string, ifindex: number): void {
    this.#link(kind, program, ifindex, namespace);
  }
  /** `cgroup`: the descriptor of its folder. */
  atCgroup(kind: Kind, program: number, cgroup: number): void {
    this.#link(kind, program, cgroup);
  }
  #link(
    kind: Kind,
    program: number,
    target: number,
    namespace?: string,
    more: readonly BpfField[] = [],
  ): void {
    const make = (): number =>
      bpf(`attach a program (${kind})`, LINK_CREATE, [
        [0, program],
        [4, target],
        [8, KINDS[kind].attach],
        ...more,
      ]);
    this.#keep(namespace === undefined ? make() : withNamespace(namespace, make));
  }

  [Symbol.dispose](): void {
    for (const fd of this.#fds.splice(0).reverse()) closeDescriptor(fd);
  }
}

/** Why no program can be measured here; undefined when they can. `namespace`: in which programs are attached for a moment. */
export function missingBpf(namespace: string): string | undefined {
  if (!existsSync(BTF_FILE)) return `the kernel has no ${BTF_FILE}`;
  using programs = new Programs();
  const accepting = (kind: Kind, result: number): number =>
    programs.load(kind, 'nothing', [op.set(0, result), op.end]);
  try {
    programs.atHook(accepting('netfilter', 1), namespace, 'output', 0);
    programs.atLink('tcxIngress', accepting('tcxIngress', -1), namespace, LOOPBACK);
    for (const kind of ['cgroupEgress', 'cgroupSocket', 'cgroupOption'] as const) accepting(kind, 1);
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}
/** The index of `lo` in each network namespace. */
const LOOPBACK = 1;
