import { lstatSync } from 'node:fs';

/** The root of process 1, which a container without SYS_PTRACE cannot enter. */
const ROOT = '/proc/1/root';

/** Whether a path without symbolic links in it exists on the host; undefined: the host's files cannot be read from here. */
export const existsOnHost = (path: string): boolean | undefined =>
  isThere(`${ROOT}/proc`) ? isThere(`${ROOT}${path}`) : undefined;

const isThere = (path: string): boolean => {
  try {
    lstatSync(path);
    return true;
  } catch {
    return false; // ENOENT, or EACCES
  }
};
