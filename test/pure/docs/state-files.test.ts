/** The table of the files of the state folder names what the program writes, and no more kinds than twelve. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { stateKinds } from '../../lab/state-files.js';

const SRC = join(import.meta.dirname, '../../../src');
const sources = readdirSync(SRC, { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.ts'))
  .map((name) => readFileSync(join(SRC, name), 'utf8'))
  .join('\n');

it('has at most twelve kinds', () => {
  expect(stateKinds().length).toBeGreaterThan(5);
  expect(stateKinds().length).toBeLessThanOrEqual(12);
});

it.each(stateKinds().flat())('%s is a name in the program', (name) => {
  const [begin = ''] = name.split('*');
  expect(["'", '`'].some((quote) => sources.includes(quote + begin))).toBe(true);
});
