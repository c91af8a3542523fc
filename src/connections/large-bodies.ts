/** Large bodies of requests on port 80: the kernel lets them pass, so that uploads are not slower than without the check of names. */
import type { PassedBytes, Stretch } from '../kernel/netlink/passed-bytes.js';
import type { Logger } from '../lib/log.js';
import type { Subject } from '../ruleset/desired-state.js';
import { identityMark, type Marks } from '../ruleset/marks.js';
import { distance } from './flow-check.js';
import type { OpenFlow } from './flow-table.js';
import { HttpFlow, type Passable } from './http-flow.js';

/** A segment comes to the queue at least this often, so that the flow counts as used. */
const TIMEOUT_MS = 60_000;
/** At once. All others are read. */
const MOST = { ofOne: 64, ofAll: 512 } as const;

interface Passing {
  readonly container: string;
  readonly stretch: Stretch;
  /** ms, monotonic. */
  readonly until: number;
}

export class LargeBodies implements Disposable {
  readonly #kernel: Pick<PassedBytes, 'add' | 'remove' | typeof Symbol.dispose>;
  readonly #marks: Marks;
  readonly #log: Pick<Logger, 'warn'>;
  /** By the key of the flow. */
  readonly #passing = new Map<string, Passing>();
  /** The kernel cannot: all bodies are read. */
  #isOff = false;

  constructor(
    kernel: Pick<PassedBytes, 'add' | 'remove' | typeof Symbol.dispose>,
    marks: Marks,
    log: Pick<Logger, 'warn'>,
  ) {
    this.#kernel = kernel;
    this.#marks = marks;
    this.#log = log;
  }

  /** A segment was read. Those of containers in the host's network do not meet the table of the kernel, which is at FORWARD. */
  follow(flow: OpenFlow, subject: Subject | undefined, now: number): void {
    if (!(flow.check instanceof HttpFlow) || !subject || subject.host) return;
    const known = this.#passing.get(flow.key);
    const body = flow.check.passable;
    if (known && body && now < known.until && contains(known.stretch, body)) return;
    if (known) this.end(flow.key);
    const identity = identityMark(this.#marks, subject.identity);
    if (body && this.#hasRoom(flow.container, now)) this.#begin(flow, { ...body, identity }, now);
  }

  /**
   * Segments of these ends are read from now on. To be called before the first packet of another connection with these ends is released: the sequence
   * numbers of the earlier one must not count for it.
   */
  end(key: string): void {
    const known = this.#passing.get(key);
    if (!known) return;
    this.#passing.delete(key);
    try {
      this.#kernel.remove(known.stretch);
    } catch (err) {
      this.#fail(err);
    }
  }

  [Symbol.dispose](): void {
    this.#passing.clear();
    this.#kernel[Symbol.dispose]();
  }

  #begin(flow: OpenFlow, body: Passable & { readonly identity: number }, now: number): void {
    if (this.#isOff) return;
    const { source, sourcePort, address } = flow;
    const stretch: Stretch = { source, sourcePort, address, ...body };
    try {
      this.#kernel.add(stretch, TIMEOUT_MS);
      this.#passing.set(flow.key, { container: flow.container, stretch, until: now + TIMEOUT_MS });
    } catch (err) {
      this.#fail(err);
    }
  }

  /** What the kernel may have kept ends with its table. */
  #fail(err: unknown): void {
    this.#isOff = true;
    this[Symbol.dispose]();
    this.#log.warn(
      { err: String(err) },
      'large uploads to port 80 are slower: the kernel cannot let them pass (this needs Linux 5.12), and the service reads them',
    );
  }

  #hasRoom(container: string, now: number): boolean {
    for (const [key, { until }] of this.#passing) if (until <= now) this.end(key);
    const all = [...this.#passing.values()];
    return all.length < MOST.ofAll && all.filter((p) => p.container === container).length < MOST.ofOne;
  }
}

/** Whether the kernel lets the next byte pass already. */
const contains = (stretch: Stretch, { seq }: Passable): boolean => {
  const at = distance(seq, stretch.seq);
  return at >= 0 && at < stretch.length;
};
