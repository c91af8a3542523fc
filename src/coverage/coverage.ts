import { dirname } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import type { HostMode } from '../enforce/host-cgroups.js';
import type { Policies } from '../enforce/policies.js';
import type { Kernel } from '../kernel/kernel.js';
import { isNamespaceMounted } from '../kernel/netlink/namespace.js';
import { atNext } from '../lib/clock.js';
import type { Current } from '../lib/current.js';
import { memo } from '../lib/memo.js';
import type { NamespaceDns } from '../namespaces/namespace-dns.js';
import type { NetnsRules } from '../namespaces/netns-rules.js';
import type { ContainerFacts } from '../policy/container.js';
import type { Engine } from '../policy/engine.js';
import { type Coverage, type Finding, findingText, worstFirst, worstOf } from '../policy/finding.js';
import type { Mode, Policy } from '../policy/policy.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { KernelConfig } from '../ruleset/desired-state.js';
import {
  limitFindings,
  type NameFacts,
  nameFindings,
  type PidPeer,
  pidFindings,
  powerFindings,
  relayFindings,
  type StoreFacts,
  storeFindings,
} from './container-findings.js';
import { type DeviceFacts, deviceFindings } from './device-findings.js';
import { type HostInput, hostFindings } from './host-findings.js';
import type { HostWatch } from './host-watch.js';
import { type MountsKnown, mountFindings } from './mount-findings.js';
import { type NetworkPlace, networkFindings } from './network-findings.js';
import type { OwnPlaces } from './sensitive-places.js';

export interface CoverageInput extends NetworkPlace, HostInput, StoreFacts {
  readonly container: ContainerFacts;
  readonly policy: Policy;
  readonly names: NameFacts;
  readonly own: OwnPlaces;
  /** Undefined: the mounts are not read, and the paths that Docker lists are compared as text. */
  readonly mounts?: MountsKnown;
  readonly devices?: DeviceFacts;
  /** PID mode of the container that owns the shared PID namespace; undefined: the container has its own namespace. */
  readonly pidMode?: string;
  /** Containers that share its PID namespace and have another policy. */
  readonly pidPeers?: readonly PidPeer[];
  /** Why packets of several segments count as one. */
  readonly uncountedSegments?: string;
  /** It is the container that Drawbridge itself runs in. */
  readonly isSelf: boolean;
  /** The file of its network namespace that Drawbridge cannot see; undefined: it can. */
  readonly hiddenSandbox?: string;
}

/** Return whether the policy can be enforced completely for this container, and everything that its operator should know. */
export function coverageOf(input: CoverageInput): Coverage {
  const findings = allFindings(input);
  return { state: worstOf(findings), reasons: findings.map(findingText) };
}

/** What was found about the container, the worst first, and then what its policy notes: it weakens nothing. */
export const allFindings = (input: CoverageInput): readonly Finding[] => [
  ...worstFirst(coverageFindings(input)),
  ...noteFindings(input.policy),
];

/** The notes of a policy (labels that do not parse, lists that do not exist) as findings. */
const noteFindings = ({ notes }: Pick<Policy, 'notes'>): readonly Finding[] =>
  notes.map(({ detail, remedy, code = 'policy-note' }) => ({ code, state: 'enforced', detail, remedy }));

/** Everything found about the container itself, and of the host what weakens it. */
export function coverageFindings(input: CoverageInput): Finding[] {
  const { container: c, policy, names } = input;
  if (input.isSelf) return [SELF];
  const host = hostFindings(input).filter((f) => f.state !== 'enforced');
  return [
    ...networkFindings(c, input),
    ...storeFindings(c, input),
    ...(c.privileges ? privilegeFindings(input, c.privileges) : [NOT_INSPECTED]),
    ...pidFindings(policy.mode, input.pidPeers ?? []),
    ...(policy.mode === 'enforce' ? nameFindings(names) : []),
    ...relayFindings(c, policy),
    ...limitFindings(c, policy, input.uncountedSegments),
    ...(input.hiddenSandbox === undefined ? [] : [hidden(input.hiddenSandbox)]),
    ...host,
  ];
}

const privilegeFindings = (
  { container, own, mounts, devices, pidMode }: CoverageInput,
  p: NonNullable<ContainerFacts['privileges']>,
): Finding[] => [
  ...powerFindings(p, pidMode),
  ...deviceFindings(p, devices ?? { drivers: undefined, nodes: [] }),
  ...mountFindings(container, own, mounts),
];

/** Drawbridge's own container needs the privileges to change all rules, so they are not listed one by one. */
const SELF: Finding = {
  code: 'itself',
  state: 'unenforced',
  detail:
    'this container is Drawbridge itself: it is trusted like root on the host, and no policy applies to it',
  remedy: 'nothing to do; to avoid this, run the service on the host',
};

const NOT_INSPECTED: Finding = {
  code: 'not-inspected',
  state: 'partial',
  detail: 'the privileges and mounts of the container have not been read from Docker yet',
  remedy: 'check again in a moment; if this remains, see docker inspect',
};

/** A running container that joins a network is then recognised by Docker's answers alone (enforce/classify.ts). */
const hidden = (path: string): Finding => ({
  code: 'hidden-sandbox',
  state: 'enforced',
  detail: `Drawbridge cannot see the file of the network namespace, ${path}: one of the two checks by which a new veth is not taken for that of a step of a build is missing`,
  remedy: `mount the folder ${dirname(path)} into the container of Drawbridge, read-only and with the propagation rslave`,
});

/** The parts of the service from which the coverage of a container is computed. */
export interface CoverageParts {
  readonly applied: Current<AppliedState>;
  readonly shape: KernelConfig;
  readonly docker: Engine;
  readonly policies: Policies;
  readonly namespaceDns: NamespaceDns;
  readonly hostMode: HostMode;
  readonly lan: NetnsRules;
  readonly hostWatch: HostWatch;
  readonly kernel: Kernel;
}

/** All that is known about a container's coverage now. */
export function coverageInput(parts: CoverageParts, c: ContainerFacts, policy: Policy): CoverageInput {
  const input = withoutPeers(parts, c, policy);
  return { ...input, ...pidNamespace(parts, c, input.holder) };
}

/** Containers with another policy in the same PID namespace: each can see the processes of the others. */
function pidNamespace(
  parts: CoverageParts,
  c: ContainerFacts,
  holder: ContainerFacts,
): Pick<CoverageInput, 'pidMode' | 'pidPeers'> {
  const { containers } = parts.docker.view();
  const root = pidRoot(c, containers);
  const pidPeers = (groupsOf(containers).byPid.get(root.id) ?? [])
    .filter((x) => x.id !== c.id && (x.sharesWith ?? x.id) !== holder.id)
    .map((x): PidPeer => {
      const owner = (x.sharesWith && containers.get(x.sharesWith)) || x;
      const policy = parts.policies.policyOf(owner);
      const network = worstOf(networkFindings(x, withoutPeers(parts, x, policy)));
      return { name: x.name, mode: policy.mode, network };
    });
  return { pidMode: root.privileges?.pidMode ?? '', pidPeers };
}

interface Groups {
  /** Containers in one network namespace, by the container that owns it. */
  readonly byNetwork: ReadonlyMap<string, readonly ContainerFacts[]>;
  /** Containers that are up in one PID namespace, by the container that owns it. */
  readonly byPid: ReadonlyMap<string, readonly ContainerFacts[]>;
}
type Containers = ReadonlyMap<string, ContainerFacts>;
/** Who shares a namespace: found once for each view of Docker, which never changes, so that it is not searched for each container. */
const groupsOf = memo((containers: Containers): Groups => {
  const byNetwork = new Map<string, ContainerFacts[]>();
  const byPid = new Map<string, ContainerFacts[]>();
  const add = (to: Map<string, ContainerFacts[]>, key: string, c: ContainerFacts): unknown =>
    to.get(key)?.push(c) ?? to.set(key, [c]);
  for (const c of containers.values()) {
    add(byNetwork, c.id, c);
    if (c.sharesWith !== undefined && c.sharesWith !== c.id) add(byNetwork, c.sharesWith, c);
    if (isUp(c)) add(byPid, pidRoot(c, containers).id, c);
  }
  return { byNetwork, byPid };
});

const CONTAINER = 'container:';
const isUp = (c: ContainerFacts): boolean => c.state !== 'exited' && c.state !== 'created';

/** The container that owns its PID namespace. Docker writes the full id of that container. */
function pidRoot(c: ContainerFacts, containers: Containers): ContainerFacts {
  let at = c;
  for (let i = 0; i < MOST_STEPS; i++) {
    const mode = at.privileges?.pidMode ?? '';
    const next = mode.startsWith(CONTAINER) ? containers.get(mode.slice(CONTAINER.length)) : undefined;
    if (!next) return at;
    at = next;
  }
  return at;
}
const MOST_STEPS = 10;
const NONE: readonly never[] = [];

function withoutPeers(parts: CoverageParts, c: ContainerFacts, policy: Policy): CoverageInput {
  const view = parts.docker.view();
  const { host, engine: daemon, managed, own } = parts.hostWatch;
  const holder = (c.sharesWith && view.containers.get(c.sharesWith)) || c;
  const mounts = parts.hostWatch.mounts.mountsOf(c);
  const hostAsked = parts.namespaceDns.hostAsked(holder.id);
  const uncountedSegments = parts.lan.uncountedSegments(holder.id);
  return {
    container: c,
    holder,
    policy,
    networks: view.networks,
    managed,
    frames: parts.kernel.frames.state,
    hostNetwork: {
      senders: parts.applied.value?.hosts,
      mode: policy.mode,
      noResolver: parts.hostMode.resolvers.failed.get(holder.id),
      ...(host?.unseenSockets && { unseenSockets: host.unseenSockets }),
    },
    lan: {
      isManaged: parts.policies.isLan,
      mode: policy.mode,
      status: parts.lan.status(holder.id),
      isLimited: policy.limits !== undefined,
      isAsking: policy.askMs !== undefined,
      members: groupsOf(view.containers).byNetwork.get(holder.id) ?? NONE,
    },
    names: {
      hostAsked,
      namespaceDns: parts.namespaceDns.status(holder.id),
      resolvers: host?.resolvers ?? [],
    },
    own,
    isStore: (parts.applied.value?.input.closed ?? []).some((place) => place.container === c.id),
    ...(mounts && { mounts }),
    ...(uncountedSegments !== undefined && { uncountedSegments }),
    devices: parts.hostWatch.mounts.devicesOf(c),
    isSelf: c.id === parts.hostMode.self,
    ...hiddenSandboxOf(holder),
    host,
    engine: daemon,
    failure: parts.shape.failure,
  };
}

function hiddenSandboxOf(c: ContainerFacts): Pick<CoverageInput, 'hiddenSandbox'> {
  const path = (isUp(c) && c.privileges?.sandboxKey) || undefined;
  return path === undefined || isNamespaceMounted(path) ? {} : { hiddenSandbox: path };
}

/** A change of the coverage of one container. */
export interface CoverageChange {
  readonly c: Pick<ContainerFacts, 'id' | 'name'>;
  /** Null: the container is new. */
  readonly from: Coverage['state'] | null;
  readonly to: Coverage['state'];
  readonly findings: readonly Finding[];
}
export interface CoverageChangesOptions {
  /** Containers that run, with privileges and mounts read from Docker; undefined: the host is not known yet. */
  readonly containers: () => readonly ContainerFacts[] | undefined;
  /** Objects that coverage depends on: while all of them are the same, it is checked now and then only. */
  readonly inputs: () => readonly unknown[];
  readonly findings: (c: ContainerFacts) => readonly Finding[];
  readonly onChange: (change: CoverageChange) => void;
  readonly onError: (error: unknown) => void;
  /** ms, monotonic. */
  readonly now: () => number;
}

/** A container that was just started is being prepared: its coverage then is no news. */
const SETTLED_MS = 10_000;
/** What weakens a container for a shorter time is not reported. */
const CONFIRMED_MS = 2_000;
const REGULAR_MS = 60_000;
const UNCHANGED_MS = 600_000;
/** DNS queries and packets wait on the same event loop: other work has its turn after so long. */
const TURN_MS = 5;
/** Of the time, computing takes one part in so many at most: a thousand containers take a second. */
const COVERAGE_SHARE = 20;

interface Known {
  readonly since: number;
  /** Undefined until it has settled. */
  state: Coverage['state'] | undefined;
  next: { readonly state: Coverage['state']; readonly since: number } | undefined;
}

/** Finds changes of coverage: soon after `request`, and each minute. */
export class CoverageChanges implements Disposable {
  readonly #o: CoverageChangesOptions;
  readonly #known = new Map<string, Known>();
  #isFirst = true;
  #isOpen = false;
  #inputs: readonly unknown[] = [];
  #checkedAt = Number.NEGATIVE_INFINITY;
  #earliest = 0;
  #running: Promise<void> | undefined;
  #due: { readonly at: number; readonly timer: Disposable } | undefined;
  #isEnded = false;

  constructor(options: CoverageChangesOptions) {
    this.#o = options;
  }

  /** A pass, or a reading of the host, may have changed it. */
  request(): void {
    this.#plan(CONFIRMED_MS);
  }

  [Symbol.dispose](): void {
    this.#isEnded = true;
    this.#due?.timer[Symbol.dispose]();
  }

  /** Computes the coverage of all containers, and reports what has changed for long enough. One check at a time. */
  check(): Promise<void> {
    this.#running ??= this.#check().finally(() => {
      this.#running = undefined;
      this.#plan(this.#isOpen ? CONFIRMED_MS : REGULAR_MS);
    });
    return this.#running;
  }

  async #check(): Promise<void> {
    const begun = this.#o.now();
    const inputs = this.#o.inputs();
    const isSame = inputs.every((input, n) => input === this.#inputs[n]);
    if (isSame && !this.#isOpen && begun - this.#checkedAt < UNCHANGED_MS) return;
    const all = this.#o.containers();
    if (!all) return;
    const ids = new Set(all.map(({ id }) => id));
    for (const id of this.#known.keys()) if (!ids.has(id)) this.#known.delete(id);
    let [isOpen, busyMs, since] = [false, 0, begun];
    for (const c of all) {
      isOpen = this.#take(c, begun) || isOpen;
      if (this.#o.now() - since < TURN_MS) continue;
      busyMs += this.#o.now() - since;
      await turn();
      if (this.#isEnded) return;
      since = this.#o.now();
    }
    busyMs += this.#o.now() - since;
    this.#inputs = inputs;
    this.#checkedAt = begun;
    this.#isFirst = false;
    this.#isOpen = isOpen;
    this.#earliest = this.#o.now() + busyMs * COVERAGE_SHARE;
  }

  /** Returns whether the container has to be checked again soon. */
  #take(c: ContainerFacts, now: number): boolean {
    const known = this.#known.get(c.id) ?? { since: now, state: undefined, next: undefined };
    this.#known.set(c.id, known);
    const isSettled = now - known.since >= SETTLED_MS || this.#isFirst;
    if (known.state === undefined && !isSettled) return true;
    const findings = this.#o.findings(c);
    const state = worstOf(findings);
    if (known.state === state) {
      known.next = undefined;
      return false;
    }
    if (known.state !== undefined && known.next?.state !== state) known.next = { state, since: now };
    if (known.next && now - known.next.since < CONFIRMED_MS) return true;
    const from = known.state ?? null;
    known.state = state;
    known.next = undefined;
    const isNews = from !== null || (!this.#isFirst && state !== 'enforced');
    if (isNews) this.#o.onChange({ c, from, to: state, findings });
    return false;
  }

  #plan(ms: number): void {
    const now = this.#o.now();
    const at = Math.max(now + ms, this.#earliest);
    if (this.#isEnded || (this.#due && this.#due.at <= at)) return;
    this.#due?.timer[Symbol.dispose]();
    const timer = atNext(at - now, () => {
      this.#due = undefined;
      void this.check().catch(this.#o.onError);
    });
    this.#due = { at, timer };
  }
}

/** Whether the policy is enforced less than before. */
export const hasFallen = ({ from, to }: Pick<CoverageChange, 'from' | 'to'>): boolean =>
  from !== null && from !== to && worse(from, to) === to;
const worse = (a: Coverage['state'], b: Coverage['state']): Coverage['state'] =>
  [a, b].includes('unenforced') ? 'unenforced' : [a, b].includes('partial') ? 'partial' : 'enforced';

/** The container that owns the network namespace, and the policy that applies there. */
export function placeOf(parts: CoverageParts, c: ContainerFacts): { holder: ContainerFacts; policy: Policy } {
  const holder = c.sharesWith ? (parts.docker.view().containers.get(c.sharesWith) ?? c) : c;
  const policy = parts.applied.value?.subjects.get(holder.id)?.policy ?? parts.policies.policyOf(holder);
  return { holder, policy };
}

/** What a host counts of each of its containers. */
export function containerState(
  parts: CoverageParts,
  c: ContainerFacts,
): { readonly mode: Mode; readonly findings: readonly Finding[] } {
  const { policy } = placeOf(parts, c);
  return { mode: policy.mode, findings: allFindings(coverageInput(parts, c, policy)) };
}
