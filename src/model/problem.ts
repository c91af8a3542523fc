/** What is wrong, where, and what to do: every refusal of user input carries these. */
export interface Problem {
  readonly detail: string;
  readonly remedy: string;
  /** JSON pointer into the object form (RFC 6901), where there is one. */
  readonly pointer?: string;
  readonly file?: string;
  /** 1-based. */
  readonly line?: number;
  readonly column?: number;
}
export type Parsed<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly problems: readonly Problem[] };
