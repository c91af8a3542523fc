/** Why a flow has passed: the entry that permits it, or what else lets it pass. Pure. */
import type { Contact } from '../events/service-events.js';
import type { PassedFlow } from '../kernel/netlink/flow-accounting.js';
import { sourceText } from '../policy/deny-entries.js';
import type { Subject } from '../ruleset/desired-state.js';
import { permitOf } from '../ruleset/policy-evaluator.js';
import { FREE_NEIGHBOUR } from './flow-record.js';

export type Permit = Pick<Contact, 'name' | 'reason' | 'entry' | 'list' | 'verdict'>;

/** `isHost`: the flow was sent to an address of the host. */
export function findPermit(
  subject: Subject,
  { dst, dport, to = dst, toPort = dport }: PassedFlow,
  proto: string,
  names: readonly string[],
  isHost: boolean,
): Permit {
  const hostPort = isHost ? { hostPort: dport } : {};
  const found = permitOf(subject, { names, address: to, proto, port: toPort, ...hostPort });
  const [name = null] = names;
  const without = { name, entry: null, list: null, verdict: 'allow' } as const;
  if (found === 'neighbour') return { ...without, reason: FREE_NEIGHBOUR };
  const { mode } = subject.policy;
  if (!found && mode === 'observe') return { ...without, reason: OBSERVED, verdict: 'would-deny' };
  if (!found) return { ...without, reason: PASSED_BECAUSE[mode] };
  const { entry, source } = found.entry;
  return {
    name: found.name ?? name,
    reason: `an entry permits it (${sourceText(source)})`,
    entry: entry.canonical,
    list: 'list' in source ? source.list : null,
    verdict: 'allow',
  };
}

const OBSERVED = 'no entry permits it (observed, so it passed)';
const PASSED_BECAUSE = {
  enforce: 'it was permitted when it began; no entry permits it now',
  observe: OBSERVED,
  off: 'the container is in mode off: only threats are blocked',
} as const;
