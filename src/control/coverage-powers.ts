import type { ContainerFacts } from '../model/container.js';
import type { Finding } from '../model/finding.js';

type Privileges = NonNullable<ContainerFacts['privileges']>;
type Row = readonly [state: Finding['state'], meaning: string];

/** Capabilities beyond Docker's default set that bear on what can be held (capabilities(7)). NET_RAW is none: ports are bound. */
const CAPABILITIES: Readonly<Record<string, Row>> = {
  ALL: ['unenforced', 'it can load kernel modules and undo any rule of this host'],
  SYS_MODULE: ['unenforced', 'it can load kernel modules, which stand above any rule'],
  SYS_RAWIO: ['unenforced', 'it can write the memory of the host'],
  SYS_ADMIN: [
    'partial',
    'it is close to root of the host: it can mount what it is given, and escape by that',
  ],
  NET_ADMIN: [
    'partial',
    'it can change addresses, routes and rules in its own namespace, those of its resolver too',
  ],
  BPF: ['partial', 'it can load BPF programs into the kernel'],
  DAC_READ_SEARCH: ['partial', 'it can read any file of the host (open_by_handle_at), keys and tokens too'],
  SYS_TIME: ['partial', 'it can set the clock by which grants and pauses end'],
};
/** With the host's processes in sight these reach into them. */
const WITH_HOST_PID = ['SYS_PTRACE', 'SYS_ADMIN', 'ALL'];

/**
 * What the container was given that lets it undo, or go around, what is held.
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
          detail: 'it is privileged: it can undo any rule of this host',
          remedy: 'run it without --privileged (privileged: true)',
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
        detail: `it has ${what}: ${row[1]}`,
        remedy: `take ${name} out of its cap_add`,
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
        ? `it sees the host's processes (pid: host), and with ${how} it can work in their place`
        : "it sees the host's processes (pid: host): their environment and files, as far as its user may read them",
      remedy: 'run it without --pid=host (pid: host)',
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
        'nothing of its /proc is masked or read-only (systempaths=unconfined): by settings such as kernel.core_pattern it decides what the host runs',
      remedy: 'run it without --security-opt systempaths=unconfined',
    },
  ];
}
