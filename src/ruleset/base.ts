import { type DesiredInput, type KernelConfig, NO_HOST_NET } from './state.js';

/** What stands when nothing is known: no container, every port held. `exempt`: veths that are not Docker's. */
export const closedBase = (shape: KernelConfig, exempt: readonly number[] = []): DesiredInput => ({
  shape,
  subjects: [],
  bridges: [],
  exempt,
  unattributed: [],
  unattributedMode: 'enforce',
  unattributedClasses: [],
  hostNet: NO_HOST_NET,
});
