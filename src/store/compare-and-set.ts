import { RefusedError } from '../lib/refusal.js';
import type { Change } from './frames.js';

/** A write that waits for its group commit. */
export interface Write {
  readonly key: string;
  /** Undefined: delete. */
  readonly json: string | undefined;
  /** Compare-and-set; 0: only when the key does not exist. */
  readonly ifRevision: number | undefined;
  /** Undefined: a delete that found nothing. */
  resolve(revision: number | undefined): void;
  reject(e: unknown): void;
}

interface Judged {
  readonly accepted: readonly { readonly write: Write; readonly revision: number | undefined }[];
  readonly changes: readonly Change[];
}

/** Compare-and-set in order, each write seeing those before it in the batch; the failed ones are rejected here. */
export function judge(
  batch: readonly Write[],
  items: ReadonlyMap<string, { readonly revision: number }>,
  revision: number,
): Judged {
  const pending = new Map<string, number>();
  const accepted: { write: Write; revision: number | undefined }[] = [];
  const changes: Change[] = [];
  for (const write of batch) {
    const current = pending.get(write.key) ?? items.get(write.key)?.revision ?? 0;
    if (write.ifRevision !== undefined && write.ifRevision !== current) {
      write.reject(staleError(write.key, write.ifRevision, current));
    } else if (write.json === undefined && current === 0) {
      accepted.push({ write, revision: undefined });
    } else {
      const next = revision + changes.length + 1;
      pending.set(write.key, write.json === undefined ? 0 : next);
      changes.push({ revision: next, key: write.key, json: write.json });
      accepted.push({ write, revision: next });
    }
  }
  return { accepted, changes };
}

export function staleError(key: string, expected: number, current: number): RefusedError {
  return new RefusedError({
    kind: 'precondition',
    detail: `${key} is at revision ${current}, not ${expected}: it was changed meanwhile`,
    remedy: 'read it again, apply your change to what it is now, and write that',
  });
}
