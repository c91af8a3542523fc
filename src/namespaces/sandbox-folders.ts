import { dirname, join } from 'node:path';
import { POLLING } from '../enforce/health.js';
import { type ReportProblem, readNotes, writeNotes } from '../kernel/host-notes.js';
import { execRoots } from '../kernel/sockets.js';
import type { Logger } from '../lib/log.js';
import type { ContainerFacts } from '../policy/container.js';
import type { Sandboxes } from './sandboxes.js';

const SCAN_MS = 2_000;
const USUAL = '/var/run/docker/netns';

type FollowsSandboxes = Pick<Sandboxes, 'execRoots' | 'follow' | 'reported'>;

/** Folders where Docker keeps its containers' network namespaces; noted, so that a teardown without the service finds them. */
export class SandboxFolders implements Disposable {
  readonly #state: string;
  readonly #log: Pick<Logger, 'warn'>;
  readonly #folders: Set<string>;
  readonly #sandboxes: FollowsSandboxes;
  readonly #polled = new Set<string>();
  #isLogged = false;
  /** The containers of the last call of `noteAll`. */
  #noted: ReadonlyMap<string, ContainerFacts> | undefined;
  /** When the last scan for engines began (ms, monotonic). */
  #scanned = Number.NEGATIVE_INFINITY;
  #laterScan: NodeJS.Timeout | undefined;

  constructor(state: string, sandboxes: FollowsSandboxes, log: Pick<Logger, 'warn'>) {
    this.#state = state;
    this.#log = log;
    this.#sandboxes = sandboxes;
    this.#folders = new Set(readFolders(state, (o, message) => log.warn(o, message)));
    for (const folder of this.#folders) sandboxes.follow(folder);
    sandboxes.reported.subscribe((report) => report.kind === 'polling' && this.#notePolling(report));
  }

  /**
   * Notes the folders of the dockerd processes behind this unix socket, which may not have started a container yet. It takes a read of a file of each
   * process of the host: a call that soon follows another one, as the first connection to Docker does in each start, scans later.
   */
  async noteEngines(socket: string): Promise<void> {
    const now = performance.now();
    if (now < this.#scanned + SCAN_MS) {
      const scan = (): void => void this.noteEngines(socket);
      clearTimeout(this.#laterScan);
      this.#laterScan = setTimeout(scan, Math.ceil(this.#scanned + SCAN_MS - now)).unref();
      return;
    }
    this.#scanned = now;
    try {
      const roots = await this.#sandboxes.execRoots(socket).catch(() => execRoots(socket)); // the thread has ended, or may not read them
      for (const root of roots) this.note(join(root, 'netns'));
    } catch (e) {
      this.#log.warn(
        { err: String(e) },
        'cannot read the exec root of dockerd: the first container that starts shows it',
      );
    }
  }

  note(folder: string): void {
    if (this.#folders.has(folder)) return;
    this.#folders.add(folder);
    try {
      writeNotes(this.#state, { folders: [...this.#folders] });
    } catch (e) {
      this.#log.warn(
        { err: String(e), folder },
        'cannot note the folder of network namespaces: drawbridge teardown without the service does not find it',
      );
    }
    this.#sandboxes.follow(folder);
  }

  /** Note the folders of all sandboxes that Docker has reported. */
  noteAll(containers: ReadonlyMap<string, ContainerFacts>): void {
    if (this.#noted === containers) return;
    this.#noted = containers;
    for (const c of containers.values())
      if (c.privileges?.sandboxKey) this.note(dirname(c.privileges.sandboxKey));
  }

  /** Some folder cannot be watched: it is polled. */
  get isPolling(): boolean {
    return this.#polled.size > 0;
  }

  /** The first folder that is polled is logged. */
  #notePolling({ folder, isPolling }: { readonly folder: string; readonly isPolling: boolean }): void {
    if (!isPolling) this.#polled.delete(folder);
    else this.#polled.add(folder);
    if (!isPolling || this.#isLogged) return;
    this.#isLogged = true;
    this.#log.warn({ folder }, POLLING);
  }

  [Symbol.iterator](): Iterator<string> {
    return this.#folders.values();
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#laterScan);
  }
}

/** Docker's usual place, and what else was noted. */
export function readFolders(state: string, complain?: ReportProblem): readonly string[] {
  return [...new Set([USUAL, ...readNotes(state, complain).folders])];
}
