import { expect, it } from 'vitest';
import { parseObjects } from '../../../src/kernel/nft-parse.js';

it('reads the rate of a limit in the unit in which nft prints it', () => {
  const limit = (name: string, rate: number, unit: string) => ({
    limit: { name, rate, per: 'second', inv: true, rate_unit: unit, burst: 64, burst_unit: 'kbytes' },
  });
  const { limits } = parseObjects([
    limit('a', 125_000, 'bytes'),
    limit('b', 125, 'kbytes'),
    limit('c', 1, 'mbytes'),
  ]);
  expect([...limits]).toEqual([
    ['a', 125_000],
    ['b', 128_000],
    ['c', 1_048_576],
  ]);
});
