import { constants, readFileSync } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';

/** Whether the file is open with O_DSYNC (open(2), proc(5)): then a write is durable when it returns. */
export function isSynchronous({ fd }: FileHandle): boolean {
  const [, flags = ''] = /^flags:\s+(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8')) ?? [];
  return (Number.parseInt(flags, 8) & constants.O_DSYNC) !== 0;
}
