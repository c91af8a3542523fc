import type { DockerWatch } from '../docker/watch.js';
import type { Logger } from '../lib/log.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { KernelConfig } from '../ruleset/desired-state.js';
import { Classifier } from './classify.js';
import type { Denials } from './denials.js';
import { inKernel } from './hold-view.js';
import { PacketHold } from './packet-hold.js';
import { Packets } from './packet-io.js';
import type { Reconciler } from './reconciler.js';

export interface HoldingOptions {
  readonly shape: KernelConfig;
  readonly docker: DockerWatch;
  readonly reconciler: Reconciler;
  readonly denials: Denials;
  readonly state: () => AppliedState | undefined;
  readonly setUnattributed: (port: number) => void;
  /** A sender of an unattributed port was let through: its address is no container's. */
  readonly onUnattributed: (src: string) => void;
  readonly log: Logger;
}

/** Packets of unknown ports: held, classified, repeated or dropped; and the denied ones, told. */
export class Holding implements Disposable {
  readonly #hold: PacketHold;
  readonly #o: HoldingOptions;
  #packets: Packets | undefined;

  constructor(options: HoldingOptions) {
    this.#o = options;
    const { docker, reconciler, state, log } = options;
    const classifier = new Classifier({
      refresh: () => docker.refresh(),
      inForce: (ms) => reconciler.inForce(ms),
      state,
      waiting: () => this.#hold.ports(),
      setUnattributed: options.setUnattributed,
      now: () => performance.now(),
      log,
    });
    this.#hold = new PacketHold({
      isAwaited: (since) => classifier.isAwaited(since),
      marks: options.shape.marks,
      verdict: (id, verdict, mark) => this.#packets?.verdict(id, verdict, mark),
      state: () => inKernel(state()),
      classify: () => classifier.request(),
      now: () => performance.now(),
      onUnattributed: options.onUnattributed,
    });
  }

  /** Binds queue and log. */
  begin(): void {
    const { holdQueue, logGroup } = this.#o.shape;
    this.#packets = new Packets({
      holdQueue,
      logGroup,
      held: (p) => this.#hold.take(p),
      denied: (p) => this.#o.denials.packet(p),
    });
  }

  /** Packets that rules logged and that did not arrive. */
  get lost(): number {
    return this.#packets?.lost ?? 0;
  }

  settle(): void {
    this.#hold.settle();
  }

  /** What still waits is dropped; what comes from now on is held by nobody, and so denied by the kernel once the queue is gone. */
  close(): void {
    this.#hold.close();
  }

  [Symbol.dispose](): void {
    this.#packets?.[Symbol.dispose]();
  }
}
