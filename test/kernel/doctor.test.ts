import { describe, expect, it } from 'vitest';
import { type Exec, exec } from '../../src/kernel/exec.js';
import { checkKernel } from '../../src/ops/doctor.js';
import { selfTest, wrongArrivals } from '../../src/ops/self-test.js';
import { BACKSTOP_TABLE } from '../../src/ruleset/backstop-table.js';
import { shape } from '../pure/ruleset/sample.js';
import { makeNetns } from './in-netns.js';

const own = { ...shape, holdQueue: 5353, logGroup: 5353 };

/** A host whose tools say yes and leave out these tables, of iptables by name and of nft by family and name. */
const without =
  (...tables: string[]): Exec =>
  (file, args, options) => {
    if (options?.input === undefined) return exec(file, args, options);
    const isNft = args.includes('nft') && args.includes('-f');
    const isIptables = args.some((a) => /^ip6?tables-restore$/.test(a));
    const destroy = tables.filter((t) => t.includes(' ')).map((t) => `destroy table ${t}\n`);
    const input = isNft ? `${options.input}${destroy.join('')}` : options.input;
    const kept = input.split(/^(?=\*)/m).filter((t) => !tables.some((x) => t.startsWith(`*${x}\n`)));
    return exec(file, args, { ...options, input: isIptables ? kept.join('') : input });
  };
const EVERY_LAYER = ['filter', 'security', BACKSTOP_TABLE];
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
    const wrong = wrongArrivals(await selfTest(without(...EVERY_LAYER), own));
    expect(wrong).toContainEqual({ phase: 'enforced', family: 4, permitted: true, forbidden: true });
    expect(wrong).toContainEqual({ phase: 'enforced', family: 6, permitted: true, forbidden: true });
  });

  it.each([
    ['second', ['filter']],
    ['third', ['filter', 'security']],
  ])('the %s layer alone holds what is forbidden', async (_, gone) => {
    const arrivals = await selfTest(without(...gone), own);
    const enforced = arrivals.filter((a) => a.phase !== 'without rules');
    expect(enforced.map((a) => a.forbidden)).toEqual([false, false, false, false]);
  });

  it('is one of the checks of doctor, which touch nothing of the host', async () => {
    using host = makeNetns();
    const before = host.run('nft', 'list', 'ruleset');
    const checks = await checkKernel(host.exec, own);
    // whether the checks of frames are kept depends on what is mounted here
    expect(checks.filter((c) => !c.ok && c.name !== 'frames')).toEqual([]);
    expect(checks.find((c) => c.name === 'frames')?.detail).toMatch(/before all rules|before the first/);
    expect(checks.map((c) => c.name)).toContain('enforcement');
    expect(host.run('nft', 'list', 'ruleset')).toBe(before);
    expect(await leftovers()).toBe('');
  });

  it('says what arrived where it should not, and what to do', async () => {
    const checks = await checkKernel(without(...EVERY_LAYER), own);
    const check = checks.find((c) => c.name === 'enforcement');
    expect(check).toMatchObject({ ok: false, level: 'error' });
    expect(check?.detail).toContain(
      'enforced, IPv4: the permitted packet arrived, the forbidden one arrived',
    );
    expect(check?.remedy).toContain('bugreport');
  });
});
