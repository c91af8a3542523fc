import type { NeighbourChanges } from '../enforce/neighbour-changes.js';
import type { Current } from '../lib/current.js';
import type { DockerView } from '../policy/container.js';
import { idKey, ownerKey } from '../policy/own-labels.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { DenialEvent } from './denials.js';
import type { SeenFlow } from './flow-record.js';

export interface DeniedFlowParts {
  readonly applied: Pick<Current<AppliedState>, 'value'>;
  readonly docker: { view(): Pick<DockerView, 'containers'> };
  readonly neighbours: Pick<NeighbourChanges, 'former' | 'neighbourAt'>;
}

/** A denial as it is recorded, with the name and the owner of its container. */
export function deniedFlow(parts: DeniedFlowParts, denial: DenialEvent): SeenFlow {
  const { docker, neighbours } = parts;
  const { container: id, verdict, proto, address, port, reason, decidedBy = {} } = denial;
  const facts = docker.view().containers.get(id) ?? neighbours.former(id);
  const owner = !facts ? idKey(id) : 'owner' in facts ? facts.owner : ownerKey(facts);
  const time = Date.parse(denial.time);
  const name = denial.name ?? neighbours.neighbourAt(id, address, time) ?? null;
  const { entry = null, list = null, feed = null } = decidedBy;
  // Conntrack counts what has passed (passed-flows.ts), but for namespaces of macvlan, which it does not read.
  const isCounted = denial.hasPassed === true && isOnBridge(parts, id);
  return {
    ...{
      id,
      container: facts?.name ?? id,
      owner,
      verdict,
      proto,
      address,
      port,
      name,
      reason,
      entry,
      list,
      feed,
    },
    ...{ time, packets: isCounted || proto === 'dns' ? 0 : 1, bytes: 0, count: isCounted ? 0 : 1 },
  };
}

function isOnBridge({ applied }: DeniedFlowParts, container: string): boolean {
  const subject = applied.value?.subjects.get(container);
  return subject !== undefined && (subject.veths.length > 0 || subject.host !== undefined);
}
