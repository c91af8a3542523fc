/** What the kernel sends to the check of names: packets that wait for a verdict, and copies of each SYN. */
import { keptSockets, memoryFile, readMemory } from '../kernel/netlink/kept-sockets.js';
import { closeDescriptor } from '../kernel/netlink/libc.js';
import { type LoggedPacket, PacketLog } from '../kernel/netlink/packet-log.js';
import { MAX_PAYLOAD, PacketQueue, type QueuedPacket } from '../kernel/netlink/packet-queue.js';
import { PassedBytes } from '../kernel/netlink/passed-bytes.js';
import type { Logger } from '../lib/log.js';
import { ANSWER_BYTES } from '../ruleset/checked-flows.js';
import type { KernelConfig } from '../ruleset/desired-state.js';
import {
  type CheckCounts,
  type NamesOf,
  type OpenFlow,
  readSavedFlows,
  SAVED_FORMAT,
  type SavedFlow,
  saveFlows,
} from './flow-table.js';
import type { LargeBodies } from './large-bodies.js';

export type CheckQueue = Pick<PacketQueue, 'verdict' | 'stats' | 'resume' | typeof Symbol.dispose>;
export type SynLog = Pick<PacketLog, 'drain' | 'losses' | 'isContinued' | 'resume' | typeof Symbol.dispose>;
/** Both are paused at first. */
export interface Sources {
  readonly queue: (proto: 'tcp' | 'udp', receive: (packet: QueuedPacket) => void) => CheckQueue;
  readonly log: (receive: (packet: LoggedPacket) => void) => SynLog;
  readonly bodies: ConstructorParameters<typeof LargeBodies>[0];
}

/** Copies of SYNs, and of the first bytes of answers. */
const LOG = { copyRange: ANSWER_BYTES, messageBytes: 512 } as const;
const MAX_WAITING = 8_192;

export function kernelSources(shape: Pick<KernelConfig, 'checkQueue' | 'datagramQueue' | 'marks'>): Sources {
  const { checkQueue, datagramQueue, marks } = shape;
  const queues = { tcp: checkQueue, udp: datagramQueue };
  return {
    queue: (proto, receive) =>
      new PacketQueue(
        {
          queue: queues[proto],
          // each segment is evaluated and sent as it is, with its checksum
          isSegmented: true,
          copyRange: MAX_PAYLOAD,
          maxLength: MAX_WAITING,
          isPaused: true,
        },
        receive,
      ),
    log: (receive) => new PacketLog({ ...LOG, group: checkQueue, isPaused: true }, receive),
    bodies: new PassedBytes(marks),
  };
}

export function waitingIn(queues: readonly CheckQueue[]): Pick<CheckCounts, 'waiting' | 'queueFull'> {
  const stats = queues.map((queue) => queue.stats());
  const waiting = stats.reduce((sum, s) => sum + s.waiting, 0);
  const queueFull = stats.reduce((sum, s) => sum + s.droppedQueueFull + s.droppedBufferFull, 0);
  return { waiting, queueFull };
}

const SAVED = 'connections that are checked';

/** Leaves the connections that are being checked to the next process, if one is to follow. */
export function bequeathFlows(flows: Iterable<OpenFlow>, namesOf: NamesOf): void {
  if (!keptSockets.isSealed) return;
  const fd = memoryFile(SAVED, saveFlows(flows, namesOf));
  keptSockets.keep(SAVED, SAVED_FORMAT, [fd]);
  closeDescriptor(fd);
}

/** The connections that the process before has seen begin. None, if a SYN since then did not arrive here: its ends may be theirs. */
export function inheritedFlows(isContinued: boolean, log: Pick<Logger, 'warn'>): readonly SavedFlow[] {
  const [fd] = keptSockets.takeIf(SAVED, SAVED_FORMAT) ?? [];
  if (fd === undefined) return [];
  try {
    return isContinued ? readSavedFlows(readMemory(fd)) : [];
  } catch (err) {
    log.warn(
      { err: String(err) },
      'connections of the process before cannot be read: they must connect again',
    );
    return [];
  } finally {
    closeDescriptor(fd);
  }
}
