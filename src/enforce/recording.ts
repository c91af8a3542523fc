import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { DnsService } from '../dns/dns-service.js';
import type { RuleCounts } from '../kernel/counts.js';
import type { Kernel } from '../kernel/kernel.js';
import { Repeated } from '../lib/clock.js';
import { type Current, Signal } from '../lib/current.js';
import { parseAddress, type Range, rangeHas } from '../lib/ip.js';
import { isRecord } from '../lib/json.js';
import type { Logger } from '../lib/log.js';
import { privateRangeOf } from '../lib/special-use.js';
import type { ContainerFacts } from '../policy/container.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { Subject } from '../ruleset/desired-state.js';
import { replaceFile } from '../store/state-file.js';
import { destinationOf, type Sent, type Sighting } from './destination.js';
import { Copies, parseTallies, Tallies, type TalliesState } from './tallies.js';

export interface RecordingParts {
  /** The folder that outlives a restart. */
  readonly folder: string;
  readonly applied: Pick<Current<AppliedState>, 'value'>;
  readonly dns: Pick<DnsService, 'namesReader'>;
  readonly kernel: Pick<Kernel, 'hostAddresses'>;
  readonly nat64: readonly Range[];
  readonly log: Logger;
  readonly now: () => number;
}
/** Where copies of logged packets arrive. `drain`: takes those that the kernel has sent until now. */
interface CopyLog {
  drain(): void;
}
const TICK_MS = 1_000;
/** What was counted between two savings is forgotten when the host loses its power. */
const SAVE_MS = 5_000;

/** What is counted of each container, kept in the state folder, and how an entry would name where its packets go. */
export class Recording implements AsyncDisposable {
  readonly tallies = new Tallies();
  /** Refused packets of which no copy has come: the limit of the log has left them out, or the kernel had no room for the copy. */
  readonly notLogged = new Signal<number>();
  /** Of refused packets, whatever refused them. */
  readonly refused = new Copies();
  readonly #o: RecordingParts;
  readonly #file: string;
  #savedAt = 0;
  #saved = 0;
  #log: CopyLog | undefined;
  #isWarned = false;
  #stopped = false;
  readonly #ticks = new Repeated('the counts of containers are not saved yet', TICK_MS, () => this.#tick());
  #saving: Promise<void> = Promise.resolve();

  constructor(options: RecordingParts) {
    this.#o = options;
    this.#file = join(options.folder, 'observed.json');
    this.tallies.restore(readTallies(this.#file, options.log));
  }

  begin(log: CopyLog): void {
    this.#log = log;
    this.#ticks.begin();
  }

  /** Counters of rules, as they were at `at` (ms since the epoch). */
  counted({ own, refused }: RuleCounts, at: number): void {
    this.#log?.drain();
    const lost = this.refused.read(refused, at);
    if (lost > 0) this.notLogged.emit(lost);
    // What passed is recorded from conntrack, whether or not a copy of it has come.
    for (const [id, missing] of this.tallies.read(own, at))
      if (this.#o.applied.value?.subjects.get(id)?.policy.mode !== 'observe') this.tallies.deny(id, missing);
  }

  /**
   * The destination as an entry would name it. `names`: those of its address, where they are known better than now. A name for which only a
   * resolver of the container gave the address permits nothing there.
   */
  describe(
    member: Subject,
    self: ContainerFacts,
    sent: Omit<Sent, 'names'>,
    names?: Sent['names'],
  ): Sighting {
    const resolved = this.#o.dns.namesReader(self.id)(sent.address);
    const { kernel, applied } = this.#o;
    const isHost = (a: string): boolean =>
      kernel.hostAddresses().has(a) || (member.host !== undefined && (a.startsWith('127.') || a === '::1'));
    const view = applied.value?.view ?? { containers: new Map(), networks: new Map() };
    const around = { view: view as AppliedState['view'], self, isHost, isPrivate: this.#isPrivate };
    return destinationOf({ ...sent, names: names ?? (resolved.isOwn ? [] : resolved.names) }, around);
  }

  retain(containers: Pick<ReadonlySet<string>, 'has'>): void {
    this.tallies.retain(containers);
  }

  readonly #isPrivate = (address: string): boolean => {
    const parsed = parseAddress(address);
    const inside = this.#o.applied.value?.input.inside ?? [];
    if (!parsed) return false;
    return privateRangeOf(parsed, this.#o.nat64) !== undefined || inside.some((r) => rangeHas(r, parsed));
  };

  #tick(): void {
    const since = this.#o.now() - this.#savedAt;
    if (this.tallies.version !== this.#saved && (since >= SAVE_MS || since < 0))
      this.#saving = this.#saving.then(() => this.#save());
  }

  /** Memory keeps what the disk does not take. */
  async #save(): Promise<void> {
    this.#savedAt = this.#o.now();
    const saved = this.tallies.version;
    try {
      const text = JSON.stringify({ version: VERSION, tallies: this.tallies.snapshot() });
      await replaceFile(this.#file, [Buffer.from(text)]);
      this.#saved = saved;
      this.#isWarned = false;
    } catch (e) {
      if (!this.#isWarned)
        this.#o.log.warn(
          { file: this.#file, err: String(e) },
          'the counts of containers cannot be written: they are kept in memory until they can',
        );
      this.#isWarned = true;
    }
  }

  /** The last save contains the end. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    await this.#ticks[Symbol.asyncDispose]();
    await this.#saving;
    await this.#save();
  }
}

/** Returns nothing when there is no file that can be used: counting begins again then. */
function readTallies(file: string, log: Logger): TalliesState {
  try {
    return parseCounts(readFileSync(file, 'utf8'));
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code !== 'ENOENT')
      log.error({ file, err: String(e) }, 'the counts of containers cannot be used: they begin again now');
    return {};
  }
}

const VERSION = 1;

/** The file of counts. Throws where it is none of this version. A container that cannot be read is left out. */
export function parseCounts(text: string): TalliesState {
  const file: unknown = JSON.parse(text);
  if (!isRecord(file) || file.version !== VERSION)
    throw new Error(`it is no file of counts that this version reads (version ${VERSION})`);
  return parseTallies(file.tallies);
}
