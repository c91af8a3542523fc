import { type Problem, type Refusal, RefusedError } from '../lib/problem.js';

/** Throws the refusal that the API turns into a problem document. */
export function refuse(kind: Exclude<Refusal['kind'], 'invalid'>, detail: string, remedy: string): never {
  throw new RefusedError({ kind, detail, remedy });
}

export function refuseInvalid(problems: readonly Problem[]): never {
  throw new RefusedError({ kind: 'invalid', problems });
}
