export type Verdict = 'allow' | 'deny' | 'threat';
export interface Coverage {
  readonly state: 'enforced' | 'partial' | 'unenforced';
  readonly reasons: readonly string[];
}
