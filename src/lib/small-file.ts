import { readFileSync } from 'node:fs';

/** A small file, such as one of /proc; undefined: it is not there, is gone meanwhile, or cannot be read. */
export function textIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}
