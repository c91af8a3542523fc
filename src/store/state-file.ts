import { closeSync, fsyncSync, openSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { isRecord } from '../lib/json.js';
import { errorCode } from './store-error.js';

/** A small file of the state folder: JSON with a version, always replaced as a whole. */
interface StateFormat<T> {
  /** The version that this program writes; a file without one is version 1. */
  readonly version: number;
  /** Returns the value, or undefined when no version wrote this content. */
  parse(content: unknown): T | undefined;
}
export type ReportProblem = (o: object, message: string) => void;

/** The default for commands, which have no log. */
const onStderr: ReportProblem = (o, message) =>
  void process.stderr.write(`${message}: ${JSON.stringify(o)}\n`);

/** Far larger than any file of this kind. */
const MOST_BYTES = 16 * 1024 * 1024;

/**
 * Returns undefined when the file does not exist or cannot be used. A file that cannot be used is renamed (PATH.damaged,
 * PATH.newer), so that the next write does not destroy it, and reported; the caller continues as without a file.
 */
export function readStateFile<T>(
  path: string,
  format: StateFormat<T>,
  report: ReportProblem = onStderr,
): T | undefined {
  let why: string;
  try {
    const content = contentOf(path);
    const version = versionOf(content);
    if (version > format.version) {
      const aside = setAside(path, 'newer');
      report(
        { file: path, version, known: format.version, aside },
        'a state file was written by a newer version of Drawbridge: it is not used',
      );
      return undefined;
    }
    const value = format.parse(content);
    if (value !== undefined) return value;
    why = 'its content has another structure';
  } catch (e) {
    if (errorCode(e) === 'ENOENT') return undefined;
    why = e instanceof Error ? e.message : String(e);
  }
  report(
    { file: path, why, aside: setAside(path, 'damaged') },
    'a state file cannot be read: it is not used',
  );
  return undefined;
}

/** Replaces the file durably; on failure the old one stays. */
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

/** The `version` of an object, or of the first element of an array, which older versions ignore. */
function versionOf(content: unknown): number {
  const head: unknown = Array.isArray(content) ? content[0] : content;
  return isRecord(head) && typeof head.version === 'number' ? head.version : 1;
}

/** Returns null when the file stays where it is (on a read-only file system). */
function setAside(path: string, how: 'damaged' | 'newer'): string | null {
  const to = `${path}.${how}`;
  try {
    renameSync(path, to);
    return to;
  } catch {
    return null; // The caller reports that there is no copy.
  }
}

/** Returns the strings of an array without its other elements, or undefined when the value is not an array. */
export const textsOf = (value: unknown): readonly string[] | undefined =>
  Array.isArray(value) ? value.filter((item) => typeof item === 'string') : undefined;
