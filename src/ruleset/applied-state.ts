import type { Family } from '../lib/ip.js';
import { memo } from '../lib/memo.js';
import type { DockerView, NetworkFacts } from '../policy/container.js';
import type { DesiredInput, DesiredState, HostCgroups, Subject } from './desired-state.js';
import type { PolicyEvaluator } from './policy-evaluator.js';
import type { Delta } from './recompile.js';

/** A network interface of the host (RTM_GETLINK). */
export interface HostLink {
  readonly index: number;
  readonly name: string;
  /** IFLA_INFO_KIND: "veth", "bridge", ""… */
  readonly kind: string;
  readonly master?: number;
  /** Time at which the link was first seen with this master (ms, monotonic). Only later answers of Docker can attribute it. */
  readonly since: number;
  readonly mac: string;
  /** MAC address of the other end of the veth, in whatever namespace that end is. */
  readonly peerMac?: string;
  /** Namespace id (nsid) of the other end. Absent if the other end is in this namespace. */
  readonly netnsId?: number;
}

/** A veth of a managed bridge that is known to be a container's. */
export interface Binding {
  readonly ifindex: number;
  readonly container: string;
  readonly bridge: string;
  readonly networkId: string;
  readonly mac: string;
  readonly ip4?: string;
  readonly ip6?: string;
  /** When its veth appeared (ms, monotonic): an earlier packet of its addresses is another container's. 0: before this process. */
  readonly since: number;
}

export interface VethMap {
  readonly bindings: ReadonlyMap<number, Binding>;
  /** The veths on managed bridges that are not attributed yet. */
  readonly unbound: readonly HostLink[];
  /** Namespace ids (nsid) behind bound veths. */
  readonly namespaces: ReadonlySet<number>;
  /** The veths that are not on a managed bridge. */
  readonly exempt: readonly number[];
  /** Networks that may have the container of an unbound veth, asked for before the veth appeared: they must be asked again. */
  readonly outdated: ReadonlySet<string>;
  /** Managed bridges by interface name. */
  readonly bridges: ReadonlyMap<string, ManagedBridge>;
  /** The canary, if its veth is on one of them. */
  readonly canary?: CanaryPlace;
}

/** The veth of the canary (ops/canary.ts) on a managed bridge: it is bound without an answer of Docker, which does not know it. */
export interface CanaryPlace {
  readonly ifindex: number;
  readonly mac: string;
  /** Addresses of the canary, and the only ones that it may reach. */
  readonly addresses: readonly {
    readonly family: Family;
    readonly source: string;
    readonly permitted: string;
  }[];
}

export interface ManagedBridge {
  readonly link: HostLink;
  readonly network: NetworkFacts;
  /** Its veths. */
  readonly ports: readonly number[];
  /** The bridge has other interfaces than veths, too. */
  readonly mixed: boolean;
}

/** The state that the last successful pass applied to the kernel, and the input that it was compiled from. */
export interface AppliedState {
  readonly view: DockerView;
  readonly vethMap: VethMap;
  readonly input: DesiredInput;
  readonly hosts: HostCgroups;
  readonly desired: DesiredState;
  /** Where it differs from the state before; undefined: perhaps anywhere. */
  readonly delta: Delta | undefined;
  readonly subjects: ReadonlyMap<string, Subject>;
  readonly veths: readonly number[];
  readonly unattributed: ReadonlySet<number>;
  /** The veths that belong, or belonged, to a container. They never count as unattributed. */
  readonly containers: ReadonlySet<number>;
  readonly evaluator: PolicyEvaluator;
  /**
   * The same object as in another state: Docker's view, the veths, and the subjects but for their entries are the same in both.
   * Another object: perhaps anything differs.
   */
  readonly places: object;
  readonly repaired: boolean;
}

const byIdentity = memo(
  (subjects: AppliedState['subjects']) => new Map([...subjects.values()].map((s) => [s.identity, s])),
);
/** The subject with an identity mark. The subjects are indexed once: this is asked for each new flow. */
export const subjectWith = (
  identity: number,
  { subjects }: Pick<AppliedState, 'subjects'>,
): Subject | undefined => byIdentity(subjects).get(identity);

/** While an answer is outstanding: Docker needs seconds for each of many containers that start together. */
export const LATEST_MS = 10_000;
