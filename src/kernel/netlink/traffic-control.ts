/**
 * The ingress queueing disciplines of interfaces, and the BPF filter of a block that they share, over rtnetlink
 * (include/uapi/linux/rtnetlink.h, pkt_sched.h, pkt_cls.h). A block exists while an interface refers to it, and its filters with it.
 */
import {
  attribute,
  cString,
  FLAG,
  type NetlinkMessage,
  nested,
  parseAttributes,
  readCString,
  readU32le,
  u32le,
} from './netlink-codec.js';
import { isRefusal, NetlinkError } from './netlink-error.js';
import { NetlinkSocket, type Outgoing } from './netlink-socket.js';

const MESSAGE = { newQdisc: 36, deleteQdisc: 37, getQdisc: 38, newFilter: 44, deleteFilter: 45 } as const;
const TCMSG = 20;
const INGRESS = { kind: 'ingress', parent: 0xfffffff1, handle: 0xffff0000 } as const;
/** TCA_KIND, TCA_OPTIONS, TCA_INGRESS_BLOCK. */
const TCA = { kind: 1, options: 2, block: 13 } as const;
/** In place of an ifindex: the message is about a block. */
const OF_BLOCK = 0xffffffff;
/** TCA_BPF_FD, TCA_BPF_NAME, TCA_BPF_FLAGS; the result of the program is the action (TCA_BPF_FLAG_ACT_DIRECT). */
const BPF = { fd: 6, name: 7, flags: 8, isAction: 1 } as const;
const ETH_P_IP = 0x0800;
const PRIORITY = 1;
const HANDLE = 1;
/** Acknowledgements of so many fit any receive buffer. */
const BATCH = 64;

interface TcMessage {
  readonly ifindex?: number;
  readonly handle?: number;
  readonly parent?: number;
  readonly info?: number;
}
function tcBody(
  { ifindex = 0, handle = 0, parent = 0, info = 0 }: TcMessage,
  ...attributes: readonly Buffer[]
): Buffer {
  const header = Buffer.alloc(TCMSG);
  for (const [n, value] of [ifindex, handle, parent, info].entries())
    header.writeUInt32LE(value >>> 0, 4 + n * 4);
  return Buffer.concat([header, ...attributes]);
}
const swapped = (port: number): number => ((port & 0xff) << 8) | (port >> 8);
const filterInfo = ((PRIORITY << 16) | swapped(ETH_P_IP)) >>> 0;
const qdisc = (ifindex: number): TcMessage => ({ ifindex, handle: INGRESS.handle, parent: INGRESS.parent });

/** Interfaces of one network namespace that have an ingress discipline with the same block of filters. */
export class SharedIngress implements Disposable {
  readonly #block: number;
  readonly #requests: NetlinkSocket;
  readonly #changes: NetlinkSocket;
  readonly #dumps: NetlinkSocket;

  /** `block`: the index of the block. */
  constructor(block: number, options: { readonly namespace?: string | number } = {}) {
    this.#block = block;
    this.#requests = new NetlinkSocket({ protocol: 'route', ...options });
    this.#changes = new NetlinkSocket({ protocol: 'route', ...options });
    this.#dumps = new NetlinkSocket({ protocol: 'route', ...options });
  }

  /** Indexes of the interfaces that share the block; none where the kernel has no traffic control. Rejects with NetlinkError. */
  async interfaces(): Promise<readonly number[]> {
    const out = { type: MESSAGE.getQdisc, body: tcBody({}) };
    const decode = ({ body }: NetlinkMessage): number | undefined => {
      const attributes = parseAttributes(body, TCMSG);
      const isOurs = readU32le(attributes.get(TCA.block)) === this.#block;
      const isIngress = readCString(attributes.get(TCA.kind)) === INGRESS.kind;
      return isOurs && isIngress ? body.readInt32LE(4) : undefined;
    };
    try {
      return await this.#dumps.dump('list ingress disciplines', out, decode);
    } catch (error) {
      if (isRefusal(error, 'ENOTSUP')) return [];
      throw error;
    }
  }

  /**
   * Gives these interfaces an ingress discipline that shares the block. Another thread waits for the lock of rtnetlink. Resolves with those
   * that did not get it, with the symbolic name of the error: EEXIST when the interface has a discipline of another program there, ENODEV.
   * Rejects with NetlinkError when the kernel does not answer.
   */
  add(ifindexes: readonly number[]): Promise<ReadonlyMap<number, string>> {
    return this.#change('share an ingress block', ifindexes, (ifindex) => ({
      type: MESSAGE.newQdisc,
      flags: FLAG.create | FLAG.exclusive,
      body: tcBody(
        qdisc(ifindex),
        attribute(TCA.kind, cString(INGRESS.kind)),
        attribute(TCA.block, u32le(this.#block)),
      ),
    }));
  }
  /** Takes the discipline from interfaces that share the block. Resolves and rejects as `add`. */
  remove(ifindexes: readonly number[]): Promise<ReadonlyMap<number, string>> {
    return this.#change('leave an ingress block', ifindexes, (ifindex) => ({
      type: MESSAGE.deleteQdisc,
      body: tcBody(qdisc(ifindex), attribute(TCA.kind, cString(INGRESS.kind))),
    }));
  }

  async #change(
    operation: string,
    ifindexes: readonly number[],
    messageOf: (ifindex: number) => Outgoing,
  ): Promise<ReadonlyMap<number, string>> {
    const refused = new Map<number, string>();
    for (let i = 0; i < ifindexes.length; i += BATCH) {
      const some = ifindexes.slice(i, i + BATCH);
      const acks = await this.#changes.requestLater(operation, some.map(messageOf));
      for (const [n, { errno }] of acks.entries())
        if (errno !== 0) refused.set(some[n] as number, new NetlinkError(operation, errno).code);
    }
    return refused;
  }

  /**
   * Lets a program decide about the IPv4 frames of all interfaces that share the block, in place of the one before. At least one shares it.
   * Rejects with NetlinkError.
   */
  async setProgram(fd: number, name: string): Promise<void> {
    const options = [
      attribute(BPF.fd, u32le(fd)),
      attribute(BPF.name, cString(name)),
      attribute(BPF.flags, u32le(BPF.isAction)),
    ];
    const out = {
      type: MESSAGE.newFilter,
      flags: FLAG.create,
      body: tcBody(
        this.#filter(HANDLE),
        attribute(TCA.kind, cString('bpf')),
        nested(TCA.options, ...options),
      ),
    };
    const operation = 'set the filter of an ingress block';
    const [ack] = await this.#changes.requestLater(operation, [out]);
    if (ack && ack.errno !== 0)
      throw new NetlinkError(operation, ack.errno, ack.text === undefined ? {} : { kernelText: ack.text });
  }

  /** No program decides any more. Throws NetlinkError. */
  removeProgram(): void {
    try {
      this.#requests.request('remove the filter of an ingress block', {
        type: MESSAGE.deleteFilter,
        body: tcBody(this.#filter(0)),
      });
    } catch (error) {
      // there is no such block, no such filter, or the kernel has no blocks
      if (!isRefusal(error, 'EINVAL', 'ENOENT', 'ENOTSUP')) throw error;
    }
  }

  #filter(handle: number): TcMessage {
    return { ifindex: OF_BLOCK, parent: this.#block, handle, info: filterInfo };
  }

  close(): void {
    this.#requests.close();
    this.#changes.close();
    this.#dumps.close();
  }
  [Symbol.dispose](): void {
    this.close();
  }
}
