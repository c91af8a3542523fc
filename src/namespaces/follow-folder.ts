import { existsSync, type FSWatcher, readdirSync, statSync, watch } from 'node:fs';
import { basename, join } from 'node:path';
import { errorCode } from '../lib/problem.js';

export interface FollowOptions {
  /** Called with the name of every entry that appears in the folder or leaves it. */
  readonly onEntry: (name: string) => void;
  /** The folder itself was removed: it is not followed any longer. */
  readonly onGone: () => void;
  /** The folder is polled from now on, or watched again. */
  readonly onPolling: (isPolling: boolean) => void;
  /** Interval (ms) at which the folder is read while the kernel cannot watch it. */
  readonly pollMs?: number;
  /** The function of node:fs, or a double. */
  readonly watch?: typeof watch;
  /** Interval (ms) at which watching a polled folder is tried again. */
  readonly retryMs?: number;
}

/** The kernel has no inotify instance (or no watch) left for this user, or no file descriptor for one. */
const EXHAUSTED = new Set(['EMFILE', 'ENFILE', 'ENOSPC', 'ENOMEM']);
/** The first instruction of a container runs some 90 ms after its entry has appeared. */
const POLL_MS = 5;
/** The kernel stamps a folder with the time of its last tick: until this has passed, another entry may have the same stamp. */
const TICK_MS = 20;
const RETRY_MS = 10_000;

/** Follows the entries of a folder: by inotify, and by reading it again and again where inotify is exhausted. Throws when it cannot be read. */
export class FolderFollower implements Disposable {
  readonly #folder: string;
  readonly #o: FollowOptions;
  #watcher: FSWatcher | undefined;
  #timer: NodeJS.Timeout | undefined;
  #names: ReadonlySet<string> = new Set();
  #mtime = 0;
  #retryAt = 0;
  #ended = false;

  constructor(folder: string, options: FollowOptions) {
    this.#folder = folder;
    this.#o = options;
    if (this.#watch()) return;
    this.#names = new Set(readdirSync(folder));
    this.#mtime = statSync(folder).mtimeMs;
    options.onPolling(true);
    this.#again();
  }

  [Symbol.dispose](): void {
    this.#ended = true;
    clearTimeout(this.#timer);
    if (!this.#watcher) this.#o.onPolling(false);
    this.#watcher?.close();
  }

  /** Returns false when inotify is exhausted. */
  #watch(): boolean {
    this.#retryAt = performance.now() + (this.#o.retryMs ?? RETRY_MS);
    try {
      this.#watcher = (this.#o.watch ?? watch)(this.#folder, { persistent: false }, (event, name) => {
        if (event !== 'rename' || name === null) return;
        // inotify reports the end of the folder itself under its own name
        if (name === basename(this.#folder) && !existsSync(join(this.#folder, name))) this.#gone();
        else this.#o.onEntry(name);
      });
      this.#watcher.on('error', () => this.#gone());
      return true;
    } catch (e) {
      if (EXHAUSTED.has(errorCode(e) ?? '')) return false;
      throw e;
    }
  }

  #gone(): void {
    if (this.#ended) return;
    this[Symbol.dispose]();
    this.#o.onGone();
  }

  #again(): void {
    this.#timer = setTimeout(() => this.#poll(), this.#o.pollMs ?? POLL_MS).unref();
  }

  #poll(): void {
    try {
      const { mtimeMs } = statSync(this.#folder);
      const mayDiffer = mtimeMs !== this.#mtime || Date.now() - mtimeMs < TICK_MS;
      this.#mtime = mtimeMs;
      if (mayDiffer) this.#compare(new Set(readdirSync(this.#folder)));
      if (performance.now() >= this.#retryAt && this.#watch()) {
        this.#o.onPolling(false);
        this.#compare(new Set(readdirSync(this.#folder)));
        return;
      }
    } catch {
      this.#gone(); // it cannot be read any more
      return;
    }
    if (!this.#ended) this.#again();
  }

  #compare(names: ReadonlySet<string>): void {
    const before = this.#names;
    this.#names = names;
    for (const name of names) if (!before.has(name)) this.#o.onEntry(name);
    for (const name of before) if (!names.has(name)) this.#o.onEntry(name);
  }
}
