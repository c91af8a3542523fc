import { contained } from '../../lib/faults.js';
import type { NetlinkMessage } from './netlink-codec.js';

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
