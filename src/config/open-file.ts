/** Reads files that others may have put there: no device, no pipe, no file outside of a folder, no more than a bound. */

import { constants } from 'node:fs';
import { type FileHandle, open, readlink, realpath } from 'node:fs/promises';
import { sep } from 'node:path';
import { codeOrText, type Problem } from '../lib/problem.js';

/** Only names the file: nothing is read, and a device or a pipe is not touched (open(2)). Node has no constant for it. */
const O_PATH = 0o10000000;

export type Contents = { readonly bytes: Buffer } | { readonly problem: Problem };

/** What a person does about a file or a folder that the system does not open. */
export const remedyOf = (code: string): string =>
  code === 'EMFILE' || code === 'ENFILE'
    ? 'no file descriptor is left: see LimitNOFILE of the service and the sysctl fs.file-max'
    : 'check its permissions';

const refused = (file: string, detail: string, remedy: string): Contents => ({
  problem: { detail, remedy, file, line: 1, column: 1 },
});

/**
 * A regular file of a folder, or one that a link leads to within the same folder. What is opened is checked, not its name, which could
 * lead elsewhere a moment later. Returns undefined when there is no such file. Never throws.
 */
export async function readInside(
  folder: string,
  file: string,
  maxBytes: number,
): Promise<Contents | undefined> {
  try {
    const named = await open(file, constants.O_RDONLY | O_PATH);
    try {
      const opened = `/proc/self/fd/${named.fd}`;
      const isInside = (await readlink(opened)).startsWith((await realpath(folder)).replace(/\/*$/, sep));
      if (!isInside)
        return refused(file, LEADS_OUT, `copy the file into ${folder}, or link to one within it`);
      if (!(await named.stat()).isFile())
        return refused(file, 'it is not a regular file', 'remove it from the folder');
      return await readAtMost(file, await open(opened, constants.O_RDONLY), maxBytes);
    } finally {
      await named.close();
    }
  } catch (error) {
    const code = codeOrText(error);
    return code === 'ENOENT' ? undefined : refused(file, `the file cannot be read: ${code}`, remedyOf(code));
  }
}
const LEADS_OUT = 'it is a symbolic link to a file outside of the folder, which is not followed';

/** Closes the file. */
async function readAtMost(file: string, handle: FileHandle, maxBytes: number): Promise<Contents> {
  try {
    const chunks: Buffer[] = [];
    let length = 0;
    // Its size may grow while it is read.
    for (;;) {
      const { bytesRead, buffer } = await handle.read(Buffer.alloc(CHUNK_BYTES), 0, CHUNK_BYTES);
      if (bytesRead === 0) return { bytes: Buffer.concat(chunks) };
      chunks.push(buffer.subarray(0, bytesRead));
      length += bytesRead;
      if (length > maxBytes)
        return refused(file, `the file has more than ${maxBytes} bytes`, 'split the list into several');
    }
  } finally {
    await handle.close();
  }
}
const CHUNK_BYTES = 256 * 1024;
