/** Writes the results of the benches into docs/performance.md, between its markers, and the plots into docs/performance/. */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { BENCHES, GOALS, type Goal } from './goals.js';
import { plot } from './plot.js';
import { keptRuns, type Row, type Run, shownFigure, shownNumber } from './results.js';

const DOCS = join(import.meta.dirname, '..', 'docs');
const PAGE = join(DOCS, 'performance.md');
const PLOTS = join(DOCS, 'performance');

/** The page as the results make it, and the plots by the name of their file. */
export function renderedDocs(): { readonly page: string; readonly plots: ReadonlyMap<string, string> } {
  const plots = new Map<string, string>();
  let page = readFileSync(PAGE, 'utf8');
  page = withBlock(page, 'goals', goalTable());
  for (const { name, means } of BENCHES) {
    const [run] = keptRuns(name);
    for (const curve of run?.curves ?? []) plots.set(`${name}-${curve.id}.svg`, plot(curve));
    if (run) page = withBlock(page, name, benchBlock(name, means, run));
  }
  return { page, plots };
}

export function writeDocs(): void {
  const { page, plots } = renderedDocs();
  writeFileSync(PAGE, page);
  rmSync(PLOTS, { recursive: true, force: true });
  if (plots.size > 0) mkdirSync(PLOTS, { recursive: true });
  for (const [name, text] of plots) writeFileSync(join(PLOTS, name), text);
}

/** Replaces what is between the two markers of a block; a block without a kept result keeps its text. */
function withBlock(page: string, name: string, text: string): string {
  const begin = `<!-- results of ${name}: written by npm run bench -- --docs -->\n`;
  const end = `<!-- end of ${name} -->`;
  const from = page.indexOf(begin);
  const to = page.indexOf(end);
  if (from < 0 || to < from) throw new Error(`docs/performance.md has no block ${name}`);
  return `${page.slice(0, from + begin.length)}\n${text}\n\n${page.slice(to)}`;
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

function goalTable(): string {
  const rows = GOALS.map((goal) => {
    const row = newest(goal);
    if (!row) return [goal.label, 'not measured', '–', '–', goalText(goal), '–'];
    return [
      goal.label,
      oursText(row),
      besideText(row),
      ratioText(row),
      goalText(goal),
      isReached(goal, row) ? 'yes' : '**no**',
    ];
  });
  const missed = GOALS.flatMap((goal) => {
    const row = newest(goal);
    return row && !isReached(goal, row)
      ? [`- Not reached: ${goal.label}. ${goal.notes ?? 'The reason is not known yet.'}`]
      : [];
  });
  const text = table(['', 'Drawbridge', 'compared with', 'ratio', 'goal', 'reached'], rows);
  return missed.length === 0 ? text : `${text}\n\n${missed.join('\n')}`;
}

function benchBlock(name: string, means: string, run: Run): string {
  const { machine: m } = run;
  const from = `\`${run.command}\`, ${run.date.slice(0, 10)}, commit ${run.commit.slice(0, 7)}: ${m.cores} cores, ${m.cpu}, kernel ${m.kernel}, Docker ${m.docker}, iptables ${m.iptables}, Node ${m.node}.`;
  const rows = run.rows.map((row) => [
    row.label,
    oursText(row),
    besideText(row),
    ratioText(row),
    row.note ?? '',
  ]);
  const hasNotes = run.rows.some((row) => row.note !== undefined);
  const head = ['', 'Drawbridge', 'compared with', 'ratio', ...(hasNotes ? ['note'] : [])];
  const plots = run.curves.map((c) => `![${c.label}](performance/${name}-${c.id}.svg)`);
  return [
    from,
    table(
      head,
      rows.map((cells) => cells.slice(0, head.length)),
    ),
    ...plots,
    `What it means: ${means}`,
  ].join('\n\n');
}
