/** A restart delays what a container does with names that it may use, and loses none of it. What is denied stays denied meanwhile. */
import { cpSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Container } from '../lab/container.js';
import { type Drawbridge, program } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { stateKinds, unlistedStateFiles } from '../lab/state-files.js';

const NAME = 'known.restart.test';
const OTHER = 'other.restart.test';
/** The same of the observed container, which may use it. */
const FREE = 'free.restart.test';
const SHARED = '93.184.71.1';
const OPEN = '93.184.71.2';
const CLOSED = '93.184.71.9';
const RESOLVER = '198.51.100.53';
const CLIENT = `${join(import.meta.dirname, 'steady.mjs')}:/steady.mjs:ro`;
/** Kinds of the client that must succeed. */
const PERMITTED = ['tls', 'http', 'known name', 'new name', 'same connection'] as const;
const DENIED = ['wrong tls', 'wrong http'];

interface Done {
  readonly kind: string;
  readonly began: number;
  readonly ended: number;
  readonly why: string | null;
}

const copy = mkdtempSync(join(tmpdir(), 'drawbridge-copy-'));
let lab: Lab;
let drawbridge: Drawbridge;
let enforced: Container;
let observed: Container;
beforeAll(async () => {
  lab = await Lab.up();
  await lab.docker('network', 'create', 'restart');
  await lab.dns.set({
    [NAME]: { A: [SHARED] },
    [OTHER]: { A: [SHARED] },
    [FREE]: { A: [SHARED] },
    [`*.new.${NAME}`]: { A: ['93.184.71.3'] },
  });
  drawbridge = lab.drawbridge();
  await drawbridge.ready();
  const labels = { 'drawbridge.allow': `${NAME}, *.new.${NAME}, ${OPEN}` };
  const client = (other: string) => ({
    network: 'restart',
    mounts: [CLIENT],
    cmd: ['node', '/steady.mjs', SHARED, NAME, other, OPEN, RESOLVER],
  });
  enforced = await lab.start({ ...client(OTHER), labels });
  observed = await lab.start(client(FREE));
  for (const c of [enforced, observed]) await working(c);
}, 120_000);
afterAll(async () => {
  await lab?.down();
  rmSync(copy, { recursive: true, force: true });
});

async function done(c: Container): Promise<readonly Done[]> {
  const lines = (await c.logs()).trim().split('\n');
  return lines.filter((line) => line.startsWith('{')).map((line) => JSON.parse(line) as Done);
}
/** Three of each kind that began after now have succeeded, and so has all that began before and is not lost. */
async function working(c: Container): Promise<void> {
  const from = Date.now();
  await waitFor(
    'each kind of work',
    async () => {
      const since = (await done(c)).filter(({ began, why }) => began > from && why === null);
      return PERMITTED.every((kind) => since.filter((one) => one.kind === kind).length > 2);
    },
    90_000,
    500,
  );
}

/** What either container lost of what it may do, while `act` ran. What the enforced one may not do is denied all the time. */
async function lostIn(act: () => Promise<unknown>): Promise<readonly string[]> {
  await lab.web.clear();
  await lab.sniffer.clear();
  const from = Date.now();
  const trying = new AbortController();
  const forbidden = tries(trying.signal);
  try {
    await act();
    for (const c of [enforced, observed]) await working(c);
  } finally {
    trying.abort();
  }
  expect(await forbidden).toBeGreaterThan(0);
  expect(await lab.sniffer.count({ direction: 'out', dst: CLOSED })).toBe(0);
  const [own, other] = [await done(enforced), await done(observed)].map((all) =>
    all.filter((d) => d.ended > from),
  );
  const hosts = (await lab.web.requests()).map((r) => r.host);
  expect(hosts).toEqual(expect.arrayContaining([NAME, FREE]));
  expect(hosts).not.toContain(OTHER);
  expect(own?.filter((d) => DENIED.includes(d.kind) && d.why === null)).toEqual([]);
  const longest = (kind: string): number =>
    Math.max(...(own ?? []).filter((d) => d.kind === kind).map((d) => d.ended - d.began));
  console.log(`longest, ms: ${PERMITTED.map((kind) => `${kind} ${longest(kind)}`).join(', ')}`);
  const lost = (all: readonly Done[] | undefined, kinds: readonly string[]): readonly Done[] =>
    (all ?? []).filter((d) => d.why !== null && !kinds.includes(d.kind));
  return [
    ...lost(own, DENIED).map((d) => `enforced ${d.kind}: ${d.why}`),
    ...lost(other, []).map((d) => `observed ${d.kind}: ${d.why}`),
  ];
}
/** Connections to what no entry permits, one after the other, in the number that is returned. */
async function tries(signal: AbortSignal): Promise<number> {
  let count = 0;
  for (; !signal.aborted; count++) await enforced.exec(['nc', '-w', '1', '-z', CLOSED, '80']);
  return count;
}

const restart = async (): Promise<void> => {
  await drawbridge.restart();
};
it('stop and start twice, the second time of another copy of the program', async () => {
  const twice = async (): Promise<void> => {
    await restart();
    const [node = '', ...words] = program();
    const main = words.pop() ?? '';
    if (main.endsWith('/dist/main.js')) {
      cpSync(join(main, '..'), join(copy, 'dist'), { recursive: true });
      for (const name of ['node_modules', 'package.json'])
        symlinkSync(join(main, '..', '..', name), join(copy, name));
      drawbridge.become([node, ...words, join(copy, 'dist', 'main.js')]);
    }
    await restart();
    drawbridge.become(undefined);
  };
  expect(await lostIn(twice)).toEqual([]);
});

it('a configuration that is read again, also where pidfd_getfd is not permitted', async () => {
  drawbridge.become(['enosys', '-s', 'pidfd_getfd', '--', ...program()]);
  await restart();
  drawbridge.become(undefined);
  for (const c of [enforced, observed]) await working(c);
  const reload = async (): Promise<void> => {
    const readies = (): number => drawbridge.logs().split('"ready: ').length;
    const before = readies();
    drawbridge.kill('SIGHUP');
    await waitFor('the service to be ready again', () => readies() > before, 60_000);
  };
  expect(await lostIn(reload)).toEqual([]);
});

it('killed: a connection of HTTP on which it has checked requests must be opened again, nothing else', async () => {
  const kill = async (): Promise<void> => {
    drawbridge.kill('SIGKILL');
    await drawbridge.exited();
    drawbridge.start();
    await drawbridge.ready();
  };
  const lost = await lostIn(kill);
  const begun = lost.filter((what) => what !== 'enforced same connection: ECONNRESET');
  expect(lost.length - begun.length).toBeLessThanOrEqual(1);
  // of connections that it had seen begin, and not decided: it has at most one of each kind at a time
  expect(begun.filter((what) => !/^enforced (tls|http): ECONNRESET$/.test(what))).toEqual([]);
  expect(begun.length).toBeLessThanOrEqual(2);
});

it('leaves in its state folder what the table in docs/architecture.md has, and all that is always there', () => {
  expect(unlistedStateFiles(drawbridge.stateDir)).toEqual([]);
  const names = readdirSync(drawbridge.stateDir);
  const always = ['names.journal', 'flows.db', 'small-state.db', 'host.json', 'keeper', 'lock'];
  expect(always.filter((name) => !names.includes(name) || !stateKinds().flat().includes(name))).toEqual([]);
});
