/** What the checks of one flow take and give: packets that wait in the kernel, and what becomes of them. */
import type { AskedName, ClientHello } from './client-hello.js';

/** A TCP segment with content, in a queue of the kernel until it is released or dropped. */
export interface Segment {
  /** Of the queue. */
  readonly id: number;
  readonly from: 'client' | 'server';
  /** Sequence number of its first byte, and what it acknowledges (32 bits). */
  readonly seq: number;
  readonly ack: number;
  readonly payload: Buffer;
  /** The stream of its sender ends behind it (FIN). */
  readonly isLast?: boolean;
}

/** The id of a copy, which does not wait in a queue. */
export const NO_PACKET = -1;

/** Why a flow is refused, as flow records and `explain` name it. */
export type RefusalReason = 'server-name' | 'no-server-name' | 'ech' | 'host' | 'not-tls' | 'quic';

export interface Refusal {
  readonly reason: RefusalReason;
  /** The name that was asked for, or the text that is no name; empty when there was none. */
  readonly name: string;
  /** What is wrong, for people. */
  readonly detail: string;
  /** A threat feed lists the name. */
  readonly isThreat?: true;
}

/** A flow that was refused, or a name that was permitted. */
export interface CheckedName {
  readonly container: string;
  readonly proto: 'tcp' | 'udp';
  readonly address: string;
  readonly port: number;
  readonly name: string;
  /** Undefined: it was permitted. */
  readonly refusal?: Refusal;
}

export type Decision =
  | { readonly allow: true; readonly name: string; readonly entry: string }
  | { readonly allow: false; readonly refusal: Refusal };
/** The decision of the policy about a name that a connection asks for. */
export type Ruling =
  | Decision
  /** It depends on the HTTPS record of this name, which has to be looked up first. */
  | { readonly allow: 'later'; readonly record: string };

/** Decides about the name in a hello, or in the head of a request. */
export interface NameJudge {
  hello(hello: ClientHello): Ruling;
  request(host: AskedName): Decision;
}

/**
 * What the kernel does with further packets of the flow (docs/kernel.md). `open`: of TCP, what has content waits, in both directions; of QUIC,
 * all waits. `requests`: of HTTP, what the client sends waits; of TLS the same as in `open`, until the server answers with a
 * ServerHello; of QUIC, what the client sends with a long header. `verified`: nothing waits.
 */
export type FlowState = 'open' | 'requests' | 'verified';

export interface Expected {
  /** Sequence numbers (32 bits). */
  readonly byServer: number;
  readonly byClient: number;
}

export interface Outcome {
  /** Packets that go on, in this order. */
  readonly release: readonly number[];
  /** Packets that the sender will send again, or that are known already. */
  readonly drop: readonly number[];
  readonly state: FlowState;
  /** The flow ends: no packet that waits is delivered. */
  readonly refusal?: Refusal;
  /** The flow was refused before. The sender is answered again: the kernel limits the rate of answers (icmp(7), icmp_ratelimit). */
  readonly isRefused?: true;
  /** Of a flow of TCP that ends: what each side expects next from the other one. */
  readonly expected?: Expected;
  /** Names that were permitted just now. */
  readonly allowed?: readonly Extract<Ruling, { allow: true }>[];
  /** The HTTPS record of this name decides about packets that wait: look it up, and call `recheck`. */
  readonly awaits?: string;
}

/** The distance of two sequence numbers (RFC 9293 3.4): positive when `seq` comes after `start`. */
export const distance = (seq: number, start: number): number => (seq - start) | 0;
