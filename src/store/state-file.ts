import { closeSync, fsyncSync, openSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { isRecord } from '../lib/json.js';
import { errorCode } from './store-error.js';

/** Small files of the state folder: JSON with a version, written whole, and read whatever is in them. */
interface StateFormat<T> {
  /** Of what this version writes; a file without one is of version 1. */
  readonly version: number;
  /** What the content says; undefined: it is not what any version wrote. */
  parse(content: unknown): T | undefined;
}
export type Complain = (o: object, message: string) => void;

/** For commands that have no log. */
const onStderr: Complain = (o, message) => void process.stderr.write(`${message}: ${JSON.stringify(o)}\n`);

/** No file of this kind is nearly as large. */
const MOST_BYTES = 16 * 1024 * 1024;

/**
 * Undefined: there is no such file, or it cannot be used. Then it is set aside (PATH.damaged, PATH.newer), so that the next
 * write does not destroy it, and `complain` says so; the caller goes on as if there had been none.
 */
export function readStateFile<T>(
  path: string,
  format: StateFormat<T>,
  complain: Complain = onStderr,
): T | undefined {
  let why: string;
  try {
    const content = contentOf(path);
    const version = versionOf(content);
    if (version > format.version) {
      const aside = setAside(path, 'newer');
      complain(
        { file: path, version, known: format.version, aside },
        'a state file was written by a newer version of Drawbridge: it is not used',
      );
      return undefined;
    }
    const value = format.parse(content);
    if (value !== undefined) return value;
    why = 'it does not hold what such a file holds';
  } catch (e) {
    if (errorCode(e) === 'ENOENT') return undefined;
    why = e instanceof Error ? e.message : String(e);
  }
  complain(
    { file: path, why, aside: setAside(path, 'damaged') },
    'a state file cannot be read: it is not used',
  );
  return undefined;
}

/** Whole and durable, or as it was before. */
export function writeStateFile(path: string, content: unknown): void {
  const tmp = `${path}.tmp`;
  const file = openSync(tmp, 'w', 0o600);
  try {
    writeFileSync(file, JSON.stringify(content));
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  renameSync(tmp, path);
}

function contentOf(path: string): unknown {
  const { size } = statSync(path);
  if (size > MOST_BYTES) throw new Error(`it has ${size} bytes`);
  return JSON.parse(readFileSync(path, 'utf8'));
}

/** `version` of an object; of an array that of its first element, which older versions pass over. */
function versionOf(content: unknown): number {
  const head: unknown = Array.isArray(content) ? content[0] : content;
  return isRecord(head) && typeof head.version === 'number' ? head.version : 1;
}

/** Null: it stays where it is (a read-only file system). */
function setAside(path: string, how: 'damaged' | 'newer'): string | null {
  const to = `${path}.${how}`;
  try {
    renameSync(path, to);
    return to;
  } catch {
    return null; // the caller's complaint says that there is no copy
  }
}

/** Texts of an array; what else is in it is left out. Undefined: it is no array. */
export const textsOf = (value: unknown): readonly string[] | undefined =>
  Array.isArray(value) ? value.filter((item) => typeof item === 'string') : undefined;
