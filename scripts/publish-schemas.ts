/** Writes schemas/*.json: `npm run schemas`. A test tells when they are out of date. */
import { writeFileSync } from 'node:fs';
import { SCHEMA_FILES } from './schema-files.js';

for (const [name, text] of SCHEMA_FILES) writeFileSync(new URL(`../schemas/${name}`, import.meta.url), text);
