/** What the attack suite finds, as JSON lines in the file that ATTACKS_REPORT names (scripts/attacks.ts makes the table). */
import { appendFileSync } from 'node:fs';

export type Family = 'v4' | 'v6';
/** control: nothing is enforced, so the attack must get out. held: it must not. */
export type Side = 'control' | 'held';
export interface Described {
  /** a-z, 0-9 and "-"; written literally as `id: '…'`, once in the whole suite, and in the table of docs/techniques.md. */
  readonly id: string;
  readonly title: string;
  /** Families that it can be tried over. */
  readonly families: readonly Family[];
  /** What holds it, in a few words. */
  readonly stoppedBy: string;
  /** Set: nothing holds it, and why that is said rather than solved. The test then shows that it does get out. */
  readonly notStopped?: string;
}
/** One attempt of one technique. */
export interface Finding extends Omit<Described, 'families'> {
  readonly family: Family;
  readonly side: Side;
  readonly out: boolean;
}

/** Each technique as its file declares it, for the table of docs/techniques.md (scripts/attacks-docs.ts). */
export function announce(described: Described): void {
  const file = process.env.ATTACKS_DECLARED;
  if (file === undefined) return;
  const { id, title, families, stoppedBy, notStopped } = described;
  appendFileSync(file, `${JSON.stringify({ id, title, families, stoppedBy, notStopped })}\n`);
}

export function report(described: Described, family: Family, side: Side, out: boolean): void {
  const file = process.env.ATTACKS_REPORT;
  if (file === undefined) return;
  const { families: _, ...rest } = described;
  appendFileSync(file, `${JSON.stringify({ ...rest, family, side, out } satisfies Finding)}\n`);
}

/**
 * Techniques that a test of its own tries, outside of `attackSuite`: it calls `control()` where it has seen the attack get
 * through without Drawbridge, and `held()` where it has seen that it did not, each after its last expectation.
 */
export function shownHere(...all: readonly Described[]): { control(): void; held(): void } {
  for (const d of all) announce(d);
  const tell = (side: Side): void => {
    for (const d of all) for (const family of d.families) report(d, family, side, side === 'control');
  };
  return { control: () => tell('control'), held: () => tell('held') };
}

/** The ids of the techniques that a test file describes. */
export const techniqueIds = (source: string): string[] =>
  [...source.matchAll(/\bid: '([a-z0-9-]+)'/g)].map((m) => m[1] as string);
