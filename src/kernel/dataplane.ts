import type { DesiredState, KernelConfig } from '../ruleset/state.js';
import { applyPlan, type Plan, planSteps } from './apply.js';
import type { Exec } from './exec.js';
import { expectedAfter } from './expected.js';
import type { IndexOf } from './nft-parse.js';
import { type Observed, observe } from './read-rules.js';

export interface Applied {
  readonly changed: boolean;
  /** Sets that were made since the last apply that held: their members are the ledger's and the feeds' to add. */
  readonly refill: readonly string[];
  /** The kernel had been read afresh, and somebody had changed what was last applied. */
  readonly repaired: boolean;
}

const NOTHING = JSON.stringify([]);

/** The kernel as one value: applies a desired state by the difference to what is known to stand there. */
export class Dataplane {
  readonly #run: Exec;
  readonly #shape: KernelConfig;
  readonly #indexOf: IndexOf;
  readonly #hasCgroup: (path: string) => boolean;
  /** Undefined: unknown, so that it must be read first. */
  #observed: Observed | undefined;
  /** What was last applied, and the steps that could not be taken of it: rules of cgroups that had ended. */
  #last: { readonly desired: DesiredState; readonly left: string } | undefined;
  /** Somebody had changed it, and no apply has held since. */
  #tampered = false;
  /** Sets that were made, and whose making nobody has been told of: the apply failed behind it. */
  readonly #made = new Set<string>();

  constructor(
    run: Exec,
    shape: KernelConfig,
    indexOf: IndexOf,
    hasCgroup: (path: string) => boolean = () => true,
  ) {
    this.#run = run;
    this.#shape = shape;
    this.#indexOf = indexOf;
    this.#hasCgroup = hasCgroup;
  }

  /** Somebody may have changed something: read everything before the next apply. */
  invalidate(): void {
    this.#observed = undefined;
  }

  async read(): Promise<Observed> {
    this.#observed = await observe(this.#run, this.#shape.prefix, this.#indexOf);
    return this.#observed;
  }

  /** What would change, from a fresh look; nothing is touched. */
  async plan(desired: DesiredState, run: Exec = this.#run): Promise<Plan> {
    return planSteps(this.#shape, desired, await observe(run, this.#shape.prefix, this.#indexOf));
  }

  /** On failure the next call reads the kernel again and goes on from there. */
  async apply(
    desired: DesiredState,
    beforeBinding: () => Promise<void> = async () => undefined,
  ): Promise<Applied> {
    const fresh = this.#observed === undefined;
    const observed = this.#observed ?? (await this.read());
    const plan = planSteps(this.#shape, desired, observed);
    this.#tampered ||= fresh && this.#isTampered(observed);
    this.#observed = undefined;
    for (const set of plan.refill) this.#made.add(set);
    const whole = await applyPlan(this.#run, plan, { beforeBinding, hasCgroup: this.#hasCgroup });
    const stands = whole ? expectedAfter(this.#shape, desired, observed) : await this.read();
    this.#observed = stands;
    const changed = plan.stages.length > 0;
    const repaired = this.#tampered;
    this.#tampered = false;
    this.#last = { desired, left: whole ? NOTHING : this.#stepsTo(desired, stands) };
    const refill = [...this.#made].filter((set) => desired.sets.has(set));
    this.#made.clear();
    return { changed, refill, repaired };
  }

  #isTampered(observed: Observed): boolean {
    return this.#last !== undefined && this.#stepsTo(this.#last.desired, observed) !== this.#last.left;
  }

  #stepsTo(desired: DesiredState, observed: Observed): string {
    return JSON.stringify(planSteps(this.#shape, desired, observed).stages);
  }
}
