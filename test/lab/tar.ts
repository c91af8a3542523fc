/** A ustar archive (POSIX.1-1988) in memory: enough for `docker import`. */
export type TarEntry =
  | { readonly path: string; readonly kind: 'file'; readonly data: Buffer; readonly mode: number }
  | { readonly path: string; readonly kind: 'link'; readonly target: string }
  | { readonly path: string; readonly kind: 'folder'; readonly mode: number };

const BLOCK = 512;
const octal = (n: number, width: number): string => `${n.toString(8).padStart(width - 1, '0')}\0`;

function header(e: TarEntry): Buffer {
  const h = Buffer.alloc(BLOCK);
  if (Buffer.byteLength(e.path) > 100) throw new Error(`tar: path longer than 100 bytes: ${e.path}`);
  h.write(e.path, 0);
  h.write(octal(e.kind === 'link' ? 0o777 : e.mode, 8), 100);
  h.write(octal(0, 8) + octal(0, 8), 108);
  h.write(octal(e.kind === 'file' ? e.data.length : 0, 12), 124);
  h.write(octal(0, 12), 136);
  h.write(' '.repeat(8), 148);
  h.write({ file: '0', link: '2', folder: '5' }[e.kind], 156);
  if (e.kind === 'link') h.write(e.target, 157);
  h.write('ustar\x0000', 257);
  const sum = h.reduce((a, b) => a + b, 0);
  h.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return h;
}

function body(e: TarEntry): Buffer[] {
  if (e.kind !== 'file') return [];
  return [e.data, Buffer.alloc((BLOCK - (e.data.length % BLOCK)) % BLOCK)];
}

export const tar = (entries: readonly TarEntry[]): Buffer =>
  Buffer.concat([...entries.flatMap((e) => [header(e), ...body(e)]), Buffer.alloc(2 * BLOCK)]);
