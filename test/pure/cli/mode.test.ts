import { Readable } from 'node:stream';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { ContainerBody } from '../../../src/api/schemas.js';
import { Bench } from './bench.js';

let bench: Bench;
beforeEach(async () => {
  bench = await Bench.make();
  await bench.serve();
});
afterEach(() => bench.end());

const answering = (text: string): void => {
  bench.host = { canAsk: true, stdin: Readable.from([text]) };
};
const requested = (): unknown[] => modesSet().map((call) => call.slice(1, 3));
const modesSet = (): unknown[][] => bench.controller.calls.filter(([what]) => what === 'setModes');

/** More containers than the one of the controller, of compose services. */
function running(...all: (Partial<ContainerBody> & { readonly name: string })[]): void {
  const one = bench.controller.container('web');
  const views = all.map((more, i): ContainerBody => ({ ...one, id: `id${i}`, ...more }));
  const find = (text: string): ContainerBody | undefined =>
    views.find((c) => c.name === text || c.id === text);
  const missing = bench.controller.container.bind(bench.controller);
  bench.controller.containers = () => views;
  bench.controller.container = (text) => find(text) ?? missing(text === 'web' ? 'no such' : text);
}
const shop = (service: string) => ({ name: `shop-${service}-1`, compose: { project: 'shop', service } });

it('enforce shows what it blocks before it asks, and asks before it enforces', async () => {
  const seen = { first: '2026-07-01T07:03:00.000Z', last: '2026-07-02T07:03:00.000Z', count: 3 };
  const named = { kind: 'name', name: 'x.org', verdict: 'would-deny', ...seen } as const;
  bench.controller.wouldDeny = [
    { ...named, entry: 'x.org', address: '93.184.1.1', port: 443, proto: 'tcp' },
    { ...named, entry: 'y.org', name: 'y.org', address: '', port: 0, proto: 'dns' },
    { ...named, entry: null, name: null, kind: 'address', address: 'fe80::1', port: 0, proto: '47' },
  ];
  answering('n\n');
  const refused = await bench.run('mode', 'web', 'enforce');
  expect(refused.code).toBe(1);
  expect(refused.out.split('\n').slice(0, 4)).toEqual([
    'web: enforcing blocks 3 destinations that it used (recorded without interruption since 2026-07-01T07:02:00.000Z):',
    'x.org\tx.org (93.184.1.1:443/tcp)\t3\t2026-07-02T07:03:00.000Z',
    'y.org\ty.org (only resolved)\t3\t2026-07-02T07:03:00.000Z',
    'no entry can\t[fe80::1]/47\t3\t2026-07-02T07:03:00.000Z',
  ]);
  expect(refused.err).toBe('Enforce web? [y/N]\nnothing was changed\n');
  expect(modesSet()).toEqual([]);
  answering('y\n');
  expect(await bench.run('mode', 'web', 'enforce')).toMatchObject({
    code: 0,
    out: expect.stringMatching(/\nweb: enforce \(default of the configuration\)\n$/),
  });
  expect(modesSet()).toHaveLength(1);
});

it('the end of the input is no consent', async () => {
  bench.host = { canAsk: true, stdin: Readable.from([]) };
  expect((await bench.run('mode', 'web', 'enforce')).code).toBe(1);
  expect(modesSet()).toEqual([]);
});

it('without a terminal enforce needs --yes, and changes nothing without it', async () => {
  expect(await bench.run('mode', 'web', 'enforce')).toEqual({
    code: 2,
    out: '',
    err: 'drawbridge mode web enforce asks before it changes anything, and there is no terminal to ask on\n  → add --yes\n',
  });
  answering('y\n');
  expect((await bench.run('mode', 'web', 'enforce', '--json')).code).toBe(2);
  expect(modesSet()).toEqual([]);
  const done = await bench.run('mode', 'web', 'enforce', '--yes', '--json');
  expect(JSON.parse(done.out)).toMatchObject({ container: 'web', mode: 'enforce', wouldCut: [] });
});

it('--dry-run prints and changes nothing; what loosens or changes nothing is not asked', async () => {
  expect(await bench.run('mode', 'web', 'enforce', '--dry-run')).toMatchObject({
    code: 0,
    out: expect.stringMatching(
      /nothing that enforcing blocks was recorded .*\n(.*\n)*web: observe now, would be set to enforce\n$/,
    ),
  });
  expect(modesSet()).toEqual([]);
  for (const mode of ['observe', 'off', 'auto']) expect((await bench.run('mode', 'web', mode)).code).toBe(0);
  expect(modesSet()).toHaveLength(3);
});

it('takes a project, a glob and a service, and names the candidates where several fit', async () => {
  running(shop('db'), shop('web'), { ...shop('web'), name: 'shop-web-2' }, { name: 'other', compose: null });
  const all = await bench.run('mode', '--project', 'shop', 'enforce', '--yes', '--json');
  expect(JSON.parse(all.out).map((c: { container: string }) => c.container)).toEqual([
    'shop-db-1',
    'shop-web-1',
    'shop-web-2',
  ]);
  expect((await bench.run('mode', 'shop-web-*', 'observe')).out.split('\n')).toHaveLength(3);
  expect((await bench.run('explain', 'db', 'a.org')).out).toMatch(/^deny: shop-db-1 to a\.org/);
  expect((await bench.run('explain', 'shop/db', 'a.org')).code).toBe(0);
  expect((await bench.run('explain', 'web', 'a.org')).err).toBe(
    'web fits 2 containers\n  → name one of them: shop-web-1, shop-web-2\n',
  );
  expect((await bench.run('explain', 'nope', 'a.org')).err).toMatch(/no compose service, nope\n.*shop-db-1/);
  expect((await bench.run('mode', '--project', 'nope', 'auto')).err).toMatch(/projects are: shop\n$/);
  expect((await bench.run('allow', 'db', 'a.org', '--for', '1h')).out).toMatch(/^shop-db-1 may reach a\.org/);
});

it('a trial asks as enforce does, shows its end, and is confirmed', async () => {
  answering('y\n');
  const tried = await bench.run('mode', 'web', 'enforce', '--trial', '15m');
  expect(tried.err).toContain('Enforce web on trial for 15m? [y/N]');
  expect(tried.out).toMatch(
    /\nweb: enforce \(.*\) on trial until 2030-01-01T00:15:00.000Z: what was set before counts again then, unless drawbridge mode web confirm\n$/,
  );
  expect(requested()).toMatchObject([[['abc123'], { mode: 'enforce', trialMs: 900_000 }]]);
  expect((await bench.run('ps')).out).toContain('enforce (on trial until 2030-01-01T00:15:00.000Z)');
  const confirmed = await bench.run('mode', 'web', 'confirm', '--json');
  expect(JSON.parse(confirmed.out)).toMatchObject({ mode: 'enforce', trialUntil: null });
});

it('observe --against evaluates a list, and --dry-run shows what it would block', async () => {
  const done = await bench.run('mode', 'web', 'observe', '--against', 'npm');
  expect(done.out).toMatch(
    /^web: observe \(.*\), evaluated against the list npm since 2030-01-01T00:00:00.000Z: /,
  );
  expect(requested()).toMatchObject([[['abc123'], { mode: 'observe', against: 'npm' }]]);
  expect((await bench.run('inspect', 'web')).out).toMatch(/evaluated: +npm since .*, in place of its policy/);
  const dry = await bench.run('mode', 'web', 'observe', '--against', 'npm', '--dry-run');
  expect(dry.out).toMatch(/^web: nothing that the list npm blocks was recorded/);
  expect((await bench.run('mode', 'web', 'observe', '--against', 'nope', '--dry-run')).code).toBe(1);
  expect(modesSet()).toHaveLength(1);
});

it('a project has one preview for the containers of an owner, one question and one change', async () => {
  running(shop('web'), { ...shop('web'), name: 'shop-web-2' });
  const preview = bench.controller.preview.bind(bench.controller);
  const previewed: string[] = [];
  bench.controller.preview = async (id, to) => {
    previewed.push(id);
    return { ...(await preview(id, to)), containers: ['shop-web-1', 'shop-web-2'] };
  };
  answering('y\n');
  const done = await bench.run('mode', '--project', 'shop', 'enforce', '--trial', '1h');
  expect(done.code).toBe(0);
  expect(previewed).toEqual(['id0']);
  expect(done.out).toMatch(/^shop-web-1 \(and shop-web-2, for which the mode counts, too\): nothing/);
  expect(done.err.match(/\[y\/N\]/g)).toHaveLength(1);
  expect(requested()).toMatchObject([[['id0', 'id1'], { mode: 'enforce', trialMs: 3_600_000 }]]);
});

it('what the previews of a project have in common comes once, after them', async () => {
  running(shop('web'), { ...shop('api'), name: 'shop-api-1' });
  const preview = bench.controller.preview.bind(bench.controller);
  bench.controller.preview = async (id, to) => ({
    ...(await preview(id, to)),
    container: id,
    notRecorded: ['names are not seen', ...(id === 'id1' ? ['macvlan is not recorded'] : [])],
  });
  const { out } = await bench.run('mode', '--project', 'shop', 'enforce', '--dry-run');
  expect(out).toMatch(/^id0 .*\nid1 .*\nnames are not seen\nid1: macvlan is not recorded\n/);
  expect(out.match(/names are not seen/g)).toHaveLength(1);
});

it('status shows trials and evaluations', async () => {
  const status = bench.controller.status.bind(bench.controller);
  const trialUntil = '2030-01-01T00:15:00.000Z';
  bench.controller.status = () => ({ ...status(), trials: 2, trialUntil, evaluated: 1 });
  const { out } = await bench.run('status');
  expect(out).toContain(`TRIAL: 2 containers are enforced on trial, the first until ${trialUntil}`);
  expect(out).toContain('EVALUATED: 1 container is observed against a list');
});

it.each([
  [['mode', 'web', 'observe', '--trial', '5m']],
  [['mode', 'web', 'enforce', '--trial', 'soon', '--yes']],
  [['mode', 'web', 'enforce', '--against', 'npm', '--yes']],
  [['mode', 'web', 'confirm', '--dry-run']],
  [['mode', 'web']],
  [['mode', 'web', 'on']],
  [['mode', 'web', 'enforce', 'more']],
  [['mode', '--project', 'shop']],
  [['mode', '--project', 'shop', 'web', 'enforce']],
])('%j is wrong usage', async (argv) => {
  expect((await bench.run(...argv)).code).toBe(2);
});

it('teardown asks on a terminal only, and not with --yes', async () => {
  answering('n\n');
  expect((await bench.run('teardown')).code).toBe(1);
  expect(bench.controller.tornDown).toBe(0);
  const teardown = bench.controller.teardown.bind(bench.controller);
  bench.controller.teardown = async () => {
    await teardown();
    setImmediate(() => void bench.stopServing());
  };
  expect((await bench.run('teardown', '--yes')).code).toBe(0);
  expect(bench.controller.tornDown).toBe(1);
});
