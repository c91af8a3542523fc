/** The properties of the fuzz targets for connections, on inputs that they make. `npm run fuzz` tries others. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Random } from '../../fuzz/random.js';
import { datagrams } from '../../fuzz/targets/datagrams.js';
import { hellos } from '../../fuzz/targets/hellos.js';
import { requests } from '../../fuzz/targets/requests.js';
import { segments } from '../../fuzz/targets/segments.js';

const RUNS = [
  [hellos, 150],
  [datagrams, 40],
  [requests, 100],
  [segments, 1_000],
] as const;

test.each(RUNS)('$name', async (target, numRuns) => {
  for (const input of target.corpus) await target.check(input);
  const seed = fc.integer({ min: 0, max: 2 ** 31 - 1 });
  const property = fc.asyncProperty(seed, async (n) => {
    const input = target.generate?.(new Random(n));
    if (input) await target.check(input);
  });
  const run = await fc.check(property, { numRuns, seed: 7 });
  expect(run.failed ? run.errorInstance : undefined).toBeUndefined();
});
