/** An app of six services goes from observe to enforce by what is suggested, and by nothing else: its own checks pass, and it has no other entry. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';

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
  stop_signal: 'SIGKILL',
});
const app = {
  services: {
    db: serves(5432),
    cache: serves(6379),
    api: serves(8080),
    worker: serves(8081),
    mailer: serves(8082),
    web: { ...serves(80), ports: ['8310:80'] },
  },
};

let lab: Lab;
let drawbridge: Drawbridge;
const folder = (): string => join(lab.dir, 'six');
const file = (name: string): string => join(folder(), name);

beforeAll(async () => {
  lab = await Lab.up();
  await lab.dns.set({ [PAY]: { A: ['93.184.76.1'] }, [REGISTRY]: { A: ['93.184.76.2'] } });
  drawbridge = lab.drawbridge({ config: { default: 'observe' } });
  await drawbridge.ready();
  mkdirSync(folder());
  writeFileSync(file('compose.yaml'), JSON.stringify(app));
});
afterAll(() => lab?.down());

async function compose(files: readonly string[], ...args: string[]): Promise<void> {
  const named = files.flatMap((name) => ['--file', file(name)]);
  const { code, stderr } = await lab.dockerResult(['compose', '--project-name', 'six', ...named, ...args], {
    env: lab.view.env,
    check: false,
  });
  if (code !== 0) throw new Error(stderr);
}

/** The checks of all services, each with its exit code. */
async function checks(): Promise<Readonly<Record<string, number>>> {
  const ran = Object.entries(CHECKS).flatMap(([service, commands]) =>
    commands.map(async (command) => {
      const { code } = await lab.exec(`six-${service}-1`, ['sh', '-c', command]);
      return [`${service}: ${command}`, code ?? -1] as const;
    }),
  );
  return Object.fromEntries(await Promise.all(ran));
}
const passed = (codes: Readonly<Record<string, number>>) =>
  expect(codes).toEqual(Object.fromEntries(Object.keys(codes).map((name) => [name, 0])));
const shown = async <T>(...args: string[]): Promise<T> =>
  JSON.parse((await drawbridge.cli([...args, '--json'])).stdout) as T;

interface Suggested {
  readonly owner: string;
  readonly starts: number;
  readonly entries: readonly { readonly entry: string }[];
  readonly left: readonly { readonly entry: string; readonly why: string }[];
}
const entriesOf = (all: readonly Suggested[]) =>
  Object.fromEntries(all.map((s) => [s.owner.split('/')[1], s.entries.map(({ entry }) => entry)]));

it('is observed over two starts, and each service is suggested what it needs and nothing else', async () => {
  await compose(['compose.yaml'], 'up', '--detach');
  passed(await checks());
  await compose(['compose.yaml'], 'restart');
  passed(await checks());
  // one lookup of a name that the app does not need, in one of two starts
  await lab.exec('six-web-1', ['nslookup', 'oddity.app.test']);
  const all = await waitFor('what was seen to be recorded', async () => {
    const suggested = await shown<readonly Suggested[]>('suggest', '--project', 'six');
    const isWhole = SERVICES.every((s) =>
      suggested.some((one) => one.owner === `compose:six/${s}` && one.starts === 2),
    );
    return isWhole && Object.values(entriesOf(suggested)).flat().length >= 3 && suggested;
  });
  expect(entriesOf(all)).toEqual(NEEDED);
  // A connection is joined with its destination some seconds after it: a neighbour may have had another address by then.
  const left = all.find((one) => one.owner === 'compose:six/web')?.left ?? [];
  expect(left.filter(({ entry }) => !entry.startsWith('172.'))).toEqual([
    expect.objectContaining({ entry: 'oddity.app.test' }),
  ]);
});

it('is enforced with the suggested labels: its checks pass, and nothing else does', async () => {
  const { stdout } = await drawbridge.cli(['suggest', '--project', 'six', '--format', 'compose']);
  writeFileSync(file('egress.yaml'), stdout);
  // the control: what is denied below is reached before
  expect((await lab.exec('six-api-1', ['nc', '-w', '3', DENIED, '80'])).code).toBe(0);
  await compose(['compose.yaml', 'egress.yaml'], 'up', '--detach');
  await drawbridge.cli(['mode', '--project', 'six', 'enforce', '--yes']);
  interface Shown {
    readonly compose: { readonly service: string };
    readonly mode: string;
    readonly entries: readonly { readonly entry: string }[];
  }
  const containers = await shown<readonly Shown[]>('ps');
  expect(containers.map(({ mode }) => mode)).toEqual(SERVICES.map(() => 'enforce'));
  expect(
    Object.fromEntries(containers.map((c) => [c.compose.service, c.entries.map(({ entry }) => entry)])),
  ).toEqual(NEEDED);
  passed(await checks());
  await lab.sniffer.clear();
  for (const service of SERVICES)
    expect((await lab.exec(`six-${service}-1`, ['nc', '-w', '3', DENIED, '80'])).code, service).not.toBe(0);
  expect(await lab.sniffer.count({ direction: 'out', dst: DENIED })).toBe(0);
  const page = await lab.probeFromNet('http', `http://${lab.addresses.host4}:8310/passwd`);
  expect(page).toMatchObject({ ok: true, status: 200 });
});
