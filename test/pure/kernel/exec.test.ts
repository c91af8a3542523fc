import { join } from 'node:path';
import { expect, it } from 'vitest';
import { exec } from '../../../src/kernel/exec.js';

const PROGRAM = join(import.meta.dirname, 'without-descriptors.ts');
const LIMIT = '--nofile=200:200';

it('without a descriptor for it a program is not started: that is said, nothing is uncaught, and later it starts', async () => {
  const argv = [LIMIT, process.execPath, '--import', import.meta.resolve('tsx'), PROGRAM];
  const { code, stdout, stderr } = await exec('prlimit', argv);
  expect([code, stderr]).toEqual([0, '']);
  const { outcomes, helpers, after, uncaught } = JSON.parse(stdout) as {
    outcomes: string[];
    helpers: string[];
    after: string;
    uncaught: string[];
  };
  expect(uncaught).toEqual([]);
  expect(outcomes).toHaveLength(12);
  for (const said of outcomes) expect(said).toMatch(/^true( x)?: .*EMFILE.*LimitNOFILE/);
  expect(helpers[0]).toMatch(/tool-runner.*EMFILE.*LimitNOFILE/);
  expect(after).toBe(JSON.stringify({ code: 0, stdout: '', stderr: '' }));
});
