/** Which container has passed what to where: records of flows, with the name and the entry of each. */

import type { Worker } from 'node:worker_threads';
import { MOST_FLOWS, PROTOCOLS, type VerifiedNames } from '../connections/verified-names.js';
import type { DnsService } from '../dns/dns-service.js';
import type { ResolvedNames } from '../dns/ledger.js';
import type { NeighbourChanges } from '../enforce/neighbour-changes.js';
import type { Kernel } from '../kernel/kernel.js';
import { beginAccounting } from '../kernel/netlink/conntrack.js';
import { filterNetwork } from '../kernel/netlink/conntrack-codec.js';
import type { Senders } from '../kernel/netlink/flow-accounting.js';
import { type Current, Signal } from '../lib/current.js';
import { guarded } from '../lib/faults.js';
import { PROTOCOL_NAMES } from '../lib/ip.js';
import type { Logger } from '../lib/log.js';
import { errorText } from '../lib/problem.js';
import { startThread } from '../lib/thread.js';
import type { DockerView } from '../policy/container.js';
import { idKey, ownerKey } from '../policy/own-labels.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import { CANARY_ID } from '../ruleset/canary-subject.js';
import {
  type KernelConfig,
  type Subject,
  UNATTRIBUTED_ID,
  unattributedSubject,
} from '../ruleset/desired-state.js';
import { HOST_RESOLVERS } from '../ruleset/host-net.js';
import { identityMark, UNATTRIBUTED } from '../ruleset/marks.js';
import { type FlowGap, FREE_NEIGHBOUR, findPermit, type Permit, type SeenFlow } from './flow-record.js';
import { NO_SENDER, octetsOf, type PassedFlow } from './flow-tally.js';
import type { PassedBatch, PassedRequest } from './passed-thread.js';

/**
 * Connections of one container to one destination, within a second. `id`: `unattributed` of senders in managed networks that are no container.
 * `verdict`: 'would-deny' where only the mode lets it pass. `packets`, `bytes`: of both directions, with the headers of IP. `count`: connections
 * that are new; 0: more of those that were recorded before, or that are older than the record.
 */
export type PassedContact = Required<SeenFlow>;

export interface PassedFlowsParts {
  readonly folder: string;
  readonly shape: Pick<KernelConfig, 'marks' | 'dns'>;
  readonly kernel: Pick<Kernel, 'hostAddresses'>;
  readonly applied: Pick<Current<AppliedState>, 'value' | 'subscribe'>;
  readonly docker: { view(): Pick<DockerView, 'containers'> };
  readonly dns: Pick<DnsService, 'namesReader'>;
  readonly departing: Pick<Signal<string>, 'subscribe'>;
  readonly verified: Pick<VerifiedNames, 'namesOf'>;
  readonly neighbours: Pick<NeighbourChanges, 'neighbourAt' | 'wasFree'>;
  readonly log: Pick<Logger, 'warn' | 'error'>;
  readonly dumpMs?: number;
  readonly start?: typeof startThread;
  /** ms since the epoch. */
  readonly now?: () => number;
}

const [DUMP_MS, RESTART_MS, LAST_BATCH_MS] = [10_000, 10_000, 1_000];
/** A reader waits for what is older, and so long at most: a large table is read less often. */
const [FRESH_MS, SETTLE_MS] = [1_000, 1_000];
/** Ends of flows are reported late, when their container may be gone. */
const KEPT_MS = 60_000;
/** Of one subject. */
const MOST_PERMITS = 4_096;

interface Sender {
  readonly number: number;
  readonly id: string;
  name: string;
  owner: string;
  subject: Subject | undefined;
  /** ms since the epoch; undefined: it exists. */
  gone?: number;
  /** Of a container that is gone. */
  namesOf?: ReturnType<DnsService['namesReader']>;
}

/** Records what passes, off the main thread. */
export class PassedFlows implements AsyncDisposable {
  /** Records of the last second. */
  readonly recorded = new Signal<readonly PassedContact[]>();
  /** The time (ms since the epoch) until which connections are recorded, after the records themselves. */
  readonly recordedUntil = new Signal<number>();
  /** Flows that no record will have: the kernel could not report their ends, there were too many at once, or their container is not known. */
  readonly missed = new Signal<number>();
  /** Connections were not read from then on. */
  readonly interrupted = new Signal<FlowGap>();
  /** Why records are missing now; undefined: none are. */
  warning: string | undefined;
  readonly #o: PassedFlowsParts;
  readonly #now: () => number;
  readonly #byId = new Map<string, Sender>();
  readonly #byNumber = new Map<number, Sender>();
  readonly #permits = new WeakMap<Subject, Map<string, Permit>>();
  /** Addresses stay with a container that is gone until another one has them. */
  readonly #addresses = new Map<string, number>();
  #places: object | undefined;
  #worker: Worker | undefined;
  #subscriptions: readonly Disposable[] = [];
  #restart: NodeJS.Timeout | undefined;
  #isEnding = false;
  /** Of the thread that runs. */
  #missed = 0;
  #until: number | undefined;
  /** What ended since then was not read, and is in no gap of the record yet. */
  #unreadFrom: number | undefined;
  #settling: Promise<void> | undefined;
  /** Number of the newest sender. */
  #last = 0;

  constructor(parts: PassedFlowsParts) {
    this.#o = parts;
    this.#now = parts.now ?? Date.now;
  }

  /** Call it when the service is ready: it takes a thread, and the first read of the conntrack table. */
  begin(): void {
    if (this.#isEnding) return;
    try {
      beginAccounting(this.#o.folder);
    } catch (e) {
      this.#o.log.warn(
        { err: String(e) },
        'cannot set the sysctl net.netfilter.nf_conntrack_acct to 1: records of connections have no packets and bytes; set it on the host',
      );
    }
    this.#start();
    this.#subscriptions = [
      this.#o.applied.subscribe((state) => this.#refresh(state)),
      this.#o.departing.subscribe((id) => {
        const sender = this.#byId.get(id);
        if (sender) sender.namesOf = this.#o.dns.namesReader(id);
      }),
    ];
  }

  /** Asks for the connections that are open now, and resolves when they are recorded. Not for ever: a busy host reads them later. */
  settled(): Promise<void> {
    const isFresh = this.#until === undefined || this.#now() - this.#until < FRESH_MS;
    if (!this.#worker || isFresh) return Promise.resolve();
    this.#worker.postMessage({ read: true } satisfies PassedRequest);
    this.#settling ??= new Promise<void>((resolve) => {
      const done = (): void => {
        clearTimeout(late);
        subscription[Symbol.dispose]();
        this.#settling = undefined;
        resolve();
      };
      const subscription = this.recordedUntil.subscribe(done);
      const late = setTimeout(done, SETTLE_MS);
    });
    return this.#settling;
  }

  /** Takes what was recorded until now. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isEnding = true;
    clearTimeout(this.#restart);
    this.#interrupt(this.#now());
    for (const subscription of this.#subscriptions) subscription[Symbol.dispose]();
    const worker = this.#worker;
    if (!worker) return;
    await new Promise<void>((resolve) => {
      const late = setTimeout(resolve, LAST_BATCH_MS);
      const done = (): void => {
        clearTimeout(late);
        resolve();
      };
      worker.on('message', (report: unknown) => report === 'ended' && done());
      worker.once('exit', done);
      worker.postMessage({ end: true } satisfies PassedRequest);
    });
    await worker.terminate();
  }

  #start(): void {
    const { marks, dns } = this.#o.shape;
    const servers = [dns.v4, dns.v6].map(octetsOf);
    let worker: Worker;
    try {
      worker = (this.#o.start ?? startThread)(new URL('./passed-thread.js', import.meta.url));
    } catch (e) {
      this.#failed(e);
      return;
    }
    this.#worker = worker;
    worker.unref();
    worker.on('message', (batch: PassedBatch | 'ended') => {
      if (batch !== 'ended') guarded('connections are not recorded', () => this.take(batch));
    });
    worker.once('error', (e) => this.#failed(e));
    worker.once('exit', () => this.#worker === worker && this.#failed(new Error('the thread has ended')));
    const options = {
      dumpMs: this.#o.dumpMs ?? DUMP_MS,
      notTo: dns.v4,
      mostOpen: MOST_FLOWS,
      servers: [
        ...servers,
        ...HOST_RESOLVERS.map(({ address, octets }) => octetsOf(address).slice(0, octets)),
      ],
      ...(marks.check ? { check: { mask: marks.check.mask, open: marks.check.open } } : {}),
    };
    worker.postMessage({ begin: options } satisfies PassedRequest);
    this.#places = undefined;
    const { value } = this.#o.applied;
    if (value) this.#refresh(value);
  }

  #failed(e: unknown): void {
    this.#worker = undefined;
    if (this.#isEnding) return;
    const why = errorText(e);
    this.warning = `connections are not recorded: ${why}`;
    this.#missed = 0;
    this.#unreadFrom ??= this.#until;
    this.#interrupt(this.#now());
    if (this.#restart) return;
    this.#o.log.error(
      { err: why },
      'connections are not recorded: the thread that reads them is started again',
    );
    this.#restart = setTimeout(() => {
      this.#restart = undefined;
      this.#start();
    }, RESTART_MS).unref();
  }

  /** The gap is in the record as it grows: the service may end before the thread reads again. */
  #interrupt(to: number): void {
    const from = this.#unreadFrom;
    if (from === undefined || from >= to) return;
    this.interrupted.emit({ from, to, reason: UNREAD });
    this.#unreadFrom = to;
  }

  /** Posts which sender has which address and mark. */
  #refresh(state: AppliedState): void {
    const before = this.#places;
    this.#places = state.places;
    if (before === state.places || !this.#worker) return;
    this.#worker.postMessage({ senders: this.sendersOf(state) } satisfies PassedRequest);
  }

  /** The senders of the applied state, with those that are gone for as long as their flows may be reported. */
  sendersOf({ vethMap, input, subjects }: AppliedState): Senders {
    const { marks } = this.#o.shape;
    const now = this.#now();
    const bound = new Set<string>();
    for (const { container, ip4, ip6 } of vethMap.bindings.values()) {
      const sender = this.#senderOf(subjects.get(container), container);
      for (const address of [ip4, ip6]) {
        if (address === undefined) continue;
        bound.add(octetsOf(address));
        this.#addresses.set(octetsOf(address), sender.number);
      }
    }
    const byMark = [...subjects.values()].flatMap((subject) => {
      const sender = this.#senderOf(subject, subject.id);
      return subject.host ? [[identityMark(marks, subject.identity), sender.number] as const] : [];
    });
    const others = this.#senderOf(unattributedSubject(input), UNATTRIBUTED_ID);
    const known = new Set([...subjects.keys(), ...[...vethMap.bindings.values()].map((b) => b.container)]);
    this.#forget(known.add(UNATTRIBUTED_ID), bound, now);
    const own = [...this.#o.kernel.hostAddresses()].map((a) => [octetsOf(a), NO_SENDER] as const);
    const subnets = input.bridges.flatMap((b) => b.subnets ?? []);
    return {
      addresses: new Map([...this.#addresses, ...own]),
      marks: new Map([...byMark, [identityMark(marks, UNATTRIBUTED), others.number]]),
      mask: marks.identity,
      networks: subnets.flatMap((text) => filterNetwork(text) ?? []),
      others: others.number,
    };
  }

  #senderOf(subject: Subject | undefined, id: string): Sender {
    const facts = this.#o.docker.view().containers.get(id);
    const known = this.#byId.get(id);
    const sender = known ?? { number: ++this.#last, id, name: id, owner: idKey(id), subject };
    if (!known) {
      this.#byId.set(id, sender);
      this.#byNumber.set(sender.number, sender);
    }
    if (subject) sender.subject = subject;
    if (facts) Object.assign(sender, { name: facts.name, owner: ownerKey(facts) });
    delete sender.gone;
    return sender;
  }

  #forget(known: ReadonlySet<string>, bound: ReadonlySet<string>, now: number): void {
    for (const sender of this.#byId.values()) {
      if (known.has(sender.id)) continue;
      sender.gone ??= now;
      if (now - sender.gone <= KEPT_MS) continue;
      this.#byId.delete(sender.id);
      this.#byNumber.delete(sender.number);
    }
    for (const [address, number] of this.#addresses)
      if (!bound.has(address) && !this.#byNumber.has(number)) this.#addresses.delete(address);
  }

  /** Emits what the thread has reported, with names and entries. */
  take({ flows, lost, dropped, malformed, error, until }: PassedBatch): void {
    let missed = lost + dropped + malformed - this.#missed;
    this.#missed += missed;
    if (error !== undefined) this.#unreadable(error);
    const contacts = new Map<string, PassedContact>();
    for (const flow of flows) if (!this.#join(flow, contacts)) missed += Math.max(1, flow.connections);
    try {
      if (contacts.size > 0) this.recorded.emit([...contacts.values()].map((c) => this.#toNeighbour(c)));
    } catch (e) {
      // Some of them may be recorded: none is known to be.
      for (const { count } of contacts.values()) missed += Math.max(1, count);
      throw e;
    } finally {
      if (missed > 0) this.missed.emit(missed);
      if (until !== undefined && until !== this.#until) this.#complete(until);
    }
  }

  #unreadable(error: string): void {
    const warning = `open connections are recorded only when they end: ${error}`;
    if (warning !== this.warning)
      this.#o.log.warn({ err: error }, 'open connections could not be read: they are recorded when they end');
    this.warning = warning;
  }

  #complete(until: number): void {
    this.#until = until;
    this.warning = undefined;
    this.#interrupt(until);
    this.#unreadFrom = undefined;
    this.recordedUntil.emit(until);
  }

  /** Returns false if its container is not known any more. */
  #join(flow: PassedFlow, contacts: Map<string, PassedContact>): boolean {
    const sender = this.#byNumber.get(flow.sender);
    if (!sender) return false;
    if (sender.id === CANARY_ID) return true;
    const proto = PROTOCOL_NAMES[flow.proto] ?? String(flow.proto);
    const subject = this.#o.applied.value?.subjects.get(sender.id) ?? sender.subject;
    const permit = this.#permit(subject, flow, proto, this.#namesOf(sender, flow));
    const key = `${sender.number} ${proto} ${flow.dst} ${flow.dport} ${permit.name} ${permit.entry}`;
    const { packets, bytes, connections, first, last } = flow;
    const same = contacts.get(key);
    contacts.set(key, {
      ...{ id: sender.id, container: sender.name, owner: sender.owner, proto },
      ...{ address: flow.dst, port: flow.dport, feed: null, ...permit },
      packets: packets + (same?.packets ?? 0),
      bytes: bytes + (same?.bytes ?? 0),
      count: connections + (same?.count ?? 0),
      time: Math.min(first, same?.time ?? first),
      last: Math.max(last, same?.last ?? last),
    });
    return true;
  }

  /** A neighbour is its service, whatever its address is by now. Conntrack reports some connections when their neighbour has been replaced. */
  #toNeighbour(contact: PassedContact): PassedContact {
    const { id, time, address, name, verdict } = contact;
    const { neighbours } = this.#o;
    const isFree = verdict === 'would-deny' && neighbours.wasFree(id, contact);
    return {
      ...contact,
      name: name ?? neighbours.neighbourAt(id, address, time) ?? null,
      ...(isFree && { verdict: 'allow', reason: FREE_NEIGHBOUR }),
    };
  }

  /** The names that a connection was permitted for; otherwise those that resolved to the address for this container. */
  #namesOf(sender: Sender, { proto: number, src, sport, dst, dport }: PassedFlow): ResolvedNames {
    const proto = PROTOCOLS[number];
    const resolved = (): ResolvedNames => (sender.namesOf ?? this.#o.dns.namesReader(sender.id))(dst);
    if (sport === undefined || !proto) return resolved();
    const ends = { proto, source: src, sourcePort: sport, address: dst, port: dport };
    const names = this.#o.verified.namesOf(ends);
    return names.length > 0 ? { names, isOwn: false } : resolved();
  }

  #permit(subject: Subject | undefined, flow: PassedFlow, proto: string, resolved: ResolvedNames): Permit {
    const { names, isOwn } = resolved;
    const [name = null] = names;
    if (!subject)
      return {
        ...{ name, entry: null, list: null, verdict: 'allow' },
        reason: 'it passed: the sender is no container',
      };
    const known = this.#permits.get(subject) ?? new Map<string, Permit>();
    this.#permits.set(subject, known);
    const key = `${proto} ${flow.dport} ${flow.dst} ${flow.to ?? ''} ${isOwn} ${names.join(' ')}`;
    const permit = known.get(key) ?? findPermit(subject, flow, proto, resolved, this.#isHost(flow.dst));
    if (known.size >= MOST_PERMITS) known.clear();
    known.set(key, permit);
    return permit;
  }

  #isHost(address: string): boolean {
    return this.#o.kernel.hostAddresses().has(address) || address.startsWith('127.') || address === '::1';
  }
}

const UNREAD = 'connections were not read: the thread that reads them had ended';
