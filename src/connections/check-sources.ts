/** What the kernel sends to the check of names, packets that wait for a verdict and copies of each SYN; and how a connection ends there. */
import type { Conntrack } from '../kernel/netlink/conntrack.js';
import { keptSockets, memoryFile, readMemory } from '../kernel/netlink/kept-sockets.js';
import { closeDescriptor } from '../kernel/netlink/libc.js';
import { type LoggedPacket, PacketLog } from '../kernel/netlink/packet-log.js';
import { MAX_PAYLOAD, PacketQueue, type QueuedPacket } from '../kernel/netlink/packet-queue.js';
import { PassedBytes } from '../kernel/netlink/passed-bytes.js';
import type { ResetSender } from '../kernel/netlink/tcp-reset.js';
import { PROTOCOL_NUMBERS } from '../lib/ip.js';
import type { Logger } from '../lib/log.js';
import { ANSWER_BYTES } from '../ruleset/checked-flows.js';
import type { KernelConfig, Subject } from '../ruleset/desired-state.js';
import { zoneOf } from '../ruleset/host-identity.js';
import type { Expected } from './flow-check.js';
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
import type { FlowEnds } from './verified-names.js';

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

export type Resets = Pick<ResetSender, 'send' | typeof Symbol.dispose>;
type Side = 'client' | 'server';

/** The end of a connection that was refused: both sides are reset, and its entry in conntrack is deleted. */
export class FlowEnd {
  readonly #flows: Pick<Conntrack, 'deleteByOrigin'>;
  readonly #log: Pick<Logger, 'debug'>;

  constructor(flows: Pick<Conntrack, 'deleteByOrigin'>, log: Pick<Logger, 'debug'>) {
    this.#flows = flows;
    this.#log = log;
  }

  /** `answered`: this side was reset by the rules, which have refused a packet of it. Undefined: no packet waited. */
  reset(
    resets: Resets | undefined,
    { proto, source, sourcePort, address, port }: FlowEnds,
    expected: Expected | undefined,
    answered: Side | undefined,
  ): void {
    if (proto !== 'tcp' || !expected) return;
    const { byServer, byClient } = expected;
    const toServer = { src: source, sport: sourcePort, dst: address, dport: port };
    const toClient = { src: address, sport: port, dst: source, dport: sourcePort };
    try {
      if (answered !== 'server') resets?.send({ ...toServer, seq: byServer, ack: byClient });
      if (answered !== 'client') resets?.send({ ...toClient, seq: byClient, ack: byServer });
    } catch (err) {
      this.#log.debug({ err: String(err), address, port }, 'a refused connection stays open at one side');
    }
  }

  /** Delete the entry in conntrack: packets without a SYN open no other one. `subject`: its container, if it is known. */
  delete(ends: FlowEnds, subject: Subject | undefined): void {
    const { proto, source: src, sourcePort: sport, address: dst, port: dport } = ends;
    const first = { proto: PROTOCOL_NUMBERS[proto], src, sport, dst, dport };
    const zone = proto === 'udp' && subject ? zoneOf(subject) : undefined;
    try {
      // a flow that began before its container got a zone is in the default one
      if (zone === undefined || !this.#flows.deleteByOrigin(first, zone)) this.#flows.deleteByOrigin(first);
    } catch (err) {
      this.#log.debug(
        { err: String(err), address: dst, port: dport },
        'the flow of a refused connection stays',
      );
    }
  }
}
