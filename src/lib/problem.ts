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
  /** What the problem is about, for code that places or shortens it. It is not shown: see `shownProblem`. */
  readonly about?: ProblemSubject;
}
/**
 * A key of a map itself and not its value; a variable of the environment or a flag itself (`name`); or the setting that has the value, which is
 * such a variable or flag.
 */
export type ProblemSubject =
  | { readonly kind: 'key' }
  | { readonly kind: 'name' | 'setting'; readonly name: string };

/** The problem as the API and `--json` show it. */
export function shownProblem({ about: _, ...shown }: Problem): Problem {
  return shown;
}
export type Parsed<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly problems: readonly Problem[] };

/** The first problems; when there are as many as were looked for, the last one adds that more may follow. */
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

/** Refusals that the API turns into problem details. */
export type Refusal =
  | { readonly kind: 'not-found'; readonly detail: string; readonly remedy: string }
  | { readonly kind: 'conflict'; readonly detail: string; readonly remedy: string }
  | { readonly kind: 'precondition'; readonly detail: string; readonly remedy: string }
  | { readonly kind: 'invalid'; readonly problems: readonly Problem[] }
  | { readonly kind: 'too-large'; readonly detail: string; readonly remedy: string }
  | { readonly kind: 'read-only'; readonly detail: string; readonly remedy: string }
  | { readonly kind: 'not-in-force'; readonly detail: string; readonly remedy: string }
  | { readonly kind: 'closed'; readonly detail: string; readonly remedy: string }
  | { readonly kind: 'unavailable'; readonly detail: string; readonly remedy: string };

/** An error that carries what to do about it. Its message is the detail and the remedy, for the log. */
export class RemedyError extends Error {
  readonly detail: string;
  /** Undefined when the error suggests none. */
  readonly remedy: string | undefined;
  constructor(detail: string, remedy: string | undefined, cause?: unknown) {
    super(
      remedy === undefined ? detail : `${detail}. ${remedy}`,
      cause === undefined ? undefined : { cause },
    );
    this.detail = detail;
    this.remedy = remedy;
  }
}

/** The message of an error; anything else as its text. */
export const errorText = (e: unknown): string => (e instanceof Error ? e.message : String(e));

/** The code of an error of the system, of Node or of a module, such as ENOENT. Undefined when it has none. */
export const errorCode = (e: unknown): string | undefined =>
  e instanceof Error && 'code' in e && typeof e.code === 'string' ? e.code : undefined;

/** The code, which is shorter than the message; the message where there is none. */
export const codeOrText = (e: unknown): string => errorCode(e) ?? errorText(e);

/** Whether a write failed because the file system, or the quota on it, is full. */
export const isDiskFull = (e: unknown): boolean => ['ENOSPC', 'EDQUOT'].includes(errorCode(e) ?? '');

/** Return undefined when a file or an object of the kernel does not exist (ENOENT); throw every other error. */
export function ignoreMissing(e: unknown): undefined {
  if (errorCode(e) !== 'ENOENT') throw e;
  return undefined;
}

/** The message of an error without its remedy. */
export const detailOf = (e: unknown): string => (e instanceof RemedyError ? e.detail : errorText(e));

export class RefusedError extends Error {
  readonly refusal: Refusal;
  constructor(refusal: Refusal) {
    super('detail' in refusal ? refusal.detail : refusal.problems.map((p) => p.detail).join('; '));
    this.refusal = refusal;
  }
}

/** Edits (insert, delete, replace, or swap two neighbours) between two words, for "did you mean". */
function distance(a: string, b: string): number {
  let [before, row]: number[][] = [[], Array.from({ length: b.length + 1 }, (_, i) => i)];
  for (let i = 0; i < a.length; i++) {
    const next = [i + 1];
    for (let j = 0; j < b.length; j++) {
      const isSwap = i > 0 && j > 0 && a[i] === b[j - 1] && a[i - 1] === b[j];
      const swapped = isSwap ? (before?.[j - 1] ?? 0) + 1 : Number.POSITIVE_INFINITY;
      const replaced = (row?.[j] ?? 0) + (a[i] === b[j] ? 0 : 1);
      next.push(Math.min(swapped, replaced, (row?.[j + 1] ?? 0) + 1, (next[j] ?? 0) + 1));
    }
    [before, row] = [row, next];
  }
  return row?.[b.length] ?? 0;
}
/** Two edits make any short word of another one. */
const mostEdits = (word: string): number => (word.length <= 3 ? 1 : 2);

export function nearest(key: string, known: readonly string[]): string | undefined {
  const ranked = known.map((name) => ({ name, edits: distance(key.toLowerCase(), name.toLowerCase()) }));
  const best = ranked.sort((a, b) => a.edits - b.edits)[0];
  return best && best.edits <= mostEdits(key) && key.length < 60 ? best.name : undefined;
}

/** The remedy for a name that is not known: the nearest one, and then what helps in any case. */
export function orNearest(name: string, known: readonly string[], remedy: string): string {
  const meant = nearest(name, known);
  return meant === undefined ? remedy : `did you mean ${meant}? Otherwise ${remedy}`;
}

/** Throws the refusal that the API turns into a problem document. */
export function refuse(kind: Exclude<Refusal['kind'], 'invalid'>, detail: string, remedy: string): never {
  throw new RefusedError({ kind, detail, remedy });
}

export function refuseInvalid(problems: readonly Problem[]): never {
  throw new RefusedError({ kind: 'invalid', problems });
}
