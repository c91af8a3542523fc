import type { Config } from '../config/config.js';
import { nodeName } from '../config/node.js';
import { glob, matchesAny } from '../lib/glob.js';
import type { Problem } from '../lib/problem.js';
import type { ContainerFacts, DockerView, NetworkFacts } from '../policy/container.js';
import { type Emergency, lockedDown, underEmergency } from '../policy/emergency.js';
import type { EastWest } from '../policy/neighbours.js';
import { ownerKey } from '../policy/owner.js';
import type { Grant, List, Mode, Policy } from '../policy/policy.js';
import { compilePolicy, compileUnattributed } from '../policy/policy-compile.js';
import { LAN_KINDS } from '../ruleset/netns-program.js';

/** What people have said: lists of the folder and the store, grants, modes, pauses, lockdown. */
export interface Overrides extends Emergency {
  readonly lists: ReadonlyMap<string, List>;
  /** Lists that have a file and are not in force, with the reason. */
  readonly absent: ReadonlyMap<string, Problem>;
  readonly grants: readonly Grant[];
  readonly modes: ReadonlyMap<string, Mode>;
}

export interface PolicyOptions {
  readonly config: Config;
  readonly said: () => Overrides;
  readonly view: () => DockerView;
  /** The last word on a container's policy. */
  readonly temper: (policy: Policy, facts: ContainerFacts) => Policy;
}

/** Policies as they are now; asked anew at every pass. */
export class Policies {
  readonly #config: Config;
  readonly #node: string;
  readonly #said: () => Overrides;
  readonly #view: () => DockerView;
  readonly #manage: (n: NetworkFacts) => boolean;
  readonly #eastWest: readonly (readonly [(s: string) => boolean, 'allow' | 'policy'])[];

  readonly #temper: PolicyOptions['temper'];

  constructor({ config, said, view, temper }: PolicyOptions) {
    this.#temper = temper;
    this.#config = config;
    this.#node = nodeName(config);
    this.#said = said;
    this.#view = view;
    this.#manage = (n) =>
      matchesAny(config.networks.manage, n.name) && !matchesAny(config.networks.ignore, n.name);
    this.#eastWest = Object.entries(config.eastWest).map(([pattern, rule]) => [glob(pattern), rule] as const);
  }

  readonly isManaged = (n: NetworkFacts): boolean => n.driver === 'bridge' && this.#manage(n);

  /** Passes the host by: its containers are held inside their own namespaces. */
  readonly isLan = (n: NetworkFacts): boolean => LAN_KINDS.some((d) => d === n.driver) && this.#manage(n);

  readonly eastWest: EastWest = (network) =>
    this.#said().lockdown ? 'policy' : this.#eastWest.find(([fits]) => fits(network.name))?.[1];

  readonly policyOf = (facts: ContainerFacts): Policy => {
    const said = this.#said();
    return this.#temper(underEmergency(this.#compile(facts, said, said.modes), said, facts.id), facts);
  };

  /** The mode that labels, claims and the default choose, once the owner's own has been taken away. */
  readonly autoModeOf = (facts: ContainerFacts): Mode => {
    const said = this.#said();
    const modes = new Map(said.modes);
    modes.delete(ownerKey(facts));
    return this.#temper(underEmergency(this.#compile(facts, said, modes), said, facts.id), facts).mode;
  };

  #compile(
    facts: ContainerFacts,
    { lists, absent, grants }: Overrides,
    modes: ReadonlyMap<string, Mode>,
  ): Policy {
    const { labels, baseline } = this.#config;
    return compilePolicy({
      facts,
      networks: this.#view().networks,
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
    const { lists, absent, lockdown } = this.#said();
    const settings = { ...this.#config.unattributed, node: this.#node };
    const policy = compileUnattributed(settings, lists, Date.now(), absent);
    return lockdown ? lockedDown(policy) : policy;
  };
}
