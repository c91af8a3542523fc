/**
 * npm run mutants [-- ID-PREFIX…] [--project=pure|kernel|attacks|lab] [--list]: takes one security rule after the other out of a scratch copy of the source
 * (test/mutants/) and runs the test that is there for it. A mutant is killed when that very test fails; each test is first run
 * on the unchanged source, where it must pass. Ends with 1 when one survives, or its text is not found. Tests of labs and of
 * the kernel need root. Not part of scripts/test: a run of all takes more than an hour.
 */
import { execFileSync, spawn } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { Mutant } from '../test/mutants/mutant.js';
import { MUTANTS } from '../test/mutants/table.js';

const ROOT = join(import.meta.dirname, '..');
const LIMIT_MS = 900_000;
const ENDS = ['SIGINT', 'SIGTERM'] as const;
type By = Mutant['killedBy'];
interface Run {
  /** Full names of tests that contain the wanted name. */
  readonly passed: readonly string[];
  readonly failed: readonly string[];
  readonly output: string;
}
interface Report {
  readonly testResults: readonly {
    readonly assertionResults: readonly { readonly fullName: string; readonly status: string }[];
  }[];
}

/** Everything that git knows or would add, and the installed modules. */
function copyTree(to: string): void {
  const listed = execFileSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], {
    cwd: ROOT,
  });
  for (const file of listed
    .toString()
    .split('\0')
    .filter((f) => f !== '' && existsSync(join(ROOT, f)))) {
    mkdirSync(dirname(join(to, file)), { recursive: true });
    cpSync(join(ROOT, file), join(to, file));
  }
  symlinkSync(join(ROOT, 'node_modules'), join(to, 'node_modules'));
}

function projectOf(file: string): string {
  const part = file.split('/')[1] ?? '';
  return part === 'live' ? 'lab' : part;
}
const escaped = (text: string): string => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');

function runTest(tree: string, by: By): Promise<Run> {
  const report = join(tree, 'mutant-report.json');
  rmSync(report, { force: true });
  const only = by.only ? ['-t', escaped(by.test)] : [];
  const argv = ['run', '--project', projectOf(by.file), by.file, ...only];
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`];
  return new Promise((resolve, reject) => {
    const child = spawn(join(tree, 'node_modules', '.bin', 'vitest'), [...argv, ...reporters], {
      cwd: tree,
      env: { RUNS: '3', ...process.env, FORCE_COLOR: '0' },
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: LIMIT_MS,
    });
    // the test takes its lab down before it ends
    const end = (): void => void child.kill('SIGTERM');
    for (const signal of ENDS) process.once(signal, end);
    const chunks: Buffer[] = [];
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (d: Buffer) => chunks.push(d));
    child.on('error', reject);
    child.on('close', () => {
      for (const signal of ENDS) process.off(signal, end);
      const found = existsSync(report)
        ? (JSON.parse(readFileSync(report, 'utf8')) as Report)
        : { testResults: [] };
      const tests = found.testResults
        .flatMap((t) => t.assertionResults)
        .filter((t) => t.fullName.includes(by.test));
      const of = (status: string): string[] =>
        tests.filter((t) => t.status === status).map((t) => t.fullName);
      resolve({ passed: of('passed'), failed: of('failed'), output: Buffer.concat(chunks).toString() });
    });
  });
}

const lastLines = (text: string): string => text.trimEnd().split('\n').slice(-30).join('\n');
const baselines = new Map<string, Promise<Run>>();
/** undefined: the test passes on the unchanged source. */
async function faultOfBaseline(tree: string, by: By): Promise<string | undefined> {
  const key = JSON.stringify(by);
  const run = baselines.get(key) ?? runTest(tree, by);
  baselines.set(key, run);
  const { passed, failed, output } = await run;
  if (passed.length > 0 && failed.length === 0) return undefined;
  const why = failed.length > 0 ? 'fails' : 'does not run';
  return `"${by.test}" in ${by.file} ${why} on the unchanged source:\n${lastLines(output)}`;
}

/** Makes the changes. Resolves to the files as they were, or to why a change cannot be made. */
function mutate(tree: string, mutant: Mutant): ReadonlyMap<string, string> | string {
  const before = new Map<string, string>();
  const after = new Map<string, string>();
  for (const { file, from, to } of [mutant, ...(mutant.also ?? [])]) {
    if (!existsSync(join(tree, file))) return `there is no ${file}`;
    if (!before.has(file)) before.set(file, readFileSync(join(tree, file), 'utf8'));
    const text = after.get(file) ?? before.get(file) ?? '';
    const count = text.split(from).length - 1;
    if (count !== 1)
      return `${file} contains the text ${count} times, not once: the entry must follow the source`;
    after.set(
      file,
      text.replace(from, () => to),
    );
  }
  for (const [file, text] of after) writeFileSync(join(tree, file), text);
  return before;
}

async function tryMutant(tree: string, mutant: Mutant): Promise<{ good: boolean; said: string }> {
  const fault = await faultOfBaseline(tree, mutant.killedBy);
  if (fault !== undefined) return { good: false, said: `NO BASELINE: ${fault}` };
  const before = mutate(tree, mutant);
  if (typeof before === 'string') return { good: false, said: `NOT MADE: ${before}` };
  try {
    const { failed, output } = await runTest(tree, mutant.killedBy);
    if (failed.length > 0) return { good: true, said: `killed by "${failed[0]}"` };
    return { good: false, said: `SURVIVED: ${mutant.what}\n${lastLines(output)}` };
  } finally {
    for (const [file, text] of before) writeFileSync(join(tree, file), text);
  }
}

const words = process.argv.slice(2);
const prefixes = words.filter((w) => !w.startsWith('--'));
const project = words.find((w) => w.startsWith('--project='))?.slice('--project='.length);
const wanted = MUTANTS.filter(
  ({ id, killedBy }) =>
    (prefixes.length === 0 || prefixes.some((p) => id.startsWith(p))) &&
    (project === undefined || projectOf(killedBy.file) === project),
);
if (wanted.length === 0) throw new Error(`there is no such mutant: ${words.join(' ')}`);
if (words.includes('--list')) {
  for (const m of wanted) process.stdout.write(`${m.id}: ${m.what} (${m.file}; ${m.killedBy.file})\n`);
} else {
  const tree = mkdtempSync(join(tmpdir(), 'drawbridge-mutants-'));
  try {
    copyTree(tree);
    let bad = 0;
    let isEnding = false;
    for (const signal of ENDS)
      process.on(signal, () => {
        isEnding = true;
      });
    for (const mutant of wanted) {
      if (isEnding) throw new Error('interrupted');
      const { good, said } = await tryMutant(tree, mutant);
      if (!good) bad += 1;
      process.stdout.write(`${mutant.id}: ${said}\n`);
    }
    process.stdout.write(`${wanted.length - bad} of ${wanted.length} killed\n`);
    process.exitCode = bad === 0 ? 0 : 1;
  } finally {
    rmSync(tree, { recursive: true, force: true });
  }
}
