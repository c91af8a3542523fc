import type { DockerView } from '../policy/container.js';
import type { PortMap } from './bindings.js';
import type { Judge } from './policy-evaluator.js';
import type { DesiredInput, DesiredState, HostSenders, Member } from './state.js';

/** What stands in the kernel since the last pass that held. */
export interface InForce {
  readonly view: DockerView;
  readonly ports: PortMap;
  readonly input: DesiredInput;
  readonly hosts: HostSenders;
  readonly desired: DesiredState;
  readonly members: ReadonlyMap<string, Member>;
  readonly veths: readonly number[];
  readonly unattributed: ReadonlySet<number>;
  /** Ports that are, or have been, a container's: they are never proven to be nobody's. */
  readonly containers: ReadonlySet<number>;
  readonly judge: Judge;
  readonly repaired: boolean;
}

/** While an answer is outstanding: Docker needs seconds for each of many containers that start together. */
export const LATEST_MS = 10_000;
