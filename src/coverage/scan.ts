import type { ContainerFacts } from '../policy/container.js';
import type { Finding } from '../policy/finding.js';
import { allFindings } from './coverage.js';
import { hostFindings } from './coverage-host.js';
import { type CoverageParts, coverageInput } from './coverage-input.js';
import { practicesOf } from './practices.js';

/** What was found about each container and, when all are asked for, about the host. */
export function scanView(
  parts: CoverageParts,
  containers: readonly ContainerFacts[],
  withHost: boolean,
): ScanView[] {
  const { host, engine: daemon } = parts.hostWatch;
  const { failure } = parts.shape;
  const hostFound = hostFindings({ host, engine: daemon, failure }).map(
    (f): ScanFinding => ({ ...f, kind: 'host' }),
  );
  const codes = new Set(hostFound.map((f) => f.code));
  const views = containers.map((c) => containerScan(parts, c, codes));
  return withHost ? [{ container: null, image: null, findings: hostFound }, ...views] : views;
}

/** What the whole host suffers from is said once, not with every container. */
function containerScan(parts: CoverageParts, c: ContainerFacts, ofHost: ReadonlySet<string>): ScanView {
  const policy = parts.policies.policyOf(parts.docker.view().containers.get(c.sharesWith ?? '') ?? c);
  const coverage = allFindings(coverageInput(parts, c, policy))
    .filter((f) => !ofHost.has(f.code))
    .map((f): ScanFinding => ({ ...f, kind: 'coverage' }));
  const practices = practicesOf(c).map((p): ScanFinding => ({ ...p, state: 'enforced', kind: 'practice' }));
  return { container: c.name, image: c.image, findings: [...coverage, ...practices] };
}

export interface ScanFinding extends Finding {
  readonly kind: 'coverage' | 'practice' | 'host';
}

/** What `scan` found about one container; container null: about the host. */
export interface ScanView {
  readonly container: string | null;
  readonly image: string | null;
  readonly findings: readonly ScanFinding[];
}
