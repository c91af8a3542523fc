/** Lists from files and bodies: small ones are read at once, large ones in a thread of their own. */

import { isWithin } from '../lib/json.js';
import { errorText, type Parsed } from '../lib/problem.js';
import { Serial } from '../lib/serial.js';
import { ThreadClient } from '../lib/thread.js';
import type { Entry } from '../policy/entry.js';
import { type ListParser, listFromObject } from '../policy/list-parse.js';
import type { List } from '../policy/policy.js';
import { parseListFile } from './list-files.js';
import type { ListJobs, Read } from './list-thread.js';

/** Some hundred entries: YAML of this size takes 10 to 20 ms, JSON less. */
const SMALL = 12 * 1024;
const LONGEST_MS = 30_000;
/** The syntax tree of 4 MB of YAML takes some hundred MB. */
const MAX_HEAP_MB = 1_024;
/** A thread without work gives its memory back after this time. */
const IDLE_MS = 20_000;

const tooLong = (why: string): Parsed<never> => ({
  ok: false,
  problems: [{ detail: `the list was not read: ${why}`, remedy: 'split it into several lists' }],
});

export class ListReader implements AsyncDisposable {
  readonly #thread = new ThreadClient<ListJobs>({
    script: new URL('./list-thread.js', import.meta.url),
    name: 'the thread that reads lists',
    limits: { maxOldGenerationSizeMb: MAX_HEAP_MB },
  });
  readonly #longestMs: number;
  /** Reads one list at a time, so that each has its own bound of time. */
  readonly #reads = new Serial();
  #idle: NodeJS.Timeout | undefined;
  #ended = false;
  /** Lists that the thread has read. */
  inThread = 0;

  constructor(longestMs = LONGEST_MS) {
    this.#longestMs = longestMs;
  }

  isSmall(bytes: Uint8Array): boolean {
    return bytes.length <= SMALL;
  }

  async file(file: string, bytes: Uint8Array): Promise<Parsed<List>> {
    if (this.isSmall(bytes)) return parseListFile(file, Buffer.from(bytes).toString('utf8'));
    const parsed = await this.#inTurn(() => this.#thread.run('file', { file, bytes }));
    return parsed.ok
      ? parsed
      : { ok: false, problems: parsed.problems.map((p) => ({ file, line: 1, column: 1, ...p })) };
  }

  readonly body: ListParser = async (name, source, body) =>
    isWithin(body, SMALL)
      ? listFromObject(name, source, body)
      : this.#inTurn(() => this.#thread.run('body', { name, source, body }));

  #inTurn(read: () => Promise<Read>): Promise<Parsed<List>> {
    return this.#reads.run(() => this.#read(read));
  }

  async #read(read: () => Promise<Read>): Promise<Parsed<List>> {
    if (this.#ended) return tooLong('the service is stopping');
    clearTimeout(this.#idle);
    this.inThread += 1;
    const late = setTimeout(
      () => void this.#thread.close(`needed more than ${this.#longestMs / 1_000} s for it`),
      this.#longestMs,
    );
    try {
      const found = await read();
      return found.ok ? { ok: true, value: { ...found.list, allow: await this.#entries(found) } } : found;
    } catch (e) {
      return tooLong(errorText(e));
    } finally {
      clearTimeout(late);
      if (!this.#ended) this.#idle = setTimeout(() => void this.#thread.close(), IDLE_MS).unref();
    }
  }

  async #entries({ id, count }: Extract<Read, { ok: true }>): Promise<readonly Entry[]> {
    const entries: Entry[] = [];
    while (entries.length < count) {
      const part = await this.#thread.run('entries', { id, from: entries.length });
      if (part.length === 0) throw new Error('its entries are incomplete');
      for (const entry of part) entries.push(entry);
    }
    return entries;
  }

  /** What waits is refused. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true;
    clearTimeout(this.#idle);
    await this.#thread.close();
  }
}
