/** Two things measured side by side, taking turns, so that whatever else the machine does meets both. */
export interface Side {
  readonly name: string;
  measure(): Promise<number>;
}
export interface Compared {
  readonly unit: string;
  readonly baseline: Summary;
  readonly ours: Summary;
  /** Median of ours over median of the baseline. */
  readonly ratio: number;
}
export interface Summary {
  readonly name: string;
  readonly median: number;
  readonly min: number;
  readonly max: number;
  readonly runs: number;
}

export const median = (values: readonly number[]): number => {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const hi = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? hi : ((sorted[middle - 1] ?? Number.NaN) + hi) / 2;
};

const summary = (name: string, values: readonly number[]): Summary => ({
  name,
  median: median(values),
  min: Math.min(...values),
  max: Math.max(...values),
  runs: values.length,
});

/** Baseline and ours in turn, `rounds` times each, the order swapped every round; one round before is not counted. */
export async function compare(unit: string, baseline: Side, ours: Side, rounds: number): Promise<Compared> {
  const values = new Map<Side, number[]>([
    [baseline, []],
    [ours, []],
  ]);
  for (let round = -1; round < rounds; round++) {
    const order = round % 2 === 0 ? [baseline, ours] : [ours, baseline];
    for (const side of order) {
      const value = await side.measure();
      if (round >= 0) values.get(side)?.push(value);
    }
  }
  const [b, o] = [
    summary(baseline.name, values.get(baseline) ?? []),
    summary(ours.name, values.get(ours) ?? []),
  ];
  return { unit, baseline: b, ours: o, ratio: o.median / b.median };
}

export function report(title: string, c: Compared): string {
  const line = (s: Summary): string =>
    `  ${s.name.padEnd(22)} ${s.median.toFixed(2).padStart(10)} ${c.unit}  (${s.min.toFixed(2)} to ${s.max.toFixed(2)}, ${s.runs} runs)`;
  return [
    title,
    line(c.baseline),
    line(c.ours),
    `  ratio                  ${c.ratio.toFixed(3).padStart(10)}`,
  ].join('\n');
}
