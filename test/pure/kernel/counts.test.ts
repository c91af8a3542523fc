import { expect, it } from 'vitest';
import { readCounters } from '../../../src/kernel/counts.js';
import type { Exec } from '../../../src/kernel/exec.js';

const GONE = "ip6tables-save v1.8.11 (nf_tables): Set with index 65 in kernel doesn't exist.";

/** An iptables-save that fails so often with these words, and then prints an empty table. */
function failing(times: number, stderr: string) {
  let runs = 0;
  const run: Exec = async () =>
    ++runs <= times
      ? { code: 2, stdout: '', stderr }
      : { code: 0, stdout: '*filter\n:DB-c-1 - [0:0]\nCOMMIT\n', stderr: '' };
  return { run, runs: () => runs };
}

it('reads the rules again when a set was destroyed while they were read', async () => {
  const { run, runs } = failing(4, GONE);
  expect(await readCounters(run, 'DB', 6)).toEqual(new Map());
  expect(runs()).toBe(5);
});

it('gives up after five times, and at once for any other reason', async () => {
  await expect(readCounters(failing(5, GONE).run, 'DB', 6)).rejects.toThrow(/Set with index 65/);
  const other = failing(1, 'Permission denied');
  await expect(readCounters(other.run, 'DB', 6)).rejects.toThrow(/Permission denied/);
  expect(other.runs()).toBe(1);
});
