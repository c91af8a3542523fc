import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { shownHere } from '../attacks/report.js';
import { Drawbridge, type DrawbridgeSpec } from '../lab/drawbridge.js';
import { exhaustInotify } from '../lab/inotify.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';

const FORBIDDEN = '203.0.113.66';
const PERMITTED = '93.184.1.1';
const FIRST_WORDS = `wget -q -T 1 -O /dev/null http://${FORBIDDEN}/
until wget -q -T 5 -O /dev/null http://${PERMITTED}/; do sleep 1; done
echo reached
sleep 1000000`;

const shown = shownHere({
  id: 'boot',
  title: 'a container that Docker starts at boot, before its API answers',
  families: ['v4'],
  stoppedBy: 'the default-deny rules are installed before Docker does',
});

let lab: Lab;
let first: Drawbridge;
beforeAll(async () => {
  lab = await Lab.up({});
  const label = `drawbridge.allow=${PERMITTED}:80`;
  const args = ['run', '-d', '--name', 'early', '--restart', 'always', '--label', label];
  await lab.docker(...args, lab.images.busybox, 'sh', '-c', FIRST_WORDS);
  await reached(1);
});
afterAll(() => lab?.down());

const reached = (times: number): Promise<unknown> =>
  waitFor(
    'the container to reach what it may',
    async () => (await lab.docker('logs', 'early')).split('reached').length - 1 >= times,
    60_000,
    200,
  );

/** No rule of Docker's, as after a boot. */
async function forgetRules(): Promise<void> {
  for (const tool of ['iptables', 'ip6tables'])
    for (const table of ['filter', 'nat'])
      for (const what of ['-F', '-X']) await lab.inHost([tool, '-t', table, what], { check: true });
}

const answers = (d: Drawbridge): Promise<unknown> =>
  waitFor(
    'the API to answer',
    () =>
      d.get('/v1/status').then(
        (a) => a.status === 200,
        () => false,
      ),
    40_000,
    100,
  );

/** Docker starts such containers before it answers anybody. */
describe('a container that Docker starts by itself at boot', () => {
  it('control: without Drawbridge it reaches what it may not', async () => {
    await lab.engine.stop();
    await forgetRules();
    await lab.sniffer.clear();
    await lab.engine.start();
    await reached(2);
    expect(await lab.sniffer.count({ direction: 'out', dst: FORBIDDEN })).toBeGreaterThan(0);
    shown.control();
  });

  it('with Drawbridge before Docker: nothing forbidden gets out, what is permitted does', async () => {
    await lab.engine.stop();
    await forgetRules();
    await lab.sniffer.clear();
    first = lab.drawbridge({});
    await answers(first);
    await lab.engine.start();
    await reached(3);
    await first.ready();
    expect(await lab.sniffer.count({ direction: 'out', dst: FORBIDDEN })).toBe(0);
    expect(await lab.sniffer.count({ direction: 'out', dst: PERMITTED })).toBeGreaterThan(0);
    shown.held();
  });
});

/** Tries both for ever, and says so. */
const RESTLESS = `while :; do
  wget -q -T 1 -O /dev/null http://${FORBIDDEN}/ && echo escaped
  wget -q -T 1 -O /dev/null http://${PERMITTED}/ && echo passed
  echo tried
  sleep 0.2
done`;
const words = async (container: string, word: string): Promise<number> =>
  (await lab.docker('logs', container)).split(word).length - 1;
async function more(container: string, word: string, times = 2): Promise<void> {
  const before = await words(container, word);
  const has = async (): Promise<boolean> => (await words(container, word)) >= before + times;
  await waitFor(`${container}: ${word}`, has, 60_000, 200);
}
const leaked = (): Promise<number> => lab.sniffer.count({ direction: 'out', dst: FORBIDDEN });
const permitted = (): Promise<number> => lab.sniffer.count({ direction: 'out', dst: PERMITTED });

/** Nothing of anybody in the kernel, Docker not started. */
async function shutDown(): Promise<void> {
  await lab.engine.stop();
  await forgetAll();
  await lab.sniffer.clear();
}
async function forgetAll(): Promise<void> {
  await lab.inHost(['nft', 'flush', 'ruleset'], { check: true });
  await lab.inHost(['ipset', 'destroy'], { check: true });
}
/** Docker starts its containers, and they try. */
async function boot(): Promise<void> {
  await lab.engine.start();
  await more('restless', 'tried');
}
const made: Drawbridge[] = [];
function prepared(spec: DrawbridgeSpec): Drawbridge {
  const drawbridge = new Drawbridge({ dir: lab.dir, view: lab.view, dockerSocket: lab.socketPath }, spec);
  made.push(drawbridge);
  return drawbridge;
}
const closed = (d: Drawbridge): Promise<unknown> => {
  const isClosed = async (): Promise<boolean> => {
    const { status, body } = await d.get('/readyz').catch(() => ({ status: 0, body: '' }));
    return status === 503 && body.includes('closed: ');
  };
  return waitFor('the service to run closed', isClosed, 30_000, 50).catch((e: Error) => {
    throw new Error(`${e.message}\n${d.logs().slice(-3000)}`);
  });
};
const logged = (d: Drawbridge, text: string): Promise<unknown> =>
  waitFor(`the log to say ${text}`, () => d.logs().includes(text), 30_000, 50).catch((e: Error) => {
    throw new Error(`${e.message}\n${d.logs().slice(-3000)}`);
  });

describe('a start that fails leaves the host closed', () => {
  let drawbridge: Drawbridge;
  beforeAll(async () => {
    await first?.stop();
    await lab.docker('rm', '-f', 'early');
    const label = `drawbridge.allow=${PERMITTED}:80`;
    // A shell as first process ignores SIGTERM: dockerd would wait ten seconds for it at each shutdown.
    const stop = ['--restart', 'always', '--stop-timeout', '0'];
    const args = ['run', '-d', '--name', 'restless', ...stop, '--label', label];
    await lab.docker(...args, lab.images.busybox, 'sh', '-c', RESTLESS);
    drawbridge = prepared({ instance: 'failing' });
    // a store with records behind the first
    drawbridge.start();
    await drawbridge.ready();
    for (const on of [true, false, true, false]) await drawbridge.request('PUT', '/v1/lockdown', { on });
    await drawbridge.stop();
  });
  afterAll(async () => {
    for (const d of made) await d.stop();
  });

  it('a damaged store: the service runs closed, says so, and starts wholly when the store is put back', async () => {
    await shutDown();
    const log = join(drawbridge.stateDir, 'store.log');
    const good = readFileSync(log);
    const bad = Buffer.from(good);
    bad[30] = (bad[30] ?? 0) ^ 0xff;
    writeFileSync(log, bad);
    drawbridge.start();
    await closed(drawbridge);
    await boot();
    expect([await leaked(), await permitted()]).toEqual([0, 0]);

    expect((await drawbridge.get('/healthz')).status).toBe(200);
    const ready = await drawbridge.get('/readyz');
    expect([ready.status, JSON.parse(ready.body)]).toMatchObject([
      503,
      {
        ready: false,
        reason: expect.stringMatching(/closed: .*store\.log.*damaged.*drawbridge store check/),
      },
    ]);
    const status = JSON.parse((await drawbridge.get('/v1/status')).body);
    expect(status.closed).toMatchObject({ reason: expect.stringContaining('is damaged') });
    expect((await drawbridge.request('PUT', '/v1/lockdown', { on: true })).status).toBe(503);
    const cli = await drawbridge.cli(['status']);
    expect([cli.code, cli.stdout]).toEqual([1, expect.stringMatching(/^CLOSED since .*\n.*is damaged/)]);

    writeFileSync(log, good);
    await drawbridge.ready();
    await more('restless', 'passed');
    expect(await leaked()).toBe(0);
  });

  it('over rules of an earlier run: enforced containers keep theirs, observed ones keep DNS, new ones get nothing', async () => {
    await lab.dns.set({ 'free.example.com': { A: ['93.184.9.9'] } });
    const resolves = async (): Promise<boolean> =>
      (await lab.exec('watched', ['nslookup', 'free.example.com'])).code === 0;
    await lab.docker(
      'run',
      '-d',
      '--stop-timeout',
      '0',
      '--name',
      'watched',
      lab.images.busybox,
      'sleep',
      '1000000',
    );
    expect(await resolves()).toBe(true);
    drawbridge.kill('SIGKILL');
    await drawbridge.exited();
    const log = join(drawbridge.stateDir, 'store.log');
    const good = readFileSync(log);
    const bad = Buffer.from(good);
    bad[30] = (bad[30] ?? 0) ^ 0xff;
    writeFileSync(log, bad);
    drawbridge.start();
    await closed(drawbridge);
    await waitFor('the observed container to resolve names', resolves, 10_000, 200);
    await more('restless', 'passed');
    await lab.docker(
      'run',
      '-d',
      '--stop-timeout',
      '0',
      '--name',
      'new',
      lab.images.busybox,
      'sh',
      '-c',
      RESTLESS,
    );
    await more('new', 'tried');
    expect([await leaked(), await words('new', 'passed')]).toEqual([0, 0]);

    const { code, stdout } = await drawbridge.cli(['store', 'check']);
    expect([code, stdout]).toEqual([1, expect.stringContaining('is damaged at byte')]);
    expect((await drawbridge.cli(['store', 'start-empty', '--yes'])).code).toBe(0);
    await drawbridge.ready();
    expect(await leaked()).toBe(0); // another store: what is new is enforced until a person accepts it
    await lab.docker('rm', '-f', 'new', 'watched');
    await drawbridge.stop();
  });

  it('a wrong key in the configuration: exit 1, and closed by the keys that are valid', async () => {
    await shutDown();
    const wrong = prepared({ instance: 'wrong', config: { kernel: { prefix: 'WR' }, dnss: {} } });
    wrong.start();
    await wrong.exited(30_000);
    expect(wrong.logs()).toContain('unknown key');
    await boot();
    expect([await leaked(), await permitted()]).toEqual([0, 0]);
    expect((await lab.inHost(['iptables', '-S'])).stdout).toContain('-N WR-HOLD');
  });

  it('a state folder that is read-only: the guard works, the service is closed until it is writable', async () => {
    await shutDown();
    const frozen = prepared({ instance: 'frozen', config: { dnss: {} } });
    await lab.inHost(['mount', '-t', 'tmpfs', '-o', 'ro', 'tmpfs', frozen.stateDir], { check: true });
    const laid = await frozen.cli(['guard']);
    expect(laid).toMatchObject({
      code: 0,
      stdout: expect.stringContaining('the default-deny rules are installed'),
    });
    expect(laid.stderr).toMatch(/unknown key.*refused.*cannot note in/s);
    await forgetAll();
    frozen.configure({});
    frozen.start();
    await closed(frozen);
    await boot();
    expect([await leaked(), await permitted()]).toEqual([0, 0]);
    expect((await frozen.get('/readyz')).body).toContain('mount its file system writable');
    await lab.inHost(['mount', '-o', 'remount,rw', frozen.stateDir], { check: true });
    await frozen.ready();
    await more('restless', 'passed');
    expect(await leaked()).toBe(0);
    await frozen.stop();
  });

  it('no inotify instance left: it polls, says so, and enforces', async () => {
    await shutDown();
    await using none = await exhaustInotify(lab.dir);
    const blind = prepared({ instance: 'blind', through: none.through });
    blind.start();
    await logged(blind, 'fs.inotify.max_user_instances');
    await boot();
    await blind.ready();
    await more('restless', 'passed');
    expect(await leaked()).toBe(0);
    const { warnings } = JSON.parse((await blind.get('/v1/status')).body);
    expect(warnings).toEqual([expect.stringContaining('fs.inotify.max_user_instances')]);
    await blind.stop();
  });
});

describe('a state folder that was emptied', () => {
  let drawbridge: Drawbridge;
  const mode = async (name: string): Promise<string> => {
    const { items } = JSON.parse((await drawbridge.get('/v1/containers')).body) as {
      items: { name: string; mode: string; modeFrom: string }[];
    };
    return items
      .filter((c) => c.name === name)
      .map((c) => `${c.mode} (${c.modeFrom})`)
      .join();
  };
  const plain = (name: string): Promise<unknown> =>
    lab.docker('run', '-d', '--stop-timeout', '0', '--name', name, lab.images.busybox, 'sh', '-c', RESTLESS);
  const since = async (container: string): Promise<number> => {
    await more(container, 'tried');
    const before = await words(container, 'escaped');
    await more(container, 'tried', 3);
    return (await words(container, 'escaped')) - before;
  };

  beforeAll(async () => {
    await lab.docker('rm', '-f', 'restless');
    drawbridge = prepared({ instance: 'emptied' });
    // The kernel remembers the store of the instance before.
    expect((await drawbridge.cli(['teardown', '--yes'])).code).toBe(0);
    drawbridge.start();
    await drawbridge.ready();
    await plain('strict');
    await plain('loose');
    await more('strict', 'escaped');
    expect((await drawbridge.cli(['mode', 'strict', 'enforce', '--yes'])).code).toBe(0);
    expect((await drawbridge.cli(['lockdown'])).code).toBe(0);
    await drawbridge.stop();
    for (const file of readdirSync(drawbridge.stateDir))
      rmSync(join(drawbridge.stateDir, file), { recursive: true });
    drawbridge.start();
    await drawbridge.ready();
  });
  afterAll(() => drawbridge.stop());

  it('loosens nothing: the lockdown is still on, and it is said', async () => {
    expect([await since('strict'), await since('loose')]).toEqual([0, 0]);
    const status = await drawbridge.cli(['status']);
    expect(status.stdout).toMatch(/LOCKDOWN since/);
    expect(status.stdout).toMatch(/emptied or exchanged.*drawbridge store accept/);
    expect((await drawbridge.get('/readyz')).body).toContain('drawbridge store accept');
    await waitFor('its line in the log', () =>
      drawbridge.logs().includes('nothing gets looser until a person decides'),
    );
  });

  it('after a person has ended the lockdown, what was enforced and what is new are, what was observed is not', async () => {
    expect((await drawbridge.cli(['lockdown', '--off'])).code).toBe(0);
    await plain('new');
    expect([await mode('strict'), await mode('new')]).toEqual(Array(2).fill('enforce (store in doubt)'));
    expect([await since('strict'), await since('new')]).toEqual([0, 0]);
  });

  it('a mode that a person sets since counts, over a restart too; acceptance ends the doubt', async () => {
    expect((await drawbridge.cli(['mode', 'new', 'observe'])).code).toBe(0);
    await drawbridge.restart();
    expect([await mode('strict'), await mode('new')]).toEqual(['enforce (store in doubt)', 'observe (api)']);
    await more('new', 'escaped');
    expect((await drawbridge.request('POST', '/v1/store/accept')).status).toBe(200);
    expect(await mode('strict')).toBe('observe (default)');
    await more('strict', 'escaped'); // control: it would have been open
    await drawbridge.restart();
    expect(await mode('strict')).toBe('observe (default)');
    expect(JSON.parse((await drawbridge.get('/v1/status')).body).warnings).toEqual([]);
  });
});
