import type { NodeRecord } from '../model/fleet.js';
import type { Controller } from '../ports.js';

/** How many containers there are, and how they are held. */
export function census(
  controller: Pick<Controller, 'containers'>,
): Pick<NodeRecord, 'containers' | 'enforced' | 'observed' | 'partial' | 'unenforced'> {
  const all = controller.containers();
  const held = (state: string): number => all.filter((c) => c.coverage.state === state).length;
  return {
    containers: all.length,
    enforced: all.filter((c) => c.mode === 'enforce' && c.coverage.state === 'enforced').length,
    observed: all.filter((c) => c.mode === 'observe').length,
    partial: held('partial'),
    unenforced: held('unenforced'),
  };
}
