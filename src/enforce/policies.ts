import { tcpListener } from '../config/api-listener.js';
import { type Config, nodeName } from '../config/config.js';
import type { DockerWatch } from '../docker/watch.js';
import type { Kernel } from '../kernel/kernel.js';
import { glob, matchesAny } from '../lib/glob.js';
import { parseAddress, withoutMapping } from '../lib/ip.js';
import type { Problem } from '../lib/problem.js';
import type { ContainerFacts, NetworkFacts, PublishedPort } from '../policy/container.js';
import { type Emergency, lockedDown, underEmergency } from '../policy/emergency.js';
import type { EastWest } from '../policy/neighbours.js';
import { ownerKey } from '../policy/own-labels.js';
import type { Grant, List, Mode, Policy } from '../policy/policy.js';
import { compilePolicy, compileUnattributed } from '../policy/policy-compile.js';
import { LAN_KINDS } from '../ruleset/netns-program.js';
import type { ReservedPort } from '../ruleset/reserved-ports.js';
import type { Endpoint, SharedStore } from '../store/store-interface.js';

/** What people have decided: lists of the folder and the store, grants, modes, pauses, lockdown. */
export interface Overrides extends Emergency {
  readonly lists: ReadonlyMap<string, List>;
  /** Lists that have a file and are not in force, with the reason. */
  readonly absent: ReadonlyMap<string, Problem>;
  readonly grants: readonly Grant[];
  readonly modes: ReadonlyMap<string, Mode>;
}

export interface PolicyParts {
  readonly config: Config;
  readonly docker: Pick<DockerWatch, 'view'>;
  /** Read at each compilation. */
  readonly overrides: () => Overrides;
  /** Applied to each compiled policy, after everything else. */
  readonly temper: (policy: Policy, facts: ContainerFacts) => Policy;
}

/** Policies as they are now. Every pass compiles them again. */
export class Policies {
  readonly #config: Config;
  readonly #node: string;
  readonly #overrides: () => Overrides;
  readonly #docker: PolicyParts['docker'];
  readonly #manage: (n: NetworkFacts) => boolean;
  readonly #eastWest: readonly (readonly [(s: string) => boolean, 'allow' | 'policy'])[];

  readonly #temper: PolicyParts['temper'];

  constructor({ config, overrides, docker, temper }: PolicyParts) {
    this.#temper = temper;
    this.#config = config;
    this.#node = nodeName(config);
    this.#overrides = overrides;
    this.#docker = docker;
    this.#manage = (n) =>
      matchesAny(config.networks.manage, n.name) && !matchesAny(config.networks.ignore, n.name);
    this.#eastWest = Object.entries(config.eastWest).map(([pattern, rule]) => [glob(pattern), rule] as const);
  }

  readonly isManaged = (n: NetworkFacts): boolean => n.driver === 'bridge' && this.#manage(n);

  /** True if packets of the network do not pass the host: its rules are in the namespaces of its containers. */
  readonly isLan = (n: NetworkFacts): boolean => LAN_KINDS.some((d) => d === n.driver) && this.#manage(n);

  readonly eastWest: EastWest = (network) =>
    this.#overrides().lockdown ? 'policy' : this.#eastWest.find(([fits]) => fits(network.name))?.[1];

  readonly policyOf = (facts: ContainerFacts): Policy => {
    const overrides = this.#overrides();
    return this.#temper(
      underEmergency(this.#compile(facts, overrides, overrides.modes), overrides, facts.id),
      facts,
    );
  };

  /** The mode that labels, claims and the default choose, once the owner's own has been taken away. */
  readonly autoModeOf = (facts: ContainerFacts): Mode => {
    const overrides = this.#overrides();
    const modes = new Map(overrides.modes);
    modes.delete(ownerKey(facts));
    return this.#temper(underEmergency(this.#compile(facts, overrides, modes), overrides, facts.id), facts)
      .mode;
  };

  #compile(
    facts: ContainerFacts,
    { lists, absent, grants }: Overrides,
    modes: ReadonlyMap<string, Mode>,
  ): Policy {
    const { labels, baseline } = this.#config;
    return compilePolicy({
      facts,
      networks: this.#docker.view().networks,
      lists,
      absent,
      settings: {
        default: this.#config.default,
        baseline,
        trustImages: labels.trustImages,
        node: this.#node,
      },
      modes,
      grants,
      now: Date.now(),
    });
  }

  readonly unattributed = (): Policy => {
    const { lists, absent, lockdown } = this.#overrides();
    const settings = { ...this.#config.unattributed, node: this.#node };
    const policy = compileUnattributed(settings, lists, Date.now(), absent);
    return lockdown ? lockedDown(policy) : policy;
  };
}

export interface ReservedPortsParts {
  readonly config: Pick<Config, 'api'>;
  readonly shared: Pick<SharedStore, 'servers'>;
  readonly kernel: Pick<Kernel, 'hostAddresses'>;
  readonly docker: Pick<DockerWatch, 'view'>;
}

/** The ports that no container may reach, as they are known at the time of each call. */
export class ReservedPorts {
  readonly #o: ReservedPortsParts;

  constructor(parts: ReservedPortsParts) {
    this.#o = parts;
  }

  readonly list = (): readonly ReservedPort[] => {
    const { config, shared, kernel, docker } = this.#o;
    const hostAddresses = kernel.hostAddresses();
    return closedPlaces(config, shared.servers(), {
      hostAddresses,
      containers: docker.view().containers.values(),
    });
  };
}

const EVERYWHERE = ['', '0.0.0.0', '::'];
const isLoopback = (address: string): boolean => address === '::1' || address.startsWith('127.');

interface Around {
  readonly hostAddresses: ReadonlySet<string>;
  readonly containers: Iterable<Pick<ContainerFacts, 'id' | 'endpoints' | 'published'>>;
}

/**
 * What no container may reach: the API's port where it listens on TCP, and Redis where that is on this host: at any of the
 * host's addresses, and at those of the container that it runs in (a port of the host that Docker publishes leads there).
 * @param redis where Redis is, as it is known now
 */
export function closedPlaces(
  { api }: Pick<Config, 'api'>,
  redis: readonly Endpoint[],
  { hostAddresses, containers }: Around,
): readonly ReservedPort[] {
  const servers = redis.map(({ address, port }) => ({ address: withoutMapping(address), port }));
  const local = servers.filter(({ address }) => isLoopback(address) || hostAddresses.has(address));
  const ports = [...new Set(local.map(({ port }) => port))].sort((a, b) => a - b);
  const own = [...containers].flatMap((c) => [...behind(c, local), ...inside(c, servers)]);
  return [...listener(api.listen), ...ports.map((port) => ({ port })), ...unique(own)];
}

type Container = Pick<ContainerFacts, 'id' | 'endpoints' | 'published'>;
const addressesOf = ({ endpoints }: Container): string[] =>
  endpoints.flatMap((e) => [e.ip4, e.ip6].filter((a) => a !== undefined));

/** The container's own addresses and port, where one of its published ports is a server's. */
function behind(c: Container, servers: readonly Endpoint[]): ReservedPort[] {
  return c.published
    .filter((p) => p.proto === 'tcp' && servers.some((server) => leadsTo(p, server)))
    .flatMap((p) => addressesOf(c).map((address) => ({ address, port: p.containerPort, container: c.id })));
}

const leadsTo = ({ hosts = [] }: PublishedPort, { address, port }: Endpoint): boolean =>
  hosts.some((h) => h.port === port && (EVERYWHERE.includes(h.address) || h.address === address));

/** The same, where a server is named by an address of the container itself. */
function inside(c: Container, servers: readonly Endpoint[]): ReservedPort[] {
  const own = addressesOf(c);
  const ports = servers.filter(({ address }) => own.includes(canonical(address))).map(({ port }) => port);
  return ports.flatMap((port) => own.map((address) => ({ address, port, container: c.id })));
}
const canonical = (address: string): string => parseAddress(address)?.text ?? address;

const unique = (places: readonly ReservedPort[]): ReservedPort[] =>
  [...new Map(places.map((p) => [`${p.address} ${p.port}`, p])).values()].sort((a, b) =>
    `${a.address} ${a.port}` < `${b.address} ${b.port}` ? -1 : 1,
  );

function listener(listen: string): ReservedPort[] {
  const tcp = tcpListener(listen);
  if (!tcp) return [];
  const address = tcp.host === 'localhost' ? '127.0.0.1' : tcp.host;
  return [{ port: tcp.port, ...(EVERYWHERE.includes(address) ? {} : { address }) }];
}
