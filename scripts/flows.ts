/**
 * npm run flows: prints the five flows of docs/architecture.md from scripts/flows.json, each as the files that it passes.
 * `--write` writes them into that page. `--check` fails when a file or a name in it does not exist, when a file neither imports nor is imported
 * by one before it, when a flow passes more files than its bound, or when the page is not current. `--trace` (as root) runs the
 * service in a lab, and fails when a flow does not execute every file of its list (what is executed beside it is counted).
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { FLOWS, type Flow, filesOf } from './flow-lists.js';
import { type SourceFile, sourceFiles } from './source-files.js';

const ROOT = join(import.meta.dirname, '..');
const PAGE = join(ROOT, 'docs', 'architecture.md');
const [BEGIN, END] = ['<!-- flows: written by npm run flows -- --write -->', '<!-- end of flows -->'];

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
function markdown(flow: Flow): string {
  const rows = flow.steps.map(({ file, symbol, does }, i) => `${i + 1}. \`${file}\` \`${symbol}\`: ${does}`);
  const head = `### ${flow.name}: ${flow.what}`;
  return `${head}\n\n${filesOf(flow).length} files, ${changesOf(flow)} changes of module.\n\n${rows.join('\n')}`;
}

function page(): { readonly text: string; readonly wanted: string } {
  const text = readFileSync(PAGE, 'utf8');
  const [at, end] = [text.indexOf(BEGIN), text.indexOf(END)];
  if (at < 0 || end < at)
    throw new Error(`docs/architecture.md: the lines "${BEGIN}" and "${END}" are missing`);
  const body = FLOWS.map(markdown).join('\n\n');
  return { text, wanted: `${text.slice(0, at)}${BEGIN}\n\n${body}\n\n${text.slice(end)}` };
}

/** What is wrong with the flows or their page. */
export function flowProblems(files: readonly SourceFile[], isPageChecked = true): readonly string[] {
  const imports = new Map(files.map((f) => [f.path, new Set([...f.imports, ...f.starts])]));
  const problems = FLOWS.flatMap((flow) => problemsOf(flow, imports));
  const { text, wanted } = page();
  if (isPageChecked && text !== wanted)
    problems.push('docs/architecture.md is not current: npm run flows -- --write');
  return problems;
}

async function main(args: readonly string[]): Promise<void> {
  const problems = [...flowProblems(sourceFiles(), args.includes('--check'))];
  if (args.includes('--write')) writeFileSync(PAGE, page().wanted);
  else if (args.includes('--trace')) {
    const { traceFlows } = await import('./trace-flows.js');
    problems.push(...(await traceFlows(FLOWS)));
  } else if (!args.includes('--check')) console.log(FLOWS.map(markdown).join('\n\n'));
  for (const problem of problems) console.error(problem);
  process.exitCode = problems.length > 0 ? 1 : 0;
}

if (process.argv[1] === import.meta.filename) await main(process.argv.slice(2));
