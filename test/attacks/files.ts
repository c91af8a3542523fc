/** Where techniques are declared, and where they are written down. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

const ROOT = join(import.meta.dirname, '..', '..');
export const TECHNIQUES = 'docs/techniques.md';
export const DOCS_BEGIN = '<!-- techniques: written by npm run attacks:docs -->';
export const DOCS_END = '<!-- end of techniques -->';

const testsIn = (folder: string): string[] =>
  readdirSync(join(ROOT, folder))
    .filter((f) => f.endsWith('.test.ts'))
    .map((f) => `${folder}/${f}`);
export const sourceOf = (file: string): string => readFileSync(join(ROOT, file), 'utf8');
/** The attack suite, and every live test that shows a technique. */
export const attackFiles = (): string[] => [
  ...testsIn('test/attacks'),
  ...testsIn('test/live').filter((f) => sourceOf(f).includes('attacks/report.js')),
];
