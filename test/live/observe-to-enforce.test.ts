/**
 * An app of six services goes from observe to enforce by the commands of the recipe and by what is suggested, and by nothing else: its own
 * checks pass, and it has no other entry.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { Kitchen } from './recipe.js';

const [PAY, REGISTRY] = ['pay.app.test', 'registry.app.test'];
/** Anyone can receive data there: it is left out, for a person to decide. */
const HOOK = 'hooks.slack.com';
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
  const names = { [PAY]: '93.184.76.1', [REGISTRY]: '93.184.76.2', [HOOK]: '93.184.76.3' };
  await lab.dns.set(Object.fromEntries(Object.entries(names).map(([name, a]) => [name, { A: [a] }])));
  // The app runs before the service is first started: the kernel has nothing of it.
  drawbridge = lab.drawbridge({ config: { default: 'observe', log: { level: 'debug' } } });
  await drawbridge.stop();
  await drawbridge.cli(['teardown', '--yes'], { check: true });
  kitchen = new Kitchen(lab, drawbridge, 'compose-observe-to-enforce');
  // Engine 28 queries resolvers from the host unless a service names one: the recipe asks for it there.
  const dns = lab.record.engine === '28' ? { dns: lab.addresses.authority4[0] } : {};
  const services = Object.entries(app).map(([name, service]) => [name, { ...service, ...dns }]);
  const project = { name: 'shop', services: Object.fromEntries(services) };
  writeFileSync(kitchen.path('compose.yaml'), JSON.stringify(project));
  await kitchen.sh('docker compose up --detach');
  await beginStream();
  drawbridge.start();
  await drawbridge.ready();
  // what passes before is in a gap of the record
  await waitFor('the record to begin', async () => {
    const { recordedUntil } = JSON.parse((await drawbridge.get('/v1/flows?limit=1')).body);
    return recordedUntil !== null;
  });
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

const STREAM = '/tmp/stream';
/** One connection of the mailer, which sends a line five times a second and gets it back. */
const beginStream = (): Promise<string> =>
  lab.docker(
    ...['exec', '-d', 'shop-mailer-1', 'sh', '-c'],
    `(while :; do echo x; sleep 0.2; done) | nc ${MAIL} 25 > ${STREAM}`,
  );
/** It is the same connection, and moves. */
async function streams(): Promise<void> {
  const size = async (): Promise<number> =>
    Number((await lab.exec('shop-mailer-1', ['stat', '-c', '%s', STREAM])).stdout);
  const before = await size();
  await waitFor('the stream to go on', async () => (await size()) > before + 4);
}

interface Suggested {
  readonly owner: string;
  readonly starts: number;
  readonly entries: readonly { readonly entry: string }[];
  readonly left: readonly { readonly entry: string; readonly action: string }[];
}
interface Shown {
  readonly name: string;
  readonly compose: { readonly service: string };
  readonly mode: string;
  readonly denied: number;
  readonly wouldDeny: number;
  readonly entries: readonly { readonly entry: string }[];
  readonly trialUntil: string | null;
}
const entriesOf = (all: readonly Suggested[]) =>
  Object.fromEntries(all.map((s) => [s.owner.split('/')[1], s.entries.map(({ entry }) => entry)]));
const modes = async () => (await shown<readonly Shown[]>('ps')).map(({ mode }) => mode);
const all = (mode: string) => SERVICES.map(() => mode);

it('is observed over two starts, and each service is suggested what it needs and nothing else', async () => {
  await streams();
  await kitchen.type('Observe');
  passed(await checks());
  await streams();
  await kitchen.type('Start it once more');
  passed(await checks());
  await lab.exec('shop-worker-1', ['sh', '-c', get(`http://${HOOK}/`)]);
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
  expect(suggested.flatMap(({ left }) => left.map(({ entry, action }) => [entry, action]))).toEqual([
    ['oddity.app.test', 'add'],
    [HOOK, 'decide'],
  ]);
  // Nothing was denied, and what would be is shown apart.
  const figures = await shown<readonly Shown[]>('ps');
  expect(figures.map(({ denied }) => denied)).toEqual(SERVICES.map(() => 0));
  expect(figures.filter(({ wouldDeny }) => wouldDeny > 0).map(({ compose }) => compose.service)).toEqual(
    SERVICES.filter((service) => (NEEDED[service] ?? []).length > 0 || service === 'web').sort(),
  );
  const { stdout } = await kitchen.type('See what is suggested');
  expect(stdout).toMatch(/^# worker {2}1 entry · 1 to decide \(hooks\.slack\.com\) · .*, 2 starts/m);
  await kitchen.type('Write the labels');
});

it('is pasted as it is, and with one of its commented entries', async () => {
  const config = async (text: string) => {
    writeFileSync(kitchen.path('decided.yaml'), text);
    const { stdout } = await kitchen.sh(
      'docker compose -f compose.yaml -f decided.yaml config --format json',
    );
    const { services } = JSON.parse(stdout) as {
      services: Record<string, { labels: Record<string, string> }>;
    };
    return (service: string) => services[service]?.labels['drawbridge.allow'];
  };
  const text = readFileSync(kitchen.path('egress.yaml'), 'utf8');
  const asIs = await config(text);
  expect(asIs('worker')).toMatch(/^registry\.app\.test:8000\n# hooks\.slack\.com {3}# anyone can receive/);
  expect(asIs('web')).toMatch(/^# oddity\.app\.test {3}# only resolved/);
  const decided = await config(text.replace(`# ${HOOK}   #`, `${HOOK}   #`));
  expect(decided('worker')).toMatch(/^registry\.app\.test:8000\nhooks\.slack\.com {3}# anyone can receive/);
  const { stdout } = await kitchen.sh(
    'drawbridge suggest --project shop > shop.yaml && drawbridge check shop.yaml',
  );
  expect(stdout).not.toMatch(/problem/);
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
  // The dry run shows what the suggestion leaves out or would add, and nothing else.
  const cut = await shown<readonly { readonly wouldCut: readonly { readonly entry: string | null }[] }[]>(
    ...['mode', '--project', 'shop', 'enforce', '--dry-run'],
  );
  const suggestions = await shown<readonly Suggested[]>('suggest', '--project', 'shop');
  const missing = suggestions.map(({ owner, entries, left }) => {
    const own = NEEDED[owner.split('/')[1] ?? ''] ?? [];
    return [...entries, ...left].map(({ entry }) => entry).filter((entry) => !own.includes(entry));
  });
  expect(cut.map(({ wouldCut }) => wouldCut.map(({ entry }) => entry).sort()).sort()).toEqual(
    missing.map((entries) => entries.sort()).sort(),
  );
  expect(missing.flat()).toEqual(expect.arrayContaining([HOOK, 'oddity.app.test', `${DENIED}:80`]));
  expect(await modes()).toEqual(all('observe'));
  await beginStream();
  await streams();
  const began = new Date().toISOString();
  const before = await shown<readonly Shown[]>('ps');
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
  await streams();
  // One attempt of each service, and nothing else, was denied; nothing is missing in the record.
  const after = await waitFor('the figures', async () => {
    const now = await shown<readonly Shown[]>('ps');
    return now.every(({ denied }, n) => denied > (before[n]?.denied ?? 0)) && now;
  });
  expect(after.map(({ name, denied }, n) => [name, denied - (before[n]?.denied ?? 0)])).toEqual(
    before.map(({ name }) => [name, 1]),
  );
  const { items, dropped } = JSON.parse(
    (await drawbridge.get(`/v1/flows?since=${began}&limit=1000`)).body,
  ) as {
    readonly items: readonly { readonly verdict: string; readonly address: string; readonly count: number }[];
    readonly dropped: number;
  };
  const denials = items.filter(({ verdict }) => verdict !== 'allow');
  expect([dropped, denials.filter(({ address }) => address !== DENIED)]).toEqual([0, []]);
  expect(denials.reduce((sum, { count }) => sum + count, 0)).toBe(SERVICES.length);
});

it('stays enforced when it is confirmed, by its labels alone as well, and can go back', async () => {
  await kitchen.type('Keep it');
  const { trialUntil } = (await shown<readonly Shown[]>('ps'))[0] ?? {};
  expect([trialUntil, ...(await modes())]).toEqual([null, ...all('enforce')]);
  await kitchen.type('Let the labels decide');
  await streams();
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

interface Contact {
  readonly container: string;
  readonly verdict: string;
  readonly address: string;
  readonly port: number;
  readonly name: string | null;
  readonly reason: string;
}
/** All events of flows and of first contacts from now on. */
async function watchEvents() {
  const seen: { readonly event: string; readonly data: Contact; readonly at: string }[] = [];
  let text = '';
  const path = '/v1/events?kind=flow,first-contact';
  const stream = request({ socketPath: drawbridge.apiSocket, path }, (res) => {
    res.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk;
      const parts = text.split('\n\n');
      text = parts.pop() ?? '';
      for (const part of parts) {
        const [, event] = /^event: (.*)$/m.exec(part) ?? [];
        const [, data] = /^data: (.*)$/m.exec(part) ?? [];
        if (event && data)
          seen.push({ event, data: JSON.parse(data) as Contact, at: new Date().toISOString() });
      }
    });
  });
  await new Promise<void>((resolve, reject) =>
    stream
      .on('response', () => resolve())
      .on('error', reject)
      .end(),
  );
  stream.on('error', () => undefined);
  return { seen, end: () => stream.destroy() };
}
const isDenied = ({ verdict }: Contact): boolean => verdict !== 'allow';

it('is recreated in part without an incident, and a neighbour that is gone for good is told', async () => {
  await drawbridge.cli(['mode', 'shop-api-1', 'enforce', '--yes'], { check: true });
  await lab.start({ name: 'passing', network: 'shop_default' });
  const db = (
    await lab.docker(
      'inspect',
      '-f',
      '{{(index .NetworkSettings.Networks "shop_default").IPAddress}}',
      'shop-db-1',
    )
  ).trim();
  const asks = [
    'http://db:5432/passwd',
    'http://cache:6379/passwd',
    `http://${db}:5432/passwd`,
    'http://passing/',
  ];
  const loop = asks.map((url) => `${get(url)} & `).join('');
  const clients = ['api', 'worker'].map((service) => `shop-${service}-1`);
  for (const client of clients)
    await lab.docker('exec', '-d', client, 'sh', '-c', `while :; do ${loop} sleep 0.2; done 2>/dev/null`);
  const flows = async (query: string): Promise<readonly Contact[]> =>
    JSON.parse((await drawbridge.get(`/v1/flows?limit=1000&${query}`)).body).items;
  const neighbours = ['container:db', 'container:cache', 'container:passing'];
  const reached = clients.flatMap((client) => neighbours.map((name) => `${client} ${name}`));
  await waitFor('the first contacts to be recorded', async () => {
    const all = (await flows('since=1m')).map(({ container, name }) => `${container} ${name}`);
    return reached.every((pair) => all.includes(pair));
  });
  const began = new Date().toISOString();
  const events = await watchEvents();
  const about = (name: string, client: string) =>
    events.seen.filter(({ data }) => data.container === client && (data.name ?? data.address) === name);
  await kitchen.sh('docker compose up --detach --force-recreate db cache');
  for (const client of clients) {
    // the control: a name, and an address, that no neighbour had
    await lab.exec(client, ['nslookup', 'redis']);
    await lab.exec(client, ['nc', '-w', '1', DENIED, '80']);
    await waitFor('both', () => about('redis', client).length > 0 && about(DENIED, client).length > 0);
  }
  await lab.docker('rm', '-f', 'passing');
  for (const client of clients)
    await waitFor(
      'the neighbour that does not come back',
      () => about('passing', client).some(({ data }) => data.reason.includes('left')),
      60_000,
    );
  events.end();
  const controls = ['redis', DENIED, 'passing', 'container:passing'];
  // A client that uses the address of the former db, or has resolved that of the former cache before it was gone, meets whoever has it now.
  const met = ['container:cache 5432', 'container:db 6379'];
  const isOther = ({ name, port }: Contact): boolean => met.includes(`${name} ${port}`);
  const others = events.seen.filter(
    ({ data }) => !controls.includes(data.name ?? data.address) && !isOther(data),
  );
  const news = others.filter(({ event, data }) => event === 'first-contact' || isDenied(data));
  const passes = drawbridge
    .logs()
    .split('\n')
    .filter((line) => line.includes('"applied"'));
  expect(
    news.map(({ event, data: { container, verdict, name, address, port, reason } }) =>
      [event, container, verdict, name, address, port, reason].join(' '),
    ),
    [...events.seen.map((e) => JSON.stringify(e)), ...passes.slice(-60)].join('\n'),
  ).toEqual([]);
  const denied = await flows(`verdict=denied&since=${began}`);
  expect(denied.filter(({ name, address }) => !controls.includes(name ?? address))).toEqual([]);
  passed(await checks());
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
