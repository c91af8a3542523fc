/** The program of BPF at the ingress of veths that hands packets to the device of their bridge. */
import { BpfMap, HELPERS, type Line, loadProgram, op, SK_BUFF } from './bpf.js';
import { closeDescriptor } from './netlink/libc.js';
import { addressBytes } from './netlink/netlink-codec.js';

/** Ethernet header, IPv4 header without options, and two ports. */
const HEAD = 38;
const OFFSET = { fragment: 20, source: 26, port: 36 } as const;
/** In the order of the packet's bytes: port 53, and what a fragment has set (RFC 791 3.1; "don't fragment" is no fragment). */
const [DNS_PORT, FRAGMENT] = [0x3500, 0xff3f] as const;
/** The bytes of the Ethernet header and the first of the IPv4 header, padded; the source; the ifindex of the veth. */
const KEY = { source: 16, ifindex: 20, length: 24 } as const;
/** The mark, and the ifindex of the bridge. */
const VALUE = { bridge: 4, length: 8 } as const;
const LEASE = 8;
const MAX_ENTRIES = 65_536;
/** TC_ACT_UNSPEC: the packet goes on as without the program. BPF_F_INGRESS. */
const [GOES_ON, INTO_DEVICE] = [-1, 1] as const;
/** BPF_PROG_TYPE_SCHED_CLS. */
const CLASSIFIER = 3;
export const PROGRAM_NAME = 'drawbridge';

/**
 * For each IPv4 frame that comes in from a veth. It is handed to the device of its bridge, with its mark, if the first rule of the bridge
 * table would accept it: `routes` has the elements of the map `routed4` (ruleset/bridge-table.ts), or fewer. All other frames go on to the
 * bridge and its rules, and so does every frame while `lease`, the time in ns (CLOCK_MONOTONIC) up to which the service has checked that
 * nothing else decides about these frames, is over.
 */
function programLines(routes: BpfMap, lease: BpfMap): readonly Line[] {
  return [
    op.copy(6, 1),
    op.load('u32', 2, 1, SK_BUFF.data),
    op.load('u32', 3, 1, SK_BUFF.end),
    op.copy(4, 2),
    op.add(4, HEAD),
    op.whenAbove(4, 3, 'on'),
    op.load('u32', 0, 1, SK_BUFF.vlan),
    op.when(0, '!=', 0, 'on'),
    op.load('u16', 0, 2, OFFSET.fragment),
    op.and(0, FRAGMENT),
    op.when(0, '!=', 0, 'on'),
    op.load('u16', 0, 2, OFFSET.port),
    op.when(0, '==', DNS_PORT, 'on'),
    op.load('u64', 0, 2, 0),
    op.store('u64', 10, -KEY.length, 0),
    op.load('u32', 0, 2, 8),
    op.store('u32', 10, 8 - KEY.length, 0),
    op.load('u32', 0, 2, 12),
    op.and(0, 0xff_ffff),
    op.store('u32', 10, 12 - KEY.length, 0),
    op.load('u32', 0, 2, OFFSET.source),
    op.store('u32', 10, KEY.source - KEY.length, 0),
    op.load('u32', 0, 1, SK_BUFF.ifindex),
    op.store('u32', 10, KEY.ifindex - KEY.length, 0),
    op.map(1, routes),
    op.copy(2, 10),
    op.add(2, -KEY.length),
    op.call(HELPERS.lookup),
    op.whenNull(0, 'on'),
    op.copy(7, 0),
    op.call(HELPERS.coarseTime),
    op.value(1, lease, 0),
    op.load('u64', 2, 1, 0),
    op.whenAbove(0, 2, 'on'),
    op.load('u32', 1, 7, 0),
    op.store('u32', 6, SK_BUFF.mark, 1),
    op.load('u32', 1, 7, VALUE.bridge),
    op.set(2, INTO_DEVICE),
    op.call(HELPERS.redirect),
    op.end,
    'on',
    op.set(0, GOES_ON),
    op.end,
  ];
}

/** A key of `routes` for an element of `routed4`. */
function keyOf(element: string): Buffer {
  const [ifindex = '', head = '', address = ''] = element.split(' . ');
  const key = Buffer.alloc(KEY.length);
  key.write(head.slice(2), 'hex');
  addressBytes(address)?.copy(key, KEY.source);
  key.writeUInt32LE(Number(ifindex), KEY.ifindex);
  return key;
}

/** The program and its maps, which end when they are disposed of, or with the process. */
export class BridgeProgram implements Disposable {
  readonly #routes = new BpfMap('hash', KEY.length, VALUE.length, MAX_ENTRIES);
  readonly #lease = new BpfMap('array', 4, LEASE, 1);
  readonly fd: number;

  /** Throws BpfError when the kernel does not take it. */
  constructor() {
    try {
      this.fd = loadProgram({
        type: CLASSIFIER,
        name: PROGRAM_NAME,
        lines: programLines(this.#routes, this.#lease),
      });
    } catch (error) {
      this.#closeMaps();
      throw error;
    }
  }

  /** Hands frames over for so many milliseconds from now on; 0: not any more. Throws BpfError. */
  hold(ms: number): void {
    const until = Buffer.alloc(LEASE);
    if (ms > 0) until.writeBigUInt64LE(process.hrtime.bigint() + BigInt(ms) * 1_000_000n);
    this.#lease.put(Buffer.alloc(4), until);
  }
  /** `element`: of `routed4`. Throws BpfError. */
  put(element: string, mark: number, bridge: number): void {
    const value = Buffer.alloc(VALUE.length);
    value.writeUInt32LE(mark >>> 0);
    value.writeUInt32LE(bridge, VALUE.bridge);
    this.#routes.put(keyOf(element), value);
  }
  /** Throws BpfError. */
  delete(element: string): void {
    this.#routes.delete(keyOf(element));
  }

  [Symbol.dispose](): void {
    closeDescriptor(this.fd);
    this.#closeMaps();
  }
  #closeMaps(): void {
    this.#routes[Symbol.dispose]();
    this.#lease[Symbol.dispose]();
  }
}
