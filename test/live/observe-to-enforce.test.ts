/**
 * An app of six services goes from observe to enforce by the commands of the recipe and by what is suggested, and by nothing else: its own
 * checks pass, and it has no other entry.
 */
import { writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { Kitchen } from './recipe.js';

const [PAY, REGISTRY] = ['pay.app.test', 'registry.app.test'];
const MAIL = '93.184.76.25';
const DENIED = '93.184.76.9';
const get = (url: string): string => `wget -q -T 5 -O /dev/null ${url}`;
/** What each service needs, as its own check. */
const CHECKS: Readonly<Record<string, readonly string[]>> = {
  db: [],
  cache: [],
  api: [get('http://db:5432/passwd'), get('http://cache:6379/passwd'), get(`http://${PAY}/`)],
  worker: [get('http://cache:6379/passwd'), get(`http://${REGISTRY}:8000/`)],
  mailer: [get('http://api:8080/passwd'), `echo x | nc -w 3 ${MAIL} 25`],
  web: [get('http://api:8080/passwd')],
};
/** Neighbours of one project reach each other without entries. */
const NEEDED: Readonly<Record<string, readonly string[]>> = {
  db: [],
  cache: [],
  api: [PAY],
  worker: [`${REGISTRY}:8000`],
  mailer: [`${MAIL}:25`],
  web: [],
};
const SERVICES = Object.keys(CHECKS);
const serves = (port: number) => ({
  image: 'busybox:lab',
  command: ['httpd', '-f', '-p', String(port), '-h', '/etc'],
  stop_grace_period: '0s',
});
const app = {
  db: serves(5432),
  cache: serves(6379),
  api: serves(8080),
  worker: serves(8081),
  mailer: serves(8082),
  web: { ...serves(80), ports: ['8310:80'] },
};

let lab: Lab;
let drawbridge: Drawbridge;
let kitchen: Kitchen;

beforeAll(async () => {
  lab = await Lab.up();
  await lab.dns.set({ [PAY]: { A: ['93.184.76.1'] }, [REGISTRY]: { A: ['93.184.76.2'] } });
  drawbridge = lab.drawbridge({ config: { default: 'observe' } });
  await drawbridge.ready();
  // what passes before is in a gap of the record
  await waitFor('the record to begin', async () => {
    const { recordedUntil } = JSON.parse((await drawbridge.get('/v1/flows?limit=1')).body);
    return recordedUntil !== null;
  });
  kitchen = new Kitchen(lab, drawbridge, 'compose-observe-to-enforce');
  // Engine 28 queries resolvers from the host unless a service names one: the recipe asks for it there.
  const dns = lab.record.engine === '28' ? { dns: lab.addresses.authority4[0] } : {};
  const services = Object.entries(app).map(([name, service]) => [name, { ...service, ...dns }]);
  const project = { name: 'shop', services: Object.fromEntries(services) };
  writeFileSync(kitchen.path('compose.yaml'), JSON.stringify(project));
});
afterAll(() => lab?.down());

/** The checks of all services, each with its exit code. */
async function checks(): Promise<Readonly<Record<string, number>>> {
  const ran = Object.entries(CHECKS).flatMap(([service, commands]) =>
    commands.map(async (command) => {
      const { code } = await lab.exec(`shop-${service}-1`, ['sh', '-c', command]);
      return [`${service}: ${command}`, code ?? -1] as const;
    }),
  );
  return Object.fromEntries(await Promise.all(ran));
}
const passed = (codes: Readonly<Record<string, number>>) =>
  expect(codes).toEqual(Object.fromEntries(Object.keys(codes).map((name) => [name, 0])));
const shown = async <T>(...args: string[]): Promise<T> =>
  JSON.parse((await drawbridge.cli([...args, '--json'], { check: true })).stdout) as T;
const reaches = async (service: string): Promise<boolean> =>
  (await lab.exec(`shop-${service}-1`, ['nc', '-w', '3', DENIED, '80'])).code === 0;

interface Suggested {
  readonly owner: string;
  readonly starts: number;
  readonly entries: readonly { readonly entry: string }[];
  readonly left: readonly { readonly entry: string; readonly why: string }[];
}
interface Shown {
  readonly compose: { readonly service: string };
  readonly mode: string;
  readonly entries: readonly { readonly entry: string }[];
  readonly trialUntil: string | null;
}
const entriesOf = (all: readonly Suggested[]) =>
  Object.fromEntries(all.map((s) => [s.owner.split('/')[1], s.entries.map(({ entry }) => entry)]));
const modes = async () => (await shown<readonly Shown[]>('ps')).map(({ mode }) => mode);
const all = (mode: string) => SERVICES.map(() => mode);

it('is observed over two starts, and each service is suggested what it needs and nothing else', async () => {
  await kitchen.type('Observe');
  passed(await checks());
  await kitchen.type('Start it once more');
  passed(await checks());
  // one lookup of a name that the app does not need, in one of two starts
  await lab.exec('shop-web-1', ['nslookup', 'oddity.app.test']);
  const suggested = await waitFor(
    'what was seen to be recorded',
    async () => {
      const now = await shown<readonly Suggested[]>('suggest', '--project', 'shop');
      const isWhole = SERVICES.every((s) =>
        now.some((one) => one.owner === `compose:shop/${s}` && one.starts === 2),
      );
      return isWhole && Object.values(entriesOf(now)).flat().length >= 3 && now;
    },
    30_000,
  );
  expect(entriesOf(suggested)).toEqual(NEEDED);
  // A connection is joined with its destination some seconds after it: a neighbour may have had another address by then.
  const left = suggested.find((one) => one.owner === 'compose:shop/web')?.left ?? [];
  expect(left.filter(({ entry }) => !entry.startsWith('172.'))).toEqual([
    expect.objectContaining({ entry: 'oddity.app.test' }),
  ]);
  const { stdout } = await kitchen.type('See what is suggested');
  expect(stdout).toContain('2 starts recorded');
  await kitchen.type('Write the labels');
});

it('is evaluated against the suggestion: what is not in it is shown, and nothing is denied', async () => {
  await kitchen.type('Evaluate it without a denial');
  passed(await checks());
  expect(await reaches('api')).toBe(true);
  const { stdout } = await waitFor('what the list misses to be recorded', async () => {
    const now = await kitchen.type('See what the list misses');
    return now.stdout.includes(DENIED) && now;
  });
  for (const entry of Object.values(NEEDED).flat()) expect(stdout).not.toContain(entry);
  await kitchen.type('End the evaluation');
  expect((await shown<readonly { name: string }[]>('lists')).map(({ name }) => name)).not.toContain('shop');
});

it('is enforced on trial with the suggested labels: its checks pass, and nothing else does', async () => {
  // the control: what is denied below is reached before
  for (const service of SERVICES) expect(await reaches(service), service).toBe(true);
  const { stdout } = await kitchen.type('Give the services their labels');
  expect(stdout).toContain(DENIED);
  for (const entry of Object.values(NEEDED).flat()) expect(stdout).not.toContain(entry);
  expect(await modes()).toEqual(all('observe'));
  await kitchen.type('Enforce for an hour');
  const containers = await shown<readonly Shown[]>('ps');
  expect(containers.map(({ mode, trialUntil }) => [mode, trialUntil !== null])).toEqual(
    SERVICES.map(() => ['enforce', true]),
  );
  expect(
    Object.fromEntries(containers.map((c) => [c.compose.service, c.entries.map(({ entry }) => entry)])),
  ).toEqual(NEEDED);
  passed(await checks());
  await lab.sniffer.clear();
  for (const service of SERVICES) expect(await reaches(service), service).toBe(false);
  expect(await lab.sniffer.count({ direction: 'out', dst: DENIED })).toBe(0);
  const page = await lab.probeFromNet('http', `http://${lab.addresses.host4}:8310/passwd`);
  expect(page).toMatchObject({ ok: true, status: 200 });
  await waitFor('the denials to be recorded', async () =>
    (await drawbridge.cli(['flows', '--denied'])).stdout.includes(DENIED),
  );
  expect((await kitchen.type('Look at what is denied')).stdout).toContain(`\tdeny\t${DENIED}:80/tcp`);
});

it('stays enforced when it is confirmed, by its labels alone as well, and can go back', async () => {
  await kitchen.type('Keep it');
  const { trialUntil } = (await shown<readonly Shown[]>('ps'))[0] ?? {};
  expect([trialUntil, ...(await modes())]).toEqual([null, ...all('enforce')]);
  await kitchen.type('Let the labels decide');
  // from now on `docker compose` takes both files
  await kitchen.sh('docker compose up --detach --force-recreate');
  expect(await modes()).toEqual(all('enforce'));
  passed(await checks());
  expect(await reaches('api')).toBe(false);
  await kitchen.type('Go back');
  expect(await modes()).toEqual(all('observe'));
  expect(await reaches('api')).toBe(true);
  expect(kitchen.untyped()).toEqual([]);
});

describe('what was set by command for a service', () => {
  const ALONE = ['-f', 'compose.yaml'].join(' ');
  interface Status {
    readonly kept: {
      readonly owners: readonly { owner: string; hasProject: boolean; mode: string | null }[];
    };
    readonly warnings: readonly string[];
  }
  const kept = async () => (await shown<Status>('status')).kept.owners;

  it('is shown with the commands that take it away, when the service is renamed', async () => {
    await drawbridge.cli(['mode', 'shop/web', 'enforce', '--yes'], { check: true });
    await drawbridge.cli(['allow', 'shop/web', `${DENIED}:80`], { check: true });
    expect(await kept()).toEqual([]);
    const { web, ...others } = app;
    const services = { ...others, front: web };
    writeFileSync(kitchen.path('compose.yaml'), JSON.stringify({ name: 'shop', services }));
    await kitchen.sh(`docker compose ${ALONE} up --detach --remove-orphans`);
    const left = await waitFor('the owner without a container', async () => {
      const all = await kept();
      return all.length === 1 && all;
    });
    expect(left).toEqual([
      { owner: 'compose:shop/web', hasProject: true, mode: 'enforce', grants: [expect.anything()] },
    ]);
    const { stdout } = await drawbridge.cli(['status'], { check: true });
    expect(stdout).toMatch(/^LEFT BEHIND: 1 mode and 1 grant for 1 service without a container/m);
    expect(stdout).toMatch(/shop\/web, last seen in the record 20.*drawbridge mode shop\/web auto/);
    expect(stdout).toMatch(/^WARNING: mode enforce was set by command for shop\/web.*shop-front-1/m);
    await drawbridge.cli(['revoke', 'shop/web', `${DENIED}:80`], { check: true });
    await drawbridge.cli(['mode', 'shop/web', 'auto'], { check: true });
    const after = await shown<Status>('status');
    expect([after.kept.owners, after.warnings.filter((w) => w.includes('shop/web'))]).toEqual([[], []]);
  });

  it('waits for a project that is down, whose record answers', async () => {
    await kitchen.sh(`docker compose ${ALONE} down`);
    await waitFor('a project without containers', async () => (await kept()).length > 0);
    expect((await kept()).every(({ hasProject }) => !hasProject)).toBe(true);
    expect((await drawbridge.cli(['status'], { check: true })).stdout).toMatch(
      /^kept: \d modes for \d stopped/m,
    );
    const flows = (...args: string[]) => shown<{ items: { container: string }[] }>('flows', ...args);
    expect((await flows('shop/web')).items.map((f) => f.container)).toContain('shop-web-1');
    const names = new Set((await flows('--project', 'shop')).items.map((f) => f.container));
    expect(names.size).toBeGreaterThan(1);
    const [one] = [await shown<Suggested>('suggest', 'shop/api')];
    expect(one.owner).toBe('compose:shop/api');
    for (const command of ['flows', 'suggest', 'ps']) {
      const { code, stderr } = await drawbridge.cli([command, 'shop']);
      expect([code, stderr]).toEqual([1, expect.stringContaining('drawbridge flows --project shop')]);
    }
    expect((await drawbridge.cli(['ps', '--project', 'shop'])).stderr).toContain('flows --project shop');
    expect((await drawbridge.cli(['flows', 'never'])).stderr).not.toContain('--project');
  });
});
