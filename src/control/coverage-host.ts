import type { Finding } from '../model/finding.js';
import type { EngineFacts, ForeignAccept, HostFacts } from '../model/host-facts.js';

export interface HostInput {
  /** Undefined: it could not be looked at yet. */
  readonly host: HostFacts | undefined;
  /** Undefined: Docker does not answer. */
  readonly engine: EngineFacts | undefined;
  /** The configuration's `failure`. */
  readonly failure: 'closed' | 'open';
}
const SHOWN = 3;

/** What of the host itself bears on every container. What is `enforced` here holds all the same, and is worth knowing. */
export function hostFindings({ host, engine, failure }: HostInput): Finding[] {
  const found: Finding[] = [...backend(engine), ...open(failure)];
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
          'Docker uses its nftables firewall backend (an option since Engine 29), which Drawbridge does not support yet: this host does not count as protected',
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

/** It is meant, so it is no fault; but whoever looks at a container has to see it. */
function open(failure: HostInput['failure']): Finding[] {
  if (failure === 'closed') return [];
  return [
    {
      code: 'failure-open',
      state: 'partial',
      detail:
        'the configuration says "failure: open": while the service is away (a crash, an upgrade, a stop), containers that start then pass everywhere',
      remedy:
        'take "failure: open" out of the configuration: closed, they pass nowhere until the service is back',
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
      detail: `rules of others accept forwarded packets before ours see them (${shown.join(' | ')}${more}): of enforced containers our second rule drops what they accept, permitted or not; of observed ones it passes unseen, threats too`,
      remedy: 'put such rules behind DOCKER-USER, or into it, after ours',
    },
  ];
}

/** Without DOCKER-USER our jump stands in FORWARD itself, ahead of everything. */
function dockerRules({ dockerUser }: HostFacts): Finding[] {
  if (!dockerUser.v4)
    return [
      {
        code: 'docker-iptables-off',
        state: 'enforced',
        detail:
          'Docker lays no rules here ("iptables": false, or it has not started): our rules stand in FORWARD itself and hold; masquerade and published ports are yours to make',
        remedy: 'take "iptables": false out of /etc/docker/daemon.json unless you want it so',
      },
    ];
  if (dockerUser.v6) return [];
  return [
    {
      code: 'docker-ip6tables-off',
      state: 'enforced',
      detail:
        'Docker lays no IPv6 rules here ("ip6tables" is off): our rules stand in FORWARD itself and hold',
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
      detail: `br_netfilter ${what}: Docker's own rules do not see what neighbours of one bridge say to each other; ours do, by a bridge table of their own`,
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
      detail: 'net.ipv4.ip_forward is off: no container reaches anything outside, permitted or not',
      remedy: 'sysctl -w net.ipv4.ip_forward=1 (Docker does it at its start unless "ip-forward": false)',
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
            'firewalld runs: its reload may take our jumps away; they are back within a second, and the second rule holds meanwhile',
            'nothing to do; where reloads are frequent, let firewalld use its nftables backend',
          ),
        ]
      : []),
    ...(ufw
      ? [
          found(
            'ufw',
            'ufw is in use: it holds the host, not containers (Docker goes around it); its INPUT policy may drop what host: entries permit',
            'permit the ports of host: entries in ufw, too',
          ),
        ]
      : []),
  ];
}
