import { familyOf, networkOf } from '../lib/ip.js';

/** One attachment of a container to a network, as Docker's network inspect shows it. */
export interface Endpoint {
  readonly networkId: string;
  /** Lower case, colons. Never empty on a bridge; empty on networks with endpoints that have none (ipvlan). */
  readonly mac: string;
  readonly ip4?: string;
  readonly ip6?: string;
  /** Names by which neighbours on this network resolve this container (aliases, DNS names, service name). */
  readonly dnsNames: readonly string[];
  /**
   * When the newest request that showed this endpoint was sent (ms, monotonic). A veth that appeared later may be another
   * container's that was given the same address and MAC. Absent: unknown, which proves nothing.
   */
  readonly askedAt?: number;
}
export interface PublishedPort {
  readonly proto: 'tcp' | 'udp' | 'sctp';
  readonly containerPort: number;
  /** Addresses and ports of the host that lead to it, as Docker writes them ("", "0.0.0.0" and "::" are all of a family). */
  readonly hosts?: readonly { readonly address: string; readonly port: number }[];
}
/** A mount as container inspect lists it. */
export interface ListedMount {
  /** Such as "bind", "volume", "tmpfs". */
  readonly type: string;
  /** Of a volume. */
  readonly name: string;
  readonly source: string;
  readonly destination: string;
  readonly isReadOnly: boolean;
}
export interface ContainerFacts {
  readonly id: string;
  readonly name: string;
  readonly image: string;
  readonly imageId: string;
  /** The merged labels that Docker shows. */
  readonly labels: Readonly<Record<string, string>>;
  /** The image's own labels; undefined while unknown: then every drawbridge label counts as the image's. */
  readonly imageLabels?: Readonly<Record<string, string>>;
  readonly state: 'created' | 'starting' | 'running' | 'paused' | 'exited';
  readonly networkMode: string;
  /** Id of the container that shares its namespace with this one (network mode container:X). */
  readonly sharesWith?: string;
  readonly endpoints: readonly Endpoint[];
  /** Ids of networks that it joins or leaves by an event that no inspect of the network has confirmed yet; absent: none. */
  readonly joining?: readonly string[];
  readonly published: readonly PublishedPort[];
  /** Facts from inspect that touch coverage; undefined before the first inspect. */
  readonly privileges?: {
    readonly privileged: boolean;
    readonly capAdd: readonly string[];
    /** HostConfig.CapDrop, as capAdd; undefined: none. */
    readonly capDrop?: readonly string[];
    readonly pidMode: string;
    readonly binds: readonly string[];
    /** Absent: the engine lists none. */
    readonly mounts?: readonly ListedMount[];
    readonly devices: readonly string[];
    /** HostConfig.DeviceCgroupRules, such as "c 10:200 rw"; absent: none. */
    readonly deviceRules?: readonly string[];
    /** HostConfig.SecurityOpt as `name=value`; a seccomp profile of its own is `seccomp=profile`. Absent: none. */
    readonly securityOpt?: readonly string[];
    /** HostConfig.Runtime; absent: not reported. */
    readonly runtime?: string;
    /** Devices that Docker adds by a driver: ids of CDI, `gpu`, or the name of another driver. Absent: none. */
    readonly deviceRequests?: readonly string[];
    /** No path of /proc and /sys is masked or read-only (--security-opt systempaths=unconfined). */
    readonly hasOpenSystemPaths?: boolean;
    readonly dns: readonly string[];
    readonly pid: number;
    readonly sandboxKey: string;
    /** HostConfig.CgroupParent; empty: the engine's own default. */
    readonly cgroupParent?: string;
  };
  /** Undefined before the first inspect. */
  readonly practices?: ContainerPractices;
}
/** Facts from inspect that `scan` evaluates. Environment variables by name only: values never leave the reader. */
export interface ContainerPractices {
  /** Config.User; empty: root. */
  readonly user: string;
  /** Names of the variables that have a value. */
  readonly envNames: readonly string[];
  /** Bytes; 0: no limit. */
  readonly memoryLimit: number;
  /** 0: no limit. */
  readonly pidsLimit: number;
  /** Published on every address of the host, such as "8080->80/tcp". */
  readonly openPorts: readonly string[];
}
export interface NetworkFacts {
  readonly id: string;
  readonly name: string;
  readonly driver: string;
  readonly scope: string;
  /** Host interface name of the bridge, for bridge networks. */
  readonly bridge?: string;
  readonly internal: boolean;
  readonly ipv6: boolean;
  readonly subnets: readonly string[];
  readonly gateways: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
  readonly options: Readonly<Record<string, string>>;
  /** Names of a swarm's services and tasks there (lower case), and their addresses; absent when Docker does not report them. */
  readonly services?: Readonly<Record<string, readonly string[]>>;
  /** When the newest request that showed this network was sent (ms, monotonic); absent: unknown. */
  readonly askedAt?: number;
}
/** MACs of a network's endpoints that Docker shows under another key than the id of a container. */
export interface UnnamedEndpoints {
  /**
   * Endpoints that may be a container's: one without a sandbox in Docker's store (key `ep-ENDPOINT`), as a container has while it joins,
   * or one with an unknown key. "": Docker shows no MAC, so that each veth of the bridge may be the endpoint's.
   */
  readonly joining: ReadonlySet<string>;
  /** Endpoints of sandboxes that are no container's: steps of builds by BuildKit, gateways and load balancers of a swarm. */
  readonly foreign: ReadonlySet<string>;
}
/** The whole state of Docker at one moment. Maps are keyed by full id. */
export interface DockerView {
  /** The same object as in another view: the two differ at most in the times at which Docker was asked. Another object: in anything. */
  readonly content: object;
  readonly containers: ReadonlyMap<string, ContainerFacts>;
  readonly networks: ReadonlyMap<string, NetworkFacts>;
  /** By network id, as its newest inspect shows them. No part of `content`: they change with every join. Absent: none was read. */
  readonly unnamed?: ReadonlyMap<string, UnnamedEndpoints>;
  /** Counts full lists that have completed; `listBegan` is when the newest complete one was begun (ms, monotonic). */
  readonly listings: number;
  readonly listBegan: number;
  /** Ids of containers between create/start and their first complete appearance. */
  readonly starting: ReadonlySet<string>;
  /** Ids of running containers of which all networks are known: list and network have answered the newest event of each. */
  readonly attached: ReadonlySet<string>;
  /** False while Docker is away; the last view stays. */
  readonly connected: boolean;
}

/** Whether the container has processes. */
export const isUp = (state: ContainerFacts['state']): boolean => state === 'running' || state === 'paused';

/** The network that a container's network mode names; undefined for the host's, another container's and none. */
export function startNetwork(c: ContainerFacts, networks: DockerView['networks']): NetworkFacts | undefined {
  const name = c.networkMode === 'default' ? 'bridge' : c.networkMode;
  return networks.get(name) ?? [...networks.values()].find((n) => n.name === name);
}

/** Families of the addresses that a container will get on its network; empty: that network is not among `managed`. */
export function expectedFamilies(
  c: ContainerFacts,
  networks: DockerView['networks'],
  managed: ReadonlySet<string>,
): ReadonlySet<4 | 6> {
  const network = startNetwork(c, networks);
  if (network === undefined || !managed.has(network.id)) return new Set();
  return new Set(network.subnets.map(familyOf));
}

/** Whether Docker gives the bridge no address of the family (libnetwork, drivers/bridge). */
export const isWithoutGateway = ({ options }: NetworkFacts, family: 4 | 6): boolean =>
  options[`com.docker.network.bridge.gateway_mode_ipv${family}`] === 'isolated' ||
  (family === 4 && options['com.docker.network.bridge.inhibit_ipv4'] === 'true');

/** IPv4 subnets of the network in which the bridge has no address. */
export function subnetsWithoutGateway(network: NetworkFacts): readonly string[] {
  if (!isWithoutGateway(network, 4)) return [];
  return network.subnets.flatMap((s) => {
    const subnet = networkOf(s);
    return subnet?.family === 4 ? [subnet.text] : [];
  });
}
