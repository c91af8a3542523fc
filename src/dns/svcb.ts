/** Service binding records (RFC 9460). */
import { readName } from './wire-name.js';

/**
 * Keys that are taken out: ech (5) hides the name from the TLS check; address hints (4, 6) are addresses that nobody
 * asked for and no set holds, and clients without hints ask A and AAAA (RFC 9460 7.3).
 */
const stripped = new Set([4, 5, 6]);
const mandatory = 0;

function* params(data: Buffer, start: number): Generator<{ key: number; whole: Buffer; value: Buffer }> {
  for (let at = start; at < data.length; ) {
    const end = at + 4 + data.readUInt16BE(at + 2);
    if (end > data.length) throw new RangeError('SvcParam cut short');
    yield { key: data.readUInt16BE(at), whole: data.subarray(at, end), value: data.subarray(at + 4, end) };
    at = end;
  }
}

/** True when the record says that clients must understand a key that we take out: then it is useless without. */
function needsStripped(value: Buffer): boolean {
  for (let at = 0; at + 2 <= value.length; at += 2) if (stripped.has(value.readUInt16BE(at))) return true;
  return false;
}

/** HTTPS or SVCB rdata without ECH and address hints; undefined: the record has to go (malformed, or they are mandatory). */
export function stripServiceParams(data: Buffer): Buffer | undefined {
  try {
    const { next } = readName(data, 2);
    const kept = [data.subarray(0, next)];
    for (const { key, whole, value } of params(data, next)) {
      if (key === mandatory && needsStripped(value)) return undefined;
      if (!stripped.has(key)) kept.push(whole);
    }
    return Buffer.concat(kept);
  } catch {
    // Malformed in any way: closed by default.
    return undefined;
  }
}
