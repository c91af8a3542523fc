import { existsSync, type FSWatcher, readdirSync, readFileSync, watch, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { execRoots } from '../kernel/exec-roots.js';
import type { ContainerFacts } from '../model/container.js';

const USUAL = '/var/run/docker/netns';
const fileOf = (state: string): string => join(state, 'sandbox-folders.json');

/** Folders where Docker keeps its containers' network namespaces; noted, so that a teardown without the service finds them. */
export class SandboxFolders {
  readonly #state: string;
  readonly #folders: Set<string>;
  readonly #watchers = new Map<string, FSWatcher>();
  /** Above folders that Docker has yet to make. */
  readonly #above = new Map<string, FSWatcher>();
  #onNew: ((path: string) => void) | undefined;
  #onFolder: (folder: string) => void = () => undefined;

  constructor(state: string) {
    this.#state = state;
    this.#folders = new Set(readFolders(state));
  }

  /** Notes the folder of a sandbox's path. */
  note(path: string): void {
    this.#noteFolder(dirname(path));
  }

  /** Notes the folders of the dockerd processes behind this unix socket, which may not have started a container yet. */
  async noteEngines(socket: string): Promise<void> {
    for (const root of await execRoots(socket)) this.#noteFolder(join(root, 'netns'));
  }

  #noteFolder(folder: string): void {
    if (this.#folders.has(folder)) return;
    this.#folders.add(folder);
    writeFileSync(fileOf(this.#state), JSON.stringify([...this.#folders]));
    this.renew();
  }

  /** The folders of all sandboxes that Docker tells of. */
  noteAll(containers: Iterable<ContainerFacts>): void {
    for (const c of containers) if (c.privileges?.sandboxKey) this.note(c.privileges.sandboxKey);
  }

  /** Tells of every sandbox from its making on (of its end, too), some 90 ms before the container's first instruction. */
  follow(onNew: (path: string) => void, onFolder: (folder: string) => void): Disposable {
    this.#onNew = onNew;
    this.#onFolder = onFolder;
    this.renew();
    return {
      [Symbol.dispose]: () => {
        this.#onNew = undefined;
        for (const watchers of [this.#watchers, this.#above]) {
          for (const w of watchers.values()) w.close();
          watchers.clear();
        }
      },
    };
  }

  /** Looks for folders that were not there yet: Docker makes its own with its first container. */
  renew(): void {
    for (const folder of this.#folders) {
      if (!this.#onNew || this.#watchers.has(folder)) continue;
      if (existsSync(folder)) this.#begin(folder);
      else this.#watchAbove(folder);
    }
  }

  /** What is in a folder that we waited for is as new as itself. */
  #begin(folder: string): void {
    const isAwaited = this.#above.has(folder);
    this.#above.get(folder)?.close();
    this.#above.delete(folder);
    this.#watch(folder);
    for (const name of isAwaited ? readdirSync(folder) : []) this.#onNew?.(join(folder, name));
  }

  /** The first container after a boot is the one that Docker makes the folder for. */
  #watchAbove(folder: string): void {
    let above = dirname(folder);
    while (!existsSync(above)) above = dirname(above);
    this.#above.get(folder)?.close();
    const watcher = watch(above, { persistent: false }, () => this.renew());
    watcher.on('error', () => watcher.close());
    this.#above.set(folder, watcher);
    if (existsSync(folder)) this.#begin(folder);
  }

  #watch(folder: string): void {
    this.#onFolder(folder);
    const watcher = watch(folder, { persistent: false }, (event, name) => {
      if (event === 'rename' && name !== null) this.#onNew?.(join(folder, name));
    });
    watcher.on('error', () => {
      watcher.close(); // the folder went: `renew` finds the next one
      this.#watchers.delete(folder);
    });
    this.#watchers.set(folder, watcher);
  }

  [Symbol.iterator](): Iterator<string> {
    return this.#folders.values();
  }
}

export function readFolders(state: string): readonly string[] {
  try {
    const noted: unknown = JSON.parse(readFileSync(fileOf(state), 'utf8'));
    const texts = Array.isArray(noted) ? noted.filter((f) => typeof f === 'string') : [];
    return [...new Set([USUAL, ...texts])];
  } catch {
    return [USUAL]; // nothing noted yet, or unreadable: Docker's usual place
  }
}
