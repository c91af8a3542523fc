/** The ends of a flow, read off its message. Pure. */
import { CTA, IP, TUPLE } from './conntrack-codec.js';

/** Whether an address fits: its octets in network order, from `at`. */
export type AddressTest = (octets: Buffer, at: number) => boolean;
/** From a tuple's attribute to its source address: the headers of the tuple, of its addresses, and of the source. */
const SRC_AT = 12;
const SOURCES = { 4: IP.v4src, 6: IP.v6src } as const;

/**
 * Whether who opened the flow fits, or who answers, without decoding the rest: ten times cheaper. True when the message is
 * not laid out as ctnetlink_fill_info does it (original tuple, then reply): then it must be decoded.
 */
export function mayFit(body: Buffer, family: 4 | 6, test: AddressTest): boolean {
  const orig = 4;
  if (!isTuple(body, orig, CTA.orig, family)) return true;
  const reply = orig + ((body.readUInt16LE(orig) + 3) & ~3);
  if (!isTuple(body, reply, CTA.reply, family)) return true;
  return test(body, orig + SRC_AT) || test(body, reply + SRC_AT);
}

function isTuple(body: Buffer, at: number, type: number, family: 4 | 6): boolean {
  const size = family === 4 ? 4 : 16;
  return (
    body.length >= at + SRC_AT + size &&
    (body.readUInt16LE(at + 2) & 0x3fff) === type &&
    (body.readUInt16LE(at + 6) & 0x3fff) === TUPLE.ip &&
    (body.readUInt16LE(at + 10) & 0x3fff) === SOURCES[family] &&
    body.readUInt16LE(at + 8) === 4 + size
  );
}
