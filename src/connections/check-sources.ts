/** What the kernel sends to the check of names: packets that wait for a verdict, and copies of each SYN. */
import { type LoggedPacket, PacketLog } from '../kernel/netlink/packet-log.js';
import { PacketQueue, type QueuedPacket } from '../kernel/netlink/packet-queue.js';
import { PassedBytes } from '../kernel/netlink/passed-bytes.js';
import { ANSWER_BYTES } from '../ruleset/checked-flows.js';
import type { KernelConfig } from '../ruleset/desired-state.js';
import type { LargeBodies } from './large-bodies.js';

export type CheckQueue = Pick<PacketQueue, 'verdict' | 'stats' | typeof Symbol.dispose>;
export type SynLog = Pick<PacketLog, 'drain' | 'losses' | typeof Symbol.dispose>;
export interface Sources {
  readonly queue: (proto: 'tcp' | 'udp', receive: (packet: QueuedPacket) => void) => CheckQueue;
  readonly log: (receive: (packet: LoggedPacket) => void) => SynLog;
  readonly bodies: ConstructorParameters<typeof LargeBodies>[0];
}

/** Bytes of each packet that are copied: all of it (NFQNL_MAX_COPY_RANGE without its header). */
const COPY_RANGE = 0xffff - 4;
/** Copies of SYNs, and of the first bytes of answers. */
const LOG = { copyRange: ANSWER_BYTES, messageBytes: 512 } as const;
const MAX_WAITING = 8_192;

export function kernelSources(shape: Pick<KernelConfig, 'checkQueue' | 'datagramQueue' | 'marks'>): Sources {
  const { checkQueue, datagramQueue, marks } = shape;
  const of = {
    tcp: { queue: checkQueue },
    udp: { queue: datagramQueue, isSegmented: true },
  } as const;
  return {
    queue: (proto, receive) =>
      new PacketQueue({ ...of[proto], copyRange: COPY_RANGE, maxLength: MAX_WAITING }, receive),
    log: (receive) => new PacketLog({ ...LOG, group: checkQueue }, receive),
    bodies: new PassedBytes(marks),
  };
}
