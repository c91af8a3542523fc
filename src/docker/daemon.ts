/** Facts about the Docker engine (`GET /info`). Pure. */
import { asRecord, flagAt, recordAt, textAt, textsAt } from '../lib/json.js';

export interface DaemonFacts {
  /** Such as `26.1.5+dfsg1`; empty when the engine does not report it. */
  readonly serverVersion: string;
  readonly rootDir: string;
  readonly liveRestore: boolean;
  readonly cgroupDriver: string;
  readonly cgroupVersion: string;
  readonly defaultRuntime: string;
  /** Such as `name=seccomp,profile=builtin`, `name=rootless`, `name=userns`. */
  readonly securityOptions: readonly string[];
  /** `iptables`, `nftables`, `iptables+firewalld` …; reported by Engine 28 and later, undefined before. */
  readonly firewallBackend?: string;
  readonly bridgeNfIptables: boolean;
  readonly bridgeNfIp6tables: boolean;
  readonly ipv4Forwarding: boolean;
  /** This node takes part in a swarm. */
  readonly swarm: boolean;
}

/** Select the facts that coverage depends on. */
export const engineFacts = ({ serverVersion, rootDir, firewallBackend }: DaemonFacts): EngineFacts => ({
  version: serverVersion,
  dataRoot: rootDir,
  ...(firewallBackend && { firewallBackend }),
});

export function readDaemon(info: unknown): DaemonFacts {
  const i = asRecord(info);
  const backend = textAt(recordAt(i, 'FirewallBackend'), 'Driver');
  return {
    serverVersion: textAt(i, 'ServerVersion'),
    rootDir: textAt(i, 'DockerRootDir'),
    liveRestore: flagAt(i, 'LiveRestoreEnabled'),
    cgroupDriver: textAt(i, 'CgroupDriver'),
    cgroupVersion: textAt(i, 'CgroupVersion'),
    defaultRuntime: textAt(i, 'DefaultRuntime'),
    securityOptions: textsAt(i, 'SecurityOptions'),
    ...(backend && { firewallBackend: backend }),
    bridgeNfIptables: flagAt(i, 'BridgeNfIptables'),
    bridgeNfIp6tables: flagAt(i, 'BridgeNfIp6tables'),
    ipv4Forwarding: flagAt(i, 'IPv4Forwarding'),
    swarm: textAt(recordAt(i, 'Swarm'), 'LocalNodeState') === 'active',
  };
}

/** Facts about the engine that coverage depends on. */
export interface EngineFacts {
  /** Such as "nftables" or "iptables+firewalld"; undefined before Engine 28, which reports it first. */
  readonly firewallBackend?: string;
  /** Where it keeps containers, images and volumes. */
  readonly dataRoot?: string;
  /** Such as `28.5.2+dfsg4`. */
  readonly version?: string;
}
