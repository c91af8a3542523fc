/** A restart takes the rules as the service has last read them, and reads them again after any change while it was away. */
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';

const PERMITTED = '93.184.1.1';
const FORBIDDEN = '93.184.1.2';
const KEPT = 'they are not read again';
const CHECK_MS = 60_000;

/** Begins to listen only after this, but long before the service takes it to listen. */
const SLOW_MONITOR = `#!/bin/sh
PATH=\${PATH#*:}
[ "$1" = monitor ] && sleep 0.5
exec nft "$@"
`;

const tools = mkdtempSync(join(tmpdir(), 'drawbridge-tools-'));
let lab: Lab;
let drawbridge: Drawbridge;
let container: Awaited<ReturnType<Lab['start']>>;
let observed: typeof container;
let file: string;
beforeAll(async () => {
  lab = await Lab.up({});
  writeFileSync(join(tools, 'nft'), SLOW_MONITOR, { mode: 0o755 });
  const env = { PATH: `${tools}:${process.env.PATH}` };
  drawbridge = lab.drawbridge({ config: { log: { level: 'debug' } }, env });
  await drawbridge.ready();
  container = await lab.start({ labels: { 'drawbridge.allow': `${PERMITTED}:80` } });
  observed = await lab.start({ labels: { 'drawbridge.mode': 'observe' } });
  file = join(drawbridge.stateDir, 'kernel-rules');
}, 120_000);
afterAll(async () => {
  await lab?.down();
  rmSync(tools, { recursive: true, force: true });
});

const reaches = async (address: string, from = container): Promise<boolean> =>
  (await from.exec(['wget', '-q', '-T', '1', '-O', '/dev/null', `http://${address}/`])).code === 0;
const planned = async (): Promise<number> =>
  (JSON.parse((await drawbridge.get('/v1/plan')).body) as { items: unknown[] }).items.length;

/** Nothing is applied for this long (ms) when the service has dealt with all that the containers before have caused. */
const QUIET_MS = 1_500;
async function quiet(): Promise<void> {
  let [seen, since] = ['', Date.now()];
  const rest = (): boolean => {
    const applied = drawbridge
      .logs()
      .split('\n')
      .filter((line) => line.includes('"msg":"applied"'))
      .join();
    if (applied !== seen) [seen, since] = [applied, Date.now()];
    return Date.now() - since > QUIET_MS;
  };
  await waitFor('the service to apply nothing more', rest, CHECK_MS, 100);
}
/**
 * Another process changes a table, so that the service checks the rules, which it keeps then. In one transaction: rules that were kept
 * between two would be out of date after the second one. What a check has kept that began before is out of date too.
 */
async function keep(): Promise<void> {
  await waitFor('an empty plan', async () => (await planned()) === 0, CHECK_MS, 200);
  await quiet();
  await lab.inHost(['nft', 'add table ip other; delete table ip other'], { check: true });
  const changed = Date.now();
  const isKept = (): boolean => (statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0) >= changed;
  await waitFor('the rules to be kept', isKept, CHECK_MS);
}
async function restart(meanwhile: () => Promise<unknown> = async () => undefined): Promise<string> {
  await drawbridge.stop();
  const before = drawbridge.logs().length;
  await meanwhile();
  drawbridge.start();
  await drawbridge.ready();
  return drawbridge.logs().slice(before);
}
async function isEnforced(): Promise<void> {
  expect(await reaches(FORBIDDEN, observed)).toBe(true);
  expect(await planned()).toBe(0);
  await waitFor('what is permitted', () => reaches(PERMITTED), 10_000, 200);
  const after = await lab.sniffer.settle();
  expect(await reaches(FORBIDDEN)).toBe(false);
  await lab.sniffer.settle();
  expect(await lab.sniffer.count({ direction: 'out', dst: FORBIDDEN, after })).toBe(0);
}

it('a restart without a change does not read the rules, and enforces as before', async () => {
  await keep();
  expect(readFileSync(file).length).toBeGreaterThan(1_000);
  expect(await restart()).toContain(KEPT);
  await isEnforced();
  expect(await restart()).toContain(KEPT);
  await isEnforced();
}, 120_000);

it('rules that were removed while the service was away are in force when it is ready', async () => {
  await keep();
  const opened = await restart(() =>
    lab.inHost(['iptables', '-I', 'DB-FORWARD', '1', '-j', 'ACCEPT'], { check: true }),
  );
  expect(opened).not.toContain(KEPT);
  await isEnforced();
  await keep();
  expect(
    await restart(() => lab.inHost(['nft', 'delete', 'table', 'bridge', 'drawbridge'], { check: true })),
  ).not.toContain(KEPT);
  await isEnforced();
}, 120_000);

it('rules that are removed between the first pass and the first report of changes are repaired', async () => {
  await restart();
  const before = drawbridge.logs().length;
  await lab.inHost(['iptables', '-F', 'DB-FORWARD'], { check: true });
  const rules = async (): Promise<string> =>
    (await lab.inHost(['iptables', '-S', 'DB-FORWARD'], { check: true })).stdout;
  await waitFor('the rules', async () => (await rules()).includes('-A'), CHECK_MS, 100);
  expect(drawbridge.logs().slice(before)).toContain('nft monitor was not running');
  await isEnforced();
}, 120_000);

it('the record of the store is written again also when it is removed as soon as it is back', async () => {
  const isThere = async (): Promise<boolean> =>
    (await lab.inHost(['ipset', 'list', 'DB-record'], { check: true })).stdout.includes('127.0.0.1');
  await waitFor('the record', isThere, 10_000, 20);
  for (let n = 0; n < 4; n++) {
    await lab.inHost(['ipset', 'flush', 'DB-record'], { check: true });
    await waitFor('the record to be back', isThere, 5_000, 10);
  }
}, 60_000);
