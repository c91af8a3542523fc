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

/** The first problems; when there are as many as were looked for, the last says that more may follow. */
export function atMost(problems: readonly Problem[], count: number): readonly Problem[] {
  if (problems.length < count) return problems;
  const { detail, ...last } = problems[count - 1] ?? { detail: '', remedy: '' };
  return [
    ...problems.slice(0, count - 1),
    { ...last, detail: `${detail} (the first ${count} problems are shown, and the rest was not read)` },
  ];
}

const MAX_SHOWN = 80;
/** A text of a user in a message: a long one is cut, so that no message carries whole lines of what was read. */
export const clipped = (text: string, length = MAX_SHOWN): string =>
  text.length > length ? `${text.slice(0, length)}…` : text;
