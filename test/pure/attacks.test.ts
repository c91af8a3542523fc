/** Every technique of the attack suite is in docs/techniques.md, and the other way round. */
import { expect, test } from 'vitest';
import { attackFiles, DOCS_BEGIN, DOCS_END, sourceOf, TECHNIQUES } from '../attacks/files.js';
import { techniqueIds } from '../attacks/report.js';

const written = attackFiles().flatMap((f) => techniqueIds(sourceOf(f)));

test('no two techniques have one id', () => {
  expect(written.filter((id, i) => written.indexOf(id) !== i)).toEqual([]);
  expect(written.length).toBeGreaterThanOrEqual(70);
});

test('docs/techniques.md has them all, and no other (else: npm run attacks:docs)', () => {
  const tables = sourceOf(TECHNIQUES).split(DOCS_BEGIN)[1]?.split(DOCS_END)[0] ?? '';
  const told = [...tables.matchAll(/^\| `([a-z0-9-]+)` \|/gm)].map((m) => m[1]);
  expect(told.sort()).toEqual([...written].sort());
});
