import { exec } from '../kernel/exec.js';
import { Conntrack } from '../kernel/netlink/conntrack.js';
import { steadyNow } from '../lib/clock.js';
import type { Logger } from '../lib/log.js';
import { errorText } from '../lib/problem.js';
import type { NetnsPlace, Subject } from '../ruleset/desired-state.js';
import type { Flow } from '../ruleset/flow.js';
import {
  LAN_FLOW,
  type LanInput,
  lanFramesProgram,
  lanKey,
  lanLearnedSets,
  lanProgram,
} from '../ruleset/netns-program.js';
import {
  applyLanProgram,
  generationIn,
  lanEnds,
  lanFingerprint,
  putLanMember,
  removeLanMember,
  setSegmentation,
} from './netns-tables.js';

export interface LanWant {
  readonly input: LanInput;
  readonly place: NetnsPlace;
  /** Set → address → until (ms), as the ledger has them now. */
  readonly learned: () => ReadonlyMap<string, ReadonlyMap<string, number>>;
  /** The policy lets this flow go on. */
  readonly keeps: (flow: Flow) => boolean;
}
type Learned = Map<string, Map<string, number>>;

/** The rules inside one namespace on macvlan or ipvlan networks, and their update to the wanted state. */
export class NamespaceRules implements Disposable {
  readonly path: string;
  readonly #follow: (path: string) => Disposable;
  readonly #log: Logger;
  readonly #container: string;
  #laid:
    | { readonly key: string; readonly frames: string; readonly place: string; readonly devices: number }
    | undefined;
  #seen: { readonly generation: number | undefined; readonly print: string | undefined } | undefined;
  #learned: Learned = new Map();
  #denials: Disposable | undefined;
  #lastUpdate: Promise<void> = Promise.resolve();
  /** The reason why its rules are not installed. */
  failure: string | undefined = 'they are being installed';
  /** The reason why packet sockets are not filtered. Undefined if they are. */
  frames: string | undefined;

  /** @param follow reads the log of denied packets in the namespace */
  constructor(path: string, container: string, follow: (path: string) => Disposable, log: Logger) {
    this.path = path;
    this.#container = container;
    this.#follow = follow;
    this.#log = log;
  }

  /** Update the rules. Resolves with true if they were installed again. One call at a time. */
  bring(want: LanWant): Promise<boolean> {
    const done = this.#bring(want);
    this.#lastUpdate = done.then(
      () => undefined,
      () => undefined, // `failure` has the reason
    );
    return done;
  }

  hasLearnedSet(set: string): boolean {
    return this.#learned.has(set);
  }

  /** Resolves when the rules contain the address, or at once if no rule here uses the set. */
  async put(set: string, address: string, seconds: number): Promise<void> {
    await this.#lastUpdate;
    if (this.#learned.has(set)) this.#put(set, address, steadyNow() + seconds * 1000);
  }

  async take(set: string, address: string): Promise<void> {
    await this.#lastUpdate;
    if (this.#learned.get(set)?.has(address)) this.#take(set, address);
  }

  /** Return whether another process changed the rules. The next `bring` installs them again. */
  async isTampered(): Promise<boolean> {
    await this.#lastUpdate;
    const seen = this.#seen;
    if (!seen) return false;
    const generation = generationIn(this.path);
    if (generation === seen.generation) return false;
    const print = await lanFingerprint(exec, this.path);
    if (this.#seen !== seen) return false; // the rules were written meanwhile
    if (print === seen.print) this.#seen = { generation, print };
    else this.#laid = undefined;
    return this.#laid === undefined;
  }

  /** Stop reading denials. Installed rules stay. */
  [Symbol.dispose](): void {
    this.#denials?.[Symbol.dispose]();
  }

  async #bring(want: LanWant): Promise<boolean> {
    try {
      const isNew = !(this.failure === undefined && this.#isSame(want)) && (await this.#renew(want));
      const isReduced = this.#sync(want.learned());
      if (isNew || isReduced) await this.#blockDenied(want.keeps);
      this.failure = undefined;
      return isNew;
    } catch (e) {
      this.failure = errorText(e);
      throw e;
    }
  }

  /** Compare the wanted rules only: links are read when these differ. */
  #isSame({ input, place }: LanWant): boolean {
    const laid = this.#laid;
    if (laid === undefined || laid.devices < place.links) return false;
    return laid.place === place.addresses.join() && laid.key === lanKey(input);
  }

  async #renew(want: LanWant): Promise<boolean> {
    const ends = await lanEnds(this.path);
    const frames = lanFramesProgram(
      ends.map((e) => e.device),
      ends.flatMap((e) => e.addresses),
    );
    const { input, place } = want;
    const laid = { key: lanKey(input), frames, place: place.addresses.join(), devices: ends.length };
    const isNew = this.#laid?.key !== laid.key || this.#laid.frames !== frames;
    if (isNew) await this.#lay(want, frames);
    this.#laid = laid;
    return isNew;
  }

  async #lay(want: LanWant, frames: string): Promise<void> {
    this.#denials ??= this.#follow(this.path);
    const sets = lanLearnedSets(want.input);
    const now = steadyNow();
    const learned: Learned = new Map();
    for (const set of sets) {
      const good = [...(want.learned().get(set) ?? [])].filter(([, until]) => until > now);
      learned.set(set, new Map(good));
    }
    const seconds = new Map(
      [...learned].map(
        ([set, members]) => [set, new Map([...members].map(([a, u]) => [a, left(u, now)]))] as const,
      ),
    );
    await applyLanProgram(exec, this.path, lanProgram(want.input, seconds));
    this.#learned = learned;
    await this.#layFrames(frames);
    const generation = generationIn(this.path);
    this.#seen = { generation, print: await lanFingerprint(exec, this.path) };
  }

  /** Kernels before 5.16 have no egress hook. */
  async #layFrames(program: string): Promise<void> {
    this.frames = await applyLanProgram(exec, this.path, program).then(() => undefined, errorText);
    if (this.frames !== undefined)
      this.#log.warn(
        { container: this.#container, err: this.frames },
        'packet sockets of the container are not filtered: start it with --cap-drop NET_RAW',
      );
  }

  /** Returns true when an address lost its permit. */
  #sync(wanted: ReadonlyMap<string, ReadonlyMap<string, number>>): boolean {
    const now = steadyNow();
    let isReduced = false;
    for (const [set, have] of this.#learned) {
      const want = wanted.get(set) ?? new Map<string, number>();
      for (const [address, until] of [...have]) {
        if ((want.get(address) ?? 0) > now) continue;
        isReduced ||= until > now;
        this.#take(set, address);
      }
      for (const [address, until] of want)
        if (until > now && (have.get(address) ?? 0) < until) this.#put(set, address, until);
    }
    return isReduced;
  }

  #put(set: string, address: string, until: number): void {
    this.#write(() => putLanMember(this.path, set, address, left(until, steadyNow())));
    this.#learned.get(set)?.set(address, until);
  }

  #take(set: string, address: string): void {
    this.#write(() => removeLanMember(this.path, set, address));
    this.#learned.get(set)?.delete(address);
  }

  /** Write, and note the new generation as written by Drawbridge. */
  #write(change: () => void): void {
    const before = generationIn(this.path);
    change();
    if (this.#seen && before === this.#seen.generation)
      this.#seen = { ...this.#seen, generation: generationIn(this.path) };
  }

  /**
   * Block flows that lost their permit. Their conntrack entries stay and get a mark: after a deletion the next packet of the other
   * side would re-create the flow with reversed direction.
   */
  async #blockDenied(keeps: (flow: Flow) => boolean): Promise<void> {
    using table = new Conntrack({ namespace: this.path });
    const flows = (await Promise.all(([4, 6] as const).map((f) => table.flows(f, {})))).flat();
    const denied = flows.filter((f) => isOutward(f) && !keeps(f));
    for (const flow of denied) table.mark(flow, LAN_FLOW.ended, LAN_FLOW.ended);
    if (denied.length > 0)
      this.#log.info(
        { containers: [this.#container], flows: denied.length },
        'flows ended inside its namespace: no entry permits them now',
      );
  }
}

/**
 * Lets containers send each segment by itself when their bytes are counted: the rules would count a packet of many segments once, with one header.
 * Their number is not known to nf_tables.
 */
export class SingleSegments {
  /** By container: the namespace and the veths that are set so, and why they could not be set again. */
  readonly #containers = new Map<string, { set?: string; failure?: string | undefined }>();
  readonly #log: Logger;

  constructor(log: Logger) {
    this.#log = log;
  }

  /** The reason why packets of several segments are counted once. */
  failure(container: string): string | undefined {
    return this.#containers.get(container)?.failure;
  }

  /** Sets the veths of all containers that are counted, and sets others back. One call at a time. */
  async update(
    subjects: Iterable<Subject>,
    pathOf: (container: string) => string | undefined,
  ): Promise<void> {
    const counted = new Set<string>();
    for (const m of subjects) {
      if (!isCounted(m)) continue;
      counted.add(m.id);
      const path = pathOf(m.id);
      const set = `${path} ${m.veths.map((v) => v.ifindex).join()}`;
      if (path === undefined || this.#containers.get(m.id)?.set === set) continue;
      if (await this.#change(m.id, path, false)) this.#containers.set(m.id, { set });
    }
    for (const [id, { set }] of [...this.#containers]) {
      if (counted.has(id)) continue;
      const path = set === undefined ? undefined : pathOf(id);
      if (path !== undefined) await this.#change(id, path, true);
      this.#containers.delete(id);
    }
  }

  async #change(container: string, path: string, isOn: boolean): Promise<boolean> {
    const known = this.#containers.get(container) ?? {};
    try {
      await setSegmentation(path, isOn);
      known.failure = undefined;
      return true;
    } catch (e) {
      const failure = errorText(e);
      // the next pass, or the next check, tries again
      if (known.failure !== failure)
        this.#log.warn(
          { container, err: failure },
          'the veths of the container are not set for counting each segment',
        );
      this.#containers.set(container, Object.assign(known, { failure }));
      return false;
    }
  }
}

/** As portLimits: what observed containers send is counted, and not limited. */
const isCounted = ({ veths, limits, policy }: Subject): boolean =>
  veths.length > 0 &&
  (limits?.quota !== undefined || (limits?.bytesPerSecond !== undefined && policy.mode === 'enforce'));

const left = (until: number, now: number): number => Math.max(1, Math.ceil((until - now) / 1000));

/** Flows to other hosts that the container opened, or that existed before the rules recorded which side opened them. */
function isOutward(f: Flow): boolean {
  if ((f.mark & (LAN_FLOW.inbound | LAN_FLOW.ended)) !== 0) return false;
  return ![f.orig.dst, f.reply.src].some((a) => a.startsWith('127.') || a === '::1' || a === f.orig.src);
}
