import type { EngineInfo } from '../policy/engine.js';
import type { Finding } from '../policy/finding.js';
import type { ForeignAccept, HostFacts } from './host-facts.js';

export interface HostInput {
  /** Undefined: the host has not been checked yet. */
  readonly host: HostFacts | undefined;
  /** Undefined: Docker does not answer. */
  readonly engine: EngineFacts | undefined;
  /** The configuration's `failure`. */
  readonly failure: 'closed' | 'open';
}
/** Facts about the engine that coverage depends on. */
export interface EngineFacts {
  /** Such as "nftables" or "iptables+firewalld"; undefined before Engine 28, which reports it first. */
  readonly firewallBackend?: string;
  /** Where it keeps containers, images and volumes. */
  readonly dataRoot?: string;
  /** Such as `28.5.2+dfsg4`. */
  readonly version?: string;
  /** The profile of containers that name none: `builtin`, `unconfined`, or a file; empty: it has no seccomp. */
  readonly seccomp?: string;
  /** Plugins of NRI are enabled. */
  readonly hasPlugins?: boolean;
}

/** Select the facts that coverage depends on. */
export const engineFacts = (info: EngineInfo): EngineFacts => {
  const { serverVersion, rootDir, firewallBackend, securityOptions, hasPlugins } = info;
  const seccomp = securityOptions.find((o) => o.startsWith('name=seccomp'));
  return {
    version: serverVersion,
    dataRoot: rootDir,
    ...(firewallBackend && { firewallBackend }),
    seccomp: seccomp === undefined ? '' : (/,profile=([^,]+)/.exec(seccomp)?.[1] ?? 'builtin'),
    hasPlugins,
  };
};

const SHOWN = 3;

/** Report what of the host affects every container. A finding with the state `enforced` is a note: enforcement is complete. */
export function hostFindings({ host, engine, failure }: HostInput): Finding[] {
  const found: Finding[] = [...backend(engine), ...confinement(engine), ...open(failure)];
  if (!host) return found;
  const nftables = engine?.firewallBackend?.startsWith('nftables') ?? false;
  return [
    ...found,
    ...foreignAccepts(host.foreignAccepts),
    ...(nftables ? [] : dockerRules(host)),
    ...bridgeNf(host),
    ...forwarding(host),
    ...managers(host),
  ];
}

/** The newest major version of Docker Engine that the tests run on. */
const TESTED_MAJOR = 28;

function backend(engine: EngineFacts | undefined): Finding[] {
  if (engine?.firewallBackend?.startsWith('nftables'))
    return [
      {
        code: 'nftables-backend',
        state: 'unenforced',
        detail:
          'Docker uses its nftables firewall backend (an option since Engine 29), which Drawbridge does not support yet: this host is not protected',
        remedy: 'set "firewall-backend": "iptables" in /etc/docker/daemon.json and restart Docker',
      },
    ];
  const version = engine?.version ?? '';
  if (!(Number.parseInt(version, 10) > TESTED_MAJOR)) return [];
  return [
    {
      code: 'engine-untested',
      state: 'enforced',
      detail: `Docker Engine ${version} is newer than those that Drawbridge is tested with (26.1 and 28.5)`,
      remedy: 'run drawbridge doctor after each upgrade of Docker, and keep "firewall-backend": "iptables"',
    },
  ];
}

/** What the engine changes of each container without a word in its settings. */
function confinement({ seccomp = 'builtin', hasPlugins = false }: EngineFacts = {}): Finding[] {
  const profile: Finding = {
    code: 'engine-seccomp',
    state: 'partial',
    detail: `Docker uses ${seccomp === '' ? 'no seccomp' : `the seccomp profile ${seccomp}`} for containers that name none: unless it denies them, containers can use AF_VSOCK sockets, which belong to no network namespace, keyctl and user namespaces`,
    remedy:
      'remove "seccomp-profile" from /etc/docker/daemon.json, and use a kernel and an engine with seccomp',
  };
  const plugins: Finding = {
    code: 'engine-plugins',
    state: 'enforced',
    detail:
      'plugins of NRI are enabled in Docker: they are trusted like Docker itself, and may give a container mounts and variables that its own settings do not name',
    remedy: 'enable only plugins that you trust ("nri-opts" in /etc/docker/daemon.json)',
  };
  return [
    ...(seccomp === 'builtin' || seccomp === 'default' ? [] : [profile]),
    ...(hasPlugins ? [plugins] : []),
  ];
}

/** The setting is intended, but it weakens each container, so it is reported with each of them. */
function open(failure: HostInput['failure']): Finding[] {
  if (failure === 'closed') return [];
  return [
    {
      code: 'failure-open',
      state: 'partial',
      detail:
        'the configuration has "failure: open": containers that start while the service is not running (a crash, an upgrade, a stop) can reach every destination',
      remedy:
        'remove "failure: open" from the configuration: with "closed" such containers reach nothing until the service is back',
    },
  ];
}

function foreignAccepts(accepts: readonly ForeignAccept[]): Finding[] {
  if (accepts.length === 0) return [];
  const shown = accepts.slice(0, SHOWN).map((a) => `IPv${a.family} ${a.chain}: ${a.rule}`);
  const more = accepts.length > SHOWN ? ` and ${accepts.length - SHOWN} more` : '';
  return [
    {
      code: 'foreign-accept',
      state: 'partial',
      detail: `rules of other programs accept forwarded packets before the rules of Drawbridge (${shown.join(' | ')}${more}): what they accept of enforced containers is dropped by the second rule of Drawbridge, allowed or not; what they accept of observed containers passes without being recorded, threats included`,
      remedy: 'move such rules behind DOCKER-USER, or into it, after the rules of Drawbridge',
    },
  ];
}

/** Without DOCKER-USER, the jump to Drawbridge's rules is the first rule of FORWARD. */
function dockerRules({ dockerUser }: HostFacts): Finding[] {
  if (!dockerUser.v4)
    return [
      {
        code: 'docker-iptables-off',
        state: 'enforced',
        detail:
          'Docker installs no rules on this host ("iptables": false, or it has not started): the rules of Drawbridge are installed in FORWARD itself and are effective; you have to set up masquerading and published ports yourself',
        remedy: 'remove "iptables": false from /etc/docker/daemon.json unless it is intended',
      },
    ];
  if (dockerUser.v6) return [];
  return [
    {
      code: 'docker-ip6tables-off',
      state: 'enforced',
      detail:
        'Docker installs no IPv6 rules on this host ("ip6tables" is off): the rules of Drawbridge are installed in FORWARD itself and are effective',
      remedy: 'set "ip6tables": true in /etc/docker/daemon.json (with "experimental": true before Engine 27)',
    },
  ];
}

function bridgeNf({ bridgeNf: b }: HostFacts): Finding[] {
  if (b?.v4 && b.v6) return [];
  const what = b ? 'is off' : 'is not loaded';
  return [
    {
      code: 'br-netfilter-off',
      state: 'enforced',
      detail: `br_netfilter ${what}: Docker's own rules do not see packets between neighbours of one bridge; the rules of Drawbridge do, by a table of the bridge family`,
      remedy: 'for Docker’s icc=false: modprobe br_netfilter, and set net.bridge.bridge-nf-call-iptables=1',
    },
  ];
}

function forwarding({ forwarding: f }: HostFacts): Finding[] {
  if (f.v4) return [];
  return [
    {
      code: 'forwarding-off',
      state: 'enforced',
      detail:
        'net.ipv4.ip_forward is off: no container reaches a destination outside of this host, allowed or not',
      remedy: 'run sysctl -w net.ipv4.ip_forward=1 (Docker does it at its start unless "ip-forward": false)',
    },
  ];
}

function managers({ firewalld, ufw }: HostFacts): Finding[] {
  const found = (code: string, detail: string, remedy: string): Finding => ({
    code,
    state: 'enforced',
    detail,
    remedy,
  });
  return [
    ...(firewalld
      ? [
          found(
            'firewalld',
            'firewalld is running: a reload may remove the jumps to the rules of Drawbridge; they are repaired within a second, and the second rule drops meanwhile',
            'nothing to do; if reloads are frequent, let firewalld use its nftables backend',
          ),
        ]
      : []),
    ...(ufw
      ? [
          found(
            'ufw',
            'ufw is in use: it filters traffic to the host, not of containers (Docker bypasses it); its INPUT policy may drop what host: entries allow',
            'allow the ports of host: entries in ufw as well',
          ),
        ]
      : []),
  ];
}
