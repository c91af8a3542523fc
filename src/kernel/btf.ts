/** The types of the running kernel, as its BTF describes them (Documentation/bpf/btf.rst): where programs of BPF find the fields of its structures. */
import { readFileSync } from 'node:fs';

const [STRUCT, UNION, FUNC] = [4, 5, 12] as const;
export const BTF_FILE = '/sys/kernel/btf/vmlinux';
/** struct btf_type, and struct btf_member. */
const [TYPE_LENGTH, MEMBER_LENGTH] = [12, 12] as const;
/** Bytes that follow a description, by its kind: for each member, and in all. */
const EACH: Readonly<Record<number, number>> = { 4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12 };
const MORE: Readonly<Record<number, number>> = { 1: 4, 3: 12, 14: 4, 17: 4 };

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
