/** What Drawbridge needs of a container engine. `docker/` implements it. */
import { parseAddress } from '../lib/ip.js';
import type { DockerView, NetworkFacts } from './container.js';

export type ContainerAction = 'create' | 'start' | 'die' | 'destroy' | 'pause' | 'unpause' | 'rename';
export type EngineEvent = Happened &
  (
    | { readonly kind: 'container'; readonly action: ContainerAction; readonly id: string }
    | {
        readonly kind: 'attach';
        readonly action: 'connect' | 'disconnect';
        readonly network: string;
        readonly id: string;
      }
    | { readonly kind: 'network'; readonly action: 'create' | 'destroy'; readonly network: string }
  );
interface Happened {
  /** When it was reported by the engine (ms since the epoch); undefined: it does not say. */
  readonly at?: number;
}

/** Why the view has changed: the connection, an event, or an answer of the engine to a request for `id`. */
export type ViewChange =
  | { readonly kind: 'connected' | 'disconnected' | 'list' }
  | { readonly kind: 'event'; readonly event: EngineEvent }
  | {
      readonly kind: 'inspect';
      readonly object: 'container' | 'network' | 'services' | 'image';
      readonly id: string;
    };

/** The change as one text for logs, such as `container start 0123456789ab`. */
export function describeChange(change: ViewChange): string {
  if (change.kind === 'event') {
    const { event } = change;
    const id = event.kind === 'network' ? event.network : event.id;
    return `${event.kind === 'container' ? 'container' : 'network'} ${event.action} ${id.slice(0, 12)}`;
  }
  if (change.kind !== 'inspect') return change.kind;
  const { object, id } = change;
  return `${object === 'container' ? 'inspect' : object} ${id.slice(0, object === 'image' ? 19 : 12)}`;
}

/** Whether the view may have lost a container by this change. */
export function mayRemoveContainers(change: ViewChange): boolean {
  if (change.kind === 'event') return change.event.kind === 'container' && change.event.action === 'destroy';
  return change.kind === 'list' || change.kind === 'connected';
}

export type ViewListener = (view: DockerView, change: ViewChange) => void;

/**
 * What an engine reports of its containers and networks. What waits for the engine rejects when it does not answer; the view then stays as
 * it was.
 */
export interface Engine {
  /** The newest view. */
  view(): DockerView;
  /** Connected, and no request has been without an answer for long. */
  readonly answers: boolean;
  /** Called synchronously after each change of the view. What a listener throws is logged. */
  onChange(listener: ViewListener): Disposable;
  /** The view from a full list (containers, networks and their members) begun after this call; many callers share one. */
  refresh(): Promise<DockerView>;
  /** Requests one network and its members now. The view has the answer when this resolves. */
  inspectNetwork(id: string): Promise<unknown>;
  /** Requests what the engine reports about itself now. */
  info(): Promise<EngineInfo>;
  /** The same as the engine has answered for this connection: it is requested once for each. */
  infoAtConnection(): Promise<EngineInfo>;
  /**
   * Which way this container's DNS queries go. Ask after `privileges` are known, or with the path of its namespace (`sandbox`) before that.
   * Before the start, and for what cannot be proven, the answer is the closed one (`isUnknown`).
   */
  resolver(id: string, sandbox?: string): Promise<ResolverFacts>;
}

/** Whether the inspect of a container that is on these networks may wait. */
export type MayWait = (networks: readonly (NetworkFacts | undefined)[]) => boolean;

/** An engine to which this process connects. */
export interface EngineConnection extends Engine, AsyncDisposable {
  /**
   * Connects and keeps connected, and resolves with the view when the first connection has listed everything. Rejects when it could not: a
   * later connection lists again. Of many containers in that list, those for which `mayWait` is true are inspected when `inspectRest` is called.
   */
  begin(mayWait: MayWait): Promise<DockerView>;
  /** Inspects those of the waiting containers that are on one of these networks. Resolves when their DNS aliases are known. */
  inspectOn(networks: ReadonlySet<string>): Promise<void>;
  /** Inspects the containers that were not inspected at the start. Call this when the service is ready. */
  inspectRest(): void;
}

/** What the engine reports about itself. */
export interface EngineInfo {
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
  /** Plugins of NRI may change containers when they are created (`/info` since Engine 29). */
  readonly hasPlugins: boolean;
}

/** Which way a container's DNS queries go. */
export interface ResolverFacts {
  /** The container's resolv.conf names the engine's embedded resolver, which Docker has at 127.0.0.11. */
  readonly embedded: boolean;
  /** The embedded resolver asks (or may ask) at least one upstream from the host's namespace. */
  readonly hostAsked: boolean;
  /** Lower case, no trailing dot. */
  readonly search: readonly string[];
  /** The addresses that will be asked in the end: by the container itself, or by the embedded resolver. */
  readonly servers: readonly string[];
  /** The file could not be read, or not be proven to be the engine's: it may be read again. */
  readonly isUnknown?: true;
}

/** True when queries through the embedded resolver would leave from the host's namespace, where no client is seen. */
export function needsNamespaceDns(facts: ResolverFacts): boolean {
  return facts.embedded && facts.hostAsked;
}

/**
 * Docker's embedded resolver asks the resolvers that a container was created with (HostConfig.Dns) from the container's own
 * namespace, whatever its resolv.conf contains (moby libnetwork/internal/resolvconf, Override). False where one of them is a
 * loopback address, or there are none.
 */
export const hasReachableResolvers = (dns: readonly string[]): boolean =>
  dns.length > 0 && dns.every((text) => isElsewhere(parseAddress(text)?.text));

const isElsewhere = (address: string | undefined): boolean =>
  address !== undefined && address !== '::1' && !/^(::ffff:)?127\./.test(address);
