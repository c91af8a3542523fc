import type { Problem } from './problem.js';

/** Refusals that the API turns into problem details. */
export type Refusal =
  | { readonly kind: 'not-found'; readonly detail: string; readonly remedy: string }
  | { readonly kind: 'conflict'; readonly detail: string; readonly remedy: string }
  | { readonly kind: 'precondition'; readonly detail: string; readonly remedy: string }
  | { readonly kind: 'invalid'; readonly problems: readonly Problem[] }
  | { readonly kind: 'too-large'; readonly detail: string; readonly remedy: string }
  | { readonly kind: 'read-only'; readonly detail: string; readonly remedy: string }
  | { readonly kind: 'not-in-force'; readonly detail: string; readonly remedy: string }
  | { readonly kind: 'closed'; readonly detail: string; readonly remedy: string };

export class RefusedError extends Error {
  readonly refusal: Refusal;
  constructor(refusal: Refusal) {
    super('detail' in refusal ? refusal.detail : refusal.problems.map((p) => p.detail).join('; '));
    this.refusal = refusal;
  }
}
