/**
 * `npm run fuzz [-- --target NAME --seconds N --seed S --input FILE]`: every reader of bytes that others write, with
 * mutated and made inputs, two targets at a time. The same seed gives the same inputs. Exit 1: something was found, and
 * its input lies in the file that is named.
 */
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { targets } from './targets.js';
import { type Outcome, type Run, watch } from './watch.js';

const USAGE = `usage: npm run fuzz -- [--target NAME]... [--seconds N] [--seed S] [--input FILE]
targets: ${targets.map(({ name }) => name).join(', ')}`;

function fail(message: string): never {
  console.error(`${message}\n${USAGE}`);
  process.exit(2);
}

function whole(text: string, option: string): number {
  return /^\d{1,9}$/.test(text) ? Number(text) : fail(`--${option} takes a whole number, not "${text}"`);
}

function runs(): readonly Run[] {
  const { values } = parseArgs({
    options: {
      target: { type: 'string', multiple: true },
      seconds: { type: 'string', default: '60' },
      seed: { type: 'string' },
      input: { type: 'string' },
    },
  });
  const wanted = values.target ?? targets.map(({ name }) => name);
  const unknown = wanted.find((name) => !targets.some((target) => target.name === name));
  if (unknown !== undefined) return fail(`no target is called ${unknown}`);
  if (values.input !== undefined && wanted.length !== 1) return fail('--input needs one --target');
  const seed = values.seed === undefined ? Date.now() % 1e9 : whole(values.seed, 'seed');
  const only = values.input === undefined ? {} : { only: readFileSync(values.input) };
  return wanted.map((target) => ({ target, seed, seconds: whole(values.seconds, 'seconds'), ...only }));
}

function tell({ seed }: Run, { target, tries, fault }: Outcome): void {
  if (fault === undefined) {
    console.log(`${target.padEnd(10)} ${String(tries).padStart(9)} inputs, nothing found (seed ${seed})`);
    return;
  }
  const file = join(mkdtempSync(join(tmpdir(), 'drawbridge-fuzz-')), target);
  writeFileSync(file, fault.input);
  console.log(
    `${target.padEnd(10)} input ${tries} of seed ${seed}, ${fault.input.length} bytes: ${fault.what}`,
  );
  console.log(`  again: npm run fuzz -- --target ${target} --input ${file}`);
}

const waiting = [...runs()];
// First: a run that is killed has told it.
console.log(`seed ${waiting[0]?.seed}`);
let found = 0;
async function lane(): Promise<void> {
  for (let run = waiting.shift(); run !== undefined; run = waiting.shift()) {
    const outcome = await watch(run);
    tell(run, outcome);
    if (outcome.fault !== undefined) found += 1;
  }
}
await Promise.all([lane(), lane()]);
process.exitCode = found === 0 ? 0 : 1;
