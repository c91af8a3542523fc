import { getSystemErrorMap } from 'node:util';
import { contained } from '../../lib/faults.js';
import { RemedyError } from '../../lib/problem.js';
import type { NetlinkMessage } from './netlink-codec.js';

export interface ErrorDetail {
  /** The text of the kernel's extended ack, if there is one. */
  readonly kernelText?: string;
  /** Replaces the system's text for the error number. */
  readonly reason?: string;
  /** The remedy that the message suggests. */
  readonly remedy?: string;
}

const REMEDIES: Readonly<Record<string, string>> = {
  EPERM: 'Run as root, or with CAP_NET_ADMIN in the network namespace concerned.',
  ENOBUFS:
    'The reply of the kernel did not fit the receive buffer: repeat the request, or raise net.core.rmem_max.',
  ENOTSUP: 'This kernel lacks the feature: load its module or use a newer kernel.',
  EPROTONOSUPPORT: 'This kernel lacks this netlink family: load nfnetlink or use another kernel.',
};

/** The symbolic name (ENOENT) and the text of a positive error number. An unknown number gets a name such as E999. */
function nameOf(errno: number): readonly [string, string] {
  errors ??= getSystemErrorMap();
  return errors.get(-errno) ?? [`E${errno}`, `error ${errno}`];
}
/** Node makes it again for each call (0.1 ms), and the deletion of many flows meets many that have gone. */
let errors: ReturnType<typeof getSystemErrorMap> | undefined;

/**
 * A refusal by the kernel. The message has the operation, the reason and the remedy. `code` is the symbolic name, such
 * as ENOENT.
 */
export class NetlinkError extends RemedyError {
  readonly errno: number;
  readonly code: string;
  readonly operation: string;

  constructor(operation: string, errno: number, detail: ErrorDetail = {}) {
    const [code, words] = nameOf(errno);
    const remedy = detail.remedy ?? REMEDIES[code];
    const kernel = detail.kernelText === undefined ? '' : `, the kernel says: ${detail.kernelText}`;
    const text = `${operation}: ${detail.reason ?? words} (${code})${kernel}`;
    super(remedy === undefined ? `${text}.` : text, remedy);
    this.name = 'NetlinkError';
    this.errno = errno;
    this.code = code;
    this.operation = operation;
  }
}

/** Whether `error` is a refusal by the kernel with one of these symbolic names (libuv's: EOPNOTSUPP is ENOTSUP). */
export function isRefusal(error: unknown, ...codes: readonly string[]): error is NetlinkError {
  return error instanceof NetlinkError && codes.includes(error.code);
}

/** What an acknowledgement with an error number becomes. `text`: the kernel's extended ack. */
export const refusal = (
  operation: string,
  { errno, text }: { readonly errno: number; readonly text?: string },
): NetlinkError => new NetlinkError(operation, errno, text === undefined ? {} : { kernelText: text });

export const notTaken = (operation: string): NetlinkError =>
  new NetlinkError(operation, ENOBUFS, { reason: 'the kernel did not take the message' });

export const EBADF = 9;
export const EMSGSIZE = 90;
export const ENOBUFS = 105;
export const ENOENT = 2;
export const EINVAL = 22;
/** Error numbers of ipset (include/uapi/linux/netfilter/ipset/ip_set.h). */
export const SET_ERROR = { protocol: 4097, prefix: 4104, timeout: 4107, full: 4352 } as const;

const MEANING: Readonly<Record<number, ErrorDetail>> = {
  [ENOENT]: { reason: 'no such set', remedy: 'The next pass creates it: add the member again after that.' },
  [SET_ERROR.protocol]: {
    reason: 'the kernel does not understand the message',
    remedy: 'ipset protocol 7 is needed (Linux >= 4.20).',
  },
  [SET_ERROR.prefix]: {
    reason: 'the prefix does not fit the set',
    remedy: 'hash:ip takes single addresses, no set takes /0.',
  },
  [SET_ERROR.timeout]: {
    reason: 'the set was created without time-outs',
    remedy: 'Create it with "timeout 0".',
  },
  [SET_ERROR.full]: { reason: 'the set is full', remedy: 'Create it with a greater maxelem.' },
};

/** An error of ipset with what it means, and what to do. */
export function explained(error: unknown): unknown {
  const detail = error instanceof NetlinkError ? MEANING[error.errno] : undefined;
  return error instanceof NetlinkError && detail !== undefined
    ? new NetlinkError(error.operation, error.errno, detail)
    : error;
}

export interface Listener {
  /** The message's body is valid during the call only. */
  onMessage(message: NetlinkMessage): void;
  /** The kernel dropped messages: state that was derived from them must be read again. */
  onOverrun(): void;
  /** Bytes that are no netlink message. */
  onMalformed(error: string): void;
}

/** A message that the listener cannot handle counts as lost. */
export function deliver(listener: Listener, message: NetlinkMessage): void {
  try {
    listener.onMessage(message);
  } catch (error) {
    contained(error, 'a message of netlink could not be handled');
    listener.onOverrun();
  }
}
