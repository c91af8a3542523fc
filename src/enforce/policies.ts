import { isDeepStrictEqual } from 'node:util';
import { type Config, nodeName } from '../config/config.js';
import { tcpListener } from '../config/endpoints.js';
import type { Kernel } from '../kernel/kernel.js';
import { glob, matchesAny } from '../lib/glob.js';
import { parseAddress, withoutMapping } from '../lib/ip.js';
import { reuses } from '../lib/memo.js';
import type { Problem } from '../lib/problem.js';
import type { ContainerFacts, DockerView, NetworkFacts, PublishedPort } from '../policy/container.js';
import type { Engine } from '../policy/engine.js';
import type { EastWest } from '../policy/neighbours.js';
import { idsByOwner, keysOf, ownerKey } from '../policy/own-labels.js';
import type { Grant, List, ModeSetting, Policy } from '../policy/policy.js';
import {
  type Emergency,
  grantsByOwner,
  lockedDown,
  Moment,
  type Pause,
  pauseOf,
  underEmergency,
} from '../policy/policy.js';
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
  readonly modes: ReadonlyMap<string, ModeSetting>;
}

export interface PolicyParts {
  readonly config: Config;
  readonly docker: Pick<Engine, 'view'>;
  /** Read at each compilation. */
  readonly overrides: () => Overrides;
  /** Applied to each compiled policy, after everything else. */
  readonly temper: (policy: Policy, facts: ContainerFacts) => Policy;
}

/** Everything that the policy of one container is compiled from, but for the configuration, which does not change. */
interface Needs {
  readonly facts: ContainerFacts;
  readonly networks: ReadonlyMap<string, NetworkFacts>;
  readonly lists: Overrides['lists'];
  readonly absent: Overrides['absent'];
  /** Its own, and its owner's. */
  readonly grants: readonly Grant[];
  /** Of each key that its labels name. */
  readonly modes: readonly (ModeSetting | undefined)[];
  readonly lockdown: Overrides['lockdown'];
  readonly pause: Pause | undefined;
}
interface KnownPolicy {
  readonly needs: Needs;
  /** When it was compiled: something in it may expire. */
  readonly moment: Moment;
  readonly policy: Policy;
}

/** What the policies of all containers are compiled from at one time, but for the configuration. */
export interface PolicyStamp {
  readonly overrides: Overrides;
  readonly view: DockerView;
}

/** Containers that are gone are forgotten when there are so many. */
const MOST_GONE = 64;

/** Policies as they are now. A policy is compiled again when something that it is compiled from has changed; otherwise it is the same object. */
export class Policies {
  readonly #config: Config;
  readonly #node: string;
  readonly #overrides: () => Overrides;
  readonly #docker: PolicyParts['docker'];
  readonly #manage: (n: NetworkFacts) => boolean;
  readonly #eastWest: readonly (readonly [(s: string) => boolean, 'allow' | 'policy'])[];

  readonly #temper: PolicyParts['temper'];
  readonly #known = new Map<string, KnownPolicy>();
  /** Within it, nothing in any known policy expires. */
  #span = new Moment(Date.now());
  #unattributed:
    | { readonly overrides: Overrides; readonly moment: Moment; readonly policy: Policy }
    | undefined;

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
    const now = Date.now();
    const needs = needsOf(facts, this.#docker.view().networks, overrides);
    const known = this.#known.get(facts.id);
    if (reuses() && known?.moment.covers(now) && areMet(known.needs, needs)) {
      // What is equal now is found to be the same object next time.
      if (known.needs.facts !== facts || known.needs.networks !== needs.networks)
        this.#known.set(facts.id, { ...known, needs });
      return this.#temper(known.policy, facts);
    }
    const { moment, policy } = this.#compiled(needs, overrides, now);
    this.#known.set(facts.id, { needs, moment, policy });
    this.#span = this.#span.and(moment);
    this.#forgetGone();
    return this.#temper(policy, facts);
  };

  #compiled(needs: Needs, overrides: Overrides, now: number): KnownPolicy {
    const { facts, grants } = needs;
    const moment = new Moment(now);
    const compiled = this.#compile(facts, { ...overrides, grants }, overrides.modes, moment);
    const fresh = underEmergency(compiled, overrides, facts.id);
    const known = this.#known.get(facts.id)?.policy;
    return { needs, moment, policy: reuses() && known && isDeepStrictEqual(known, fresh) ? known : fresh };
  }

  readonly stamp = (): PolicyStamp => ({ overrides: this.#overrides(), view: this.#docker.view() });

  /**
   * Returns the ids of the containers that may have another policy than at `was`: the owners of added or removed grants.
   * Undefined: every policy can differ, because lists, modes, pauses, the lockdown or Docker's view have changed, or an entry of a list
   * has expired. While the store is in doubt (`temper`), each change replaces the object that holds its lists.
   */
  readonly changedSince = (was: PolicyStamp): ReadonlySet<string> | undefined => {
    const { overrides, view } = this.stamp();
    const now = Date.now();
    if (!this.#span.covers(now)) {
      this.#span = new Moment(now);
      for (const { moment } of this.#known.values())
        if (moment.covers(now)) this.#span = this.#span.and(moment);
      return undefined;
    }
    const isSame = (['lists', 'absent', 'modes', 'pauses', 'lockdown'] as const).every(
      (part) => was.overrides[part] === overrides[part],
    );
    if (!isSame || was.view.content !== view.content) return undefined;
    const owners = new Set(differing(was.overrides.grants, overrides.grants).map((grant) => grant.owner));
    const idsOf = idsByOwner(view);
    return new Set([...owners].flatMap((owner) => idsOf.get(owner) ?? NONE));
  };

  #forgetGone(): void {
    const { containers } = this.#docker.view();
    if (this.#known.size <= containers.size + MOST_GONE) return;
    for (const id of this.#known.keys()) if (!containers.has(id)) this.#known.delete(id);
  }

  /** The policy that this setting of its owner would give it. Undefined: labels, claims and the default choose the mode. */
  readonly policyAs = (facts: ContainerFacts, setting: ModeSetting | undefined): Policy => {
    const overrides = this.#overrides();
    const modes = new Map(overrides.modes);
    if (setting) modes.set(ownerKey(facts), setting);
    else modes.delete(ownerKey(facts));
    const compiled = this.#compile(facts, overrides, modes, new Moment(Date.now()));
    return this.#temper(underEmergency(compiled, overrides, facts.id), facts);
  };

  #compile(
    facts: ContainerFacts,
    { lists, absent, grants }: Overrides,
    modes: Overrides['modes'],
    now: Moment,
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
      now,
    });
  }

  readonly unattributed = (): Policy => {
    const overrides = this.#overrides();
    const { lists, absent, lockdown } = overrides;
    const known = this.#unattributed;
    const isSame =
      reuses() &&
      known?.overrides.lists === lists &&
      known.overrides.absent === absent &&
      known.overrides.lockdown === lockdown &&
      known.moment.covers(Date.now());
    if (isSame) return known.policy;
    const moment = new Moment(Date.now());
    const compiled = compileUnattributed(
      { ...this.#config.unattributed, node: this.#node },
      lists,
      moment,
      absent,
    );
    const policy = lockdown ? lockedDown(compiled) : compiled;
    this.#unattributed = { overrides, moment, policy };
    return policy;
  };
}

function needsOf(facts: ContainerFacts, networks: Needs['networks'], overrides: Overrides): Needs {
  const { lists, absent, modes, lockdown } = overrides;
  const { owners, keys } = keysOf(facts);
  return {
    facts,
    networks,
    lists,
    absent,
    grants: grantsOf(overrides.grants, owners),
    modes: modes.size === 0 ? NONE : keys.map((key) => modes.get(key)),
    lockdown,
    pause: pauseOf(overrides, facts.id),
  };
}

const NONE: readonly never[] = [];

/** In the order of all grants. */
function grantsOf(grants: readonly Grant[], owners: readonly string[]): readonly Grant[] {
  const byOwner = grantsByOwner(grants);
  const [found = NONE, ...others] = owners.flatMap((owner) => {
    const own = byOwner.get(owner);
    return own ? [own] : [];
  });
  return others.length === 0 ? found : grants.filter((grant) => owners.includes(grant.owner));
}

/** What only one of them has. */
function differing<T>(a: readonly T[], b: readonly T[]): T[] {
  if (a === b) return [];
  const [inA, inB] = [new Set(a), new Set(b)];
  return [...a.filter((one) => !inB.has(one)), ...b.filter((one) => !inA.has(one))];
}

/** Whether a policy that was compiled from the first would be the same from the second. */
const areMet = (known: Needs, now: Needs): boolean =>
  known.lists === now.lists &&
  known.absent === now.absent &&
  known.lockdown === now.lockdown &&
  isDeepStrictEqual(known.pause, now.pause) &&
  hasSameItems(known.grants, now.grants) &&
  hasSameItems(known.modes, now.modes) &&
  (known.facts === now.facts || isDeepStrictEqual(known.facts, now.facts)) &&
  (known.networks === now.networks || isDeepStrictEqual(networkNames(known), networkNames(now)));

const hasSameItems = <T>(a: readonly T[], b: readonly T[]): boolean =>
  a.length === b.length && a.every((one, i) => one === b[i]);

/** Lists claim containers by the names of their networks. */
const networkNames = ({ facts, networks }: Needs): readonly (string | undefined)[] =>
  [...facts.endpoints.map((e) => e.networkId), ...(facts.joining ?? [])].map((id) => networks.get(id)?.name);

export interface ReservedPortsParts {
  readonly config: Pick<Config, 'api'>;
  readonly shared: Pick<SharedStore, 'servers'>;
  readonly kernel: Pick<Kernel, 'hostAddresses'>;
  readonly docker: Pick<Engine, 'view'>;
}

/** The ports that no container may reach, as they are known at the time of each call. */
export class ReservedPorts {
  readonly #o: ReservedPortsParts;
  #known:
    | {
        readonly servers: string;
        readonly host: ReadonlySet<string>;
        readonly view: DockerView;
        readonly list: readonly ReservedPort[];
      }
    | undefined;

  constructor(parts: ReservedPortsParts) {
    this.#o = parts;
  }

  /** The same object while the servers, the host's addresses and Docker's view are the same. */
  readonly list = (): readonly ReservedPort[] => {
    const { config, shared, kernel, docker } = this.#o;
    const servers = shared.servers();
    const key = { servers: JSON.stringify(servers), host: kernel.hostAddresses(), view: docker.view() };
    const known = this.#known;
    if (reuses() && known?.servers === key.servers && known.host === key.host && known.view === key.view)
      return known.list;
    const around = { hostAddresses: key.host, containers: key.view.containers.values() };
    const list = closedPlaces(config, servers, around);
    this.#known = { ...key, list };
    return list;
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
