import { existsSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { POLLING } from '../enforce/health.js';
import { execRoots } from '../kernel/sockets.js';
import type { Logger } from '../lib/log.js';
import type { ContainerFacts } from '../policy/container.js';
import { type ReportProblem, readStateFile, textsOf, writeStateFile } from '../store/state-file.js';
import { FolderFollower, type FollowOptions } from './follow-folder.js';
import type { Sandboxes } from './sandboxes.js';

const SCAN_MS = 2_000;
const USUAL = '/var/run/docker/netns';
const fileOf = (state: string): string => join(state, 'sandbox-folders.json');

/** Folders where Docker keeps its containers' network namespaces; noted, so that a teardown without the service finds them. */
export class SandboxFolders {
  readonly polling: Polling;
  readonly #state: string;
  readonly #log: Pick<Logger, 'warn'>;
  readonly #folders: Set<string>;
  readonly #watchers = new Map<string, FolderFollower>();
  /** Above folders that Docker has yet to make. */
  readonly #above = new Map<string, FolderFollower>();
  /** The containers of the last call of `noteAll`. */
  #noted: ReadonlyMap<string, ContainerFacts> | undefined;
  /** When the last scan for engines began (ms, monotonic). */
  #scanned = Number.NEGATIVE_INFINITY;
  #laterScan: NodeJS.Timeout | undefined;
  #onNew: ((path: string) => void) | undefined;
  #onFolder: (folder: string) => void = () => undefined;

  constructor(state: string, log: Pick<Logger, 'warn'>) {
    this.#state = state;
    this.#log = log;
    this.polling = new Polling(log);
    this.#folders = new Set(readFolders(state, (o, message) => log.warn(o, message)));
  }

  /** Notes the folder of a sandbox's path. */
  note(path: string): void {
    this.#noteFolder(dirname(path));
  }

  /**
   * Notes the folders of the dockerd processes behind this unix socket, which may not have started a container yet. `by` reads a file of each
   * process of the host: a call that soon follows another one, as the first connection to Docker does in each start, scans later.
   */
  async noteEngines(socket: string, by: Pick<Sandboxes, 'execRoots'>): Promise<void> {
    const now = performance.now();
    if (now < this.#scanned + SCAN_MS) {
      const scan = (): void => void this.noteEngines(socket, by);
      clearTimeout(this.#laterScan);
      this.#laterScan = setTimeout(scan, Math.ceil(this.#scanned + SCAN_MS - now)).unref();
      return;
    }
    this.#scanned = now;
    try {
      const roots = await by.execRoots(socket).catch(() => execRoots(socket)); // the thread has ended, or may not read them
      for (const root of roots) this.#noteFolder(join(root, 'netns'));
    } catch (e) {
      this.#log.warn(
        { err: String(e) },
        'cannot read the exec root of dockerd: the first container that starts shows it',
      );
    }
  }

  #noteFolder(folder: string): void {
    if (this.#folders.has(folder)) return;
    this.#folders.add(folder);
    try {
      writeStateFile(fileOf(this.#state), [{ version: VERSION }, ...this.#folders]);
    } catch (e) {
      this.#log.warn(
        { err: String(e), folder },
        'cannot note the folder of network namespaces: drawbridge teardown without the service does not find it',
      );
    }
    this.renew();
  }

  /** Note the folders of all sandboxes that Docker has reported. */
  noteAll(containers: ReadonlyMap<string, ContainerFacts>): void {
    if (this.#noted === containers) return;
    this.#noted = containers;
    for (const c of containers.values()) if (c.privileges?.sandboxKey) this.note(c.privileges.sandboxKey);
  }

  /** Report every sandbox when it is created (and when it ends), some 90 ms before the container's first instruction. */
  follow(onNew: (path: string) => void, onFolder: (folder: string) => void): Disposable {
    this.#onNew = onNew;
    this.#onFolder = onFolder;
    this.renew();
    return {
      [Symbol.dispose]: () => {
        this.#onNew = undefined;
        clearTimeout(this.#laterScan);
        for (const watchers of [this.#watchers, this.#above]) {
          for (const w of watchers.values()) w[Symbol.dispose]();
          watchers.clear();
        }
      },
    };
  }

  /** Follow folders that did not exist before: Docker creates its own with its first container. */
  renew(): void {
    for (const folder of this.#folders) {
      if (!this.#onNew || this.#watchers.has(folder)) continue;
      if (existsSync(folder)) this.#begin(folder);
      else this.#watchAbove(folder);
    }
  }

  /** The sandboxes in a folder that has just appeared are as new as the folder. */
  #begin(folder: string): void {
    const isAwaited = this.#above.has(folder);
    this.#above.get(folder)?.[Symbol.dispose]();
    this.#above.delete(folder);
    this.#watch(folder);
    for (const name of isAwaited ? readdirSync(folder) : []) this.#onNew?.(join(folder, name));
  }

  /** The first container after a boot is the one that Docker makes the folder for. */
  #watchAbove(folder: string): void {
    let above = dirname(folder);
    while (!existsSync(above)) above = dirname(above);
    this.#above.get(folder)?.[Symbol.dispose]();
    this.#above.set(folder, this.#follower(above, { onEntry: () => this.renew(), onGone: () => undefined }));
    if (existsSync(folder)) this.#begin(folder);
  }

  #watch(folder: string): void {
    this.#onFolder(folder);
    const watcher = this.#follower(folder, {
      onEntry: (name) => this.#onNew?.(join(folder, name)),
      onGone: () => this.#watchers.delete(folder), // `renew` finds the next one
    });
    this.#watchers.set(folder, watcher);
  }

  #follower(folder: string, options: Omit<FollowOptions, 'onPolling'>): FolderFollower {
    return new FolderFollower(folder, { ...options, onPolling: (is) => this.polling.note(folder, is) });
  }

  [Symbol.iterator](): Iterator<string> {
    return this.#folders.values();
  }
}

/** Folders that cannot be watched: they are polled, which is logged once. */
export class Polling {
  readonly #log: Pick<Logger, 'warn'>;
  readonly #folders = new Set<string>();
  #isLogged = false;

  constructor(log: Pick<Logger, 'warn'>) {
    this.#log = log;
  }

  get isOn(): boolean {
    return this.#folders.size > 0;
  }

  /** `by`: the thread that follows the folder. */
  note(folder: string, isPolling: boolean, by = 'main'): void {
    if (!isPolling) this.#folders.delete(`${by} ${folder}`);
    else this.#folders.add(`${by} ${folder}`);
    if (!isPolling || this.#isLogged) return;
    this.#isLogged = true;
    this.#log.warn({ folder }, POLLING);
  }
}

/** An array of texts; its first element has the version, and older versions pass over it. */
const VERSION = 1;

/** Docker's usual place, and what else was noted. */
export function readFolders(state: string, complain?: ReportProblem): readonly string[] {
  const noted = readStateFile(fileOf(state), { version: VERSION, parse: textsOf }, complain) ?? [];
  return [...new Set([USUAL, ...noted])];
}
