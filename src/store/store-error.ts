import { errorCode, errorText, isDiskFull, RemedyError } from '../lib/problem.js';

/** The detail and the remedy of an error. */
interface RemedyText {
  readonly detail: string;
  readonly remedy: string;
}

/**
 * An error of the store; the message ends with the remedy. `newer`: a file was written by a newer version. `away`: the
 * shared store does not answer, or is not the one that this host knows, and nothing was written. `unknown`: the shared
 * store received the write and did not confirm it, so that it may be stored.
 */
export class StoreError extends RemedyError {
  readonly code: 'locked' | 'corrupt' | 'newer' | 'write' | 'value' | 'closed' | 'away' | 'unknown';
  constructor(code: StoreError['code'], text: string | RemedyText, cause?: unknown) {
    const { detail, remedy } = typeof text === 'string' ? { detail: text, remedy: undefined } : text;
    super(detail, remedy, cause);
    this.name = 'StoreError';
    this.code = code;
  }
}

/** A command was not sent to Redis, because the connection is down. */
export class NotSentError extends Error {}

export function writeError(file: string, e: unknown): StoreError {
  const full = isDiskFull(e);
  const why = full ? 'the disk is full' : errorText(e);
  const remedy = full
    ? 'free space on that file system and try again'
    : 'check that the file system is writable and healthy, then try again';
  return new StoreError(
    'write',
    { detail: `cannot write ${file}: ${why}`, remedy: `Nothing was changed; ${remedy}` },
    e,
  );
}

export function corruptError(file: string, offset: number, what: string): StoreError {
  return new StoreError('corrupt', {
    detail: `${file} is damaged at byte ${offset}: ${what}`,
    remedy:
      'Nothing was read or changed. Put back a copy of the state folder from a backup, or move the folder away to start ' +
      'with an empty store',
  });
}

export function newerError(file: string, found: string, known: string): StoreError {
  return new StoreError('newer', {
    detail: `${file} was written by a newer version of Drawbridge: its format is ${found}, this version reads ${known}`,
    remedy:
      'Nothing was read or changed. Install the newer version again, or put back a copy of the state folder from before ' +
      'the upgrade',
  });
}

/** Why the service runs closed, and what the operator can do about it. */
export interface ClosedCause {
  readonly reason: string;
  readonly remedy: string;
}

const STORE_REMEDY =
  'drawbridge store check shows what can be read; then put back a backup of the state folder, or run ' +
  'drawbridge store restore --previous, or drawbridge store start-empty';
const NEWER_REMEDY =
  'run the version of drawbridge that wrote it, or put back a backup from before the upgrade, or run ' +
  'drawbridge store start-empty';

/**
 * Errors that the operator can repair while the service waits. A path that is not a folder, or a wrong URL, is an error
 * of the configuration.
 */
const OF_THE_SYSTEM: Readonly<Record<string, string>> = {
  EROFS: 'mount its file system writable (a file system with errors is mounted read-only: see dmesg)',
  EACCES: 'give root the right to write there',
  EPERM: 'give root the right to write there (lsattr shows an immutable flag)',
  ENOSPC: 'free some space on its file system',
  EDQUOT: 'free some space in its quota',
  EIO: 'its disk fails: see dmesg',
  EMFILE: 'raise the limit of open files of the service (LimitNOFILE in its unit)',
  ENFILE: 'raise the limit of open files of the host (sysctl fs.file-max)',
};

/** Returns undefined for an error that must end the start (the store is in use, or the configuration is wrong). */
export function closedCause(e: unknown): ClosedCause | undefined {
  if (e instanceof StoreError) return ofTheStore(e);
  const remedy = OF_THE_SYSTEM[errorCode(e) ?? ''];
  return remedy === undefined ? undefined : { reason: `the state cannot be opened: ${errorText(e)}`, remedy };
}

function ofTheStore({ code, detail: reason }: StoreError): ClosedCause | undefined {
  if (code === 'corrupt') return { reason, remedy: STORE_REMEDY };
  if (code === 'newer') return { reason, remedy: NEWER_REMEDY };
  if (code === 'write') return { reason, remedy: 'make the state folder writable, with space left' };
  return undefined;
}
