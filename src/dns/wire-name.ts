/**
 * Domain names on the wire (RFC 1035 4.1.4) and as text. Text is lossless: a byte that is no letter, digit, '-' or '_'
 * is written \DDD, so that a dot inside a label can never be taken for a border between labels. The root is ''.
 */
export class WireError extends Error {}

const plainLabel = /^[A-Za-z0-9_-]+$/;
const plainName = /^[a-z0-9_-]+(?:\.[a-z0-9_-]+)*$/;
/** Octets of a name with its length bytes and the root (RFC 1035 2.3.4). */
const maxName = 255;
/** More pointers in one name than labels can be useful to nobody. */
const maxJumps = 127;

/** True when the lower-case text has ordinary labels only; names that are not plain match no entry. */
export function isPlainName(lower: string): boolean {
  return plainName.test(lower);
}

function escapeLabel(label: string): string {
  if (plainLabel.test(label)) return label;
  return label.replace(/[^A-Za-z0-9_-]/g, (c) => `\\${String(c.charCodeAt(0)).padStart(3, '0')}`);
}

/** Reads the name at `at`; `next` is the offset behind it. Throws WireError on loops, overlong names and cut input. */
export function readName(msg: Buffer, at: number): { readonly name: string; readonly next: number } {
  const labels: string[] = [];
  let total = 1;
  let next = -1;
  let pos = at;
  let run = at;
  for (let jumps = 0; jumps <= maxJumps; ) {
    const len = msg[pos];
    if (len === undefined) throw new WireError('name runs past the end');
    if (len === 0) return { name: labels.join('.'), next: next < 0 ? pos + 1 : next };
    if (len < 0x40) {
      total += len + 1;
      if (total > maxName || pos + 1 + len > msg.length) throw new WireError('name too long');
      labels.push(escapeLabel(msg.toString('latin1', pos + 1, pos + 1 + len)));
      pos += len + 1;
      continue;
    }
    const target = ((len & 0x3f) << 8) | (msg[pos + 1] ?? 0);
    // Only backward: then every jump shortens what is left, and no loop is possible.
    if (len < 0xc0 || pos + 1 >= msg.length || target >= run) throw new WireError('bad compression pointer');
    if (next < 0) next = pos + 2;
    pos = target;
    run = target;
    jumps++;
  }
  throw new WireError('too many compression pointers');
}

/** The bytes of one label of a text name. */
export function labelBytes(label: string): Buffer {
  const raw = label.includes('\\')
    ? label.replace(/\\(\d{3})/g, (_, d: string) => String.fromCharCode(Number(d)))
    : label;
  const bytes = Buffer.from(raw, 'latin1');
  if (bytes.length === 0 || bytes.length > 63)
    throw new WireError(`label of ${bytes.length} bytes in "${label}"`);
  return bytes;
}

/** The uncompressed wire form. Throws WireError when a label or the name is too long or empty. */
export function nameToWire(name: string): Buffer {
  if (name === '') return Buffer.from([0]);
  const parts: Buffer[] = [];
  for (const label of name.split('.')) {
    const bytes = labelBytes(label);
    parts.push(Buffer.from([bytes.length]), bytes);
  }
  const wire = Buffer.concat([...parts, Buffer.from([0])]);
  if (wire.length > maxName) throw new WireError('name too long');
  return wire;
}

/** `name` is `zone` or lies below it; both lower case. */
export function isWithin(name: string, zone: string): boolean {
  return zone === '' || name === zone || (name.endsWith(zone) && name[name.length - zone.length - 1] === '.');
}
