/**
 * The results of a bench: printed as a table, and with `--keep` written to bench/results/NAME.json together with the machine,
 * the commit and the results of earlier runs, and to its page (bench/docs.ts). A bench that reads its options with parseArgs has KEEP among them.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus, release } from 'node:os';
import { join } from 'node:path';
import { isBuilt } from '../test/lab/drawbridge.js';

/** The median of the rounds, the lowest and the highest of them, and their number. */
export interface Figure {
  readonly median: number;
  readonly low: number;
  readonly high: number;
  readonly rounds: number;
}

/** One measured quantity, with the baseline that took turns with it. */
export interface Row {
  /** The id of a goal (bench/goals.ts), or of a row that has none. */
  readonly id: string;
  readonly label: string;
  readonly unit: string;
  readonly ours: Figure;
  readonly beside?: Figure & { readonly label: string };
  /** Of `ours` to `beside`, in each round. */
  readonly ratio?: Figure;
  readonly note?: string;
}

/** How a cost grows: a plot with one line for each thing that is compared. */
export interface Curve {
  readonly id: string;
  readonly label: string;
  /** The titles of the axes, with their units. */
  readonly x: string;
  readonly y: string;
  /** The x axis is logarithmic. */
  readonly log?: boolean;
  readonly lines: readonly {
    readonly label: string;
    readonly points: readonly (readonly [number, number])[];
  }[];
}

export interface Machine {
  readonly cores: number;
  readonly cpu: string;
  readonly kernel: string;
  readonly docker: string;
  readonly iptables: string;
  readonly node: string;
}

export interface Run {
  readonly date: string;
  readonly commit: string;
  readonly command: string;
  readonly machine: Machine;
  readonly rows: readonly Row[];
  readonly curves: readonly Curve[];
}

/** For parseArgs. */
export const KEEP = { keep: { type: 'boolean', default: false } } as const;

const ROOT = join(import.meta.dirname, '..');
const FOLDER = join(import.meta.dirname, 'results');
const MAX_RUNS = 10;

// Through tsx a start takes three times as long, and the service half as much memory again.
if (process.argv.includes('--keep') && !isBuilt())
  throw new Error('nothing would be kept: dist is older than src. Run "npm run build" first');

/** The kept runs of a bench, the newest first. */
export function keptRuns(bench: string): readonly Run[] {
  try {
    return (JSON.parse(readFileSync(join(FOLDER, `${bench}.json`), 'utf8')) as { runs: Run[] }).runs;
  } catch (e) {
    if ((e as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw e;
  }
}

/** Print the rows and keep them if the process has the option `--keep`. `bench` is the name of the file in bench/results. */
export async function writeResult(
  bench: string,
  command: string,
  rows: readonly Row[],
  curves: readonly Curve[] = [],
): Promise<void> {
  console.log(resultTable(bench, rows, keptRuns(bench)[0]));
  for (const curve of curves) console.log(curveTable(curve));
  if (!isBuilt())
    console.log('dist is older than src: the service ran through tsx, starts slowly and takes more memory');
  if (!process.argv.includes('--keep')) return;
  const changed = git('status', '--porcelain', '--', 'src', 'bench', ':!bench/results');
  if (changed !== '') {
    console.log(`not kept: src or bench has changes that are not committed:\n${changed}`);
    return;
  }
  const run: Run = {
    date: new Date().toISOString(),
    commit: git('rev-parse', '--short=12', 'HEAD'),
    command,
    machine: machine(),
    rows: rows.map(shortRow),
    curves,
  };
  const runs = [run, ...keptRuns(bench)].slice(0, MAX_RUNS);
  mkdirSync(FOLDER, { recursive: true });
  writeFileSync(join(FOLDER, `${bench}.json`), `${JSON.stringify({ bench, runs }, undefined, 1)}\n`);
  console.log(`kept in bench/results/${bench}.json (${runs.length} runs)`);
  const { writeDocs } = await import('./docs.js');
  writeDocs();
}

const shortNumber = (value: number): number => Number(value.toPrecision(5));
const shortFigure = <F extends Figure>(figure: F): F => ({
  ...figure,
  median: shortNumber(figure.median),
  low: shortNumber(figure.low),
  high: shortNumber(figure.high),
});
const shortRow = (row: Row): Row => ({
  ...row,
  ours: shortFigure(row.ours),
  ...(row.beside && { beside: shortFigure(row.beside) }),
  ...(row.ratio && { ratio: shortFigure(row.ratio) }),
});

const git = (...args: readonly string[]): string =>
  execFileSync('git', ['-C', ROOT, ...args], { encoding: 'utf8' }).trim();

/** The first version number that a tool prints, or "none". */
function versionOf(tool: string): string {
  try {
    const text = execFileSync(tool, ['--version'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
    return /\d+(?:\.\d+)+(?:\S* \((?:nf_tables|legacy)\))?/.exec(text)?.[0] ?? text.trim();
  } catch {
    return 'none';
  }
}

const machine = (): Machine => ({
  cores: cpus().length,
  cpu: cpus()[0]?.model.trim() ?? 'unknown',
  kernel: release(),
  docker: versionOf('dockerd'),
  iptables: versionOf('iptables'),
  node: process.versions.node,
});

/** Three digits, and all digits of a whole number; thousands are separated. */
export function shownNumber(value: number): string {
  if (!Number.isFinite(value)) return '–';
  const size = Math.abs(value);
  const digits = size >= 100 || value === 0 ? 0 : size >= 10 ? 1 : size >= 0.1 ? 2 : 4;
  const short = value.toFixed(digits);
  return Number(short).toLocaleString('en-US', { maximumFractionDigits: digits });
}

/** "12.3 (11.9 to 12.8)"; without a spread if there is one round. */
export const shownFigure = ({ median, low, high, rounds }: Figure): string =>
  rounds > 1 ? `${shownNumber(median)} (${shownNumber(low)} to ${shownNumber(high)})` : shownNumber(median);

function resultTable(bench: string, rows: readonly Row[], before: Run | undefined): string {
  const kept = new Map(before?.rows.map((row) => [row.id, row.ours.median]));
  const was = (id: string): string => {
    const median = kept.get(id);
    return median === undefined ? '' : `kept: ${shownNumber(median)}`;
  };
  const lines = rows.map((row) => [
    row.id,
    row.label,
    `${shownFigure(row.ours)} ${row.unit}`,
    row.beside ? `${row.beside.label}: ${shownFigure(row.beside)}` : '',
    row.ratio ? `ratio ${shownFigure(row.ratio)}` : '',
    was(row.id),
    row.ours.rounds > 1 ? `${row.ours.rounds} rounds` : '',
    row.note ?? '',
  ]);
  return `${bench}\n${aligned(lines)}`;
}

function curveTable({ id, label, x, y, lines }: Curve): string {
  const points = lines.map((line) => [
    line.label,
    ...line.points.map(([at, value]) => `${shownNumber(at)}: ${shownNumber(value)}`),
  ]);
  return `${id}: ${label} (${x}: ${y})\n${aligned(points)}`;
}

function aligned(lines: readonly (readonly string[])[]): string {
  const widths: number[] = [];
  for (const line of lines)
    for (const [i, cell] of line.entries()) widths[i] = Math.max(widths[i] ?? 0, cell.length);
  return lines
    .map((line) => `  ${line.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join('  ')}`.trimEnd())
    .join('\n');
}
