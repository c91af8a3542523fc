/** Writes schemas/ and the reference in docs/api.md: `npm run schemas`. Tests find what is out of date. */
import { writeFileSync } from 'node:fs';
import { apiFiles } from './api-files.js';
import { SCHEMA_FILES } from './schema-files.js';

const at = (path: string): URL => new URL(`../${path}`, import.meta.url);
for (const [name, text] of SCHEMA_FILES) writeFileSync(at(`schemas/${name}`), text);
for (const [path, text] of await apiFiles()) writeFileSync(at(path), text);
