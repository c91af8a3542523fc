import { readFileSync } from 'node:fs';

/** From package.json, two folders above this file in src and in dist (dist/parts, see scripts/build.mjs). */
export const VERSION: string = (
  JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string }
).version;
