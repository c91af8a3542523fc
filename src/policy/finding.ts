export type Verdict = 'allow' | 'deny' | 'threat';
/**
 * The reason of what would be denied although its name may be permitted: enforced, a container asks Drawbridge's resolver, and no other one opens
 * an address.
 */
export const OWN_RESOLVER =
  'only a resolver of the container itself gave this address for the name: enforce permits those that Drawbridge gives (observed, so it passed)';
export interface Coverage {
  readonly state: 'enforced' | 'partial' | 'unenforced';
  readonly reasons: readonly string[];
}

/** Something that was found about a container or the host: what it is and means, and what to do. */
export interface Finding {
  /** Stable, for filters: "docker-socket", "net-admin" … */
  readonly code: string;
  /** What it leaves of the promises; enforced: they hold, but it should be known. */
  readonly state: Coverage['state'];
  readonly detail: string;
  readonly remedy: string;
}

const ORDER: readonly Coverage['state'][] = ['enforced', 'partial', 'unenforced'];

/** The worst of the parts decides. */
export const worstOf = (findings: readonly Finding[]): Coverage['state'] =>
  findings.reduce<Coverage['state']>(
    (worst, f) => (ORDER.indexOf(f.state) > ORDER.indexOf(worst) ? f.state : worst),
    'enforced',
  );

/** Worst first; otherwise as they were found. */
export const worstFirst = (findings: readonly Finding[]): Finding[] =>
  [...findings].sort((a, b) => ORDER.indexOf(b.state) - ORDER.indexOf(a.state));

export const findingText = (f: Pick<Finding, 'detail' | 'remedy'>): string =>
  f.remedy === '' ? f.detail : `${f.detail}; ${f.remedy}`;
