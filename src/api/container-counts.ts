import type { NodeRecord } from '../changes/fleet-types.js';
import { BROKEN_LABEL, MISSING_LIST } from '../policy/policy.js';
import type { ContainerView, CoverageCounts, StatusView } from './container-views.js';

type Counted = Pick<ContainerView, 'mode' | 'coverage' | 'findings'>;

/** Containers by mode, and the coverage of those in mode enforce. */
export function census(
  all: readonly Counted[],
): Pick<
  StatusView,
  'containers' | 'enforced' | 'observed' | 'off' | 'coverage' | 'labelErrors' | 'missingLists'
> {
  const inMode = (mode: Counted['mode']): Counted[] => all.filter((c) => c.mode === mode);
  const having = (code: string): number => all.filter((c) => c.findings.some((f) => f.code === code)).length;
  const enforced = inMode('enforce');
  return {
    containers: all.length,
    enforced: enforced.length,
    observed: inMode('observe').length,
    off: inMode('off').length,
    coverage: coverageCounts(enforced),
    labelErrors: having(BROKEN_LABEL),
    missingLists: having(MISSING_LIST),
  };
}

/** What a host reports of its containers: `partial` and `unenforced` count the containers of every mode. */
export function nodeCensus(
  all: readonly Counted[],
): Pick<NodeRecord, 'containers' | 'enforced' | 'fullyEnforced' | 'observed' | 'partial' | 'unenforced'> {
  const { containers, enforced, observed, coverage } = census(all);
  const { partial, unenforced } = coverageCounts(all);
  return { containers, enforced, fullyEnforced: coverage.enforced, observed, partial, unenforced };
}

function coverageCounts(of: readonly Counted[]): CoverageCounts {
  const count = (state: Counted['coverage']['state']): number =>
    of.filter((c) => c.coverage.state === state).length;
  return { enforced: count('enforced'), partial: count('partial'), unenforced: count('unenforced') };
}
