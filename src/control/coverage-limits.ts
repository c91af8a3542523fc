import type { ContainerFacts } from '../model/container.js';
import type { Finding } from '../model/finding.js';
import type { Limits } from '../model/limits.js';
import type { Policy } from '../model/policy.js';

/** What of its limits cannot be held where it is. */
export function limitFindings(c: ContainerFacts, { limits, mode }: Policy): Finding[] {
  if (!limits || mode !== 'enforce' || c.networkMode !== 'host') return [];
  const open = unheld(limits);
  if (open.length === 0) return [];
  return [
    {
      code: 'limit-host-network',
      state: 'partial',
      detail: `its limit of ${open.join(' and ')} is not held: a container in the host network has no port to count at`,
      remedy: 'give it a bridge network',
    },
  ];
}

const unheld = ({ rateBitsPerSecond, quota }: Limits): string[] => [
  ...(rateBitsPerSecond === undefined ? [] : ['rate']),
  ...(quota === undefined ? [] : ['quota']),
];
