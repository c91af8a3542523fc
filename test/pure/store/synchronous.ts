import { constants, readFileSync, readlinkSync } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { vi } from 'vitest';

/** Whether the file is open with O_DSYNC (open(2), proc(5)): then a write is durable when it returns. */
export function isSynchronous({ fd }: FileHandle): boolean {
  const [, flags = ''] = /^flags:\s+(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8')) ?? [];
  return (Number.parseInt(flags, 8) & constants.O_DSYNC) !== 0;
}

/** For each later write to a file with a matching path, notes whether it is synchronous. `prototype`: that of all file handles. */
export function synchronousWrites(prototype: FileHandle, path: RegExp): readonly boolean[] {
  const found: boolean[] = [];
  const { write } = prototype;
  vi.spyOn(prototype, 'write').mockImplementation(async function (this: FileHandle, ...args: unknown[]) {
    if (path.test(readlinkSync(`/proc/self/fd/${this.fd}`))) found.push(isSynchronous(this));
    return Reflect.apply(write, this, args);
  } as typeof write);
  return found;
}
