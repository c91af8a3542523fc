/** What a thread and its client send to each other; all plain data. */
export interface ThreadRequest {
  readonly id: number;
  readonly kind: string;
  readonly job: unknown;
}
export type ThreadReply =
  | { readonly id: number; readonly ok: true; readonly value: unknown }
  | { readonly id: number; readonly ok: false; readonly error: string };

/** A result, with the buffers that are moved instead of copied. */
export interface ThreadResult {
  readonly value: unknown;
  readonly transfer?: readonly ArrayBuffer[];
}
