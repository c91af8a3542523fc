import type { ContainerFacts } from '../policy/container.js';
import type { Finding } from '../policy/finding.js';

type Privileges = NonNullable<ContainerFacts['privileges']>;
type Row = readonly [state: Finding['state'], meaning: string];

/**
 * Capabilities outside of Docker's default set that weaken enforcement (capabilities(7)). NET_RAW is not one of them:
 * each veth is bound to its container and its addresses.
 */
const CAPABILITIES: Readonly<Record<string, Row>> = {
  ALL: ['unenforced', 'it can load kernel modules and remove any rule of this host'],
  SYS_MODULE: ['unenforced', 'it can load kernel modules, which can bypass any rule'],
  SYS_RAWIO: ['unenforced', 'it can write the memory of the host'],
  SYS_ADMIN: [
    'partial',
    'it is close to root of the host: it can mount file systems and devices that it was given, and may escape by that',
  ],
  NET_ADMIN: [
    'partial',
    'it can change addresses, routes and rules in its own network namespace, those for its resolver included',
  ],
  BPF: ['partial', 'it can load BPF programs into the kernel'],
  DAC_READ_SEARCH: [
    'partial',
    'it can read any file of the host (open_by_handle_at), keys and tokens included',
  ],
  SYS_TIME: ['partial', 'it can set the clock of the host, by which grants and pauses end'],
};
/** In the PID namespace of the host these capabilities give control over its processes. */
const WITH_HOST_PID = ['SYS_PTRACE', 'SYS_ADMIN', 'ALL'];

/**
 * Report privileges of the container by which it can remove or bypass enforcement.
 * @param pidMode PID mode of the container that owns the PID namespace
 */
export function powerFindings(p: Privileges, pidMode = p.pidMode): Finding[] {
  return [...privileged(p), ...capabilities(p), ...hostPid(p, pidMode), ...systemPaths(p)];
}

const privileged = (p: Privileges): Finding[] =>
  p.privileged
    ? [
        {
          code: 'privileged',
          state: 'unenforced',
          detail: 'the container is privileged: it can remove any rule of this host',
          remedy: 'run the container without --privileged (privileged: true)',
        },
      ]
    : [];

function capabilities(p: Privileges): Finding[] {
  return p.capAdd.flatMap((name) => {
    const row = Object.hasOwn(CAPABILITIES, name) ? CAPABILITIES[name] : undefined;
    if (!row) return [];
    const code = name === 'ALL' ? 'all-capabilities' : name.toLowerCase().replaceAll('_', '-');
    const what = name === 'ALL' ? 'every capability' : `the capability ${name}`;
    return [
      {
        code,
        state: row[0],
        detail: `the container has ${what}: ${row[1]}`,
        remedy: `remove ${name} from its cap_add`,
      },
    ];
  });
}

function hostPid(p: Privileges, pidMode: string): Finding[] {
  if (pidMode !== 'host') return [];
  const reaching = p.capAdd.filter((c) => WITH_HOST_PID.includes(c));
  const reaches = p.privileged || reaching.length > 0;
  const how = reaching.length > 0 ? reaching.join(' and ') : 'its privileges';
  return [
    {
      code: 'host-pid',
      state: reaches ? 'unenforced' : 'partial',
      detail: reaches
        ? `the container sees the processes of the host (pid: host), and with ${how} it can make them act for it`
        : 'the container sees the processes of the host (pid: host): their environment and files, as far as its user may read them',
      remedy: 'run the container without --pid=host (pid: host)',
    },
  ];
}

function systemPaths(p: Privileges): Finding[] {
  if (!p.hasOpenSystemPaths || p.privileged) return [];
  return [
    {
      code: 'system-paths',
      state: 'partial',
      detail:
        'no path of its /proc is masked or read-only (systempaths=unconfined): by settings such as kernel.core_pattern the container controls what the host runs',
      remedy: 'run the container without --security-opt systempaths=unconfined',
    },
  ];
}
