/** docs/recipes/ai-agent.md, ci-runner.md and builds.md: their commands are typed in a lab, and what left it is compared with their text. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { Kitchen, standIn } from './recipe.js';

const SHIPPED = join(import.meta.dirname, '..', '..', 'allowlists');
const lists = Object.fromEntries(
  readdirSync(SHIPPED).map((file) => [file, readFileSync(join(SHIPPED, file), 'utf8')]),
);
const AT = {
  'registry.npmjs.org': '93.184.110.1',
  'docs.example.org': '93.184.110.2',
  'pastebin.com': '93.184.110.3',
} as const;
const METADATA = '169.254.169.254';

let lab: Lab;
let drawbridge: Drawbridge;
const left = (dst: string): Promise<number> => lab.sniffer.count({ direction: 'out', dst });
const queries = async (name: string): Promise<number> => (await lab.dns.queries(name)).length;
/** A client's attempt in a container: whether the server's answer arrived. */
async function reaches(container: string, url: string, seconds = 8): Promise<boolean> {
  const argv = ['wget', '-q', '-T', String(seconds), '-O', '/dev/null', url];
  return (await lab.exec(container, argv)).code === 0;
}

beforeAll(async () => {
  lab = await Lab.up();
  await Promise.all([
    lab.dns.set(Object.fromEntries(Object.entries(AT).map(([name, at]) => [name, { A: [at], ttl: 1 }]))),
    standIn(lab, 'node:22'),
  ]);
  // The control of every denial: without Drawbridge all of this is reached.
  await lab.start({ name: 'before', node: false });
  for (const name of ['registry.npmjs.org', 'docs.example.org', 'pastebin.com'])
    expect(await reaches('before', `http://${name}/`)).toBe(true);
  await reaches('before', `http://${METADATA}/`, 1);
  expect(await left(METADATA)).toBeGreaterThan(0);
  await lab.docker('rm', '-f', 'before');
  drawbridge = lab.drawbridge({ lists });
  await drawbridge.ready();
  await lab.sniffer.clear();
  await lab.dns.clearLog();
});
afterAll(() => lab?.down());

describe('ai-agent.md', () => {
  const AGENT = 'agent-agent-1';
  let kitchen: Kitchen;
  beforeAll(() => {
    kitchen = new Kitchen(lab, drawbridge, 'ai-agent');
    kitchen.write();
  });

  it('starts an agent that reaches what its lists permit', async () => {
    const { stdout } = await kitchen.type('Start it', { timeoutMs: 30_000 });
    expect(stdout).toMatch(/^agent-agent-1\tenforce\tfull\t/m);
    expect(await left(AT['registry.npmjs.org'])).toBeGreaterThan(0);
  });

  it('lets a person allow a name while the client waits, and denies what was not decided', async () => {
    const waiting = reaches(AGENT, 'http://docs.example.org/', 30);
    await waitFor('a request', async () =>
      (await drawbridge.cli(['ask'])).stdout.includes('docs.example.org'),
    );
    expect(await queries('docs.example.org')).toBe(0);
    await kitchen.type('Decide about new names');
    expect(await waiting).toBe(true);
    expect(await left(AT['docs.example.org'])).toBeGreaterThan(0);
    expect(await reaches(AGENT, 'http://pastebin.com/', 30)).toBe(false);
    expect([await queries('pastebin.com'), await left(AT['pastebin.com'])]).toEqual([0, 0]);
  });

  it('does not reach the metadata service of a cloud, and is not asked about it', async () => {
    expect(await reaches(AGENT, `http://${METADATA}/latest/meta-data/`)).toBe(false);
    expect(await left(METADATA)).toBe(0);
    expect((await drawbridge.cli(['ask'])).stdout).not.toContain(METADATA);
  });

  it('shows what it did, and why something is denied', async () => {
    await waitFor('the flow to be recorded', async () =>
      (await drawbridge.cli(['flows', AGENT])).stdout.includes('registry.npmjs.org 93.184.110.1'),
    );
    const { stdout } = await kitchen.type('See what it did');
    expect(stdout).toMatch(/\tdeny\tpastebin\.com \(DNS\)\t/);
    expect(stdout).toMatch(/\tallow\tdocs\.example\.org 93\.184\.110\.2:80\/tcp\t/);
    expect(stdout).toMatch(/^deny: agent-agent-1 to pastebin\.com/m);
    expect(kitchen.untyped()).toEqual([]);
    await lab.docker('rm', '-f', AGENT);
  });
});
