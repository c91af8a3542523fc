import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { DnsService } from '../dns/dns-service.js';
import type { RuleCounts } from '../kernel/counts.js';
import type { Kernel } from '../kernel/kernel.js';
import { atNext } from '../lib/async.js';
import { type Current, Signal } from '../lib/current.js';
import { parseAddress, type Range, rangeHas } from '../lib/ip.js';
import type { Logger } from '../lib/log.js';
import { privateRangeOf } from '../lib/special-use.js';
import type { ContainerFacts } from '../policy/container.js';
import { ownerKey } from '../policy/own-labels.js';
import type { Policy } from '../policy/policy.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { Subject } from '../ruleset/desired-state.js';
import { replaceFile } from '../store/state-file.js';
import { askedName, destinationOf, type Sent } from './destination.js';
import {
  type Evaluated,
  evaluatedReason,
  evaluationKey,
  NOT_OBSERVED,
  RecordedFlows,
  type RecordedPeriod,
  type RecordedRow,
  type RecordedState,
  type Sighting,
} from './recorded.js';
import { Copies, parseTallies, Tallies, type TalliesState } from './tallies.js';

export interface RecordingParts {
  /** The folder that outlives a restart. */
  readonly folder: string;
  readonly applied: Pick<Current<AppliedState>, 'value'>;
  /** The names of an address as the container resolved it, the most recent first. */
  readonly dns: Pick<DnsService, 'namesFor'>;
  readonly kernel: Pick<Kernel, 'hostAddresses'>;
  readonly nat64: readonly Range[];
  readonly log: Logger;
  readonly now: () => number;
}
/** Where copies of logged packets arrive. `drain`: takes those that the kernel has sent until now. */
interface CopyLog {
  drain(): void;
}
interface Found {
  readonly member: Subject;
  readonly facts: ContainerFacts;
}
/** A packet that passed only because its container is observed. */
interface PassedPacket extends Pick<Sent, 'address' | 'port' | 'proto'> {
  readonly container: string;
}
const TICK_MS = 1_000;
/** What was recorded between two savings is forgotten when the host loses its power. */
const SAVE_MS = 5_000;
/** The file shows at most this late that recording went on. */
const ALIVE_MS = 60_000;
const DNS_PORT = 53;

/** Of running containers, in one state: the keys of the records that are written, and the others with the reason. */
interface Owners {
  readonly of: AppliedState;
  readonly observed: ReadonlyMap<string, Evaluated | undefined>;
  readonly others: ReadonlyMap<string, string>;
}

/** The evaluation of a candidate list that the container is recorded for; undefined: its own policy counts. */
function evaluationOf(facts: ContainerFacts, { against }: Pick<Policy, 'against'>): Evaluated | undefined {
  return against && { owner: ownerKey(facts), ...against };
}

/** The key of the record of a container. */
export function recordKey(facts: ContainerFacts, policy: Pick<Policy, 'against'>): string {
  const evaluated = evaluationOf(facts, policy);
  return evaluated ? evaluationKey(evaluated) : ownerKey(facts);
}

/** What observed containers do that enforce would deny, kept in the state folder. */
export class Recording implements AsyncDisposable {
  readonly flows: RecordedFlows;
  readonly tallies = new Tallies();
  /** Refused packets of which no copy has come: the limit of the log has left them out, or the kernel had no room for the copy. */
  readonly notLogged = new Signal<number>();
  /** Of refused packets, whatever refused them. */
  readonly refused = new Copies();
  readonly #o: RecordingParts;
  readonly #file: string;
  #savedAt = 0;
  #saved = '';
  #owners: Owners | undefined;
  #log: CopyLog | undefined;
  #isRead = false;
  #isWarned = false;
  #stopped = false;
  #timer: Disposable | undefined;
  #saving: Promise<void> = Promise.resolve();

  constructor(options: RecordingParts) {
    this.#o = options;
    this.#file = join(options.folder, 'observed.json');
    this.flows = new RecordedFlows(options.now);
    const kept = readRecord(this.#file, options.log);
    if (kept.record) this.flows.restore(kept.record);
    if (kept.tallies) this.tallies.restore(kept.tallies);
  }

  begin(log: CopyLog): void {
    this.#log = log;
    this.#tick();
  }

  /** Counters of rules, as they were at `at` (ms since the epoch). */
  counted({ own, refused }: RuleCounts, at: number): void {
    this.#log?.drain();
    const lost = this.refused.read(refused, at);
    if (lost > 0) this.notLogged.emit(lost);
    for (const [id, missing] of this.tallies.read(own, at)) {
      const found = this.#find(id);
      if (found?.member.policy.mode !== 'observe') this.tallies.deny(id, missing);
      // what came while the service was away is in a gap of the record
      else if (this.#isRead) this.flows.drop(recordKey(found.facts, found.member.policy), missing);
    }
    this.#isRead = true;
  }

  /** The container was observed, so it passed. */
  passed({ container, address, port, proto }: PassedPacket): void {
    const found = this.#find(container);
    // port 53 of an enforced container leads to Drawbridge, which answers what is permitted
    if (!found || (port === DNS_PORT && (proto === 'udp' || proto === 'tcp'))) return;
    this.#add(found, this.describe(found.member, found.facts, { address, port, proto }));
  }

  /** A name that enforce would not answer. */
  asked(container: string, name: string): void {
    const found = this.#find(container);
    if (found) this.#add(found, askedName(name));
  }

  /** The destination as an entry would name it. `names`: those of its address, where they are known better than now. */
  describe(
    member: Subject,
    self: ContainerFacts,
    sent: Omit<Sent, 'names'>,
    names: Sent['names'] = this.#o.dns.namesFor(self.id, sent.address),
  ): Sighting {
    const { kernel, applied } = this.#o;
    const isHost = (a: string): boolean =>
      kernel.hostAddresses().has(a) || (member.host !== undefined && (a.startsWith('127.') || a === '::1'));
    const view = applied.value?.view ?? { containers: new Map(), networks: new Map() };
    const around = { view: view as AppliedState['view'], self, isHost, isPrivate: this.#isPrivate };
    return destinationOf({ ...sent, names }, around);
  }

  retain(containers: Pick<ReadonlySet<string>, 'has'>): void {
    this.tallies.retain(containers);
  }

  rows(key: string): readonly RecordedRow[] {
    return this.flows.rows(key);
  }

  period(key: string): RecordedPeriod {
    this.#watch();
    return this.flows.period(key);
  }

  #find(id: string): Found | undefined {
    const state = this.#o.applied.value;
    const member = state?.subjects.get(id);
    const facts = state?.view.containers.get(id);
    return member && facts ? { member, facts } : undefined;
  }

  readonly #isPrivate = (address: string): boolean => {
    const parsed = parseAddress(address);
    const inside = this.#o.applied.value?.input.inside ?? [];
    if (!parsed) return false;
    return privateRangeOf(parsed, this.#o.nat64) !== undefined || inside.some((r) => rangeHas(r, parsed));
  };

  #add({ facts, member }: Found, sighting: Sighting): void {
    const key = recordKey(facts, member.policy);
    this.flows.watch(new Map([[key, evaluationOf(facts, member.policy)]]), new Map());
    this.flows.add(key, sighting);
  }

  /** The owners of a state are found once: nothing but its view and the policies of its subjects tells them. */
  #ownersOf(state: AppliedState): Owners {
    if (this.#owners?.of === state) return this.#owners;
    const observed = new Map<string, Evaluated | undefined>();
    const others = new Map<string, string>();
    for (const c of state.view.containers.values()) {
      if (c.state === 'exited' || c.state === 'created' || c.sharesWith !== undefined) continue;
      const policy = state.subjects.get(c.id)?.policy;
      const evaluated = policy && evaluationOf(c, policy);
      const isRecorded = policy?.mode === 'observe';
      if (evaluated) others.set(ownerKey(c), isRecorded ? evaluatedReason(evaluated.list) : NOT_OBSERVED);
      const key = evaluated ? evaluationKey(evaluated) : ownerKey(c);
      if (isRecorded) observed.set(key, evaluated);
      else others.set(key, NOT_OBSERVED);
    }
    this.#owners = { of: state, observed, others };
    return this.#owners;
  }

  #watch(): void {
    const state = this.#o.applied.value;
    if (!state) return;
    const { observed, others } = this.#ownersOf(state);
    this.flows.watch(observed, others);
  }

  #tick(): void {
    this.#watch();
    const since = this.#o.now() - this.#savedAt;
    const isNew = this.#version() !== this.#saved;
    if ((isNew && since >= SAVE_MS) || since >= ALIVE_MS || since < 0)
      this.#saving = this.#saving.then(() => this.#save());
    if (!this.#stopped) this.#timer = atNext(TICK_MS, () => this.#tick());
  }

  #version(): string {
    return `${this.flows.version} ${this.tallies.version}`;
  }

  /** Memory keeps what the disk does not take. */
  async #save(): Promise<void> {
    this.#savedAt = this.#o.now();
    const saved = this.#version();
    const tallies = this.tallies.snapshot();
    try {
      const text = JSON.stringify({ version: 1, ...this.flows.snapshot(), tallies });
      await replaceFile(this.#file, [Buffer.from(text)]);
      this.#saved = saved;
      this.#isWarned = false;
    } catch (e) {
      if (!this.#isWarned)
        this.#o.log.warn(
          { file: this.#file, err: String(e) },
          'the record of observed containers cannot be written: it is kept in memory until it can',
        );
      this.#isWarned = true;
    }
  }

  /** The last save contains the end of the recording. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#timer?.[Symbol.dispose]();
    this.#watch();
    await this.#saving;
    await this.#save();
  }
}

/** Returns no record when there is none that can be used. Recording begins again then, and the preview shows since when. */
function readRecord(file: string, log: Logger): ReturnType<typeof parseRecord> {
  try {
    const parsed = parseRecord(readFileSync(file, 'utf8'));
    const { problem } = parsed;
    if (problem !== undefined)
      log.error(
        { file, err: problem },
        'the record of observed containers cannot be used: it begins again now',
      );
    return parsed;
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code !== 'ENOENT')
      log.error(
        { file, err: String(e) },
        'the record of observed containers cannot be read: it begins again now',
      );
    return {};
  }
}

const VERSION = 1;
const KINDS: readonly unknown[] = ['name', 'address', 'neighbour', 'host', 'published'];

interface Parsed {
  readonly record?: RecordedState;
  readonly tallies?: TalliesState;
  /** Why the file, or a part of it, is not used. */
  readonly problem?: string;
}

/** The file of recorded flows. A file of another version is not read; an owner that cannot be read is left out and reported. */
export function parseRecord(text: string): Parsed {
  let file: unknown;
  try {
    file = JSON.parse(text);
  } catch (e) {
    return { problem: `it is not JSON: ${e instanceof Error ? e.message : String(e)}` };
  }
  if (!isObject(file) || !isTime(file.at) || !isObject(file.owners))
    return { problem: 'it is not a record of observed containers' };
  if (file.version !== VERSION)
    return { problem: `it has version ${String(file.version)}; this version reads ${VERSION}` };
  const all = Object.entries(file.owners);
  const good = all.filter(([, owner]) => isOwner(owner));
  const problem =
    good.length === all.length
      ? {}
      : { problem: `${all.length - good.length} of ${all.length} owners are damaged` };
  const record = { at: file.at, owners: Object.fromEntries(good) as RecordedState['owners'] };
  return { record, tallies: parseTallies(file.tallies), ...problem };
}

type Fields = Readonly<Record<string, unknown>>;
const isObject = (x: unknown): x is Fields => typeof x === 'object' && x !== null && !Array.isArray(x);
const isCount = (x: unknown): x is number => Number.isSafeInteger(x) && (x as number) >= 0;
/** Date.prototype.toISOString throws beyond this. */
const MAX_TIME = 8.64e15;
const isTime = (x: unknown): x is number => isCount(x) && x <= MAX_TIME;
const isText = (x: unknown): boolean => typeof x === 'string';
const isTextOrNull = (x: unknown): boolean => x === null || isText(x);

function isOwner(x: unknown): boolean {
  if (!isObject(x)) return false;
  const { since, seen, pause, gaps, dropped, rows, evaluated } = x;
  return (
    isTime(since) &&
    isTime(seen) &&
    (pause === undefined || isText(pause)) &&
    (evaluated === undefined || isEvaluated(evaluated)) &&
    isCount(dropped) &&
    Array.isArray(gaps) &&
    gaps.every((g) => isObject(g) && isTime(g.from) && isTime(g.to) && isText(g.reason)) &&
    Array.isArray(rows) &&
    rows.every(isRow)
  );
}

const isEvaluated = (x: unknown): boolean => isObject(x) && [x.owner, x.list, x.since].every(isText);

function isRow(x: unknown): x is RecordedRow {
  if (!isObject(x)) return false;
  return (
    isTextOrNull(x.entry) &&
    KINDS.includes(x.kind) &&
    isTextOrNull(x.name) &&
    isTextOrNull(x.resolved) &&
    isText(x.address) &&
    isText(x.proto) &&
    [x.port, x.count].every(isCount) &&
    [x.first, x.last].every(isTime)
  );
}
