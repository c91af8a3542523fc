/** Pause and lockdown on a real engine: what passes, what is cut, for how long, over restarts too. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { leftAboutHostFlow } from '../attacks/host-flow.js';
import { raw } from '../attacks/raw.js';
import { shownHere } from '../attacks/report.js';
import { PROGRAMS } from '../attacks/technique.js';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { SmallDisk } from '../lab/small-disk.js';

const PERMITTED = '93.184.1.1';
const FORBIDDEN = '93.184.9.9';
const FORBIDDEN6 = '2600:9000::99';
/** How late the end of something may be seen on a busy machine. */
const LATE_MS = 5_000;

interface Shown {
  readonly name: string;
  readonly mode: string;
  readonly modeFrom: string;
  readonly pausedUntil: string | null;
}

const errors = shownHere({
  id: 'icmp-under-lockdown',
  title:
    'under lockdown, an ICMP error about a flow of the host, by an observed and by an enforced container',
  families: ['v4', 'v6'],
  stoppedBy: "an ICMP error passes only about a flow that has the container's own address as an end",
});
let lab: Lab;
let d: Drawbridge;
/** They send packets of their own making. */
let rawObserved: Container;
let rawEnforced: Container;
let web: Container;
let other: Container;
/** As web is; paused beside it for longer. */
let lasting: Container;
beforeAll(async () => {
  lab = await Lab.up({});
  await lab.dns.set({ 'away.example.com': { A: [FORBIDDEN] } });
  await lab.docker('network', 'create', '--ipv6', 'front');
  const sender = (mode: string) =>
    raw({ network: 'front', mounts: [PROGRAMS], labels: { 'drawbridge.mode': mode } });
  [rawObserved, rawEnforced] = await Promise.all([
    lab.start(sender('observe')),
    lab.start(sender('enforce')),
  ]);
  expect(await leftErrors(40_600)).toEqual([1, 1, 1, 1]);
  errors.control();
  d = lab.drawbridge({});
  await d.ready(60_000);
  const labels = { 'drawbridge.allow': `${PERMITTED}:80` };
  [web, lasting, other] = await Promise.all([
    lab.start({ name: 'web', network: 'front', labels }),
    lab.start({ name: 'lasting', network: 'front', labels }),
    lab.start({ name: 'other', network: 'front' }),
  ]);
  const isHeld = async (name: string): Promise<boolean> => (await shown(name))?.mode === 'enforce';
  const areHeld = async (): Promise<boolean> => (await isHeld('web')) && (await isHeld('lasting'));
  await waitFor('both to be held', areHeld, 20_000);
});
afterAll(() => lab?.down());

/** By the observed one and by the enforced one, in each family. */
async function leftErrors(port: number): Promise<number[]> {
  const left: number[] = [];
  for (const to of [FORBIDDEN, FORBIDDEN6])
    for (const sender of [rawObserved, rawEnforced]) {
      const { ip4, ip6 } = await sender.addresses('front');
      const from = to === FORBIDDEN ? ip4 : ip6;
      left.push(await leftAboutHostFlow(lab, { sender, from, to, port: port + left.length }));
    }
  return left;
}

async function shown(name: string): Promise<Shown | undefined> {
  const { items } = JSON.parse((await d.get('/v1/containers')).body) as { items: readonly Shown[] };
  return items.find((c) => c.name === name);
}
const reaches = async (c: Container, address: string): Promise<boolean> =>
  (await c.probe('tcp', address, 80, '--timeout', 2_000)).ok;
/** The pause of a container is over when its time is, and not before. */
async function ended(name: string, expires: string): Promise<void> {
  const left = (): number => Date.parse(expires) - Date.now();
  const isOver = async (): Promise<boolean> => (await shown(name))?.mode === 'enforce';
  await waitFor('its end', isOver, left() + LATE_MS, 100).catch(async (e: Error) => {
    const now = JSON.stringify(await shown(name));
    throw new Error(`${e.message}: ${-left()} ms late: ${now}\n${d.logs().slice(-4000)}`);
  });
  expect(left()).toBeLessThanOrEqual(0);
}
/** An endless stream to the forbidden, as long as it is let. */
const stream = (c: Container): Promise<unknown> =>
  lab.dockerResult(['exec', '-d', c.id, 'node', '/probe.cjs', 'hold', FORBIDDEN, '19']);
const streamed = (after: number): Promise<number> =>
  lab.sniffer.count({ direction: 'out', dst: FORBIDDEN, dport: 19, after });
async function cli(...args: string[]): Promise<string> {
  const done = await d.cli(args);
  expect([args.join(' '), done.code, done.stderr]).toEqual([args.join(' '), 0, '']);
  return done.stdout;
}

describe('pause', () => {
  it('control: web is enforced, other is not', async () => {
    expect([await reaches(web, PERMITTED), await reaches(web, FORBIDDEN)]).toEqual([true, false]);
    expect(await reaches(other, FORBIDDEN)).toBe(true);
  });

  let lastingEnd: Promise<void>;

  it('survives a restart of the service', async () => {
    const { expires } = JSON.parse(await cli('pause', 'lasting', '--for', '35s', '--json'));
    await d.stop();
    d.start();
    await d.ready(40_000);
    expect(await reaches(lasting, FORBIDDEN)).toBe(true);
    expect(Date.now()).toBeLessThan(Date.parse(expires));
    lastingEnd = ended('lasting', expires); // is watched from here on, while others are tried
    lastingEnd.catch(() => undefined);
  });

  it('lets everything pass for its time, then cuts it', async () => {
    const { expires } = JSON.parse(await cli('pause', 'web', '--for', '20s', '--json'));
    expect(await reaches(web, FORBIDDEN)).toBe(true);
    expect(await reaches(web, FORBIDDEN6)).toBe(true);
    expect(await web.probe('http', 'http://away.example.com/')).toMatchObject({ ok: true, status: 200 });
    await stream(web);
    const began = await lab.sniffer.settle();
    await waitFor('the stream', async () => (await streamed(began)) > 3);
    expect(await shown('web')).toMatchObject({ mode: 'observe', modeFrom: 'pause', pausedUntil: expires });
    expect(await cli('ps')).toContain(`observe (paused until ${expires})`);
    await ended('web', expires);
    await new Promise((done) => setTimeout(done, 1_000)); // a second to be cut in
    const cut = await lab.sniffer.settle();
    expect(await reaches(web, FORBIDDEN)).toBe(false);
    expect(await web.probe('http', 'http://away.example.com/', '--timeout', 2_000)).toMatchObject({
      ok: false,
    });
    expect(await streamed(cut)).toBe(0);
    expect(await reaches(web, PERMITTED)).toBe(true);
  });

  it('that survived a restart ends at its time all the same', async () => {
    await lastingEnd;
    expect(await reaches(lasting, FORBIDDEN)).toBe(false);
  });

  it('ends when it is told to', async () => {
    await cli('pause', 'web', '--for', '10m');
    expect(await cli('status')).toContain('PAUSED: 1 container is observed');
    expect(await reaches(web, FORBIDDEN)).toBe(true);
    await cli('pause', 'web', '--end');
    expect(await reaches(web, FORBIDDEN)).toBe(false);
    const again = await d.cli(['pause', 'web', '--end']);
    expect([again.code, again.stderr]).toEqual([1, expect.stringContaining('web is not paused')]);
  });

  it('that ended while the service was away is over from its first pass on', async () => {
    const { expires } = JSON.parse(await cli('pause', 'web', '--for', '5s', '--json'));
    await d.stop();
    await waitFor('its time to pass', async () => Date.now() > Date.parse(expires), 20_000);
    d.start();
    await d.ready(40_000);
    expect(await reaches(web, FORBIDDEN)).toBe(false);
    expect((await shown('web'))?.modeFrom).toBe('has entries');
  });

  it('of all holds for containers that start meanwhile', async () => {
    await cli('pause', '--all', '--for', '10m');
    const late = await lab.start({
      name: 'late',
      network: 'front',
      labels: { 'drawbridge.mode': 'enforce' },
    });
    expect([await reaches(late, FORBIDDEN), await reaches(web, FORBIDDEN)]).toEqual([true, true]);
    await cli('pause', '--all', '--end');
    expect([await reaches(late, FORBIDDEN), await reaches(web, FORBIDDEN)]).toEqual([false, false]);
    await late.remove();
  });
});

describe('lockdown', () => {
  it('published services go on answering', async () => {
    const serve = "require('http').createServer((q, r) => r.end('here')).listen(80)";
    await lab.start({
      name: 'served',
      network: 'front',
      labels: { 'drawbridge.mode': 'enforce' },
      args: ['-p', '8088:80'],
      cmd: ['node', '-e', serve],
    });
    const asked = () => lab.probeFromNet('http', `http://${lab.addresses.host4}:8088/`);
    await waitFor('the service', async () => (await asked()).ok, 20_000, 200);
    await cli('lockdown');
    expect((await asked()).ok).toBe(true);
    await cli('lockdown', '--off');
    await lab.docker('rm', '-f', 'served');
  });

  it('leaves nothing to anybody: flows are cut, neighbours are out of reach, a pause does not help', async () => {
    await cli('pause', 'other', '--for', '10m');
    await stream(other);
    const began = await lab.sniffer.settle();
    await waitFor('the stream', async () => (await streamed(began)) > 3);
    const { ip4 } = await other.addresses('front');
    expect((await web.probe('tcp', ip4, 9, '--timeout', 2_000)).code).not.toBe('TIMEOUT');
    expect(await cli('lockdown')).toMatch(/^lockdown since .* by local:root/);
    await new Promise((done) => setTimeout(done, 1_000)); // a second to be cut in
    const after = await lab.sniffer.settle();
    for (const c of [web, other])
      for (const to of [PERMITTED, FORBIDDEN, FORBIDDEN6]) expect(await reaches(c, to)).toBe(false);
    expect(await streamed(after)).toBe(0);
    const fresh = await lab.start({ name: 'fresh', labels: { 'drawbridge.mode': 'off' } });
    expect(await reaches(fresh, PERMITTED)).toBe(false);
    const out = await lab.sniffer.count({
      direction: 'out',
      dst: [PERMITTED, FORBIDDEN, FORBIDDEN6],
      after,
    });
    expect(out).toBe(0);
    expect(await shown('other')).toMatchObject({ mode: 'enforce', modeFrom: 'lockdown' });
    await fresh.remove();
  });

  it('no ICMP error leaves about a flow of the host', async () => {
    expect(await leftErrors(40_610)).toEqual([0, 0, 0, 0]);
    errors.held();
  });

  it('survives a restart, and ends with --off', async () => {
    await d.restart();
    expect(await cli('status')).toMatch(/^LOCKDOWN since .* by local:root/m);
    expect(await reaches(web, PERMITTED)).toBe(false);
    expect(await cli('lockdown', '--off')).toMatch(/^no lockdown/);
    expect([await reaches(web, PERMITTED), await reaches(web, FORBIDDEN)]).toEqual([true, false]);
    expect(await reaches(other, FORBIDDEN)).toBe(true);
    expect(await leftErrors(40_620)).toEqual([1, 0, 1, 0]);
  });

  it('everything is in the audit: who, what, and when it ended by itself', async () => {
    const records = JSON.parse(await cli('audit', '--json')) as { who: string; action: string }[];
    const said = records
      .filter((r) => !r.action.startsWith('service.')) // a restart in between
      .map((r) => `${r.who} ${r.action}`);
    expect(said.slice(0, 2)).toEqual(['local:root lockdown.off', 'local:root lockdown.on']);
    expect(said).toContain('local:root pause.set');
    expect(said).toContain('local:root pause.end');
    expect(said).toContain('expiry pause.end');
    expect(await cli('audit', '--limit', '1')).toMatch(
      /^\S+\tlocal:root\tlockdown\.off\tall\tdone\t\{.*\}\t-\n$/,
    );
  });
});

describe('on a full disk', () => {
  it('a lockdown is in force at once, says that it is not stored, and is stored when there is space', async () => {
    await d.stop();
    await using disk = await SmallDisk.over(lab, d.stateDir);
    d.start();
    await d.ready(40_000);
    expect(await reaches(web, PERMITTED)).toBe(true);
    expect(JSON.parse(await cli('allow', 'web', `${FORBIDDEN}:80`, '--json'))).toBeTruthy();
    await disk.fill();
    // The last page of the store's file has room for some small changes still.
    let last = 0;
    for (let i = 0; i < 60 && last !== 503; i++)
      last = (await d.request('PUT', `/v1/lists/l${i}`, { allow: [] })).status;
    expect(last).toBe(503);

    const { status, body } = await d.request('PUT', '/v1/lockdown', { on: true });
    const note = expect.stringMatching(/in force, but not stored .*the disk is full/);
    expect([status, JSON.parse(body)]).toMatchObject([200, { on: true, durable: false, note }]);
    const after = await lab.sniffer.settle();
    expect([await reaches(web, PERMITTED), await reaches(other, FORBIDDEN)]).toEqual([false, false]);
    const out = { direction: 'out', dst: [PERMITTED, FORBIDDEN], dport: 80, after } as const;
    expect(await lab.sniffer.count(out)).toBe(0);
    expect(await cli('status')).toMatch(/^NOT STORED: lockdown.on \(all\), since .*the disk is full/m);
    expect((await d.get('/readyz')).body).toMatch(/lockdown\.on: in force, but not stored/);
    expect((await d.request('PUT', '/v1/containers/web/mode', { mode: 'off' })).status).toBe(503);

    expect(await cli('explain', 'web', `${PERMITTED}:80`)).toMatch(
      /^deny:.*\n {2}because a lockdown is on since .*\n {2}remedy: drawbridge lockdown --off/,
    );
    expect(await cli('revoke', 'web', `${FORBIDDEN}:80`)).toMatch(/NOT STORED: in force, but not stored/);
    const without = await d.cli(['revoke', 'web', 'unknown.example.org']);
    expect(without.stderr).toMatch(/a lockdown is on: no entry of web is in force/);

    await disk.empty();
    await waitFor('it to be stored', async () => !(await cli('status')).includes('NOT STORED'), 20_000, 200);
    await d.restart();
    expect(await cli('status')).toMatch(/^LOCKDOWN since .* by local/m);
    expect(await reaches(web, PERMITTED)).toBe(false);
    await cli('lockdown', '--off');
    expect([await reaches(web, PERMITTED), await reaches(web, FORBIDDEN)]).toEqual([true, false]);
    await d.stop();
  });
});
