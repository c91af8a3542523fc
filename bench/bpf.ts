/**
 * Programs of BPF for measurements, and links to hooks. Nothing is pinned: maps, programs and links exist as long as their descriptors,
 * which `Programs` closes and which end with the process.
 */
import { existsSync } from 'node:fs';
import { type BpfField, BpfMap, BTF_FILE, bpf, type Line, loadProgram, op } from '../src/kernel/bpf.js';
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
