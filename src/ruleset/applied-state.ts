import type { DockerView } from '../policy/container.js';
import type { VethMap } from './bindings.js';
import type { PolicyEvaluator } from './policy-evaluator.js';
import type { DesiredInput, DesiredState, HostCgroups, Subject } from './state.js';

/** What stands in the kernel since the last pass that held. */
export interface AppliedState {
  readonly view: DockerView;
  readonly vethMap: VethMap;
  readonly input: DesiredInput;
  readonly hosts: HostCgroups;
  readonly desired: DesiredState;
  readonly subjects: ReadonlyMap<string, Subject>;
  readonly veths: readonly number[];
  readonly unattributed: ReadonlySet<number>;
  /** Ports that are, or have been, a container's: they are never proven to be nobody's. */
  readonly containers: ReadonlySet<number>;
  readonly evaluator: PolicyEvaluator;
  readonly repaired: boolean;
}

/** While an answer is outstanding: Docker needs seconds for each of many containers that start together. */
export const LATEST_MS = 10_000;
