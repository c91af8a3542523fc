import { describe, expect, it } from 'vitest';
import { checkKernel } from '../../src/kernel/doctor.js';
import { type Exec, exec } from '../../src/kernel/exec.js';
import { selfTest, wrongArrivals } from '../../src/kernel/self-test.js';
import { shape } from '../pure/desired/sample.js';
import { makeNetns } from './in-netns.js';

const own = { ...shape, holdQueue: 5353, logGroup: 5353 };

/** A host whose tools say yes and leave out these tables. */
const without =
  (...tables: string[]): Exec =>
  (file, args, options) => {
    const tool = args.find((a) => /^ip6?tables-restore$/.test(a));
    if (!tool || options?.input === undefined) return exec(file, args, options);
    const kept = options.input.split(/^(?=\*)/m).filter((t) => !tables.some((x) => t.startsWith(`*${x}\n`)));
    return exec(file, args, { ...options, input: kept.join('') });
  };
const leftovers = async (): Promise<string> =>
  (await exec('ip', ['netns', 'list'])).stdout
    .split('\n')
    .filter((l) => l.startsWith(`drawbridge-doctor-${process.pid}`))
    .join();

describe('the self-test', () => {
  it('sends packets: permitted arrives, forbidden does not, of an unknown port nothing does', async () => {
    const arrivals = await selfTest(exec, own);
    expect(arrivals).toHaveLength(6);
    expect(wrongArrivals(arrivals)).toEqual([]);
    expect(arrivals).toContainEqual({ phase: 'enforced', family: 6, permitted: true, forbidden: false });
    expect(await leftovers()).toBe('');
  });

  it('is not content with rules that are said to stand', async () => {
    const wrong = wrongArrivals(await selfTest(without('filter', 'security'), own));
    expect(wrong).toContainEqual({ phase: 'enforced', family: 4, permitted: true, forbidden: true });
    expect(wrong).toContainEqual({ phase: 'enforced', family: 6, permitted: true, forbidden: true });
  });

  it('the second rule alone holds what is forbidden', async () => {
    const arrivals = await selfTest(without('filter'), own);
    const enforced = arrivals.filter((a) => a.phase !== 'without rules');
    expect(enforced.map((a) => a.forbidden)).toEqual([false, false, false, false]);
  });

  it('is one of the checks of doctor, which touch nothing of the host', async () => {
    using host = makeNetns();
    const before = host.run('nft', 'list', 'ruleset');
    const checks = await checkKernel(host.exec, own);
    expect(checks.filter((c) => !c.ok)).toEqual([]);
    expect(checks.map((c) => c.name)).toContain('enforcement');
    expect(host.run('nft', 'list', 'ruleset')).toBe(before);
    expect(await leftovers()).toBe('');
  });

  it('says what arrived where it should not, and what to do', async () => {
    const checks = await checkKernel(without('filter', 'security'), own);
    const check = checks.find((c) => c.name === 'enforcement');
    expect(check).toMatchObject({ ok: false, level: 'error' });
    expect(check?.detail).toContain(
      'enforced, IPv4: the permitted packet arrived, the forbidden one arrived',
    );
    expect(check?.remedy).toContain('bugreport');
  });
});
