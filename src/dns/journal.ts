/**
 * The ledger of DNS answers on disk: JSON lines, appended with a plain write before the kernel sets are changed, so that a
 * killed process leaves no address in the kernel that is not in the journal. There is no fsync: the page cache outlives the
 * process, and the kernel sets do not survive a power failure either. A compaction writes a new file and renames it.
 */

import { closeSync, fstatSync, mkdirSync, openSync, readFileSync, renameSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Logger } from '../lib/log.js';
import { ignoreMissing } from '../lib/problem.js';
import type { Fact } from './ledger.js';

type Line =
  | { readonly c: string; readonly n: string; readonly a: string; readonly u: number; readonly s: number }
  | { readonly forget: string; readonly version?: number };

export interface JournalOptions {
  readonly path: string;
  /**
   * By how much (ms) the wall clock is ahead of the clock of the facts, which no other process shares: the file has wall times. When this changes,
   * because the clock was set or the machine was suspended, the file is written again.
   */
  readonly wallAhead: () => number;
  /** The journal is compacted when it has more bytes than this and more than twice its size after the last compaction. */
  readonly maxBytes?: number;
  /** The pause after a failed write, in ms. */
  readonly retryMs?: number;
  readonly log: Logger;
}
const defaultRetryMs = 5000;
/** A smaller change of `wallAhead` (ms) is not written down: times in the file are exact to this. */
const EXACT_MS = 1000;
/** The version of the format. The first line contains it in a form that older versions ignore: no container has an empty name. */
const VERSION = 1;

export class Journal {
  readonly #options: JournalOptions;
  #fd: number | undefined;
  #closed = false;
  #bytes = 0;
  #floor = 0;
  /** `wallAhead` when the file was begun. */
  #ahead = 0;
  /** When writing began to fail, and the message of the system; undefined while it works. */
  #failure: { readonly since: number; readonly detail: string } | undefined;
  #live: () => Iterable<Fact> = () => [];

  constructor(options: JournalOptions) {
    this.#options = options;
  }

  /**
   * Reads the facts, the newest state of each fact last, and then starts a new file. Unreadable lines (a torn last line
   * after a crash) are skipped and logged. `live` returns the facts that a compaction keeps.
   */
  open(live: () => Iterable<Fact>, restore: (facts: readonly Fact[]) => void): void {
    mkdirSync(dirname(this.#options.path), { recursive: true, mode: 0o700 });
    const ahead = this.#options.wallAhead();
    restore(this.#read().map((fact) => shifted(fact, -ahead)));
    this.#live = live;
    this.#attempt(() => this.#compact());
  }

  #read(): readonly Fact[] {
    let text: string;
    try {
      text = readFileSync(this.#options.path, 'utf8');
    } catch (error) {
      return ignoreMissing(error) ?? [];
    }
    const { facts, bad, version } = replay(text);
    if (version > VERSION) {
      // Rename the file, because the compaction that follows would destroy it.
      const kept = `${this.#options.path}.newer`;
      this.#attempt(() => renameSync(this.#options.path, kept));
      this.#options.log.warn(
        { path: this.#options.path, version, known: VERSION, kept },
        'the DNS journal was written by a newer version of Drawbridge: it is not used, names are learned again',
      );
      return [];
    }
    if (bad > 0)
      this.#options.log.warn(
        { path: this.#options.path, lines: bad },
        'unreadable lines of the DNS journal were skipped',
      );
    return facts;
  }

  /** Writes facts that the ledger contains, before the kernel sets are changed. On a full disk DNS continues: the kernel still gets the addresses. */
  append(facts: readonly Fact[]): void {
    if (facts.length > 0) this.#write(facts.map((fact) => lineOf(fact, this.#ahead)).join(''));
  }

  /** Write the file again if the wall clock was set since it was begun: the times in it are those of that clock. */
  keepTime(): void {
    if (!this.#closed && this.#isOfOtherTime()) this.#attempt(() => this.#compact());
  }

  #isOfOtherTime(): boolean {
    return Math.abs(this.#options.wallAhead() - this.#ahead) > EXACT_MS;
  }

  /** Call it after the ledger has forgotten the container, because a compaction writes the facts of the ledger. */
  forget(container: string): void {
    this.#write(`${JSON.stringify({ forget: container })}\n`);
  }

  health(): { readonly ok: boolean; readonly detail: string } {
    if (this.#failure === undefined) return { ok: true, detail: `${this.#bytes} bytes` };
    return {
      ok: false,
      detail: `${this.#options.path}: ${this.#failure.detail}; free space on its file system`,
    };
  }

  #write(text: string): void {
    if (this.#closed) return;
    if (
      this.#failure !== undefined &&
      performance.now() - this.#failure.since < (this.#options.retryMs ?? defaultRetryMs)
    )
      return;
    // After a failure the file may end in half a line and lacks the facts since then: write a new one.
    const renew = this.#failure !== undefined || this.#fd === undefined || this.#isOfOtherTime();
    this.#attempt(() => {
      if (renew || this.#bytes > Math.max(this.#options.maxBytes ?? 16_777_216, 2 * this.#floor))
        this.#compact();
      else this.#put(text);
    });
  }

  #attempt(step: () => void): void {
    try {
      step();
      if (this.#failure !== undefined)
        this.#options.log.info({ path: this.#options.path }, 'the DNS journal can be written again');
      this.#failure = undefined;
    } catch (error) {
      const detail = (error as Error).message;
      if (this.#failure === undefined) {
        this.#options.log.error(
          { path: this.#options.path, detail },
          'the DNS journal cannot be written: after a restart, names since now must be resolved again',
        );
      }
      this.#failure = { since: performance.now(), detail };
    }
  }

  #put(text: string): void {
    if (this.#fd !== undefined) this.#bytes += writeAll(this.#fd, text);
  }

  /** Writes all live facts to a new file that replaces the old one. */
  #compact(): void {
    const { path } = this.#options;
    const ahead = this.#options.wallAhead();
    const fd = openSync(`${path}.new`, 'w', 0o600);
    try {
      writeAll(fd, `${JSON.stringify({ forget: '', version: VERSION })}\n`);
      for (const chunk of chunks(this.#live(), ahead)) writeAll(fd, chunk);
      renameSync(`${path}.new`, path);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
    this.#release();
    this.#fd = fd;
    this.#bytes = fstatSync(fd).size;
    this.#floor = this.#bytes;
    this.#ahead = ahead;
  }

  /** Ends writing for good. */
  close(): void {
    this.keepTime();
    this.#closed = true;
    this.#release();
  }

  #release(): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
  }
}

/** 0 stays 0: the address was never permitted. */
const shifted = (fact: Fact, ms: number): Fact => ({
  ...fact,
  until: fact.until && fact.until + ms,
  shownUntil: fact.shownUntil + ms,
});

function lineOf(fact: Fact, ahead: number): string {
  const { container: c, name: n, address: a, until: u, shownUntil: s } = shifted(fact, ahead);
  return `${JSON.stringify({ c, n, a, u, s })}\n`;
}

function* chunks(facts: Iterable<Fact>, ahead: number): Generator<string> {
  let chunk = '';
  for (const fact of facts) {
    chunk += lineOf(fact, ahead);
    if (chunk.length > 65_536) {
      yield chunk;
      chunk = '';
    }
  }
  yield chunk;
}

function writeAll(fd: number, text: string): number {
  const bytes = Buffer.from(text, 'utf8');
  let done = 0;
  while (done < bytes.length) {
    const written = writeSync(fd, bytes, done);
    if (written === 0) throw new Error('nothing written');
    done += written;
  }
  return done;
}

function parseLine(line: string): Line | undefined {
  try {
    const value = JSON.parse(line) as Record<string, unknown> | null;
    if (value === null) return undefined;
    const { c, n, a, u, s, forget, version } = value;
    if (typeof forget === 'string') return { forget, ...(typeof version === 'number' && { version }) };
    const texts = typeof c === 'string' && typeof n === 'string' && typeof a === 'string';
    return texts && typeof u === 'number' && typeof s === 'number' ? { c, n, a, u, s } : undefined;
  } catch {
    // The caller counts it.
    return undefined;
  }
}

/** Returns the facts in the order of writing, without those of containers that were forgotten later. */
export function replay(text: string): {
  readonly facts: readonly Fact[];
  readonly bad: number;
  readonly version: number;
} {
  const byContainer = new Map<string, Fact[]>();
  let [bad, version] = [0, 1];
  for (const raw of text.split('\n')) {
    if (raw === '') continue;
    const line = parseLine(raw);
    if (line === undefined) bad++;
    else if ('forget' in line) {
      byContainer.delete(line.forget);
      version = Math.max(version, line.version ?? 1);
    } else {
      const facts = byContainer.get(line.c) ?? [];
      facts.push({ container: line.c, name: line.n, address: line.a, until: line.u, shownUntil: line.s });
      byContainer.set(line.c, facts);
    }
  }
  return { facts: [...byContainer.values()].flat(), bad, version };
}
