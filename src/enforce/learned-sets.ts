import type { DnsService } from '../dns/dns-service.js';
import type { Kernel } from '../kernel/kernel.js';
import type { AnswerSets } from '../kernel/netlink/answer-sets.js';
import type { Conntrack } from '../kernel/netlink/conntrack.js';
import type { Current } from '../lib/current.js';
import type { Logger } from '../lib/log.js';
import type { ThreatLook } from '../policy/threat.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import { partsOf } from '../ruleset/container-chains.js';
import type { SetDesired, Subject } from '../ruleset/desired-state.js';
import type { Flow } from '../ruleset/flow.js';
import type { Marks } from '../ruleset/marks.js';

const secondsLeft = (until: number, now: number): number => Math.max(1, Math.ceil((until - now) / 1000));

/** Learned sets of one member. */
const learnedSets = ({ input }: AppliedState, member: Subject): readonly SetDesired[] =>
  partsOf(member, input.shape).sets.filter((set) => set.timed);

/** Fill learned sets that were created again from the ledger. */
export async function refillSets(
  kernel: Pick<Kernel, 'members' | 'add' | 'remove'>,
  dns: Pick<DnsService, 'members'>,
  state: AppliedState,
  sets: readonly string[],
  now: number,
): Promise<void> {
  if (sets.length === 0) return;
  const fresh = new Set(sets);
  const owners = new Set(sets.flatMap((set) => state.desired.sets.get(set)?.owner ?? []));
  for (const owner of owners)
    for (const [set, addresses] of dns.members(owner)) {
      if (!fresh.has(set)) continue;
      for (const [address, until] of addresses)
        if (until > now) await kernel.add(set, address, secondsLeft(until, now));
    }
}

/** Members that end within this may be gone already. */
const SOON_MS = 2_000;

/**
 * After a change of policy: members that no name justifies any more go, those that are newly justified come. True: some
 * were missing that the ledger has had for longer than this took.
 */
async function syncLearned(
  kernel: Pick<Kernel, 'members' | 'add' | 'remove'>,
  dns: Pick<DnsService, 'members'>,
  state: AppliedState,
  member: Subject,
  now: number,
  sizes?: ReadonlyMap<string, number>,
): Promise<boolean> {
  let isMissed = false;
  for (const set of learnedSets(state, member)) {
    const stood = dns.members(member.id).get(set.name);
    if (sizes?.get(set.name) === 0 && !stood?.size) continue;
    const have = await kernel.members(set.name);
    // Asked after the kernel: the ledger knows an address before the kernel does, so none that comes now is taken for stale.
    const want = dns.members(member.id).get(set.name) ?? new Map<string, number>();
    for (const address of have?.keys() ?? [])
      if ((want.get(address) ?? 0) <= now) await kernel.remove(set.name, address);
    for (const [address, until] of want) {
      const left = have?.get(address);
      const seconds = secondsLeft(until, now);
      if (until > now && (left === undefined || left < seconds)) await kernel.add(set.name, address, seconds);
      isMissed ||= left === undefined && have !== undefined && (stood?.get(address) ?? 0) > now + SOON_MS;
    }
  }
  return isMissed;
}

/** For more subjects than this, one listing returns the sizes of all sets. After a start most learned sets are empty in kernel and ledger. */
const MANY = 64;

/** By name: so many members each set had when all were read. A set that is not among them was not there. */
type SizesRead = ReadonlyMap<string, { readonly members: ReadonlySet<string> }>;

/** For each of these subjects. True: another process has removed members of one that is not new. */
export async function syncAll(
  kernel: Pick<Kernel, 'members' | 'add' | 'remove'> & { readonly sets: Pick<Kernel['sets'], 'allEntries'> },
  dns: Pick<DnsService, 'members'>,
  state: AppliedState,
  {
    members,
    isNew,
    now,
    read,
  }: {
    readonly members: readonly Subject[];
    readonly isNew: (m: Subject) => boolean;
    readonly now: () => number;
    /** What the first pass has read of sets, if it has created none. */
    readonly read?: SizesRead | undefined;
  },
): Promise<boolean> {
  let isLost = false;
  // The listing comes before the ledger is read: an address that is learned after it is in the ledger then, and its set is read.
  const sizes = members.length > MANY ? (sizesOf(read) ?? kernel.sets.allEntries()) : undefined;
  for (const m of members) {
    const missed = await syncLearned(kernel, dns, state, m, now(), sizes);
    isLost ||= missed && !isNew(m);
  }
  return isLost;
}

const sizesOf = (read: SizesRead | undefined): ReadonlyMap<string, number> | undefined =>
  read && new Map([...read].map(([name, { members }]) => [name, members.size]));

/** Writes a learned address to the kernel's set, and then to its copies in namespaces, before the DNS answer leaves. */
export class LearnedSetWriters implements AnswerSets {
  readonly #writers: AnswerSets[];

  constructor(first: AnswerSets) {
    this.#writers = [first];
  }

  also(writer: AnswerSets): void {
    this.#writers.push(writer);
  }

  async addAll(set: string, members: Parameters<AnswerSets['addAll']>[1]): Promise<void> {
    for (const writer of this.#writers) await writer.addAll(set, members);
  }

  /** Undefined if one of the writers, or a writer of copies, cannot repeat it. */
  repeated(set: string, until: ReadonlyMap<string, number>): ReturnType<AnswerSets['repeated']> {
    const all = this.#writers.map((writer) => writer.repeated(set, until));
    return all.every((one) => one !== undefined)
      ? { ensure: (now) => all.every((one) => one.ensure(now)) }
      : undefined;
  }

  async add(set: string, address: string, timeoutSeconds: number): Promise<void> {
    for (const writer of this.#writers) await writer.add(set, address, timeoutSeconds);
  }

  async remove(set: string, address: string): Promise<void> {
    for (const writer of this.#writers) await writer.remove(set, address);
  }
}

/** How long the scan of the ledger may keep the event loop (ms). */
const SLICE_MS = 5;

/** Containers that resolved a name, or an address, which a threat feed lists now. */
export async function containersToRecheck(
  { ledger }: Pick<DnsService, 'ledger'>,
  look: ThreatLook,
): Promise<ReadonlySet<string>> {
  const known = new Map<string, boolean>();
  const isListed = (text: string, hit: (text: string) => unknown): boolean => {
    const listed = known.get(text) ?? hit(text) !== undefined;
    known.set(text, listed);
    return listed;
  };
  const found = new Set<string>();
  let sliceEnds = performance.now() + SLICE_MS;
  for (const { container, name, address } of ledger.snapshot()) {
    if (
      !found.has(container) &&
      (isListed(name, (n) => look.blockedName(n)) || isListed(address, (a) => look.blockedAddress(a)))
    )
      found.add(container);
    if (performance.now() < sliceEnds) continue;
    await new Promise<void>((resume) => setImmediate(resume));
    sliceEnds = performance.now() + SLICE_MS;
  }
  return found;
}

interface TtlExtenderOptions {
  readonly dns: DnsService;
  readonly flows: Conntrack;
  readonly marks: Marks;
  readonly applied: Pick<Current<AppliedState>, 'value'>;
  readonly log: Logger;
}

const EVERY_MS = 20_000;

const AHEAD_MS = 60_000;

/** Keeps an address permitted beyond its TTL while the container has a live flow to it. */
export class TtlExtender implements AsyncDisposable {
  readonly #o: TtlExtenderOptions;
  readonly #timer: NodeJS.Timeout;
  #running: Promise<void> = Promise.resolve();

  constructor(options: TtlExtenderOptions) {
    this.#o = options;
    this.#timer = setInterval(() => {
      this.#running = this.extendInUse().catch((e: unknown) =>
        options.log.warn({ err: String(e) }, 'cannot list which resolved addresses are in use'),
      );
    }, EVERY_MS);
  }

  async extendInUse(): Promise<void> {
    const facts = this.#o.dns.expiring(AHEAD_MS);
    if (facts.length === 0) return;
    const busy = await this.#busy();
    for (const f of facts)
      if (busy.has(`${f.container} ${f.address}`)) await this.#o.dns.extend(f.container, f.address);
  }

  /** "CONTAINER ADDRESS" of every live flow: one dump a family, whatever the number of containers. */
  async #busy(): Promise<ReadonlySet<string>> {
    const { flows, applied } = this.#o;
    const owners = new Map<string, string>();
    for (const b of applied.value?.vethMap.bindings.values() ?? [])
      for (const a of [b.ip4, b.ip6]) if (a !== undefined) owners.set(a, b.container);
    const all = [...(await flows.flows(4)), ...(await flows.flows(6))];
    const hosted = this.#hosted();
    const ownerOf = (f: Flow): string | undefined =>
      hosted.get((f.mark & this.#o.marks.identity) >>> this.#o.marks.shift) ?? owners.get(f.orig.src);
    return new Set(all.map((f) => `${ownerOf(f)} ${f.reply.src}`));
  }

  /** Containers in the host's network, by the identity that marks their flows. */
  #hosted(): ReadonlyMap<number, string> {
    const members = [...(this.#o.applied.value?.subjects.values() ?? [])];
    return new Map(members.filter((m) => m.host).map((m) => [m.identity, m.id]));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    await this.#running;
  }
}
