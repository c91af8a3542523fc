import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

const USUAL = '/var/run/docker/netns';
const fileOf = (state: string): string => join(state, 'sandbox-folders.json');

/** Folders where Docker keeps its containers' network namespaces; noted, so that a teardown without the service finds them. */
export class SandboxFolders {
  readonly #state: string;
  readonly #folders: Set<string>;

  constructor(state: string) {
    this.#state = state;
    this.#folders = new Set(readFolders(state));
  }

  /** Notes the folder of a sandbox's path. */
  note(path: string): void {
    const folder = dirname(path);
    if (this.#folders.has(folder)) return;
    this.#folders.add(folder);
    writeFileSync(fileOf(this.#state), JSON.stringify([...this.#folders]));
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
