/** Beside others: only the networks that the configuration names, under names, marks and queues of its own. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';

const ALLOWED = '93.184.1.1';
const DENIED = '93.184.9.9';
const LABELS = { 'drawbridge.allow': `${ALLOWED}:80` };
const KERNEL = { prefix: 'ZZ', markMask: 0x0cfff000, queues: [70, 71] };

let lab: Lab;
let drawbridge: Drawbridge;
let mine: Container;
let theirs: Container;

beforeAll(async () => {
  lab = await Lab.up();
  await lab.dns.set({ 'free.example.com': { A: [DENIED] } });
  for (const network of ['mine-1', 'theirs']) await lab.docker('network', 'create', network);
  // One that stood before the service, with a label that would hold it elsewhere.
  theirs = await lab.start({ name: 'theirs-early', network: 'theirs', labels: LABELS });
  drawbridge = lab.drawbridge({ config: { networks: { manage: ['mine-*'] }, kernel: KERNEL } });
  await drawbridge.ready(60_000);
  mine = await lab.start({ name: 'mine', network: 'mine-1', labels: LABELS });
});
afterAll(() => lab?.down());

const reaches = async (c: Container, address: string): Promise<boolean> =>
  (await c.probe('tcp', address, 80, '--timeout', 2_000)).ok;
const iptables = async (): Promise<string> => (await lab.inHost(['iptables-save'], { check: true })).stdout;

describe('networks.manage', () => {
  it('what is named is held, by name and address', async () => {
    expect(await reaches(mine, ALLOWED)).toBe(true);
    expect(await reaches(mine, DENIED)).toBe(false);
    expect(await mine.probe('http', 'http://free.example.com/')).toMatchObject({ ok: false });
  });

  it('all else is as without us: old and new containers, the default bridge, names from the first instruction', async () => {
    await lab.dns.clearLog();
    const [late, plain] = await Promise.all([
      lab.start({ name: 'theirs-late', network: 'theirs', labels: LABELS }),
      lab.start({ name: 'plain', labels: LABELS }),
    ]);
    for (const c of [theirs, late, plain]) {
      expect(await reaches(c, DENIED)).toBe(true);
      expect(await c.probe('http', 'http://free.example.com/')).toMatchObject({ ok: true });
    }
    const asked = await plain.probe('dns', '8.8.8.8', 'free.example.com', 'A');
    expect(asked.ok).toBe(true);
    // No redirect: the resolver that was named has heard it.
    expect((await lab.dns.queries('free.example.com')).map((q) => q.to)).toContain('8.8.8.8');
    const first = await lab.runProbe({ network: 'theirs', labels: LABELS }, 'tcp', DENIED, '80');
    expect(first.ok).toBe(true);
    for (const c of [late, plain]) await c.remove();
  });

  it('and coverage says so', async () => {
    const { items } = JSON.parse((await drawbridge.get('/v1/containers')).body) as {
      items: { name: string; coverage: { state: string; reasons: { detail: string }[] } }[];
    };
    const of = (name: string) => items.find((c) => c.name === name)?.coverage;
    expect(of('mine')?.state).not.toBe('unenforced');
    expect(of('theirs-early')).toMatchObject({ state: 'unenforced' });
    expect(JSON.stringify(of('theirs-early')?.reasons)).toContain('not managed');
  });
});

describe('kernel', () => {
  it('every chain and set bears the prefix, every mark stays within the mask, the queue is the named one', async () => {
    const rules = await iptables();
    expect(rules).toContain(':ZZ-FORWARD ');
    expect(rules).not.toMatch(/:DB-|--match-set DB-/);
    const marks = [...rules.matchAll(/(?:--mark|--set-xmark) (0x[0-9a-f]+)\/(0x[0-9a-f]+)/g)];
    expect(marks.length).toBeGreaterThan(5);
    const beyond = marks.filter(
      ([, value, mask]) => ((Number(value) | Number(mask)) & ~KERNEL.markMask) !== 0,
    );
    expect(beyond.map(([text]) => text)).toEqual([]);
    const queues = [...rules.matchAll(/--queue-num (\d+)/g)].map((m) => m[1]);
    expect([...new Set(queues)].sort()).toEqual(['70', '71', '72', '73']);
    const sets = (await lab.inHost(['ipset', 'list', '-n'], { check: true })).stdout.split('\n');
    expect(sets.filter((name) => name !== '' && !name.startsWith('ZZ-'))).toEqual([]);
  });

  it('a first packet is held by it, and a neighbour of another tool’s marks keeps them', async () => {
    const first = await lab.runProbe({ network: 'mine-1', labels: LABELS }, 'tcp', ALLOWED, '80');
    expect(first.ok).toBe(true);
    const denied = await lab.runProbe({ network: 'mine-1', labels: LABELS }, 'tcp', DENIED, '80');
    expect(denied.ok).toBe(false);
    // A mark outside of the mask, set before us, is still there behind us.
    const mark = ['-t', 'mangle', '-I', 'PREROUTING', '-d', ALLOWED, '-j', 'MARK', '--or-mark', '0x1'];
    const count = ['-t', 'mangle', '-A', 'POSTROUTING', '-d', ALLOWED, '-m', 'mark', '--mark', '0x1/0x1'];
    for (const argv of [mark, count]) await lab.inHost(['iptables', ...argv], { check: true });
    expect(await reaches(mine, ALLOWED)).toBe(true);
    const counted = (await lab.inHost(['iptables', '-t', 'mangle', '-vnxL', 'POSTROUTING'])).stdout;
    expect(counted).toMatch(/^\s*[1-9]\d* +\d+ .*mark match 0x1\/0x1/m);
    expect(await reaches(mine, DENIED)).toBe(false);
  });
});
