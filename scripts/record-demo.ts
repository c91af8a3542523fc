/** scripts/record-demo: standard input, the output of the demo, becomes docs/demo.svg. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { svgOf } from './show/recording.js';

const output = readFileSync(0, 'utf8');
// before it are the lines of npm, where packages were installed first
const begin = output.search(/^\S*Drawbridge\S*: /m);
if (begin < 0) throw new Error('this is not the output of scripts/demo');
writeFileSync(join(import.meta.dirname, '..', 'docs', 'demo.svg'), svgOf(output.slice(begin)));
