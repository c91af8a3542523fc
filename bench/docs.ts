/** Writes the goals into docs/performance.md, and the results of each bench into bench/results/NAME.md, with their plots. */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { wrap, wrapped } from '../scripts/markdown.js';
import { BENCHES, GOALS, type Goal } from './goals.js';
import { plot } from './plot.js';
import { keptRuns, type Row, type Run, shownFigure, shownNumber } from './results.js';

const ROOT = join(import.meta.dirname, '..');
const PAGE = 'docs/performance.md';
const RESULTS = 'bench/results';
const PLOTS = `${RESULTS}/plots`;

/** Pages and plots as the results make them, by their paths in the repository. */
export function renderedDocs(): {
  readonly pages: ReadonlyMap<string, string>;
  readonly plots: ReadonlyMap<string, string>;
} {
  const plots = new Map<string, string>();
  const pages = new Map([[PAGE, withBlock(PAGE, 'goals', goalTable())]]);
  for (const { name, means } of BENCHES) {
    const [run] = keptRuns(name);
    for (const curve of run?.curves ?? []) plots.set(`${PLOTS}/${name}-${curve.id}.svg`, plot(curve));
    const path = `${RESULTS}/${name}.md`;
    if (run) pages.set(path, withBlock(path, name, benchBlock(name, means, run)));
  }
  return { pages, plots };
}

export function writeDocs(): void {
  const { pages, plots } = renderedDocs();
  rmSync(join(ROOT, PLOTS), { recursive: true, force: true });
  if (plots.size > 0) mkdirSync(join(ROOT, PLOTS), { recursive: true });
  for (const [path, text] of [...pages, ...plots]) writeFileSync(join(ROOT, path), text);
}

/** The page with other text between the two markers of a block. A bench without a kept result keeps its text. */
function withBlock(path: string, name: string, text: string): string {
  const page = readFileSync(join(ROOT, path), 'utf8');
  const begin = `<!-- results of ${name}: written by npm run bench -- --docs -->\n`;
  const end = `<!-- end of ${name} -->`;
  const from = page.indexOf(begin);
  const to = page.indexOf(end);
  if (from < 0 || to < from) throw new Error(`${path} has no block ${name}`);
  return `${page.slice(0, from + begin.length)}\n${wrapped(text)}\n\n${page.slice(to)}`;
}

/** The newest result of the goal's bench, or of any, that has a row of this id. */
function newest({ id, bench }: Goal): Row | undefined {
  const found = BENCHES.flatMap(({ name }) => {
    const [run] = bench === undefined || bench === name ? keptRuns(name) : [];
    const row = run?.rows.find((r) => r.id === id);
    return run && row ? [{ date: run.date, row }] : [];
  });
  return found.sort((a, b) => b.date.localeCompare(a.date))[0]?.row;
}

/** The value that the goal is about. A result in seconds may have a goal in milliseconds. */
export function goalValue({ id, unit }: Goal, row: Row): number {
  if (unit === 'ratio') {
    if (!row.ratio) throw new Error(`the result of ${id} has no ratio`);
    return row.ratio.median;
  }
  if (row.unit === unit) return row.ours.median;
  if (row.unit === 's' && unit === 'ms') return row.ours.median * 1000;
  throw new Error(`the goal of ${id} is in ${unit}, its result in ${row.unit}`);
}

export function isReached(goal: Goal, row: Row): boolean {
  const value = goalValue(goal, row);
  return value <= (goal.atMost ?? Number.POSITIVE_INFINITY) && value >= (goal.atLeast ?? 0);
}

function goalText({ unit, atMost, atLeast }: Goal): string {
  const bound = atMost === undefined ? `≥ ${shownNumber(atLeast ?? 0)}` : `≤ ${shownNumber(atMost)}`;
  return unit === 'ratio' ? `ratio ${bound}` : `${bound} ${unit}`;
}

const tableRow = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [tableRow(head), tableRow(head.map(() => '---')), ...rows.map(tableRow)].join('\n');

const oursText = ({ ours, unit }: Row): string => `${shownFigure(ours)} ${unit}`;
const besideText = ({ beside, unit }: Row): string =>
  beside ? `${beside.label}: ${shownFigure(beside)} ${unit}` : '–';
const ratioText = ({ ratio }: Row): string => (ratio ? shownFigure(ratio) : '–');

/** Medians only: their spread is in the results of the bench. */
function goalTable(): string {
  const found = GOALS.map((goal) => ({ goal, row: newest(goal) }));
  const rows = found.map(({ goal, row }) => {
    if (!row) return [goal.label, 'not measured', '–', '–', goalText(goal), '–'];
    const { beside, unit, ratio } = row;
    return [
      goal.label,
      `${shownNumber(row.ours.median)} ${unit}`,
      beside ? `${beside.label}: ${shownNumber(beside.median)} ${unit}` : '–',
      ratio ? shownNumber(ratio.median) : '–',
      goalText(goal),
      isReached(goal, row) ? 'yes' : '**no**',
    ];
  });
  const missed = found.flatMap(({ goal, row }) => {
    if (!row || isReached(goal, row)) return [];
    const { label, notes = 'The reason is not known yet.' } = goal;
    return wrap(`**${label}.** ${notes}`.split(' '), '- ', '  ').join('\n');
  });
  const text = table(['', 'Drawbridge', 'compared with', 'ratio', 'goal', 'reached'], rows);
  return missed.length === 0 ? text : `${text}\n\n### Not reached, and why\n\n${missed.join('\n')}`;
}

const paragraph = (text: string): string => wrap(text.split(' ')).join('\n');

function benchBlock(name: string, means: string, run: Run): string {
  const { machine: m } = run;
  const made = `\`${run.command}\`, ${run.date.slice(0, 10)}, commit ${run.commit.slice(0, 7)}: ${m.cores} cores, ${m.cpu}, kernel ${m.kernel}, Docker ${m.docker}, iptables ${m.iptables}, Node ${m.node}.`;
  const rows = run.rows.map((row) => [
    row.label,
    oursText(row),
    besideText(row),
    ratioText(row),
    row.note ?? '',
  ]);
  const hasNotes = run.rows.some((row) => row.note !== undefined);
  const head = ['', 'Drawbridge', 'compared with', 'ratio', ...(hasNotes ? ['note'] : [])];
  const plots = run.curves.map((c) => `![${c.label}](plots/${name}-${c.id}.svg)`);
  return [
    paragraph(made),
    table(
      head,
      rows.map((cells) => cells.slice(0, head.length)),
    ),
    ...plots,
    paragraph(`What it means: ${means}`),
  ].join('\n\n');
}
