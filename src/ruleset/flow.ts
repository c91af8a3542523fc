import { PROTOCOL_NAMES } from '../lib/ip.js';
import type { TracePacket } from './trace.js';

export interface Tuple {
  readonly src: string;
  readonly dst: string;
  /** Ports of tcp, udp, sctp, …; absent otherwise. */
  readonly sport?: number;
  readonly dport?: number;
  readonly icmpId?: number;
}

export interface Flow {
  readonly family: 4 | 6;
  /** IANA protocol number. */
  readonly proto: number;
  /** Tuple of the first packet. */
  readonly orig: Tuple;
  /** Tuple of the reply: `src` is the true destination, after DNAT. */
  readonly reply: Tuple;
  readonly mark: number;
  readonly status: { readonly [S in 'seenReply' | 'assured' | 'confirmed' | 'srcNat' | 'dstNat']: boolean };
  /** Of TCP. handshake: SYN_SENT or SYN_RECV. closed: TIME_WAIT or CLOSE. pickedUp: conntrack saw its middle first. */
  readonly tcp?: { readonly handshake: boolean; readonly closed: boolean; readonly pickedUp: boolean };
  /** Seconds until it expires; absent for flows in hardware or being torn down. */
  readonly timeout?: number;
  /**
   * The kernel's identity of the flow, from its place in memory and its addresses (nf_ct_get_id): a successor usually has
   * another, but one that is made at once may get the same place and so the same id.
   */
  readonly id?: number;
  readonly zone: number;
  /** Content of CTA_TUPLE_ORIG, for the exact delete. */
  readonly rawTuple: Buffer;
}

const DNS_PORT = 53;

/** The packet that would open this flow now: its true destination is where answers come from. */
export function opening(flow: Flow): Omit<TracePacket, 'mark'> {
  const proto = PROTOCOL_NAMES[flow.proto] ?? flow.proto;
  return {
    family: flow.family,
    proto,
    src: flow.orig.src,
    dst: flow.reply.src,
    states: flow.orig.dst === flow.reply.src ? ['NEW'] : ['NEW', 'DNAT'],
    syn: true,
    ...(flow.orig.dst === flow.reply.src || flow.orig.dport === undefined ? {} : { sentTo: flow.orig.dport }),
    ...(proto === 'icmp' ? { echo: true } : {}),
    ...(flow.reply.sport === undefined ? {} : { dport: flow.reply.sport }),
  };
}

/** The same flow as if the other side had opened it. */
export const reversed = (flow: Flow): Flow => ({ ...flow, orig: flow.reply, reply: flow.orig });

const TCP = 6;

/** A conntrack entry created by a reply has its direction swapped. For TCP the handshake shows the real initiator. */
export const mayBeReversed = (flow: Flow): boolean => flow.proto !== TCP || flow.tcp?.pickedUp === true;

export const isDns = (flow: Flow): boolean => flow.orig.dport === DNS_PORT;
