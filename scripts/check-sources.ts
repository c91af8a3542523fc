/**
 * The part of `npm run check` that compares the sources and the documentation: what `npm run layout`, `npm run flows -- --check` and `npm run docs` find,
 * in one process. To start three and to read the sources three times takes three times the processor time.
 */
import { docProblems } from './docs.js';
import { flowProblems } from './flows.js';
import { layoutProblems } from './layout.js';
import { sourceFiles } from './source-files.js';

const files = sourceFiles();
const problems = [...layoutProblems(files), ...flowProblems(files), ...(await docProblems(files))];
for (const problem of problems) console.error(problem);
process.exitCode = problems.length > 0 ? 1 : 0;
