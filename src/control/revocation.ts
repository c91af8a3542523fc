import { identityMark } from '../desired/marks.js';
import type { Member, Shape } from '../desired/state.js';
import type { Logger } from '../ports.js';
import { sortUnmarked } from './adopt.js';
import { barFlows } from './bar.js';
import type { Binding } from './bindings.js';
import { cutFlows, cutFlowsTo, cutMarked, type FlowFacts } from './cut.js';
import type { InForce } from './enforcer.js';
import type { KernelPort } from './kernel-port.js';

export interface RevocationOptions<F extends FlowFacts> {
  readonly shape: Shape;
  readonly kernel: KernelPort<F>;
  readonly log: Logger;
  /** Asks for a pass in so many ms, for this reason. */
  readonly lookAgain: (reason: string, ms: number) => void;
}
/** How long packets of a flow that was cut may still arrive from the other side (s). */
const CUT_SECONDS = 120;
/** A packet that had passed before the rules stood again can be noted in the table after the first look (ms). */
const LATE_MS = 500;
const LATE_LOOK = 'flows after a repair';

/** Ends flows that no entry permits any more. */
export class Revocation<F extends FlowFacts> {
  readonly #o: RevocationOptions<F>;
  /** What each member's policy was when its flows were last looked at. */
  #signatures: ReadonlyMap<string, string> = new Map();
  /** Cgroups (objects) whose earlier flows have been looked for. */
  #adopted: ReadonlySet<string> = new Set();

  /** Rules were missing, and flows have not been looked at since. */
  #owed = false;
  /** They are due to be looked at once more. */
  #late = false;

  constructor(options: RevocationOptions<F>) {
    this.#o = options;
  }

  /** Something had been tampered with: flows of all are looked at, however many passes it takes, and once more a little later. */
  distrust(): void {
    this.#owed = true;
  }
  get owed(): boolean {
    return this.#owed;
  }

  /** Why the next run is asked for. */
  due(reasons: readonly string[]): void {
    this.#late ||= reasons.includes(LATE_LOOK);
  }

  /** Its policy is another than it was at the last run, or it was not there. */
  isNew(m: Member): boolean {
    return this.#signatures.get(m.id) !== signatureOf(m);
  }

  /**
   * Flows of members whose policy is another than it was; of all, when something had been tampered with. Those that
   * began in this pass have none: their ports were purged, a sender in the host's network had no mark before. `again`: members
   that count as changed.
   */
  async run(
    state: InForce,
    known: ReadonlyMap<number, Binding> | undefined,
    again: ReadonlySet<string>,
  ): Promise<void> {
    const isFresh = (m: Member): boolean =>
      known !== undefined &&
      (m.host ? !this.#signatures.has(m.id) : !m.ports.some((p) => known.has(p.ifindex)));
    const members = [...state.members.values()];
    const all = this.#owed || this.#late;
    const changed = members.filter((m) => all || again.has(m.id) || (this.isNew(m) && !isFresh(m)));
    await this.#cut(state, changed);
    if (all) await this.#cutInbound(state, members);
    await this.#adopt(
      state,
      members.filter((m) => state.hosts.late.has(m.id)),
    );
    this.#signatures = new Map(members.map((m) => [m.id, signatureOf(m)]));
    if (this.#owed) this.#o.lookAgain(LATE_LOOK, LATE_MS);
    this.#owed = false;
    this.#late = false;
  }

  async #cut(state: InForce, members: readonly Member[]): Promise<void> {
    this.#tell([...(await this.#cutPorts(state, members)), ...(await this.#cutHosts(state, members))]);
  }

  #tell(ended: readonly Ended<F>[]): void {
    if (ended.length === 0) return;
    const containers = [...new Set(ended.map((e) => e.owner))];
    this.#o.log.info({ containers, flows: ended.length }, 'flows ended: no entry permits them now');
  }

  /** Senders in the host's network that had no rule when they began: their flows are found by their sockets, once. */
  async #adopt(state: InForce, late: readonly Member[]): Promise<void> {
    const { kernel } = this.#o;
    const objectsOf = (m: Member): string[] => m.host?.cgroups.map((c) => c.object) ?? [];
    const strange = late.filter((m) => objectsOf(m).some((o) => !this.#adopted.has(o)));
    this.#adopted = new Set(late.flatMap(objectsOf));
    if (strange.length === 0) return;
    const flows = (await Promise.all(([4, 6] as const).map((f) => kernel.flows.flows(f, {})))).flat();
    for (const m of strange) await this.#adoptOne(state, m, flows);
  }

  async #adoptOne(state: InForce, m: Member, flows: readonly F[]): Promise<void> {
    const { kernel, log, shape } = this.#o;
    const sockets = await kernel.sockets(m.host?.cgroups.map((c) => c.path) ?? []).catch((e: unknown) => {
      log.warn({ container: m.id, err: String(e) }, 'what it opened before it was held cannot be told');
      return [];
    });
    const { kept, doomed } = sortUnmarked(state, m, sockets, flows);
    const mark = identityMark(shape.marks, m.identity);
    for (const f of kept) kernel.flows.mark(f, mark, shape.marks.identity);
    if (doomed.length === 0) return;
    await this.#bar(doomed);
    for (const f of doomed) kernel.flows.delete(f);
    log.info(
      { containers: [m.id], flows: doomed.length },
      'flows ended that began before their rules stood: no entry permits them',
    );
  }

  /** By source address. */
  async #cutPorts(state: InForce, members: readonly Member[]): Promise<Ended<F>[]> {
    const owners = new Map(members.flatMap((m) => m.ports.flatMap(addressesOf).map((a) => [a, m] as const)));
    const keep = (f: F): boolean => {
      const owner = owners.get(f.orig.src);
      return owner === undefined || state.judge.keeps(owner, f);
    };
    const cut = await cutFlows(this.#o.kernel.flows, new Set(owners.keys()), { keep, bar: this.#bar });
    return cut.map((flow) => ({ flow, owner: owners.get(flow.orig.src)?.id ?? '' }));
  }

  /**
   * While no rule stood, an answer that found no flow has opened one: by it both sides would go on. By the address it
   * is for; what containers and the host have opened is judged by who opened it.
   */
  async #cutInbound(state: InForce, members: readonly Member[]): Promise<void> {
    const { kernel } = this.#o;
    const owners = new Map(
      members.flatMap((m) => m.ports.flatMap(addressesOf).map((a) => [a, m.id] as const)),
    );
    const hosts = kernel.hostAddresses();
    const keep = (f: F): boolean => owners.has(f.orig.src) || hosts.has(f.orig.src) || state.judge.admits(f);
    const how = { keep, bar: async () => undefined };
    const cut = await cutFlowsTo(kernel.flows, new Set(owners.keys()), how);
    this.#tell(cut.map((flow) => ({ flow, owner: owners.get(flow.orig.dst) ?? '' })));
  }

  /** Senders in the host's network share its addresses: by the mark that their first packet gave the connection. */
  async #cutHosts(state: InForce, members: readonly Member[]): Promise<Ended<F>[]> {
    const { marks } = this.#o.shape;
    const owners = new Map(
      members.filter((m) => m.host).map((m) => [identityMark(marks, m.identity), m] as const),
    );
    const ownerOf = (f: F): Member | undefined => owners.get((f.mark & marks.identity) >>> 0);
    const keep = (f: F): boolean => {
      const owner = ownerOf(f);
      return owner === undefined || state.judge.keeps(owner, f);
    };
    const how = { keep, bar: this.#bar };
    const cut = await cutMarked(this.#o.kernel.flows, [...owners.keys()], marks.identity, how);
    return cut.map((flow) => ({ flow, owner: ownerOf(flow)?.id ?? '' }));
  }

  readonly #bar = (cut: readonly F[]): Promise<void> =>
    barFlows(this.#o.kernel, this.#o.shape.prefix, cut, CUT_SECONDS);
}

interface Ended<F> {
  readonly flow: F;
  readonly owner: string;
}

const addressesOf = (p: { readonly ip4?: string; readonly ip6?: string }): string[] =>
  [p.ip4, p.ip6].filter((a) => a !== undefined);

/** Everything of a member that decides what it may open. */
function signatureOf(m: Member): string {
  return JSON.stringify([
    m.policy.mode,
    m.limits?.quota?.spent ?? false,
    [...m.families],
    m.neighbours,
    m.ports.map((p) => [p.ifindex, p.ip4, p.ip6]),
    m.classes.map((c) => [
      c.key,
      c.names.map((n) => n.entry.canonical),
      c.any.length > 0,
      c.host.length > 0,
      c.statics.map((s) => `${s.range.lo}-${s.range.hi}`),
    ]),
  ]);
}
