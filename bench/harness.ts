/** Statistics of a bench, and measurements that take turns, so that any other load of the machine meets all of them. */
import type { Figure, Row } from './results.js';
import { shownFigure } from './results.js';

export interface Side {
  readonly name: string;
  measure(): Promise<number>;
}
export interface Compared {
  readonly unit: string;
  readonly baseline: Figure & { readonly label: string };
  readonly ours: Figure & { readonly label: string };
  /** Ours to the baseline, in each round. */
  readonly ratio: Figure;
}

/** By linear interpolation between the two nearest values; `share` 0.99 is the 99th percentile. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (sorted.length - 1) * share;
  const below = sorted[Math.floor(at)] ?? Number.NaN;
  const above = sorted[Math.ceil(at)] ?? Number.NaN;
  return below + (above - below) * (at - Math.floor(at));
}

export const median = (values: readonly number[]): number => quantile(values, 0.5);

export const figure = (values: readonly number[]): Figure => ({
  median: median(values),
  low: quantile(values, 0),
  high: quantile(values, 1),
  rounds: values.length,
});

/** The ratios of two series that were measured in turn. */
export const ratios = (ours: readonly number[], baseline: readonly number[]): Figure =>
  figure(ours.map((value, i) => value / (baseline[i] ?? Number.NaN)));

/**
 * Each side in turn, `rounds` times, the order reversed in every second round; one round before is not counted. Returns the values of
 * each side in the order of the rounds.
 */
export async function interleaved(
  sides: readonly Side[],
  rounds: number,
): Promise<readonly (readonly number[])[]> {
  const values = sides.map((): number[] => []);
  for (let round = -1; round < rounds; round++) {
    const order = [...sides.keys()];
    if (round % 2 !== 0) order.reverse();
    for (const i of order) {
      const value = await sides[i]?.measure();
      if (round >= 0 && value !== undefined) values[i]?.push(value);
    }
  }
  return values;
}

/** Ours and its baseline, as a row of the results. */
export async function comparedRow(
  about: Pick<Row, 'id' | 'label' | 'unit' | 'note'>,
  { baseline, ours, rounds }: { readonly baseline: Side; readonly ours: Side; readonly rounds: number },
): Promise<Row> {
  const [theirs = [], own = []] = await interleaved([baseline, ours], rounds);
  return {
    ...about,
    ours: figure(own),
    beside: { ...figure(theirs), label: baseline.name },
    ratio: ratios(own, theirs),
  };
}

/** Baseline and ours in turn, without a row of the results. */
export async function compare(unit: string, baseline: Side, ours: Side, rounds: number): Promise<Compared> {
  const [theirs = [], own = []] = await interleaved([baseline, ours], rounds);
  return {
    unit,
    baseline: { ...figure(theirs), label: baseline.name },
    ours: { ...figure(own), label: ours.name },
    ratio: ratios(own, theirs),
  };
}

/**
 * An estimate from all rounds, and in `low` and `high` the middle 95 % of the same estimate from rounds that are drawn with repetition
 * (a bootstrap): other rounds of the same kind would give a value between them.
 */
export function resampled(rounds: number, estimate: (rounds: readonly number[]) => number): Figure {
  const all = Array.from({ length: rounds }, (_, n) => n);
  let seed = 1;
  // the linear congruential generator of Numerical Recipes: the same rounds give the same figure
  const drawn = (): number => {
    seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((seed / 2 ** 32) * rounds);
  };
  const estimates = Array.from({ length: 200 }, () => estimate(all.map(drawn)));
  return {
    median: estimate(all),
    low: quantile(estimates, 0.025),
    high: quantile(estimates, 0.975),
    rounds,
  };
}

export function report(title: string, c: Compared): string {
  const line = (s: Compared['ours']): string =>
    `  ${s.label.padEnd(22)} ${shownFigure(s)} ${c.unit}, ${s.rounds} rounds`;
  return [title, line(c.baseline), line(c.ours), `  ratio                  ${shownFigure(c.ratio)}`].join(
    '\n',
  );
}
