/** Whose word counts: an image's own labels, and what stays with a container that is made anew. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Container, RunSpec } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';

const A = '93.184.70.1';
const B = '93.184.70.2';
const ENFORCED = { 'drawbridge.allow': '93.184.1.1:80' };

let lab: Lab;
let drawbridge: Drawbridge;
beforeAll(async () => {
  lab = await Lab.up({});
  drawbridge = lab.drawbridge({});
  await drawbridge.ready();
});
afterAll(() => lab?.down());

const reach = async (c: Container, host: string, port = 80): Promise<string> => {
  const r = await c.probe('tcp', host, port, '--timeout', 8000);
  return r.ok ? 'ok' : String(r.code);
};
interface View {
  readonly mode: string;
  readonly entries: readonly { readonly entry: string }[];
  readonly coverage: { readonly reasons: readonly string[] };
  readonly grants: readonly { readonly entry: string }[];
}
const view = async (name: string): Promise<View> =>
  JSON.parse((await drawbridge.get(`/v1/containers/${name}`)).body) as View;
async function grant(name: string, entry: string, time?: string): Promise<void> {
  const body = { entry, ...(time === undefined ? {} : { for: time }) };
  const r = await drawbridge.request('POST', `/v1/containers/${name}/grants`, body);
  expect(r.status).toBe(201);
}

describe('labels that come with the image', () => {
  it('mode=off does not loosen, and is said', async () => {
    const image = await lab.image('off:1', { labels: { 'drawbridge.mode': 'off' } });
    const c = await lab.start({ image, name: 'says-off', labels: ENFORCED });
    expect(await reach(c, A)).toBe('ECONNREFUSED');
    expect(await reach(c, '93.184.1.1')).toBe('ok');
    const shown = await view('says-off');
    expect(shown.mode).toBe('enforce');
    expect(shown.coverage.reasons.join(' ')).toMatch(/image/);
    await c.remove();
  });

  it('from the first instruction', async () => {
    const image = await lab.image('off:2', { labels: { 'drawbridge.mode': 'off', 'drawbridge.allow': A } });
    await lab.sniffer.clear();
    for (let i = 0; i < 4; i++)
      expect(
        await lab.runProbe({ image, labels: { 'drawbridge.mode': 'enforce' } }, 'tcp', A, 80),
      ).toMatchObject({
        code: 'ECONNREFUSED',
      });
    expect(await lab.sniffer.count({ direction: 'out', dst: A })).toBe(0);
  });

  it('allow enforces and adds nothing', async () => {
    const image = await lab.image('allows:1', { labels: { 'drawbridge.allow': `${A}, ${B}` } });
    const c = await lab.start({ image, name: 'says-allow' });
    expect((await view('says-allow')).mode).toBe('enforce');
    expect(await reach(c, A)).toBe('ECONNREFUSED');
    const both = await lab.start({ image, name: 'says-both', labels: { 'drawbridge.lists': 'none' } });
    expect(await reach(both, A)).toBe('ECONNREFUSED');
    for (const each of [c, both]) await each.remove();
  });

  it('control: the same labels on the container count', async () => {
    const allowed = await lab.start({ name: 'allowed', labels: { 'drawbridge.allow': A } });
    const off = await lab.start({ name: 'off', labels: { 'drawbridge.mode': 'off' } });
    expect([await reach(allowed, A), await reach(allowed, B), await reach(off, B)]).toEqual([
      'ok',
      'ECONNREFUSED',
      'ok',
    ]);
    for (const each of [allowed, off]) await each.remove();
  });

  it('with default enforce an image cannot free itself', async () => {
    const image = await lab.image('off:3', { labels: { 'drawbridge.mode': 'off' } });
    await drawbridge.stop();
    drawbridge.configure({ default: 'enforce' });
    drawbridge.start();
    await drawbridge.ready();
    const c = await lab.start({ image, name: 'by-default' });
    expect(await reach(c, A)).toBe('ECONNREFUSED');
    expect((await view('by-default')).mode).toBe('enforce');
    await c.remove();
    await drawbridge.stop();
    drawbridge.configure({});
    drawbridge.start();
    await drawbridge.ready();
  });

  it('a broken or unknown label enforces, with nothing allowed', async () => {
    for (const labels of [{ 'drawbridge.allow': 'https://a.org' }, { 'drawbridge.alow': A }]) {
      const c = await lab.start({ name: 'broken', labels });
      expect(await reach(c, A)).toBe('ECONNREFUSED');
      expect((await view('broken')).mode).toBe('enforce');
      expect((await view('broken')).coverage.reasons.join(' ')).toMatch(/drawbridge\.al/);
      await c.remove();
    }
  });
});

describe('what stays with a container that is made anew', () => {
  const service = { 'com.docker.compose.project': 'shop', 'com.docker.compose.service': 'web' };
  const again: readonly (readonly [string, RunSpec, RunSpec])[] = [
    ['its name', { name: 'keeper', labels: ENFORCED }, { name: 'keeper', labels: ENFORCED }],
    [
      'its compose service',
      { name: 'shop-web-1', labels: { ...ENFORCED, ...service } },
      { name: 'shop-web-2', labels: { ...ENFORCED, ...service } },
    ],
  ];
  it.each(again)(
    'open-ended grants and modes belong to %s, timed ones to the container',
    async (_, first, next) => {
      const before = await lab.start(first);
      const name = String(first.name);
      await grant(name, `${A}:80`);
      await grant(name, `${B}:80`, '10m');
      expect([await reach(before, A), await reach(before, B)]).toEqual(['ok', 'ok']);
      await lab.docker('restart', '-t', '1', name);
      expect([await reach(before, A), await reach(before, B)]).toEqual(['ok', 'ok']);
      await before.remove();
      const after = await lab.start(next);
      expect([await reach(after, A), await reach(after, B)]).toEqual(['ok', 'ECONNREFUSED']);
      expect((await view(String(next.name))).grants.map((g) => g.entry)).toEqual([`${A}:80`]);
      const other = await lab.start({
        name: 'another',
        labels: { ...ENFORCED, 'com.docker.compose.project': 'shop' },
      });
      expect(await reach(other, A)).toBe('ECONNREFUSED');
      for (const c of [after, other]) await c.remove();
    },
  );

  it('a mode set by API', async () => {
    const c = await lab.start({ name: 'moody', labels: ENFORCED });
    const put = (mode: string) => drawbridge.request('PUT', '/v1/containers/moody/mode', { mode });
    expect((await put('observe')).status).toBe(200);
    expect(await reach(c, A)).toBe('ok');
    await c.remove();
    const next = await lab.start({ name: 'moody', labels: ENFORCED });
    expect(await reach(next, A)).toBe('ok');
    expect((await put('auto')).status).toBe(200);
    expect(await reach(next, A)).toBe('ECONNREFUSED');
    await next.remove();
  });
});

const cli = async (...args: string[]): Promise<string> => {
  const done = await drawbridge.cli(args);
  expect([args.join(' '), done.code, done.stderr]).toEqual([args.join(' '), 0, '']);
  return done.stdout;
};

describe('a mode on trial', () => {
  /** Enough for a kill and a start of the service. */
  const TRIAL = '15s';
  interface OnTrial extends View {
    readonly trialUntil: string | null;
  }
  const onTrial = async (name: string): Promise<OnTrial> => (await view(name)) as OnTrial;

  it('enforces over a kill, falls back when its time is over, and stays once it is confirmed', async () => {
    const [tried, kept] = await Promise.all([lab.start({ name: 'tried' }), lab.start({ name: 'kept' })]);
    expect([await reach(tried, A), await reach(kept, A)]).toEqual(['ok', 'ok']);
    await cli('mode', 'kept', 'enforce', '--trial', TRIAL, '--yes');
    const { trialUntil } = JSON.parse(
      await cli('mode', 'tried', 'enforce', '--trial', TRIAL, '--yes', '--json'),
    ) as OnTrial;
    expect([await reach(tried, A), await reach(kept, A)]).toEqual(['ECONNREFUSED', 'ECONNREFUSED']);
    expect(await cli('explain', 'tried', `${A}:80`)).toContain(`enforced on trial until ${trialUntil}`);
    expect(await cli('status')).toContain('TRIAL: 2 containers are enforced on trial');
    await cli('mode', 'kept', 'confirm');
    drawbridge.kill('SIGKILL');
    await drawbridge.exited();
    drawbridge.start();
    await drawbridge.ready();
    expect(await onTrial('tried')).toMatchObject({ mode: 'enforce', trialUntil });
    expect(await reach(tried, A)).toBe('ECONNREFUSED');
    const end = Date.parse(trialUntil ?? '');
    const isOver = async (): Promise<boolean> => (await onTrial('tried')).mode === 'observe';
    await waitFor('the trial to end', isOver, end - Date.now() + 10_000);
    expect(Date.now()).toBeGreaterThanOrEqual(end);
    expect([await reach(tried, A), await reach(kept, A)]).toEqual(['ok', 'ECONNREFUSED']);
    expect(await onTrial('kept')).toMatchObject({ mode: 'enforce', trialUntil: null });
    const acts = async (): Promise<string[]> => {
      const records = JSON.parse(await cli('audit', '--json')) as { who: string; action: string }[];
      return records.filter((r) => r.action.startsWith('mode.')).map((r) => `${r.who} ${r.action}`);
    };
    // The end counts before the store has it.
    await waitFor(
      'the record of the end',
      async () => (await acts())[0]?.startsWith('expiry') === true,
      20_000,
    );
    expect((await acts()).slice(0, 4)).toEqual([
      'expiry mode.fallback',
      'local:root mode.confirm',
      'local:root mode.trial',
      'local:root mode.trial',
    ]);
    for (const each of [tried, kept]) await each.remove();
  });
});

describe('a list that is evaluated in place of the policy', () => {
  interface Shown {
    readonly destinations: readonly { readonly entry: string }[];
    readonly against: string | null;
    readonly recordingSince: string | null;
    readonly notRecorded: readonly string[];
  }
  const preview = async (query = ''): Promise<Shown> =>
    JSON.parse((await drawbridge.get(`/v1/containers/weighed/preview${query}`)).body) as Shown;
  const missed = async (query: string): Promise<string[]> =>
    (await preview(query)).destinations.map((d) => d.entry).sort();
  const OF_LIST = '?against=candidate';

  it('records exactly what it misses, while everything passes', async () => {
    await lab.dns.set({
      'in.example.com': { A: ['93.184.71.1'] },
      'out.example.com': { A: ['93.184.71.2'] },
    });
    const allow = ['in.example.com', `${A}:80`];
    expect((await drawbridge.request('PUT', '/v1/lists/candidate', { allow })).status).toBe(201);
    const labels = { 'drawbridge.allow': `${B}:80, out.example.com` };
    const c = await lab.start({ name: 'weighed', labels });
    expect(await reach(c, A)).toBe('ECONNREFUSED');
    await cli('mode', 'weighed', 'observe', '--against', 'candidate');
    const after = await lab.sniffer.settle();
    for (const name of ['in', 'out'])
      expect(await c.probe('http', `http://${name}.example.com/`)).toMatchObject({ ok: true });
    expect([await reach(c, A), await reach(c, B)]).toEqual(['ok', 'ok']);
    for (const dst of [A, B, '93.184.71.1', '93.184.71.2'])
      expect(await lab.sniffer.count({ direction: 'out', dst, after })).toBeGreaterThan(0);
    const both = async (): Promise<boolean> => (await missed(OF_LIST)).length >= 2;
    await waitFor('what the list misses', both, 10_000);
    expect(await missed(OF_LIST)).toEqual([`${B}:80`, 'out.example.com']);
    expect(await cli('ps', 'weighed')).toContain('observe (against candidate)');
    // What the list permits is recorded as well: its own policy would deny that.
    await waitFor('what passed', async () => (await missed('')).length >= 2, 30_000);
    expect(await missed('')).toEqual([`${A}:80`, 'in.example.com']);
    await cli('lists', 'add', 'candidate', `${B}:80`);
    expect(await missed(OF_LIST)).toEqual(['out.example.com']);
    await cli('lists', 'delete', 'candidate');
    expect((await view('weighed')).coverage.reasons.join(' ')).toContain('"candidate" does not exist');
    await cli('mode', 'weighed', 'auto');
    expect([await reach(c, A), await reach(c, B)]).toEqual(['ECONNREFUSED', 'ok']);
    await c.remove();
  });

  it('the preview of a service is about all its containers', async () => {
    const service = { 'com.docker.compose.project': 'scale', 'com.docker.compose.service': 'w' };
    const [one, two] = await Promise.all(
      ['scale-w-1', 'scale-w-2'].map((name) => lab.start({ name, labels: service })),
    );
    if (!one || !two) throw new Error('not started');
    await cli('mode', 'scale-w-1', 'observe');
    expect(await reach(one, A)).toBe('ok');
    await lab.dockerResult(['exec', '-d', two.id, 'node', '/probe.cjs', 'hold', B, '19']);
    interface OfAll {
      readonly containers: readonly string[];
      readonly destinations: readonly { readonly entry: string }[];
      readonly flows: readonly { readonly container: string; readonly entry: string }[];
    }
    let shown: OfAll | undefined;
    const isWhole = async (): Promise<boolean> => {
      const { body } = await drawbridge.get('/v1/containers/scale-w-1/preview');
      shown = JSON.parse(body) as OfAll;
      return shown.flows.length > 0 && shown.destinations.length > 1;
    };
    await waitFor('what both do', isWhole, 10_000);
    expect(shown?.containers).toEqual(['scale-w-1', 'scale-w-2']);
    expect(shown?.destinations.map((d) => d.entry).sort()).toEqual([`${A}:80`, `${B}:19`]);
    const flow = expect.objectContaining({ container: 'scale-w-2', entry: `${B}:19` });
    expect(shown?.flows).toContainEqual(flow);
    await cli('mode', '--project', 'scale', 'enforce', '--yes');
    expect([await reach(one, A), await reach(two, A)]).toEqual(['ECONNREFUSED', 'ECONNREFUSED']);
    for (const each of [one, two]) await each.remove();
  });
});
