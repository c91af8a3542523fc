/**
 * npm run docs: compares the documentation with the product. Commands, options, labels, keys, metrics, events, operations, files and headings
 * that a page names exist, and those that exist are documented. A sentence that says that something does not exist or was not tried needs
 * an entry in scripts/docs-limits.json.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Limit, problemsOf } from './docs-check.js';
import { factsOf, pages } from './docs-facts.js';

const limits = JSON.parse(readFileSync(join(import.meta.dirname, 'docs-limits.json'), 'utf8')) as Limit[];
const problems = problemsOf(pages(), await factsOf(), limits);
for (const problem of problems) console.error(problem);
if (problems.length > 0) process.exitCode = 1;
