import { readFileSync } from 'node:fs';

/** From package.json, in the parent folder of src and dist. */
export const VERSION: string = (
  JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string }
).version;
