/** A mutant replaces a text of a source file. If the file does not contain this text, the mutant cannot be tested. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { MUTANTS } from '../mutants/table.js';

const path = (file: string): string => join(import.meta.dirname, '../..', file);

it('the text of each mutant is in the source once, and the file of its test exists', () => {
  const wrong = MUTANTS.flatMap(({ id, file, from, also = [], killedBy }) => [
    ...[{ file, from }, ...also]
      .filter((c) => readFileSync(path(c.file), 'utf8').split(c.from).length !== 2)
      .map((c) => `${id}: in ${c.file}`),
    ...(existsSync(path(killedBy.file)) ? [] : [`${id}: ${killedBy.file} does not exist`]),
  ]);
  expect(wrong).toEqual([]);
});
