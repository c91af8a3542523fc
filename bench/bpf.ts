/**
 * Programs of BPF for measurements: bpf(2) through koffi, an assembler for programs of a few instructions, and the offsets of fields of the
 * running kernel from its BTF. Nothing is pinned: maps, programs and links exist as long as their descriptors, which `Programs` closes and
 * which end with the process.
 */
import { existsSync, readFileSync } from 'node:fs';
import { arch, endianness } from 'node:os';
import koffi from 'koffi';
import { addressOf, closeDescriptor } from '../src/kernel/netlink/libc.js';
import { withNamespace } from '../src/kernel/netlink/namespace.js';

const SYSCALL: Readonly<Record<string, number>> = { x64: 321, arm64: 280 };
const syscall = koffi.load(null).func('long syscall(long, int, void *, uint)') as unknown as (
  number: number,
  command: number,
  attributes: Buffer,
  size: number,
) => number;

const [MAP_CREATE, MAP_LOOKUP, MAP_UPDATE, PROG_LOAD, LINK_CREATE] = [0, 1, 2, 5, 28] as const;
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
const MAP_TYPES = { hash: 1, array: 2 } as const;

class BpfError extends Error {}

/** `fields`: offset in union bpf_attr, and a value of 32 or (bigint) 64 bits. */
function bpf(what: string, command: number, fields: readonly (readonly [number, number | bigint])[]): number {
  const attributes = Buffer.alloc(144);
  for (const [offset, value] of fields) {
    if (typeof value === 'bigint') attributes.writeBigUInt64LE(value, offset);
    else attributes.writeInt32LE(value | 0, offset);
  }
  const number = SYSCALL[arch()];
  if (number === undefined || endianness() !== 'LE') throw new BpfError(`${what}: not on ${arch()}`);
  const result = syscall(number, command, attributes, attributes.length);
  if (result < 0) throw new BpfError(`${what}: errno ${koffi.errno()}`);
  return result;
}

/** An instruction, a label, or a jump to a label. */
export type Line = Insn | string;
interface Insn {
  readonly code: number;
  readonly dst: number;
  readonly src: number;
  readonly off: number | string;
  readonly imm: number;
  /** The upper half of a constant of 64 bits, in a second instruction. */
  readonly upper?: number;
}
const insn = (code: number, dst: number, src: number, off: number | string, imm: number): Insn => ({
  code,
  dst,
  src,
  off,
  imm,
});
const SIZES = { u8: 0x10, u16: 0x08, u32: 0x00, u64: 0x18 } as const;
type Size = keyof typeof SIZES;
const TESTS = { '==': 0x10, '!=': 0x50, '<': 0xa0 } as const;
const [FROM_FD, FROM_FD_VALUE, TO_KFUNC] = [1, 2, 2] as const;
/** Registers are numbers: 0 is the result, 1 to 5 arguments that a call changes, 6 to 9 are kept, 10 is the end of the stack. */
export const op = {
  load: (size: Size, dst: number, src: number, off: number) => insn(0x61 | SIZES[size], dst, src, off, 0),
  store: (size: Size, dst: number, off: number, src: number) => insn(0x63 | SIZES[size], dst, src, off, 0),
  set: (dst: number, value: number) => insn(0xb7, dst, 0, 0, value),
  copy: (dst: number, src: number) => insn(0xbf, dst, src, 0, 0),
  add: (dst: number, value: number) => insn(0x07, dst, 0, 0, value),
  addTo: (dst: number, src: number) => insn(0x0f, dst, src, 0, 0),
  /** Of 32 bits: the upper half becomes zero. */
  and: (dst: number, mask: number) => insn(0x54, dst, 0, 0, mask),
  /** Of 64 bits. */
  andLong: (dst: number, mask: number) => insn(0x57, dst, 0, 0, mask),
  jump: (label: string) => insn(0x05, 0, 0, label, 0),
  /** Jump if the lower 32 bits compare. */
  when: (dst: number, test: keyof typeof TESTS, value: number, label: string) =>
    insn(0x06 | TESTS[test], dst, 0, label, value),
  whenNull: (dst: number, label: string) => insn(0x15, dst, 0, label, 0),
  /** Jump if one register is greater than the other, both of 64 bits. */
  whenAbove: (dst: number, src: number, label: string) => insn(0x2d, dst, src, label, 0),
  whenDiffers: (dst: number, src: number, label: string) => insn(0x5d, dst, src, label, 0),
  /** A constant of 64 bits. */
  wide: (dst: number, low: number, high: number): Insn => ({ ...insn(0x18, dst, 0, 0, low), upper: high }),
  map: (dst: number, fd: number): Insn => ({ ...insn(0x18, dst, FROM_FD, 0, fd), upper: 0 }),
  /** The address of the value of an array at an offset. */
  value: (dst: number, fd: number, offset: number): Insn => ({
    ...insn(0x18, dst, FROM_FD_VALUE, 0, fd),
    upper: offset,
  }),
  call: (helper: number) => insn(0x85, 0, 0, 0, helper),
  kfunc: (id: number) => insn(0x85, 0, TO_KFUNC, 0, id),
  end: insn(0x95, 0, 0, 0, 0),
};
export const HELPERS = { lookup: 1, redirect: 23, ancestorCgroup: 123 } as const;

/** The bytes of a program; labels are texts that stand before their instruction. */
export function assembled(lines: readonly Line[]): Buffer {
  const labels = new Map<string, number>();
  let at = 0;
  for (const line of lines) {
    if (typeof line === 'string') labels.set(line, at);
    else at += line.upper === undefined ? 1 : 2;
  }
  const bytes = Buffer.alloc(at * 8);
  at = 0;
  for (const line of lines) {
    if (typeof line === 'string') continue;
    let { off } = line;
    if (typeof off === 'string') {
      const target = labels.get(off);
      if (target === undefined) throw new BpfError(`no label ${off}`);
      off = target - at - 1;
    }
    bytes.writeUInt8(line.code, at * 8);
    bytes.writeUInt8(line.dst | (line.src << 4), at * 8 + 1);
    bytes.writeInt16LE(off, at * 8 + 2);
    bytes.writeInt32LE(line.imm | 0, at * 8 + 4);
    if (line.upper !== undefined) bytes.writeInt32LE(line.upper | 0, at * 8 + 12);
    at += line.upper === undefined ? 1 : 2;
  }
  return bytes;
}

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
    if (id === undefined) throw new BpfError(`the BTF of the kernel has no ${name}`);
    return id;
  }

  /** The offset of a field in bytes, also of one within members that have no name. */
  offset(struct: string, field: string): number {
    const bits = this.#find(this.struct(struct), field);
    if (bits === undefined || bits % 8 !== 0) throw new BpfError(`struct ${struct} has no field ${field}`);
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

  map(type: keyof typeof MAP_TYPES, key: number, value: number, entries: number): number {
    return this.#keep(
      bpf('create a map', MAP_CREATE, [
        [0, MAP_TYPES[type]],
        [4, key],
        [8, value],
        [12, entries],
      ]),
    );
  }

  static put(map: number, key: Buffer, value: Buffer): void {
    bpf('write into a map', MAP_UPDATE, [
      [0, map],
      [8, addressOf(key)],
      [16, addressOf(value)],
    ]);
  }

  static read(map: number, key: Buffer, value: Buffer): void {
    bpf('read a map', MAP_LOOKUP, [
      [0, map],
      [8, addressOf(key)],
      [16, addressOf(value)],
    ]);
  }

  load(kind: Kind, name: string, lines: readonly Line[]): number {
    const code = assembled(lines);
    const license = Buffer.from('Dual MIT/GPL\0');
    const text = Buffer.from(`${name.replaceAll(/\W/g, '_').slice(0, 15)}\0`.padEnd(16, '\0'));
    const attributes = (log?: Buffer): (readonly [number, number | bigint])[] => [
      [0, KINDS[kind].type],
      [4, code.length / 8],
      [8, addressOf(code)],
      [16, addressOf(license)],
      [48, text.readBigUInt64LE(0)],
      [56, text.readBigUInt64LE(8)],
      [68, KINDS[kind].attach],
      ...(log
        ? ([
            [24, 1],
            [28, log.length],
            [32, addressOf(log)],
          ] as const)
        : []),
    ];
    try {
      return this.#keep(bpf(`load ${name}`, PROG_LOAD, attributes()));
    } catch (error) {
      const log = Buffer.alloc(1 << 20);
      try {
        return this.#keep(bpf(`load ${name}`, PROG_LOAD, attributes(log)));
      } catch {
        const said = log.toString('latin1', 0, log.indexOf(0));
        throw new BpfError(`${(error as Error).message}\n${said.slice(-3000)}`);
      }
    }
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
    more: readonly (readonly [number, number])[] = [],
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
