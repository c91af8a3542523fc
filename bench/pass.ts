/**
 * What a pass for one container more costs the process among many that stay: gathering aside, compile, the difference to
 * what is installed, and what is installed then. Compared with the same pass when nothing is kept of the others, in one run.
 * `npx tsx bench/pass.ts [--containers 500] [--rounds 15]`; no root.
 */
import { parseArgs } from 'node:util';
import { planSteps } from '../src/kernel/apply.js';
import { expectedAfter } from '../src/kernel/dataplane.js';
import { EMPTY_BRIDGE } from '../src/kernel/nft-text.js';
import type { Observed } from '../src/kernel/read-rules.js';
import { compile } from '../src/ruleset/compile.js';
import { keepSubject, type Subject } from '../src/ruleset/desired-state.js';
import { input, member, shape } from '../test/pure/ruleset/sample.js';
import { comparedRow } from './harness.js';
import { KEEP, writeResult } from './results.js';

const { values } = parseArgs({
  options: {
    ...KEEP,
    containers: { type: 'string', default: '500' },
    rounds: { type: 'string', default: '15' },
  },
});
const count = Number(values.containers);
const NOTHING: Observed = {
  tables: new Map(),
  sets: new Map(),
  bridge: { exists: false, rules: [], elements: EMPTY_BRIDGE },
  backstop: { exists: false, rules: [] },
  arp: { exists: false, rules: [] },
  identity: { exists: false, rules: [] },
};

/** Made again in each pass, as the members of a pass are. */
const members = (n: number): Subject[] =>
  Array.from({ length: n }, (_, i) => member(i + 2, `api-${i}.example:443, 192.0.2.${i % 250}:80, any:22`));

class Passes {
  #kept = new Map<string, Subject>();
  #observed = NOTHING;

  pass(now: readonly Subject[], keeps: boolean): void {
    const chosen = keeps ? now.map((m) => keepSubject(this.#kept.get(m.id), m)) : now;
    this.#kept = new Map(chosen.map((m) => [m.id, m]));
    const desired = compile(input(...chosen));
    planSteps(shape, desired, this.#observed);
    this.#observed = expectedAfter(shape, desired, this.#observed);
  }
}

function side(name: string, keeps: boolean) {
  const passes = new Passes();
  passes.pass(members(count), keeps);
  let more = 0;
  return {
    name,
    measure: async (): Promise<number> => {
      more += 1;
      const now = members(count + (more % 2));
      const began = performance.now();
      passes.pass(now, keeps);
      return performance.now() - began;
    },
  };
}

const row = await comparedRow(
  { id: 'pass-one-more', label: `a pass for one container in addition to ${count}`, unit: 'ms' },
  {
    baseline: side('everything compiled', false),
    ours: side('the others kept', true),
    rounds: Number(values.rounds),
  },
);
await writeResult('pass', `npx tsx bench/pass.ts --containers ${count}`, [row]);
