import type { AppliedState } from '../ruleset/applied-state.js';
import type { InKernel } from './packet-hold.js';

/** What `Hold` asks of the state in force. */
export function inKernel(state: AppliedState | undefined): InKernel | undefined {
  if (!state) return undefined;
  return {
    ports: state.vethMap,
    unattributed: state.unattributed,
    unattributedMode: state.input.unattributedMode,
    identityOf: (container) => {
      const m = state.subjects.get(container);
      return m && { identity: m.identity, mode: m.policy.mode };
    },
    veths: state.veths,
    listBegan: state.view.listBegan,
    isUnknownStarting: [...state.view.starting].some((id) => !state.view.containers.has(id)),
  };
}
