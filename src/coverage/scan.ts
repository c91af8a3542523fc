import type { Engine } from '../app/engine.js';
import type { ContainerFacts } from '../policy/container.js';
import type { Finding } from '../policy/finding.js';
import { allFindings } from './coverage.js';
import { hostFindings } from './coverage-host.js';
import { coverageInput } from './coverage-input.js';
import { practicesOf } from './practices.js';

/** What was found about each container and, when all are asked for, about the host. */
export function scanView(
  engine: Engine,
  containers: readonly ContainerFacts[],
  withHost: boolean,
): ScanView[] {
  const { host, engine: daemon } = engine.hostWatch;
  const { failure } = engine.shape;
  const hostFound = hostFindings({ host, engine: daemon, failure }).map(
    (f): ScanFinding => ({ ...f, kind: 'host' }),
  );
  const codes = new Set(hostFound.map((f) => f.code));
  const views = containers.map((c) => containerScan(engine, c, codes));
  return withHost ? [{ container: null, image: null, findings: hostFound }, ...views] : views;
}

/** What the whole host suffers from is said once, not with every container. */
function containerScan(engine: Engine, c: ContainerFacts, ofHost: ReadonlySet<string>): ScanView {
  const policy = engine.policies.policyOf(engine.docker.view().containers.get(c.sharesWith ?? '') ?? c);
  const coverage = allFindings(coverageInput(engine, c, policy))
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
