import type { ContainerFacts } from '../policy/container.js';
import type { Finding } from '../policy/finding.js';
import type { Limits } from '../policy/limits.js';
import type { Policy } from '../policy/policy.js';

/** Report limits of the container that cannot be enforced on its network. */
export function limitFindings(c: ContainerFacts, { limits, mode }: Policy): Finding[] {
  if (!limits || mode !== 'enforce' || c.networkMode !== 'host') return [];
  const open = unheld(limits);
  if (open.length === 0) return [];
  return [
    {
      code: 'limit-host-network',
      state: 'partial',
      detail: `the limit of ${open.join(' and ')} is not enforced: a container in the host network has no veth on which it could be counted`,
      remedy: 'use a bridge network',
    },
  ];
}

const unheld = ({ rateBitsPerSecond, quota }: Limits): string[] => [
  ...(rateBitsPerSecond === undefined ? [] : ['rate']),
  ...(quota === undefined ? [] : ['quota']),
];
