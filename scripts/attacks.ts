/**
 * npm run attacks [-- FILE…]: runs the attack suite, and every live test that shows a technique, and prints a table of what
 * was tried. Ends with 1 unless every control got out and every attack was held. Needs root, and an hour for all of it: what
 * scripts/test tries briefly is tried at length (scripts/long.ts), unless the environment says otherwise.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { attackFiles, sourceOf } from '../test/attacks/files.js';
import { type Finding, techniqueIds } from '../test/attacks/report.js';
import { LONG } from './long.js';

const ROOT = join(import.meta.dirname, '..');
interface Row {
  readonly id: string;
  readonly family: string;
  readonly title: string;
  readonly by: string;
  readonly control: string;
  readonly verdict: 'held' | 'OUT' | 'not stopped' | 'not run';
  readonly good: boolean;
}

/** Seconds: an hour of it is a run by itself (npm run soak). */
const OF_THE_SOAK = { CHURN: '600' };

function run(files: readonly string[], reportFile: string): Promise<number> {
  const vitest = join(ROOT, 'node_modules', '.bin', 'vitest');
  const SEED = String(Date.now() % 1_000_000);
  const env = { SEED, ...LONG, ...OF_THE_SOAK, ...process.env, ATTACKS_REPORT: reportFile };
  const args = ['run', '--project', 'attacks', '--project', 'lab', ...files];
  return new Promise((resolve, reject) => {
    const child = spawn(vitest, args, { cwd: ROOT, env, stdio: 'inherit' });
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => child.kill(signal));
    child.on('error', reject);
    child.on('exit', (code) => resolve(code ?? 1));
  });
}

function rowOf(id: string, family: string, found: readonly Finding[]): Row {
  const of = (side: string): Finding | undefined => found.find((f) => f.side === side);
  const [control, held] = [of('control'), of('held')];
  const described = held ?? control;
  const expected = described?.notStopped === undefined ? 'OUT' : 'not stopped';
  const verdict = held === undefined ? 'not run' : held.out ? expected : 'held';
  const known = described?.notStopped !== undefined;
  return {
    id,
    family,
    title: described?.title ?? '',
    by: described?.notStopped ?? described?.stoppedBy ?? '',
    control: control === undefined ? 'not run' : control.out ? 'out' : 'NOT OUT',
    verdict,
    good: control?.out === true && verdict === (known ? 'not stopped' : 'held'),
  };
}

/** The last finding of each technique, family and side counts: a test that was repeated has two. */
function rowsOf(ids: readonly string[], findings: readonly Finding[]): Row[] {
  return ids.flatMap((id) => {
    const mine = findings.filter((f) => f.id === id).reverse();
    const families = [...new Set(mine.map((f) => f.family))].sort();
    if (families.length === 0) return [rowOf(id, '-', [])];
    return families.map((family) =>
      rowOf(
        id,
        family,
        mine.filter((f) => f.family === family),
      ),
    );
  });
}

function table(rows: readonly Row[]): string {
  const head = ['technique', 'family', 'control', 'enforced', 'what stops it'];
  const cells = rows.map((r) => [`${r.id}: ${r.title}`, r.family, r.control, r.verdict, r.by]);
  const width = head.map((h, i) => Math.max(h.length, ...cells.map((c) => (c[i] ?? '').length)));
  const line = (c: readonly string[]): string =>
    c
      .map((x, i) => x.padEnd(width[i] ?? 0))
      .join('  ')
      .trimEnd();
  return [head, width.map((w) => '-'.repeat(w)), ...cells].map(line).join('\n');
}

function summary(rows: readonly Row[]): string {
  const techniques = (r: readonly Row[]): number => new Set(r.map((x) => x.id)).size;
  const bad = rows.filter((r) => !r.good);
  const badIds = new Set(bad.map((r) => r.id));
  const good = rows.filter((r) => !badIds.has(r.id));
  const held = good.filter((r) => r.verdict === 'held');
  const known = good.filter((r) => r.verdict === 'not stopped');
  const counts = `${techniques(held)} techniques held (${held.filter((r) => r.family === 'v4').length} over IPv4, ${held.filter((r) => r.family === 'v6').length} over IPv6), each seen to get out without Drawbridge`;
  return `${counts}; ${techniques(known)} known not to be stopped; ${techniques(bad)} not as it should be`;
}

const asked = process.argv.slice(2);
for (const f of asked.filter((a) => !existsSync(join(ROOT, a)))) {
  process.stderr.write(`attacks: there is no file ${f}: name test files from the top of the repository\n`);
  process.exit(2);
}
const files = asked.length > 0 ? asked : attackFiles();
const dir = mkdtempSync(join(tmpdir(), 'drawbridge-attacks-'));
try {
  const reportFile = join(dir, 'report');
  const code = await run(files, reportFile);
  const text = existsSync(reportFile) ? readFileSync(reportFile, 'utf8') : '';
  const findings = text.split('\n').flatMap((l) => (l === '' ? [] : [JSON.parse(l) as Finding]));
  const rows = rowsOf([...new Set(files.flatMap((f) => techniqueIds(sourceOf(f))))], findings);
  process.stdout.write(`\n${table(rows)}\n\n${summary(rows)}\n`);
  process.exitCode = code === 0 && rows.length > 0 && rows.every((r) => r.good) ? 0 : 1;
} finally {
  rmSync(dir, { recursive: true, force: true });
}
