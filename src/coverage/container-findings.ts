import { privateRangeOf } from '../lib/special-use.js';
import type { ContainerFacts } from '../policy/container.js';
import type { DestEntry } from '../policy/entry.js';
import type { Finding } from '../policy/finding.js';
import type { Limits } from '../policy/limits.js';
import type { Mode, Policy } from '../policy/policy.js';
import type { NetworkPlace } from './network-findings.js';

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
  const limits = p.privileged ? [] : [...systemPaths(p), ...seccomp(p), ...appArmor(p)];
  return [
    ...privileged(p),
    ...capabilities(p),
    ...hostPid(p, pidMode),
    ...limits,
    ...runtime(p),
    ...(p.deviceRequests ?? []).map(requestedDevice),
  ];
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
  if (!p.hasOpenSystemPaths) return [];
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

/** What Docker's own seccomp profile denies, and no rule of a packet filter evaluates. */
const SYSTEM_CALLS =
  'AF_VSOCK sockets, which belong to no network namespace, keys for which the kernel asks the resolver of the host (keyctl), and user namespaces';

function seccomp(p: Privileges): Finding[] {
  if (p.securityOpt?.includes('seccomp=unconfined'))
    return [
      {
        code: 'seccomp-unconfined',
        state: 'partial',
        detail: `no profile filters the system calls of the container (seccomp=unconfined): it can use ${SYSTEM_CALLS}`,
        remedy: 'run the container without --security-opt seccomp=unconfined',
      },
    ];
  if (!p.securityOpt?.includes('seccomp=profile')) return [];
  return [
    {
      code: 'seccomp-profile',
      state: 'partial',
      detail: `the container has a seccomp profile of its own, which Drawbridge does not evaluate: unless it denies them, the container can use ${SYSTEM_CALLS}`,
      remedy: 'run the container without --security-opt seccomp=FILE: Docker’s own profile denies them',
    },
  ];
}

/**
 * Without SYS_ADMIN, nothing that is enforced here depends on AppArmor. SELinux is not evaluated: Docker disables its label itself, for
 * containers with `pid: host` or `ipc: host`.
 */
function appArmor(p: Privileges): Finding[] {
  if (!p.securityOpt?.includes('apparmor=unconfined')) return [];
  const canMount = p.capAdd.some((c) => c === 'SYS_ADMIN' || c === 'ALL');
  return [
    {
      code: 'apparmor-unconfined',
      state: canMount ? 'unenforced' : 'enforced',
      detail: canMount
        ? 'AppArmor does not confine the container (apparmor=unconfined), and with SYS_ADMIN it can mount /proc, /sys and the cgroups of the host, and so run programs on the host'
        : 'AppArmor does not confine the container (apparmor=unconfined): alone this bypasses no rule',
      remedy: 'run the container without --security-opt apparmor=unconfined',
    },
  ];
}

/** Runtimes that set up namespaces and cgroups as runc does. */
const AS_RUNC = ['', 'runc', 'io.containerd.runc.v2', 'crun', 'youki'];

function runtime({ runtime: name = '' }: Privileges): Finding[] {
  if (AS_RUNC.includes(name)) return [];
  return [
    {
      code: 'runtime',
      state: 'partial',
      detail: `the container runs under the runtime ${name}: Drawbridge does not know which devices and mounts that gives to it, whether it has sockets to a hypervisor (AF_VSOCK), nor whether rules inside its network namespace (resolver, macvlan) apply to it`,
      remedy: 'run the container with --runtime runc',
    },
  ];
}

const GPU = /^(?:gpu\b.*|nvidia|(?:nvidia|amd|intel)\.com\/gpu=.*)$/;

const requestedDevice = (device: string): Finding => ({
  code: 'requested-device',
  state: GPU.test(device) ? 'enforced' : 'partial',
  detail: `the container has the device ${device}, added by a driver (CDI, --gpus): Docker does not report which device nodes, mounts and hooks of the host belong to it`,
  remedy:
    'check what the driver adds (docker info shows the folders of CDI), or name the device nodes with --device',
});

/** Report limits of the container that cannot be enforced on its network, and what is counted there as less than it is. */
export function limitFindings(c: ContainerFacts, { limits, mode }: Policy, uncounted?: string): Finding[] {
  const open = limits && mode === 'enforce' ? unheld(limits).join(' and ') : '';
  if (open === '') return [];
  if (c.networkMode === 'host')
    return [
      {
        code: 'limit-host-network',
        state: 'partial',
        detail: `the limit of ${open} is not enforced: a container in the host network has no veth on which it could be counted`,
        remedy: 'use a bridge network',
      },
    ];
  const settings = c.privileges && settingsOf(c.privileges);
  return [
    ...(uncounted === undefined ? [] : [segments(open, uncounted, SEGMENTS_REMEDY)]),
    ...(settings === undefined
      ? []
      : [segments(open, `the container has ${settings}, and can change its veth`, settings)]),
  ];
}

const SEGMENTS_REMEDY = 'needs Linux 5.7 or newer; see the log';
const settingsOf = ({ privileged, capAdd }: Privileges): string | undefined =>
  privileged ? 'all capabilities' : capAdd.find((name) => name === 'NET_ADMIN' || name === 'ALL');
const segments = (open: string, why: string, remedy: string): Finding => ({
  code: 'limit-segments',
  state: 'partial',
  detail: `the limit of ${open} counts a packet of many segments (UDP_SEGMENT) once, with one header: ${why}`,
  remedy: remedy === SEGMENTS_REMEDY ? remedy : `run the container without ${remedy}`,
});

const unheld = ({ rateBitsPerSecond, quota }: Limits): string[] => [
  ...(rateBitsPerSecond === undefined ? [] : ['rate']),
  ...(quota === undefined ? [] : ['quota']),
];

export interface StoreFacts {
  /** Its port is closed to containers: Drawbridge's Redis runs in it. */
  readonly isStore: boolean;
}

/** Report which containers can reach the container of Drawbridge's own Redis. */
export function storeFindings(c: ContainerFacts, place: NetworkPlace & StoreFacts): Finding[] {
  if (!place.isStore) return [];
  const sharers = place.lan.members
    .filter((m) => m.id !== c.id)
    .map((m) => `${m.name}, which shares its network namespace`);
  const networks = c.endpoints
    .filter((e) => !place.managed.has(e.networkId))
    .map(
      (e) =>
        `containers on ${place.networks.get(e.networkId)?.name ?? 'an unknown network'}, which is not managed`,
    );
  const open = [...sharers, ...networks];
  const closed =
    "Drawbridge's own Redis runs here: its port is closed to every container on a managed network";
  if (open.length === 0) return [{ code: 'own-redis', state: 'enforced', detail: closed, remedy: '' }];
  return [
    {
      code: 'own-redis',
      state: 'partial',
      detail: `${closed}, but open to ${open.join(' and to ')}: a client that writes to it can set policies`,
      remedy:
        'set a password and give it a managed network of its own; better, use a unix socket (redis+unix://) and no network',
    },
  ];
}

const PROXY_VARIABLE = /^((https?|ftp|all|socks)_proxy|socks_server)$/i;
/** Squid, HTTP, Privoxy, tinyproxy, SOCKS, Tor. */
const PROXY_PORTS = [3128, 8080, 8118, 8888, 1080, 9050];
/** Ports on which applications listen as often as proxies do: they count as a proxy only with a private address. */
const COMMON_PORTS = [8080, 8888];

/** The Docker API, or a proxy of its socket: without and with TLS. */
const ENGINE_PORTS = [2375, 2376];

/** Report entries that lead to a possible proxy, which can reach any destination, and variables that name a proxy. */
export function relayFindings(c: ContainerFacts, policy: Policy): Finding[] {
  const variables = (c.practices?.envNames ?? []).filter((name) => PROXY_VARIABLE.test(name));
  const entries = policy.entries.map((e) => e.entry);
  const relays = entries.filter(mayRelay);
  return [
    ...entries.filter(leadsToEngine).map(engineEntry),
    ...relays.map((e): Finding => relay(e, variables)),
    ...(variables.length > 0 && relays.length === 0 ? [proxyVariables(variables)] : []),
  ];
}

function relay(e: DestEntry, variables: readonly string[]): Finding {
  const isUsed = variables.length > 0;
  return {
    code: 'relay',
    state: isUsed ? 'partial' : 'enforced',
    detail: isUsed
      ? `entry ${e.canonical} allows a port that proxies use, and ${variables.join(', ')} make the container use a proxy: the destinations that the proxy connects to are not evaluated`
      : `entry ${e.canonical} allows a port that proxies use: if a proxy listens there, the destinations that it connects to are not evaluated`,
    remedy: 'enforce a policy on the proxy itself, or allow the destinations directly',
  };
}

const engineEntry = (e: DestEntry): Finding => ({
  code: 'engine-port',
  state: 'enforced',
  detail: `entry ${e.canonical} allows a port of the Docker API: if an engine, or a proxy of its socket, listens there and permits it, the container can start containers without a policy`,
  remedy: 'let such a proxy permit read requests only, or remove the entry',
});

const proxyVariables = (names: readonly string[]): Finding => ({
  code: 'proxy-variable',
  state: 'enforced',
  detail: `${names.join(', ')} make the container use a proxy: its requests go to the proxy, not to the destinations of its policy`,
  remedy: 'remove the variables, or allow the proxy and enforce a policy on it',
});

/** Return the ports that the entry names. A range of 100 or more ports names none: such an entry is meant for a network. */
function namedOf(e: DestEntry, ports: readonly number[]): number[] {
  if (e.proto !== undefined && e.proto !== 'tcp' && e.proto !== 'tcp+udp') return [];
  return ports.filter((p) => e.ports.some((r) => p >= r.lo && p <= r.hi && r.hi - r.lo < 100));
}

const isPrivate = ({ target }: DestEntry): boolean =>
  target.kind === 'address' &&
  privateRangeOf({ family: target.range.family, value: target.range.lo }) !== undefined;

const leadsToEngine = (e: DestEntry): boolean =>
  namedOf(e, ENGINE_PORTS).length > 0 &&
  (isPrivate(e) || e.target.kind === 'container' || e.target.kind === 'host');

function mayRelay(e: DestEntry): boolean {
  const named = namedOf(e, PROXY_PORTS);
  const { target } = e;
  if (target.kind === 'address') return named.length > 0 && isPrivate(e);
  if (target.kind === 'container' || target.kind === 'host')
    return named.some((p) => !COMMON_PORTS.includes(p));
  return false;
}

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

export interface NameFacts {
  /** Docker's resolver sends its queries from the network namespace of the host; undefined: not known yet. */
  readonly hostAsked: boolean | undefined;
  /** Our own resolver inside the container's namespace; 'late': Docker was asked before it was there. */
  readonly namespaceDns: 'attached' | 'late' | 'failed' | 'none';
  /** The host's resolvers, for the daemon.json line. */
  readonly resolvers: readonly string[];
}

const FROM_HOST = 'Docker sends the DNS queries of the container from the host';
const UNFILTERED = `${FROM_HOST}, and Drawbridge's resolver is not installed inside it: its DNS queries are not filtered`;
const DETAILS: Readonly<Record<NameFacts['namespaceDns'] | 'unknown', string>> = {
  unknown: `it is not known yet whether ${FROM_HOST}`,
  attached: `${FROM_HOST}: in its first milliseconds, before Drawbridge's resolver was installed inside it, Docker may have answered them unfiltered`,
  late: `${FROM_HOST}, and received some before Drawbridge's resolver was installed inside it: a name that is not permitted may have been asked when the container started`,
  failed: UNFILTERED,
  none: UNFILTERED,
};

/** Where Docker's resolver asks from the host's namespace, a query does not show which container sent it. */
export function nameFindings({ hostAsked, namespaceDns, resolvers }: NameFacts): Finding[] {
  if (hostAsked === false) return [];
  const detail = DETAILS[hostAsked ? namespaceDns : 'unknown'];
  const remedy = `${hostAsked ? '' : 'look again in a moment; if this stays, '}${namesRemedy(resolvers)}`;
  return [{ code: 'host-asked-names', state: 'partial', detail, remedy }];
}

/**
 * With resolvers of its own a container is asked for from its own namespace, from the first instruction on. A service takes
 * effect when it is recreated; daemon.json needs a restart of Docker, and of every container.
 */
export function namesRemedy(resolvers: readonly string[]): string {
  const servers = reachableServers(resolvers);
  return `add dns: [${servers.join(', ')}] to its compose service (docker run --dns ${servers[0]}) and recreate it; for all containers at once, put "dns": ${JSON.stringify(servers)} into /etc/docker/daemon.json, restart Docker and recreate them`;
}

/** The host's own servers, as far as containers can reach them; IPv4 first, which every network has. */
function reachableServers(resolvers: readonly string[]): readonly string[] {
  const reachable = resolvers.filter((r) => !r.startsWith('127.') && r !== '::1');
  const v4 = reachable.filter((r) => !r.includes(':'));
  if (v4.length > 0) return v4;
  return reachable.length > 0 ? reachable : ['ADDRESS-OF-YOUR-RESOLVER'];
}
