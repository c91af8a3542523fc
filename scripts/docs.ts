/**
 * npm run docs: compares the documentation with the product. Commands, options, labels, keys, metrics, events, operations, files and headings
 * that a page names exist, and those that exist are documented. A sentence that says that something does not exist or was not tried needs
 * an entry in scripts/docs-limits.json. Lines and sentences have a bound (scripts/markdown.ts); with `--wrap` lines are wrapped before.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Limit, problemsOf } from './docs-check.js';
import { factsOf, type Page, pages } from './docs-facts.js';
import { lengthProblems, wrapped } from './markdown.js';
import { type SourceFile, sourceFiles } from './source-files.js';

/** The list of changes. It names what earlier versions had, so only the lengths of its lines and sentences are checked. */
const changes = (): Page => ({
  path: 'CHANGELOG.md',
  text: readFileSync(join(import.meta.dirname, '..', 'CHANGELOG.md'), 'utf8'),
});

/** What is wrong in the documentation. */
export async function docProblems(files: readonly SourceFile[]): Promise<readonly string[]> {
  const limits = JSON.parse(readFileSync(join(import.meta.dirname, 'docs-limits.json'), 'utf8')) as Limit[];
  return [...problemsOf(pages(), await factsOf(files), limits), ...lengthProblems(changes())];
}

if (process.argv[1] === import.meta.filename) {
  if (process.argv.includes('--wrap'))
    for (const { path, text } of [changes(), ...pages()].filter((page) => page.path.endsWith('.md')))
      if (wrapped(text) !== text) writeFileSync(join(import.meta.dirname, '..', path), wrapped(text));
  const problems = await docProblems(sourceFiles());
  for (const problem of problems) console.error(problem);
  if (problems.length > 0) process.exitCode = 1;
}
