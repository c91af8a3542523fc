/** npm run cli:docs: writes the reference of the commands into docs/cli.md. A test shows when it is out of date. */
import { writeFileSync } from 'node:fs';
import { cliPage, PAGE } from './cli-reference.js';

writeFileSync(PAGE, await cliPage());
