import { isDeepStrictEqual } from 'node:util';
import { PROTOCOLS, type VerifiedNames } from '../connections/verified-names.js';
import type { DnsService } from '../dns/dns-service.js';
import {
  type DeletedFlow,
  deleteFlows,
  deleteMarkedFlows,
  type FlowBlocklist,
} from '../kernel/delete-flows.js';
import type { Kernel } from '../kernel/kernel.js';
import type { Logger } from '../lib/log.js';
import { memo } from '../lib/memo.js';
import type { AppliedState, Binding } from '../ruleset/applied-state.js';
import type { ClassPlan } from '../ruleset/classes.js';
import { mayBeDenied } from '../ruleset/deny-plan.js';
import type { KernelConfig, Subject } from '../ruleset/desired-state.js';
import { type Flow, isDns } from '../ruleset/flow.js';
import { type CheckMarks, identityMark, markOf } from '../ruleset/marks.js';
import { holdersOf } from './bind-veths.js';
import { deleteReversedFlows, learnNames, sortUnmarkedFlows } from './earlier-flows.js';
import { type DelayedTrigger, isDue, type Pass } from './pass-trigger.js';

/** conntrack can list a flow only after the first check, when its packet had passed before the rules were installed (ms). */
const LATE_MS = 500;
const UDP = 17;

type RecheckKind = Extract<DelayedTrigger['kind'], `recheck ${string}`>;

/** Ids that are checked until a check has succeeded, and once more a little later, for packets that were on their way. */
class DelayedRecheck {
  readonly #kind: RecheckKind;
  #owed: ReadonlySet<string> = new Set();
  #late: ReadonlySet<string> = new Set();
  #isLate = false;

  /** `kind`: the trigger of the pass that checks once more. */
  constructor(kind: RecheckKind) {
    this.#kind = kind;
  }

  owe(ids: Iterable<string>): void {
    this.#owed = new Set([...this.#owed, ...ids]);
  }
  get owed(): boolean {
    return this.#owed.size > 0;
  }
  /** This check of it is the second one. */
  isLate(id: string): boolean {
    return this.#isLate && this.#late.has(id);
  }

  /** Note why this pass comes. It counts until a check has succeeded. */
  note({ triggers }: Pick<Pass, 'triggers'>): void {
    this.#isLate ||= isDue(triggers, this.#kind);
  }

  due(): ReadonlySet<string> {
    return new Set([...this.#owed, ...(this.#isLate ? this.#late : [])]);
  }

  /** The check of the due ids has succeeded. */
  succeeded({ later }: Pick<Pass, 'later'>): void {
    this.#late = new Set([...this.#owed, ...(this.#isLate ? [] : this.#late)]);
    if (this.owed) later({ kind: this.#kind }, LATE_MS);
    this.#owed = new Set();
    this.#isLate = false;
  }
}

export interface RevocationOptions {
  readonly shape: KernelConfig;
  readonly kernel: Kernel;
  /** Resets connections at the sockets of containers, as far as that is possible at once. `orig.src` is the endpoint of the container. */
  readonly reset: (flows: readonly Flow[]) => Promise<void>;
  readonly blocklist: FlowBlocklist;
  readonly verified: Pick<VerifiedNames, 'permits' | 'knows'>;
  readonly dns: Pick<DnsService, 'learn'>;
  readonly log: Logger;
}
/**
 * How long packets of a deleted flow may still come from the other side (s). A TCP peer that does not know of the deletion
 * may be silent for days; new connections are not blocked.
 */
const BLOCK_SECONDS = { tcp: 7 * 86_400, others: 120 };
/** In a set of members. */
const EVERYONE = '*';

/** What a run has to know of the last pass and of this one. */
interface Since extends Pick<Pass, 'later'> {
  /** Bindings of the pass before, by ifindex. */
  readonly known: ReadonlyMap<number, Binding> | undefined;
  /** Members that count as changed. */
  readonly again: ReadonlySet<string>;
  /** The only subjects that differ from those of the last run; undefined: perhaps any. */
  readonly replaced?: readonly Subject[] | undefined;
}

/** Deletes flows that no entry permits any more. */
export class Revocation {
  readonly #o: RevocationOptions;
  /** Each subject as it was when its flows were last looked at. */
  #seen: ReadonlyMap<string, Subject> = new Map();
  /** Objects of the cgroups that were already searched for earlier flows. */
  #adopted: ReadonlySet<string> = new Set();
  /** Rules were missing. */
  readonly #tampered = new DelayedRecheck('recheck after repair');
  readonly #newlyEnforced = new DelayedRecheck('recheck newly enforced');
  /** No rules were installed before: containers were open, and the mark of a flow shows nothing about it. Until a run has succeeded. */
  #wasOpen = false;

  constructor(options: RevocationOptions) {
    this.#o = options;
  }

  /** Something had been tampered with: flows of all are looked at, however many passes it takes, and once more a little later. */
  distrust(): void {
    this.#tampered.owe([EVERYONE]);
  }
  get owed(): boolean {
    return this.#tampered.owed;
  }
  /** `newlyHeld`: enforced now, and free to speak until now. */
  owe(newlyHeld: ReadonlySet<string>, wasOpen: boolean): void {
    this.#newlyEnforced.owe(newlyHeld);
    this.#wasOpen ||= wasOpen;
  }

  /** Note why this pass comes. */
  note(pass: Pick<Pass, 'triggers'>): void {
    this.#tampered.note(pass);
    this.#newlyEnforced.note(pass);
  }

  /** Its policy is another than it was at the last run, or it was not there. */
  isNew(m: Subject): boolean {
    const seen = this.#seen.get(m.id);
    return seen !== m && (seen === undefined || signatureOf(seen) !== signatureOf(m));
  }

  /** Its policy has changed, and may permit less than it did at the last run. */
  #isNarrower(m: Subject): boolean {
    const seen = this.#seen.get(m.id);
    return this.isNew(m) && (seen === undefined || !isWider(seen, m));
  }

  /**
   * Delete forbidden flows of the subjects with a changed policy; of all, when rules were missing. Subjects that are new in
   * this pass have none: their veths were purged, and a host-network container had no mark before.
   */
  async run(state: AppliedState, { known, again, replaced, later }: Since): Promise<void> {
    const isFresh = (m: Subject): boolean =>
      known !== undefined && (m.host ? !this.#seen.has(m.id) : !m.veths.some((p) => known.has(p.ifindex)));
    const all = this.#tampered.due().has(EVERYONE);
    const held = this.#newlyEnforced.due();
    const only = all || held.size > 0 ? undefined : replaced;
    const members = only ?? [...state.subjects.values()];
    const isChanged = (m: Subject): boolean => again.has(m.id) || (this.#isNarrower(m) && !isFresh(m));
    const changed = members.filter((m) => all || held.has(m.id) || isChanged(m));
    if (this.#wasOpen) await learnNames(this.#o, state, changed);
    await this.#deleteFlows(state, changed);
    const doubted = members.filter((m) => all || (held.has(m.id) && m.policy.mode === 'enforce'));
    if (doubted.length > 0) this.#report(await deleteReversedFlows(this.#o, state, doubted));
    if (!only)
      await this.#adopt(
        state,
        members.filter((m) => state.hosts.late.has(m.id)),
      );
    this.#seen = state.subjects;
    this.#wasOpen = false;
    this.#tampered.succeeded({ later });
    this.#newlyEnforced.succeeded({ later });
  }

  async #deleteFlows(state: AppliedState, members: readonly Subject[]): Promise<void> {
    this.#report([
      ...(await this.#deleteVethFlows(state, members)),
      ...(await this.#deleteHostFlows(state, members)),
    ]);
  }

  #report(ended: readonly DeletedFlow[]): void {
    if (ended.length === 0) return;
    const containers = [...new Set(ended.map((e) => e.owner))];
    this.#o.log.info({ containers, flows: ended.length }, 'deleted flows that no entry permits any more');
  }

  /** Senders in the host's network that had no rule when they began: their flows are found by their sockets, once. */
  async #adopt(state: AppliedState, late: readonly Subject[]): Promise<void> {
    const { kernel } = this.#o;
    const objectsOf = (m: Subject): string[] => m.host?.cgroups.map((c) => c.object) ?? [];
    const unseen = late.filter((m) => objectsOf(m).some((o) => !this.#adopted.has(o)));
    this.#adopted = new Set(late.flatMap(objectsOf));
    if (unseen.length === 0) return;
    const flows = (await Promise.all(([4, 6] as const).map((f) => kernel.flows.flows(f, {})))).flat();
    for (const m of unseen) await this.#adoptOne(state, m, flows);
  }

  async #adoptOne(state: AppliedState, m: Subject, flows: readonly Flow[]): Promise<void> {
    const { kernel, log } = this.#o;
    const sockets = await kernel.sockets(m.host?.cgroups.map((c) => c.path) ?? []).catch((e: unknown) => {
      log.warn(
        { container: m.id, err: String(e) },
        'cannot list the sockets of the container: flows that began before its rules are not checked',
      );
      return [];
    });
    const { kept, forbidden } = sortUnmarkedFlows(state, m, sockets, flows);
    for (const f of kept) this.#writeMark(f, m);
    if (forbidden.length === 0) return;
    await this.#block(forbidden);
    for (const f of forbidden) kernel.flows.delete(f);
    log.info(
      { containers: [m.id], flows: forbidden.length },
      'deleted flows that began before their rules: no entry permits them',
    );
  }

  /** Write identity and mode into the mark of a host-network flow that goes on: its mode may just have changed. */
  #writeMark(flow: Flow, { identity, policy }: Subject): void {
    const { marks } = this.#o.shape;
    const mask = (marks.identity | marks.enforced) >>> 0;
    const mark = (markOf(marks, identity, policy.mode) & mask) >>> 0;
    if ((flow.mark & mask) >>> 0 !== mark) this.#o.kernel.flows.mark(flow, mark, mask);
  }

  /** By source address. */
  async #deleteVethFlows(state: AppliedState, members: readonly Subject[]): Promise<DeletedFlow[]> {
    const owners = holdersOf(members, state.vethMap.bindings);
    const keep = (f: Flow): boolean => this.#keeps(state, owners.get(f.orig.src), f);
    const cut = await deleteFlows(this.#o.kernel.flows, 'orig', new Set(owners.keys()), {
      keep,
      block: this.#block,
    });
    return cut.map((flow) => ({ flow, owner: owners.get(flow.orig.src)?.id ?? '' }));
  }

  #keeps(state: AppliedState, owner: Subject | undefined, found: Flow): boolean {
    if (owner === undefined) return true;
    const { check } = this.#o.shape.marks;
    const isStale = this.#wasOpen && check !== undefined && this.#hasEarlierState(found, check);
    const flow = isStale ? { ...found, mark: (found.mark & ~check.mask) >>> 0 } : found;
    if (!this.#permits(state, owner, flow)) return this.#awaitsAnswer(owner, flow);
    if (isStale) this.#o.kernel.flows.mark(flow, 0, check.mask);
    return true;
  }

  /** The state of its check is from before the rules of this run: it opened earlier, and the name that it has asked for is not known. */
  #hasEarlierState(flow: Flow, { mask, open }: CheckMarks): boolean {
    const state = (flow.mark & mask) >>> 0;
    return state !== 0 && state !== open && !this.#o.verified.knows(flow);
  }

  /** Whether the policy permits the flow, and the names that it has asked for. */
  #permits(state: AppliedState, owner: Subject, flow: Flow): boolean {
    if (!state.evaluator.keeps(owner, flow)) return false;
    if (!this.#o.verified.permits(owner, flow, state.evaluator)) return false;
    return !owner.denied || this.#o.verified.knows(flow) || !this.#mayHaveDeniedName(state, owner, flow);
  }

  /** A DNS query that was sent before later ones are redirected: the client would wait five seconds for its answer. */
  #awaitsAnswer({ id, policy }: Subject, flow: Flow): boolean {
    if (policy.mode === 'enforce' || flow.proto !== UDP || !isDns(flow) || flow.status.seenReply)
      return false;
    if (this.#newlyEnforced.isLate(id)) return false;
    this.#newlyEnforced.owe([id]);
    return true;
  }

  /**
   * The name that an open connection has asked for is not kept. It may be one that a deny entry of now denies if the connection was not
   * checked when it opened, or if the deny entry has come since.
   */
  #mayHaveDeniedName(state: AppliedState, owner: Subject, flow: Flow): boolean {
    const { check } = this.#o.shape.marks;
    const proto = PROTOCOLS[flow.proto];
    const denied = owner.denied;
    if (!denied || !check || !proto || owner.policy.mode !== 'enforce') return false;
    const how = denied.names.entries.length > 0 ? state.evaluator.checkedFlow(owner, flow) : undefined;
    if (!how) return false;
    if (how === 'address' && (flow.mark & check.mask) === 0) return true;
    const seen = this.#seen.get(owner.id) ?? owner;
    return mayBeDenied(seen, denied, { how, proto, port: flow.reply.sport ?? 0 });
  }

  /** Senders in the host's network share its addresses: by the mark that their first packet gave the connection. */
  async #deleteHostFlows(state: AppliedState, members: readonly Subject[]): Promise<DeletedFlow[]> {
    const { marks } = this.#o.shape;
    const owners = new Map(
      members.filter((m) => m.host).map((m) => [identityMark(marks, m.identity), m] as const),
    );
    const ownerOf = (f: Flow): Subject | undefined => owners.get((f.mark & marks.identity) >>> 0);
    const keep = (f: Flow): boolean => {
      const owner = ownerOf(f);
      if (!this.#keeps(state, owner, f)) return false;
      if (owner) this.#writeMark(f, owner);
      return true;
    };
    const how = { keep, block: this.#block };
    const cut = await deleteMarkedFlows(this.#o.kernel.flows, [...owners.keys()], marks.identity, how);
    return cut.map((flow) => ({ flow, owner: ownerOf(flow)?.id ?? '' }));
  }

  /** Resets pass as long as the flow is there, and come first. */
  readonly #block = async (cut: readonly Flow[]): Promise<void> => {
    await this.#o.reset(cut);
    await this.#o.blocklist.block(cut, BLOCK_SECONDS);
  };
}

/** Everything of a member that decides what it may open. */
export const signatureOf = memo((m: Subject): string =>
  JSON.stringify([
    m.policy.mode,
    m.limits?.quota?.spent ?? false,
    [...m.families],
    m.policy.mode === 'enforce' ? m.neighbours : [],
    m.veths.map((p) => [p.ifindex, p.ip4, p.ip6]),
    m.classes.map((c) => [
      c.key,
      c.names.map((n) => n.entry.canonical),
      c.any.length > 0,
      c.host.length > 0,
      c.statics.map(rangeOf),
    ]),
    ...(m.denied ? [deniedOf(m)] : []),
  ]),
);

/** Everything that deny entries of a subject deny. */
const deniedOf = ({ denied }: Subject): readonly string[] =>
  denied
    ? [
        ...denied.names.entries.map(nameOf),
        ...denied.classes.flatMap((c) => [
          ...[...c.any, ...c.host].map(nameOf),
          ...c.statics.map((s) => `${c.key} ${rangeOf(s)}`),
        ]),
      ]
    : [];

/**
 * Whether a subject may open all that it could open before: the same but for entries, and each class of ports has at least what it
 * had, and nothing more is denied. Rules of classes only permit, and what none permits is denied behind them, so that no flow loses its permit by one more.
 */
export function isWider(was: Subject, is: Subject): boolean {
  return (
    was.identity === is.identity &&
    was.policy.mode === is.policy.mode &&
    isDeepStrictEqual(was.limits, is.limits) &&
    isDeepStrictEqual(was.families, is.families) &&
    isDeepStrictEqual(was.veths, is.veths) &&
    isDeepStrictEqual(was.host, is.host) &&
    isDeepStrictEqual(was.lan, is.lan) &&
    hasAll(is.neighbours, was.neighbours) &&
    hasAll(deniedOf(was), deniedOf(is)) &&
    was.classes.every((c) => is.classes.some((other) => other.key === c.key && coversClass(other, c)))
  );
}

const coversClass = (is: ClassPlan, was: ClassPlan): boolean =>
  is.direct === was.direct &&
  (is.any.length > 0 || was.any.length === 0) &&
  (is.host.length > 0 || was.host.length === 0) &&
  hasAll(is.names.map(nameOf), was.names.map(nameOf)) &&
  hasAll(is.statics.map(rangeOf), was.statics.map(rangeOf));

const nameOf = ({ entry }: ClassPlan['names'][number]): string => entry.canonical;
const rangeText = memo(
  ({ family, lo, hi }: ClassPlan['statics'][number]['range']) => `${family} ${lo}-${hi}`,
);
const rangeOf = ({ range }: ClassPlan['statics'][number]): string => rangeText(range);
function hasAll(has: readonly string[], wanted: readonly string[]): boolean {
  const all = new Set(has);
  return wanted.every((one) => all.has(one));
}
