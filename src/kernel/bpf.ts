/**
 * Programs and maps of BPF over bpf(2), and an assembler for programs of a few instructions (include/uapi/linux/bpf.h). They exist as long as
 * a descriptor, an attachment or a name in a file system of BPF refers to them.
 */

import { readFileSync } from 'node:fs';
import { getSystemErrorMap } from 'node:util';
import { ignoreMissing } from '../lib/problem.js';
import { addressOf, callBpf, closeDescriptor } from './netlink/libc.js';

const COMMAND = {
  createMap: 0,
  lookup: 1,
  update: 2,
  delete: 3,
  load: 5,
  pin: 6,
  get: 7,
  testRun: 10,
} as const;
const MAP_TYPES = { hash: 1, array: 2 } as const;
/** Elements are allocated when they are added (BPF_F_NO_PREALLOC). */
const NO_PREALLOC = 1;
const NAME_LENGTH = 15;
const LOG_LENGTH = 1 << 20;
const LOG_SHOWN = 3_000;
const ATTRIBUTES = 144;

/** What bpf(2) refuses. `code`: the symbolic name, such as EPERM. */
export class BpfError extends Error {
  readonly code: string;

  constructor(operation: string, errno: number, detail = '') {
    const [code, words] = getSystemErrorMap().get(-errno) ?? [`E${errno}`, `error ${errno}`];
    super(`${operation}: ${words} (${code})${detail === '' ? '' : `\n${detail}`}`);
    this.name = 'BpfError';
    this.code = code;
  }
}

/** An offset in union bpf_attr, and a value of 32 or (bigint) 64 bits. */
export type BpfField = readonly [offset: number, value: number | bigint];
/** One call of bpf(2): a descriptor, or 0. Throws BpfError. */
export function bpf(operation: string, command: number, fields: readonly BpfField[]): number {
  return call(operation, command, fields).result;
}

function call(
  operation: string,
  command: number,
  fields: readonly BpfField[],
): { result: number; attributes: Buffer } {
  const attributes = Buffer.alloc(ATTRIBUTES);
  for (const [offset, value] of fields) {
    if (typeof value === 'bigint') attributes.writeBigUInt64LE(value, offset);
    else attributes.writeInt32LE(value | 0, offset);
  }
  const result = callBpf(command, attributes);
  if (result < 0) throw new BpfError(operation, -result);
  return { result, attributes };
}

/** Gives a program, a map or a link a name in a file system of BPF, with which it outlives this process. Throws BpfError. */
export function pinObject(fd: number, path: string): void {
  const name = Buffer.from(`${path}\0`);
  bpf('keep an object of BPF', COMMAND.pin, [
    [0, addressOf(name)],
    [8, fd],
  ]);
}
/** A descriptor of what has this name; undefined: there is nothing. Throws BpfError. */
export function objectAt(path: string): number | undefined {
  const name = Buffer.from(`${path}\0`);
  try {
    return bpf('open an object of BPF', COMMAND.get, [[0, addressOf(name)]]);
  } catch (error) {
    return ignoreMissing(error);
  }
}

/** An instruction, or the name of a label for the instruction after it. */
export type Line = Insn | string;
interface Insn {
  readonly code: number;
  readonly dst: number;
  readonly src: number;
  /** Of a jump: its label. */
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
/**
 * Instructions (Documentation/bpf/standardization/instruction-set.rst). Registers are numbers: 0 is the result, 1 to 5 arguments that a
 * call changes, 6 to 9 are kept, 10 is the end of the stack.
 */
export const op = {
  load: (size: Size, dst: number, src: number, off: number) => insn(0x61 | SIZES[size], dst, src, off, 0),
  store: (size: Size, dst: number, off: number, src: number) => insn(0x63 | SIZES[size], dst, src, off, 0),
  set: (dst: number, value: number) => insn(0xb7, dst, 0, 0, value),
  copy: (dst: number, src: number) => insn(0xbf, dst, src, 0, 0),
  add: (dst: number, value: number) => insn(0x07, dst, 0, 0, value),
  addTo: (dst: number, src: number) => insn(0x0f, dst, src, 0, 0),
  subtract: (dst: number, src: number) => insn(0x1f, dst, src, 0, 0),
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
  map: (dst: number, { fd }: BpfMap): Insn => ({ ...insn(0x18, dst, FROM_FD, 0, fd), upper: 0 }),
  /** The address of the value of an array at an offset. */
  value: (dst: number, { fd }: BpfMap, offset: number): Insn => ({
    ...insn(0x18, dst, FROM_FD_VALUE, 0, fd),
    upper: offset,
  }),
  call: (helper: number) => insn(0x85, 0, 0, 0, helper),
  kfunc: (id: number) => insn(0x85, 0, TO_KFUNC, 0, id),
  end: insn(0x95, 0, 0, 0, 0),
};
/** Numbers of helpers (bpf-helpers(7)). `coarseTime`: CLOCK_MONOTONIC_COARSE in ns (Linux >= 5.11). */
export const HELPERS = { lookup: 1, redirect: 23, ancestorCgroup: 123, coarseTime: 160 } as const;

/** The bytes of a program. Throws RangeError for a jump to no label. */
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
      if (target === undefined) throw new RangeError(`no label ${off}`);
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

/** A map of fixed lengths of keys and values, in bytes. */
export class BpfMap implements Disposable {
  readonly fd: number;

  /** An array has all its entries from the beginning, which are zero. Throws BpfError. */
  constructor(type: keyof typeof MAP_TYPES, key: number, value: number, entries: number) {
    this.fd = bpf('create a map of BPF', COMMAND.createMap, [
      [0, MAP_TYPES[type]],
      [4, key],
      [8, value],
      [12, entries],
      [16, type === 'hash' ? NO_PREALLOC : 0],
    ]);
  }

  /** Adds or replaces an entry. Throws BpfError: E2BIG when the map is full. */
  put(key: Buffer, value: Buffer): void {
    bpf('write into a map of BPF', COMMAND.update, this.#entry(key, value));
  }
  /** Copies the value of a key that exists. Throws BpfError: ENOENT. */
  read(key: Buffer, into: Buffer): void {
    bpf('read a map of BPF', COMMAND.lookup, this.#entry(key, into));
  }
  /** Removes an entry, which may be missing. Throws BpfError. */
  delete(key: Buffer): void {
    try {
      bpf('delete from a map of BPF', COMMAND.delete, this.#entry(key));
    } catch (error) {
      ignoreMissing(error);
    }
  }
  #entry(key: Buffer, value?: Buffer): readonly BpfField[] {
    return [[0, this.fd], [8, addressOf(key)], ...(value ? ([[16, addressOf(value)]] as const) : [])];
  }

  [Symbol.dispose](): void {
    closeDescriptor(this.fd);
  }
}

export interface BpfProgram {
  /** enum bpf_prog_type. */
  readonly type: number;
  /** enum bpf_attach_type, where the type has several that differ. */
  readonly attach?: number;
  readonly name: string;
  readonly lines: readonly Line[];
}
/** The descriptor of a program that the kernel has verified. Throws BpfError with the end of what the verifier says. */
export function loadProgram({ type, attach = 0, name, lines }: BpfProgram): number {
  const code = assembled(lines);
  const license = Buffer.from('Dual MIT/GPL\0');
  const text = Buffer.alloc(NAME_LENGTH + 1);
  text.write(name.replaceAll(/\W/g, '_').slice(0, NAME_LENGTH));
  const fields: readonly BpfField[] = [
    [0, type],
    [4, code.length / 8],
    [8, addressOf(code)],
    [16, addressOf(license)],
    [48, text.readBigUInt64LE(0)],
    [56, text.readBigUInt64LE(8)],
    [68, attach],
  ];
  const log = Buffer.alloc(LOG_LENGTH);
  const withLog: readonly BpfField[] = [...fields, [24, 1], [28, log.length], [32, addressOf(log)]];
  const operation = `load the BPF program ${name}`;
  try {
    return bpf(operation, COMMAND.load, fields);
  } catch (error) {
    if (!(error instanceof BpfError) || error.code !== 'EACCES') throw error;
    try {
      return bpf(operation, COMMAND.load, withLog);
    } catch {
      const said = log.toString('latin1', 0, log.indexOf(0));
      throw new BpfError(operation, EACCES, said.slice(-LOG_SHOWN));
    }
  }
}
const EACCES = 13;

/** Runs a program once with a frame, as if it had come in at the interface with this index. Throws BpfError. */
export function runProgram(
  program: number,
  frame: Buffer,
  ifindex: number,
): { readonly result: number; readonly mark: number } {
  const context = Buffer.alloc(SK_BUFF_LENGTH);
  context.writeUInt32LE(ifindex, SK_BUFF.ifindex);
  const { attributes } = call('run a BPF program', COMMAND.testRun, [
    [0, program],
    [8, frame.length],
    [16, addressOf(frame)],
    [40, context.length],
    [44, context.length],
    [48, addressOf(context)],
    [56, addressOf(context)],
  ]);
  return { result: attributes.readInt32LE(4), mark: context.readUInt32LE(SK_BUFF.mark) };
}
const SK_BUFF_LENGTH = 192;
/** struct __sk_buff. */
export const SK_BUFF = { mark: 8, vlan: 20, ifindex: 40, data: 76, end: 80 } as const;

const [STRUCT, UNION, FUNC] = [4, 5, 12] as const;
export const BTF_FILE = '/sys/kernel/btf/vmlinux';
/** struct btf_type, and struct btf_member. */
const [TYPE_LENGTH, MEMBER_LENGTH] = [12, 12] as const;
/** Bytes that follow a description, by its kind: for each member, and in all. */
const EACH: Readonly<Record<number, number>> = { 4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12 };
const MORE: Readonly<Record<number, number>> = { 1: 4, 3: 12, 14: 4, 17: 4 };

/** The types of the running kernel, as its BTF describes them (Documentation/bpf/btf.rst): where programs find the fields of its structures. */
export class Btf {
  readonly #data: Buffer;
  readonly #strings: number;
  /** Where the description of each type is. Type 0 is void. */
  readonly #at: number[] = [0];

  /** Throws the error of reading it: a kernel without CONFIG_DEBUG_INFO_BTF has no such file. */
  constructor(data: Buffer = readFileSync(BTF_FILE)) {
    this.#data = data;
    const header = data.readUInt32LE(4);
    const [types, length, strings] = [8, 12, 16].map((o) => data.readUInt32LE(o)) as [number, number, number];
    this.#strings = header + strings;
    for (let at = header + types; at < header + types + length; ) {
      this.#at.push(at);
      const kind = this.#kind(at);
      at += TYPE_LENGTH + (EACH[kind] ?? 0) * data.readUInt16LE(at + 4) + (MORE[kind] ?? 0);
    }
  }

  #kind(at: number): number {
    return (this.#data.readUInt32LE(at + 4) >>> 24) & 0x1f;
  }
  /** The offset of a name in the strings, of which each is there once; undefined: no type has it. */
  #name(text: string): number | undefined {
    const at = this.#data.indexOf(`\0${text}\0`, this.#strings, 'latin1');
    return at < 0 ? undefined : at + 1 - this.#strings;
  }

  /** The number of a type. Throws RangeError when the kernel has none of this name. */
  struct(name: string): number {
    return this.#id(STRUCT, name);
  }
  func(name: string): number {
    return this.#id(FUNC, name);
  }
  #id(kind: number, text: string): number {
    const name = this.#name(text);
    const id = this.#at.findIndex(
      (at, n) => n > 0 && this.#data.readUInt32LE(at) === name && this.#kind(at) === kind,
    );
    if (id < 0) throw new RangeError(`the BTF of the kernel has no ${text}`);
    return id;
  }

  /** The offset of a field in bytes, also of one within members that have no name. Throws RangeError. */
  offset(struct: string, field: string): number {
    const bits = this.#bits(struct, field);
    if (bits % 8 !== 0) throw new RangeError(`the field ${field} of struct ${struct} begins within a byte`);
    return bits / 8;
  }
  /** The byte with a field of one or a few bits, and where its lowest bit is in it. Throws RangeError. */
  bitField(struct: string, field: string): { readonly at: number; readonly shift: number } {
    const bits = this.#bits(struct, field);
    return { at: bits >> 3, shift: bits & 7 };
  }
  #bits(struct: string, field: string): number {
    const name = this.#name(field);
    const bits = name === undefined ? undefined : this.#find(this.struct(struct), name);
    if (bits === undefined) throw new RangeError(`struct ${struct} of the kernel has no field ${field}`);
    return bits;
  }
  #find(id: number, wanted: number): number | undefined {
    const at = this.#at[id] as number;
    const info = this.#data.readUInt32LE(at + 4);
    const kind = this.#kind(at);
    if (kind !== STRUCT && kind !== UNION) return undefined;
    for (let n = 0; n < (info & 0xffff); n++) {
      const member = at + TYPE_LENGTH + n * MEMBER_LENGTH;
      const [name, type, bits] = [0, 4, 8].map((o) => this.#data.readUInt32LE(member + o)) as [
        number,
        number,
        number,
      ];
      // with the flag of the kind, the upper byte is the width of a bit field
      const from = info >>> 31 ? bits & 0xff_ffff : bits;
      if (name === wanted) return from;
      const inner = name === 0 ? this.#find(type, wanted) : undefined;
      if (inner !== undefined) return from + inner;
    }
    return undefined;
  }
}
