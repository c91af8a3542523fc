/** Live flows of a container, and when each of them last moved. */
import type { Container, RunSpec } from '../lab/container.js';
import type { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { withInside } from './inside.js';

export interface Sample {
  readonly at: number;
  readonly counts: Readonly<Record<string, number>>;
}
/** What a program of inside.mjs has told so far. */
export const samplesIn = (log: string): Sample[] =>
  log
    .split('\n')
    .filter((l) => l.startsWith('{"at"') && l.endsWith('}'))
    .map((l) => JSON.parse(l) as Sample);

/** The programs print each 50 ms; on a busy host a pause is shorter than this. */
const STALL_MS = 500;
/**
 * When the pieces that a sample counts had been sent. A program that got no CPU for a while reads what had arrived meanwhile
 * after the next sample: what the first two samples after a stall count is dated to before it. A flow that goes on moves later, too.
 */
export function sentBy(samples: readonly Sample[], index: number): number {
  const at = (i: number): number => samples[Math.max(0, i)]?.at ?? 0;
  const isStalled = (i: number): boolean => at(i) - at(i - 1) > STALL_MS;
  let i = index;
  while (i > 0 && (isStalled(i) || isStalled(i - 1))) i--;
  return at(i);
}

function movesIn(
  samples: readonly Sample[],
  timeOf: (samples: readonly Sample[], index: number) => number,
): Record<string, number> {
  const moves: Record<string, number> = {};
  let before: Readonly<Record<string, number>> = {};
  for (const [i, { counts }] of samples.entries()) {
    for (const [flow, n] of Object.entries(counts))
      if (n > (before[flow] ?? 0)) moves[flow] = timeOf(samples, i);
      else moves[flow] ??= 0;
    before = counts;
  }
  return moves;
}

/** Eight at most: both families, TCP and UDP, the other side sending or echoing. */
export class Flows {
  readonly container: Container;

  private constructor(container: Container) {
    this.container = container;
  }
  static async start(lab: Lab, spec: RunSpec, hosts: readonly string[]): Promise<Flows> {
    const cmd = ['node', '/inside.mjs', 'flows', ...hosts];
    return new Flows(await lab.start({ ...withInside(spec), cmd }));
  }

  async samples(): Promise<Sample[]> {
    return samplesIn(await this.container.logs());
  }
  /** When each flow got its last piece so far (ms since the epoch; 0: never). */
  async lastMoves(): Promise<Record<string, number>> {
    return movesIn(await this.samples(), sentBy);
  }
  /** All flows move, after `since`. */
  async moving(since = Date.now()): Promise<void> {
    await waitFor(
      `the flows of ${this.container.name} to move`,
      async () => {
        const moves = Object.values(movesIn(await this.samples(), (samples, i) => samples[i]?.at ?? 0));
        return moves.length > 0 && moves.every((m) => m > since);
      },
      20_000,
      100,
    ).catch(async (e: Error) => {
      throw new Error(
        `${e.message}: ${JSON.stringify(await this.lastMoves())}\n${(await this.container.logs()).slice(0, 2_000)}`,
      );
    });
  }
  /** Flows that have moved after this time. */
  async movedAfter(time: number): Promise<string[]> {
    const moves = await this.lastMoves();
    return Object.keys(moves).filter((flow) => (moves[flow] ?? 0) > time);
  }
}
