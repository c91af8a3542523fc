import { type DesiredInput, NO_HOST_NET, type Shape } from './state.js';

/** What stands when nothing is known: no container, every port held. `exempt`: veths that are not Docker's. */
export const closedBase = (shape: Shape, exempt: readonly number[] = []): DesiredInput => ({
  shape,
  members: [],
  bridges: [],
  exempt,
  unattributed: [],
  unattributedMode: 'enforce',
  unattributedClasses: [],
  hostNet: NO_HOST_NET,
});
