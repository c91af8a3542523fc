/**
 * npm run attacks:docs: writes the tables of docs/techniques.md, from what the attack suite declares.
 * Nothing is run: vitest only collects its files.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { attackFiles, DOCS_BEGIN, DOCS_END, TECHNIQUES } from '../test/attacks/files.js';
import { type Described, techniqueIds } from '../test/attacks/report.js';

const ROOT = join(import.meta.dirname, '..');

function declared(files: readonly string[]): ReadonlyMap<string, Described> {
  const dir = mkdtempSync(join(tmpdir(), 'drawbridge-attacks-'));
  try {
    const file = join(dir, 'declared');
    const args = ['list', '--project', 'attacks', '--project', 'lab', ...files];
    const env = { ...process.env, ATTACKS_DECLARED: file };
    execFileSync(join(ROOT, 'node_modules', '.bin', 'vitest'), args, { cwd: ROOT, env, stdio: 'pipe' });
    const all = readFileSync(file, 'utf8').trim().split('\n');
    return new Map(all.map((l) => JSON.parse(l) as Described).map((d) => [d.id, d]));
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

const cell = (text: string): string =>
  text.replaceAll('|', '\\|').replaceAll('<', '&lt;').replaceAll('*', '\\*');
function row(d: Described): string {
  const held = d.notStopped === undefined ? cell(d.stoppedBy) : `**not stopped**: ${cell(d.notStopped)}`;
  return `| \`${d.id}\` | ${cell(d.title)} | ${d.families.join(', ')} | ${held} |`;
}
function tableOf(file: string, all: ReadonlyMap<string, Described>): string {
  const found = techniqueIds(readFileSync(join(ROOT, file), 'utf8')).map((id) => {
    const d = all.get(id);
    if (d === undefined) throw new Error(`${file}: ${id} is written, but nothing declares it`);
    return d;
  });
  return `\`${file}\`\n\n| technique | what is tried | over | what stops it |\n| --- | --- | --- | --- |\n${found.map(row).join('\n')}`;
}

const files = attackFiles();
const all = declared(files);
const written = new Set(files.flatMap((f) => techniqueIds(readFileSync(join(ROOT, f), 'utf8'))));
const unwritten = [...all.keys()].filter((id) => !written.has(id));
if (unwritten.length > 0)
  throw new Error(`declared, but not literally (\`id: '…'\`): ${unwritten.join(', ')}`);
const page = join(ROOT, TECHNIQUES);
const text = readFileSync(page, 'utf8');
const [before, rest] = text.split(DOCS_BEGIN);
const after = rest?.split(DOCS_END)[1];
if (before === undefined || after === undefined)
  throw new Error(`${TECHNIQUES}: no ${DOCS_BEGIN} … ${DOCS_END}`);
const tables = files.map((f) => tableOf(f, all)).join('\n\n');
writeFileSync(page, `${before}${DOCS_BEGIN}\n\n${tables}\n\n${DOCS_END}${after}`);
process.stdout.write(`${all.size} techniques of ${files.length} files\n`);
