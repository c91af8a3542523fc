import type { Finding } from '../policy/finding.js';
import type { Mode } from '../policy/policy.js';

/** A container that shares the PID namespace and has another policy. */
export interface PidPeer {
  readonly name: string;
  readonly mode: Mode;
  /** How its traffic is enforced. */
  readonly network: Finding['state'];
}

/**
 * Containers of one PID namespace work on each other's processes (ptrace, /proc/PID/mem, /proc/PID/root), so each of them
 * may send through the processes of the others.
 */
export function pidFindings(mode: Mode, peers: readonly PidPeer[]): Finding[] {
  if (mode !== 'enforce') return [];
  return peers.map((p) => {
    const isOpen = p.mode !== 'enforce' || p.network === 'unenforced';
    const how =
      p.mode === 'enforce'
        ? isOpen
          ? 'not filtered on its network'
          : 'under its own policy'
        : `in mode ${p.mode}`;
    return {
      code: 'shared-pid',
      state: isOpen ? 'unenforced' : 'partial',
      detail: `the container shares a PID namespace with ${p.name}, which is ${how}: it can make the processes of ${p.name} send for it (ptrace)`,
      remedy: isOpen
        ? `enforce ${p.name} as well, or run them without --pid=container:…`
        : 'run them without --pid=container:…',
    };
  });
}
