import type { KernelSnapshot } from '../kernel/read-rules.js';
import type { DockerView } from '../policy/container.js';
import type { Mode } from '../policy/policy.js';
import type { Binding, HostLink } from '../ruleset/applied-state.js';
import { type Marks, UNATTRIBUTED } from '../ruleset/marks.js';

const QUARANTINE_MS = 30_000;

/**
 * Identities of containers in packet marks: the lowest free one, so that the dispatch tree stays shallow. An identity rests
 * before it is given out again, also over a restart: packets that wait in a queue may still carry it.
 */
export class Identities {
  readonly #byId = new Map<string, number>();
  readonly #used = new Set<number>([UNATTRIBUTED]);
  readonly #resting = new Map<number, number>();
  readonly #born = new Set<number>();
  readonly #max: number;

  constructor(max: number) {
    this.#max = max;
  }

  /** Take over an identity from the kernel, by short or full container id. */
  adopt(id: string, identity: number): void {
    if (this.#used.has(identity)) return;
    this.#byId.set(id, identity);
    this.#used.add(identity);
  }

  of(id: string): number | undefined {
    return this.#byId.get(id);
  }

  /** The container's identity, assigned now if it has none. Throws when all are taken: then new containers cannot be distinguished. */
  assign(id: string, now: number): number {
    const known = this.#byId.get(id);
    if (known !== undefined) return known;
    const free = this.#lowestFree(now);
    this.#byId.set(id, free);
    this.#used.add(free);
    this.#born.add(free);
    return free;
  }

  /** Identities assigned since the last `settle`: conntrack entries of an earlier holder may still carry them. */
  get born(): ReadonlySet<number> {
    return this.#born;
  }
  settle(numbers: Iterable<number>): void {
    for (const n of numbers) this.#born.delete(n);
  }

  /** Keeps only these containers. */
  retain(ids: ReadonlySet<string>, now: number): void {
    for (const [id, n] of this.#byId) {
      if (ids.has(id)) continue;
      this.#byId.delete(id);
      this.#used.delete(n);
      this.rest(n, now);
    }
  }

  /** Not to be assigned for a while. */
  rest(identity: number, now: number): void {
    this.#resting.set(identity, now + QUARANTINE_MS);
  }

  #lowestFree(now: number): number {
    for (const [n, until] of this.#resting) if (until <= now) this.#resting.delete(n);
    for (let n = UNATTRIBUTED + 1; n <= this.#max; n++)
      if (!this.#used.has(n) && !this.#resting.has(n)) return n;
    throw new RangeError(`all ${this.#max} container identities are taken: give kernel.markMask more bits`);
  }
}

/** Rules with containers, the closed base, or neither (also a part of the rules): then containers were open. */
export function foundIn({ bridge, hostMarks, isInstalled }: KernelSnapshot): 'rules' | 'base' | 'nothing' {
  const hasContainers = bridge.id4.size + bridge.id6.size + bridge.loose.size + hostMarks.size > 0;
  return isInstalled ? (hasContainers ? 'rules' : 'base') : 'nothing';
}

/**
 * Restore the container of each veth from the kernel after a restart, with its identity, so that no packet meets the chain
 * of another container while the first pass runs. A container can have the MAC and the addresses of one that has gone meanwhile:
 * only a veth that is there proves that it is the same. Other identities rest: what waits in a queue may carry them.
 */
export function restoreBindings(
  { bridge, hostMarks }: KernelSnapshot,
  view: DockerView,
  marks: Marks,
  identities: Identities,
  at: { readonly links: readonly Pick<HostLink, 'index'>[]; readonly now: number },
): Map<number, Binding> {
  const bindings = new Map<number, Binding>();
  const links = new Set(at.links.map(({ index }) => index));
  for (const mark of [...hostMarks.values(), ...bridge.id4.values(), ...bridge.id6.values()])
    identities.rest((mark & marks.identity) >>> marks.shift, at.now);
  for (const [path, mark] of hostMarks)
    adoptHost(path, (mark & marks.identity) >>> marks.shift, view, identities);
  const known = holders(view);
  for (const [key, mark] of [...bridge.id4, ...bridge.id6]) {
    const [port = '', mac = '', address = ''] = key.split(' . ');
    const found = known.get(`${mac} ${address}`);
    const identity = (mark & marks.identity) >>> marks.shift;
    if (!found || identity <= UNATTRIBUTED || !links.has(Number(port))) continue;
    identities.adopt(found.container, identity);
    bindings.set(Number(port), { ...found, ifindex: Number(port) });
  }
  return bindings;
}

/**
 * How the rules that are installed hold each container: one of its veths that is enforced counts for all. Containers
 * without a veth or cgroup there are missing.
 */
export function modesIn(
  { bridge, hostMarks }: KernelSnapshot,
  bindings: ReadonlyMap<number, Pick<Binding, 'container'>>,
  marks: Marks,
): ReadonlyMap<string, Mode> {
  const modes = new Map<string, Mode>();
  const note = (id: string | undefined, mark: number): void => {
    if (id !== undefined && modes.get(id) !== 'enforce') modes.set(id, modeOf(marks, mark));
  };
  for (const [key, mark] of [...bridge.id4, ...bridge.id6])
    note(bindings.get(Number(key.split(' . ')[0]))?.container, mark);
  for (const [path, mark] of hostMarks) note(/[0-9a-f]{64}/.exec(path)?.[0], mark);
  return modes;
}

function modeOf(marks: Marks, mark: number): Mode {
  if ((mark & marks.enforced) !== 0) return 'enforce';
  return (mark & marks.redirect) !== 0 ? 'observe' : 'off';
}

/** Every address that the bridge table binds to a veth. */
export const addressesIn = ({ id4, id6 }: KernelSnapshot['bridge']): ReadonlySet<string> =>
  new Set([...id4.keys(), ...id6.keys()].flatMap((key) => key.split(' . ').slice(2)));

/** The path of a cgroup contains the id of its container, which may share the namespace of another container. */
function adoptHost(path: string, identity: number, view: DockerView, identities: Identities): void {
  const id = /[0-9a-f]{64}/.exec(path)?.[0] ?? '';
  const c = view.containers.get(id);
  if (c && identity > UNATTRIBUTED) identities.adopt(c.sharesWith ?? id, identity);
}

/** By "MAC ADDRESS" of the endpoint. Where two have the same, the first one counts. */
function holders(view: DockerView): ReadonlyMap<string, Omit<Binding, 'ifindex'>> {
  const found = new Map<string, Omit<Binding, 'ifindex'>>();
  for (const c of view.containers.values())
    for (const { mac, networkId, ip4, ip6 } of c.endpoints) {
      const held = {
        container: c.id,
        bridge: '',
        networkId,
        mac,
        since: 0,
        ...(ip4 ? { ip4 } : {}),
        ...(ip6 ? { ip6 } : {}),
      };
      for (const address of [ip4, ip6]) {
        const key = `${mac} ${address}`;
        if (address && !found.has(key)) found.set(key, held);
      }
    }
  return found;
}
