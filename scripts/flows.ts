/**
 * npm run flows: prints the flows of docs/architecture.md from scripts/flows.json, each as the files that it passes.
 * `--write` writes them, and the table of time-outs, into that page. `--check` fails when a file or a name in it does not exist, when a file neither imports nor is imported
 * by one before it, when a flow passes more files than its bound, or when the page is not current. `--trace` (as root) runs the
 * service in a lab, and fails when a flow does not execute every file of its list. The number of all files that it executes
 * goes to scripts/flows-executed.json, and to the page: it is an upper bound, because other work of the service runs meanwhile.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { EXECUTED, type Executed, FLOWS, type Flow, filesOf } from './flow-lists.js';
import { wrap } from './markdown.js';
import { type SourceFile, sourceFiles } from './source-files.js';
import { timeoutProblems, timeoutTable } from './timeouts.js';

const ROOT = join(import.meta.dirname, '..');
const PAGE = join(ROOT, 'docs', 'architecture.md');
const COUNTS = join(import.meta.dirname, 'flows-executed.json');
const beginOf = (name: string): string => `<!-- ${name}: written by npm run flows -- --write -->`;
const endOf = (name: string): string => `<!-- end of ${name} -->`;

/** They build the parts of the service and connect them. */
const WIRING = ['src/app.ts', 'src/subscriptions.ts', 'src/docker/open-engine.ts'];

const moduleOf = (file: string): string => (file.split('/')[1] ?? '').replace(/\.ts$/, '');
const changesOf = ({ steps }: Flow): number =>
  steps.filter(({ file }, i) => i > 0 && moduleOf(file) !== moduleOf(steps[i - 1]?.file ?? '')).length;

function problemsOf(flow: Flow, imports: ReadonlyMap<string, ReadonlySet<string>>): readonly string[] {
  const files = filesOf(flow);
  const found = files.length > flow.most ? [`${files.length} files, at most ${flow.most}`] : [];
  for (const { file, symbol } of flow.steps) {
    const path = join(ROOT, file);
    if (!existsSync(path)) found.push(`${file} does not exist`);
    else if (!new RegExp(`(?<![\\w#])${symbol}\\b`).test(readFileSync(path, 'utf8')))
      found.push(`${file} has no ${symbol}`);
  }
  const isLinked = (a: string, b: string): boolean =>
    imports.get(a)?.has(b) === true || imports.get(b)?.has(a) === true;
  files.forEach((file, i) => {
    const before = [...files.slice(0, i), ...WIRING];
    if (i > 0 && !WIRING.includes(file) && !before.some((b) => isLinked(b, file)))
      found.push(`${file} neither imports nor is imported by a file before it`);
  });
  return found.map((problem) => `${flow.name}: ${problem}`);
}

/** Each file in the order of its first step. */
function markdown(flow: Flow, executed: Executed): string {
  const rows = flow.steps.map(({ file, symbol, does }, i) =>
    wrap([`\`${file}\``, `\`${symbol}\`:`, ...does.split(' ')], `${i + 1}. `, '   ').join('\n'),
  );
  const head = `### ${flow.name}: ${flow.what}`;
  const count = `${filesOf(flow).length} files to read, ${executed[flow.name] ?? 0} executed`;
  return `${head}\n\n${count}; ${changesOf(flow)} changes of module.\n\n${rows.join('\n')}`;
}

function withBlock(text: string, name: string, body: string): string {
  const [at, end] = [text.indexOf(beginOf(name)), text.indexOf(endOf(name))];
  if (at < 0 || end < at)
    throw new Error(`docs/architecture.md: the lines "${beginOf(name)}" and "${endOf(name)}" are missing`);
  return `${text.slice(0, at)}${beginOf(name)}\n\n${body}\n\n${text.slice(end)}`;
}

function page(executed = EXECUTED): { readonly text: string; readonly wanted: string } {
  const text = readFileSync(PAGE, 'utf8');
  const flows = FLOWS.map((flow) => markdown(flow, executed)).join('\n\n');
  return { text, wanted: withBlock(withBlock(text, 'flows', flows), 'time-outs', timeoutTable()) };
}

/** What is wrong with the flows, the time-outs or their page. */
export function flowProblems(files: readonly SourceFile[], isPageChecked = true): readonly string[] {
  const imports = new Map(files.map((f) => [f.path, new Set([...f.imports, ...f.starts])]));
  const problems = [...FLOWS.flatMap((flow) => problemsOf(flow, imports)), ...timeoutProblems()];
  const { text, wanted } = page();
  const untraced = FLOWS.filter(({ name }) => isPageChecked && !(name in EXECUTED));
  problems.push(
    ...untraced.map(({ name }) => `${name}: not in scripts/flows-executed.json: npm run flows -- --trace`),
  );
  if (isPageChecked && text !== wanted)
    problems.push('docs/architecture.md is not current: npm run flows -- --write');
  return problems;
}

async function main(args: readonly string[]): Promise<void> {
  const problems = [...flowProblems(sourceFiles(), args.includes('--check'))];
  if (args.includes('--write')) writeFileSync(PAGE, page().wanted);
  else if (args.includes('--trace')) {
    const { traceFlows } = await import('./trace-flows.js');
    const traced = await traceFlows(FLOWS);
    problems.push(...traced.problems);
    if (problems.length === 0) {
      writeFileSync(COUNTS, `${JSON.stringify(traced.executed, null, 2)}\n`);
      writeFileSync(PAGE, page(traced.executed).wanted);
    }
  } else if (!args.includes('--check'))
    console.log(FLOWS.map((flow) => markdown(flow, EXECUTED)).join('\n\n'));
  for (const problem of problems) console.error(problem);
  process.exitCode = problems.length > 0 ? 1 : 0;
}

if (process.argv[1] === import.meta.filename) await main(process.argv.slice(2));
