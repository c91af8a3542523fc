import type { ContainerFacts } from '../policy/container.js';
import { type Finding, findingText, worstFirst, worstOf } from '../policy/finding.js';
import type { Policy } from '../policy/policy.js';
import type { Coverage } from '../policy/verdict.js';
import { type DeviceFacts, deviceFindings } from './coverage-devices.js';
import { type HostInput, hostFindings } from './coverage-host.js';
import { limitFindings } from './coverage-limits.js';
import { type MountsKnown, mountFindings } from './coverage-mounts.js';
import { type NameFacts, nameFindings } from './coverage-names.js';
import { type NetworkPlace, networkFindings } from './coverage-networks.js';
import { type PidPeer, pidFindings } from './coverage-pid.js';
import type { OwnPlaces } from './coverage-places.js';
import { powerFindings } from './coverage-powers.js';
import { relayFindings } from './coverage-relays.js';
import { type StoreFacts, storeFindings } from './coverage-store.js';

export interface CoverageInput extends NetworkPlace, HostInput, StoreFacts {
  readonly container: ContainerFacts;
  readonly policy: Policy;
  readonly names: NameFacts;
  readonly own: OwnPlaces;
  /** Undefined: the mounts are not read, and the paths that Docker lists are compared as text. */
  readonly mounts?: MountsKnown;
  readonly devices?: DeviceFacts;
  /** PID mode of the container that owns the shared PID namespace; undefined: the container has its own namespace. */
  readonly pidMode?: string;
  /** Containers that share its PID namespace and have another policy. */
  readonly pidPeers?: readonly PidPeer[];
  /** It is the container that Drawbridge itself runs in. */
  readonly isSelf: boolean;
}

/** Whether what is promised can be held for this container, and everything that its operator should know. */
export function coverageOf(input: CoverageInput): Coverage {
  const findings = allFindings(input);
  return { state: worstOf(findings), reasons: findings.map(findingText) };
}

/** What was found about the container, the worst first, and then what its policy notes: it weakens nothing. */
export const allFindings = (input: CoverageInput): readonly Finding[] => [
  ...worstFirst(coverageFindings(input)),
  ...noteFindings(input.policy),
];

/** The notes of a policy (labels that do not parse, lists that do not exist) as findings. */
const noteFindings = ({ notes }: Pick<Policy, 'notes'>): readonly Finding[] =>
  notes.map(({ detail, remedy, code = 'policy-note' }) => ({ code, state: 'enforced', detail, remedy }));

/** Everything found about the container itself, and of the host what weakens it. */
export function coverageFindings(input: CoverageInput): Finding[] {
  const { container: c, policy, names } = input;
  if (input.isSelf) return [SELF];
  const host = hostFindings(input).filter((f) => f.state !== 'enforced');
  return [
    ...networkFindings(c, input),
    ...storeFindings(c, input),
    ...(c.privileges ? privilegeFindings(input, c.privileges) : [NOT_INSPECTED]),
    ...pidFindings(policy.mode, input.pidPeers ?? []),
    ...(policy.mode === 'enforce' ? nameFindings(names) : []),
    ...relayFindings(c, policy),
    ...limitFindings(c, policy),
    ...host,
  ];
}

const privilegeFindings = (
  { container, own, mounts, devices, pidMode }: CoverageInput,
  p: NonNullable<ContainerFacts['privileges']>,
): Finding[] => [
  ...powerFindings(p, pidMode),
  ...deviceFindings(p, devices ?? { drivers: undefined, nodes: [] }),
  ...mountFindings(container, own, mounts),
];

/** Drawbridge's own container needs the privileges to change all rules, so they are not listed one by one. */
const SELF: Finding = {
  code: 'itself',
  state: 'unenforced',
  detail:
    'this container is Drawbridge itself: it is trusted like root on the host, and no policy applies to it',
  remedy: 'nothing to do; to avoid this, run the service on the host',
};

const NOT_INSPECTED: Finding = {
  code: 'not-inspected',
  state: 'partial',
  detail: 'the privileges and mounts of the container have not been read from Docker yet',
  remedy: 'check again in a moment; if this remains, see docker inspect',
};
