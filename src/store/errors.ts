/**
 * What went wrong with the store, with the remedy in the text. `newer`: written by a newer version. `away`: the shared store does not answer, nothing was
 * written. `unknown`: it took the write and did not confirm it, so it may hold it.
 */
export class StoreError extends Error {
  readonly code: 'locked' | 'corrupt' | 'newer' | 'write' | 'value' | 'closed' | 'away' | 'unknown';
  constructor(code: StoreError['code'], message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'StoreError';
    this.code = code;
  }
}

export function errorCode(e: unknown): string | undefined {
  return e instanceof Error && 'code' in e && typeof e.code === 'string' ? e.code : undefined;
}

export function writeError(file: string, e: unknown): StoreError {
  const full = errorCode(e) === 'ENOSPC' || errorCode(e) === 'EDQUOT';
  const why = full ? 'the disk is full' : e instanceof Error ? e.message : String(e);
  const remedy = full
    ? 'free space on that file system and try again'
    : 'check that the file system is writable and healthy, then try again';
  return new StoreError('write', `cannot write ${file}: ${why}. Nothing was changed; ${remedy}`, e);
}

export function corruptError(file: string, offset: number, what: string): StoreError {
  return new StoreError(
    'corrupt',
    `${file} is damaged at byte ${offset}: ${what}. Nothing was read or changed. ` +
      'Put back a copy of the state folder from a backup, or move the folder away to start with an empty store',
  );
}

export function newerError(file: string, found: string, known: string): StoreError {
  return new StoreError(
    'newer',
    `${file} was written by a newer version of Drawbridge: its format is ${found}, this version reads ${known}. ` +
      'Nothing was read or changed. Install the newer version again, or put back a copy of the state folder from before ' +
      'the upgrade',
  );
}
