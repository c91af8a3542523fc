import type { DockerView, NetworkFacts } from '../policy/container.js';
import type { DesiredInput, DesiredState, HostCgroups, Subject } from './desired-state.js';
import type { PolicyEvaluator } from './policy-evaluator.js';

/** A network interface of the host (RTM_GETLINK). */
export interface HostLink {
  readonly index: number;
  readonly name: string;
  /** IFLA_INFO_KIND: "veth", "bridge", ""… */
  readonly kind: string;
  readonly master?: number;
  /** Since when it is known with this master (ms, monotonic): only what is asked later can tell whose it is. */
  readonly since: number;
  readonly mac: string;
  /** MAC of a veth's other end, wherever that is now. */
  readonly peerMac?: string;
  /** Our id for the namespace of the other end; undefined: this one. */
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
}

export interface VethMap {
  readonly bindings: ReadonlyMap<number, Binding>;
  /** veths on managed bridges that belong to nobody yet. */
  readonly unbound: readonly HostLink[];
  /** Our ids of the namespaces behind bound ports. */
  readonly namespaces: ReadonlySet<number>;
  /** veths that stand on no managed bridge. */
  readonly exempt: readonly number[];
  /** Networks that may have the container of an unbound veth, asked for before the veth appeared: they must be asked again. */
  readonly outdated: ReadonlySet<string>;
  /** Managed bridges by interface name. */
  readonly bridges: ReadonlyMap<string, ManagedBridge>;
}

export interface ManagedBridge {
  readonly link: HostLink;
  readonly network: NetworkFacts;
  /** Its veths. */
  readonly ports: readonly number[];
  /** Something else than a veth stands on it, too. */
  readonly mixed: boolean;
}

/** What stands in the kernel since the last pass that held. */
export interface AppliedState {
  readonly view: DockerView;
  readonly vethMap: VethMap;
  readonly input: DesiredInput;
  readonly hosts: HostCgroups;
  readonly desired: DesiredState;
  readonly subjects: ReadonlyMap<string, Subject>;
  readonly veths: readonly number[];
  readonly unattributed: ReadonlySet<number>;
  /** Ports that are, or have been, a container's: they are never proven to be nobody's. */
  readonly containers: ReadonlySet<number>;
  readonly evaluator: PolicyEvaluator;
  readonly repaired: boolean;
}

/** While an answer is outstanding: Docker needs seconds for each of many containers that start together. */
export const LATEST_MS = 10_000;
