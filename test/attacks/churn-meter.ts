/** Memory and descriptors of the service over time, and whether they are flat. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

export interface Sample {
  /** What garbage collection leaves: heap and buffers. */
  readonly heap: number;
  /** Resident memory. */
  readonly rss: number;
  readonly descriptors: number;
}
const SAMPLE_MS = 1_000;
/**
 * What the last third may use more than the third before it, in kB and descriptors; each is compared at its lowest sample.
 * The heap of a service that does the same all the time differs by some MB, with the containers and requests of the
 * moment: 8 MB more in a third of 40 s is a leak of 200 kB/s, and in a third of 13 minutes one of 10 kB/s. The resident
 * memory follows garbage collection late, and would show a leak outside of the heap. Descriptors belong to connections,
 * watched folders, namespaces of containers and pipes of child processes: at their lowest 65 to 80, at their highest 140.
 */
const MORE: Sample = { heap: 8 * 1024, rss: 48 * 1024, descriptors: 25 };
const KINDS = ['heap', 'rss', 'descriptors'] as const;

/** The lowest values of the second or the last third of the samples. */
function lowest(samples: readonly Sample[], third: 2 | 3): Sample {
  const size = Math.floor(samples.length / 3);
  const part = samples.slice((third - 1) * size, third * size);
  const of = (kind: keyof Sample): number => Math.min(...part.map((s) => s[kind]));
  return { heap: of('heap'), rss: of('rss'), descriptors: of('descriptors') };
}

export interface Growth {
  readonly middle: Sample;
  readonly last: Sample;
  /** What exceeds its bound. */
  readonly grown: readonly string[];
}
export function growth(samples: readonly Sample[]): Growth {
  const [middle, last] = [lowest(samples, 2), lowest(samples, 3)];
  const grown = KINDS.filter((kind) => last[kind] > middle[kind] + MORE[kind]);
  return { middle, last, grown: grown.map((kind) => `${kind}: ${middle[kind]} to ${last[kind]}`) };
}

const COLLECT = join(import.meta.dirname, 'programs', 'collect.mjs');
/** The service as `program` starts it, with collections of garbage that are logged. */
export const collecting = ([node = '', ...rest]: readonly string[]): readonly string[] => [
  node,
  '--expose-gc',
  '--import',
  COLLECT,
  ...rest,
];

/** Samples a process once a second until it is disposed of. */
export class Meter implements Disposable {
  readonly samples: Sample[] = [];
  readonly #pid: number;
  readonly #heapFile: string;
  readonly #timer: NodeJS.Timeout;
  #ended: Error | undefined;

  /** @param heapLog the environment variable HEAP_LOG of the process */
  constructor(pid: number, heapLog: string) {
    this.#pid = pid;
    this.#heapFile = `${heapLog}.${pid}`;
    this.#timer = setInterval(() => this.#sample(), SAMPLE_MS);
  }
  /** Throws when the process ended meanwhile. */
  growth(): Growth {
    if (this.#ended) throw this.#ended;
    return growth(this.samples);
  }

  #sample(): void {
    if (!existsSync(this.#heapFile)) return; // the first collection comes some seconds after the start
    try {
      const rss = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${this.#pid}/status`, 'utf8'));
      if (rss === null) throw new Error(`process ${this.#pid} has ended`);
      const heap = Number(readFileSync(this.#heapFile, 'utf8').trim().split('\n').at(-1));
      const descriptors = readdirSync(`/proc/${this.#pid}/fd`).length;
      this.samples.push({ heap, rss: Number(rss[1]), descriptors });
    } catch (e) {
      this.#ended = e as Error;
      clearInterval(this.#timer);
    }
  }
  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}
