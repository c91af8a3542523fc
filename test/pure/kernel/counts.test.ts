import { expect, it, vi } from 'vitest';
import { Counts, readCounters } from '../../../src/kernel/counts.js';
import type { Exec } from '../../../src/kernel/exec.js';
import type { NftElements } from '../../../src/kernel/netlink/nft-codec.js';
import { Turns } from '../../../src/lib/shared-read.js';
import type { AppliedState } from '../../../src/ruleset/applied-state.js';
import { compile } from '../../../src/ruleset/compile.js';
import { containerChain } from '../../../src/ruleset/naming.js';
import { chainHashes } from '../../../src/ruleset/render/iptables.js';
import type { Rule } from '../../../src/ruleset/rules.js';
import { input, member } from '../ruleset/sample.js';

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

it('a chain that is installed again counts from zero, and the others go on', async () => {
  const m = member(2, '10.0.0.1:80');
  const desired = compile(input(m));
  const state = { desired, subjects: new Map([[m.id, m]]) } as unknown as AppliedState;
  const chain = containerChain('DB', m.id);
  /** Packets that the last rule to this target has counted in a chain. */
  const counters = new Map<string, number>();
  const kernel: Pick<NftElements, 'counters'> = {
    counters: async (family) =>
      desired.tables
        .filter((t) => t.family === family && t.layer === 'verdict')
        .flatMap((t) => [...t.chains])
        .flatMap(([name, rules]) =>
          chainHashes(rules, family).map((hash, n) => {
            const { then, when } = rules[n] as Rule;
            if (then.k === 'goto' && when.length > 0)
              return { chain: name, comment: `DB:${hash}`, packets: 0 };
            const key = `${family} ${name} ${then.k === 'goto' ? then.chain : then.k}`;
            return { chain: name, comment: `DB:${hash}`, packets: counters.get(key) ?? 0 };
          }),
        ),
  };
  const exec: Exec = async () => ({ code: 1, stdout: '', stderr: '' });
  const counts = new Counts({ exec, kernel, hostMode: { isLegacy: false } }, 'DB', new Turns(() => false));
  const read = async (more: Readonly<Record<string, number>>) => {
    for (const [key, packets] of Object.entries(more)) counters.set(key, packets);
    const before = counts.at;
    await vi.waitFor(async () => {
      await counts.refresh();
      expect(counts.at).not.toBe(before);
    }, 10_000);
    const { own, refused } = counts.of(state);
    return [own.get(m.id), refused];
  };
  const [v4, v6] = [`4 ${chain} DB-NO`, `6 ${chain} DB-NO`];
  const seen = await read({
    [v4]: 5,
    [v6]: 500,
    [`4 ${chain} DB-BOUND`]: 9,
    '4 DB-NO reject': 7,
    '4 DB-NO nflog': 7,
  });
  // both rejections have the count: of TCP, and of the others
  expect(seen).toEqual([
    { sum: 505, grown: undefined },
    { sum: 14, grown: undefined },
  ]);
  expect(await read({ [v4]: 1, '6 DB-FLOOD drop': 3 })).toEqual([
    { sum: 501, grown: 1 },
    { sum: 17, grown: 3 },
  ]);
  expect(await read({ [v4]: 4 })).toMatchObject([{ grown: 3 }, { grown: 0 }]);
});
