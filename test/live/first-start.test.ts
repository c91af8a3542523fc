/** What is open when the service starts on a host without rules, is configured anew, and removed: what goes on, and what ends at both sides. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Container, RunSpec } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { end, startDaemon, waitFor } from '../lab/process.js';

const PROGRAM = join(import.meta.dirname, 'open-work.mjs');
/** As open-work.mjs prints them. */
interface Open {
  readonly opened: number;
  readonly bytes: number;
  readonly end: string | null;
}
interface Often {
  readonly done: number;
  readonly failures: readonly { readonly code: string }[];
}
type Work = Readonly<Record<string, Open & Often>>;
interface Recorded {
  readonly container: string;
  readonly address: string;
  readonly port: number;
}
/** Reads what a program has printed so far. */
type Source = () => Promise<string>;

let lab: Lab;
let drawbridge: Drawbridge;
const sources = new Map<string, Source>();
const daemons: number[] = [];

const words = (...all: readonly string[]): Pick<RunSpec, 'mounts' | 'cmd'> => ({
  mounts: [`${PROGRAM}:/work.mjs:ro`],
  cmd: ['node', '/work.mjs', ...all],
});
async function begin(name: string, spec: RunSpec): Promise<Container> {
  const c = await lab.start({ name, network: 'app', ...spec });
  sources.set(name, () => c.logs());
  return c;
}
function beginOutside(name: string, argv: readonly string[]): void {
  const log = join(lab.dir, `${name}.log`);
  daemons.push(startDaemon(argv, log, lab.view.env));
  sources.set(name, async () => readFileSync(log, 'utf8'));
}
async function workOf(name: string): Promise<Work> {
  const lines = (await sources.get(name)?.())?.split('\n') ?? [];
  const last = lines.findLast((l) => l.startsWith('{"at"') && l.endsWith('}'));
  return last === undefined ? {} : (JSON.parse(last) as { work: Work }).work;
}

/** Everything that goes on, by program. What an entry of the policy does not permit is not in it. */
const GOES_ON: Readonly<Record<string, readonly string[]>> = {
  db: ['stream=93.184.1.9:19'],
  observed: [
    'stream=93.184.1.1:19',
    'echo=93.184.1.1:7777',
    'new=93.184.1.2:80',
    'dns=seen.test',
    'stream=172.30.0.2:7000',
  ],
  bridge: ['stream=93.184.1.3:19', 'new=93.184.1.4:80', 'dns=seen.test'],
  off: ['stream=93.184.1.5:19', 'new=93.184.1.6:80', 'dns=seen.test'],
  host: ['stream=93.184.1.7:19', 'new=93.184.1.8:80', 'dns=seen.test'],
  address: ['stream=93.184.2.1:19', 'echo=93.184.2.1:7777', 'new=93.184.2.1:80'],
  name: ['stream=93.184.3.1:19', 'new=web.test:80', 'dns=stream.test'],
  build: ['stream=93.184.1.10:19', 'new=93.184.1.11:80'],
  internet: ['stream=192.0.2.2:7001'],
  'this-host': ['stream=127.0.0.1:7001'],
};
const ENDS: Readonly<Record<string, readonly string[]>> = {
  // an address that another name may have as well: nothing shows what the connection has asked for
  name: ['http=93.184.3.2:80'],
  denied: ['stream=93.184.4.1:19', 'echo=93.184.4.1:7777', 'quiet=93.184.4.2:9999'],
  // from a neighbour that is enforced: it shows not which side has opened it
  'of-denied': ['stream=172.30.0.9:7100'],
};

const all = (of: Readonly<Record<string, readonly string[]>>): (readonly [string, string])[] =>
  Object.entries(of).flatMap(([name, what]) => what.map((w) => [name, w] as const));
async function works(of: Readonly<Record<string, readonly string[]>>): Promise<Map<string, Open & Often>> {
  const found = new Map<string, Open & Often>();
  for (const name of Object.keys(of)) {
    const work = await workOf(name);
    for (const what of of[name] ?? []) {
      const one = work[what];
      if (one) found.set(`${name} ${what}`, one);
    }
  }
  return found;
}
const progress = (one: Open & Often): number => one.done ?? one.bytes;

/** Names of enforced containers are answered by the service alone: queries fail while it reads its configuration. */
const AWAY: Readonly<Record<string, readonly string[]>> = {
  ...GOES_ON,
  name: ['stream=93.184.3.1:19'],
};

/** Each has moved since `before`; none has failed, and each connection is the one that was opened first. */
async function goesOn(what = GOES_ON): Promise<void> {
  const before = await works(what);
  const isMoving = async (): Promise<boolean> => {
    const now = await works(what);
    return [...now].every(([key, one]) => progress(one) > progress(before.get(key) ?? one) + 2);
  };
  await waitFor('everything to go on', isMoving, 60_000).catch(async (e: Error) => {
    throw new Error(`${e.message}: ${JSON.stringify([...(await works(what))])}`);
  });
  for (const [key, one] of await works(what)) {
    const [first, ...failures] = one.failures ?? [];
    if (first && !(key === CHECKED && first.code === 'ECONNREFUSED')) failures.unshift(first);
    expect({ key, failures, opened: one.opened ?? 1, end: one.end ?? null }).toEqual({
      key,
      failures: [],
      opened: 1,
      end: null,
    });
  }
}
/**
 * New connections to a server that is permitted by name. When the first rules are installed, the one that is in its TCP handshake is reset:
 * its client has not sent the name yet (docs/guard.md).
 */
const CHECKED = 'name new=web.test:80';

/** A sender on Docker's bridge that is no container, as a step of a build is. */
const BUILD = `
set -e
setpriv --pdeathsig KILL unshare -n sleep 600 & pid=$!
trap "kill $pid" EXIT
own=$(readlink /proc/self/ns/net)
for i in $(seq 100); do [ "$(readlink /proc/$pid/ns/net)" != "$own" ] && break; sleep 0.05; done
ip link add build0 type veth peer name eth0 netns $pid
ip link set build0 master docker0 up
in="nsenter --net=/proc/$pid/ns/net --"
$in ip link set lo up; $in ip link set eth0 up
$in ip address add "$1"/16 dev eth0
$in ip route add default via "$2"
shift 2
$in setpriv --pdeathsig KILL "$@"`;

beforeAll(async () => {
  lab = await Lab.up();
  await lab.docker('network', 'create', '--subnet', '172.30.0.0/24', 'app');
  // frames between neighbours are tracked on some hosts (br_netfilter): here nothing shows which side has opened a connection
  await lab.inHost(['sysctl', '-w', 'net.bridge.bridge-nf-call-iptables=0']);
  await lab.dns.set({
    'seen.test': { A: ['93.184.1.1'] },
    'stream.test': { A: ['93.184.3.1'] },
    'web.test': { A: ['93.184.3.2'] },
  });
  const at = (n: number, ...more: string[]) => ['--ip', `172.30.0.${n}`, ...more];
  const on = (name: string): readonly string[] => [...(GOES_ON[name] ?? []), ...(ENDS[name] ?? [])];
  await begin('db', { ...words('serve=7000', ...on('db')), args: at(2, '-p', '7001:7000') });
  const denied = { 'drawbridge.allow': '93.184.9.9' };
  await begin('denied', { ...words('serve=7100', ...on('denied')), args: at(9), labels: denied });
  await begin('observed', words(...on('observed')));
  const bridge = await begin('bridge', { ...words(...on('bridge')), network: 'bridge' });
  await begin('off', { ...words(...on('off')), labels: { 'drawbridge.mode': 'off' } });
  await begin('host', { ...words(...on('host')), network: 'host' });
  await begin('address', { ...words(...on('address')), labels: { 'drawbridge.allow': '93.184.2.1' } });
  await begin('name', {
    ...words(...on('name')),
    labels: { 'drawbridge.allow': 'stream.test:19, web.test' },
  });
  await begin('of-denied', words(...on('of-denied')));
  const node = [process.execPath, PROGRAM];
  beginOutside('internet', ['nsenter', `--net=${lab.netNetns}`, '--', ...node, ...on('internet')]);
  beginOutside('this-host', lab.view.inside([...node, ...on('this-host')]));
  const { ip4, gateway } = await bridge.addresses();
  const free = ip4.replace(/\.\d+$/, '.77');
  beginOutside(
    'build',
    lab.view.inside(['bash', '-c', BUILD, 'build', free, gateway, ...node, ...on('build')]),
  );
  const both = { ...GOES_ON, ...ENDS, name: [...on('name')] };
  await waitFor('all to be open', async () => (await works(both)).size === all(both).length, 60_000);
}, 200_000);
afterAll(async () => {
  for (const pid of daemons) await end(pid, 2_000);
  await lab?.down();
});

it('control: before the service all of it goes on', async () => {
  await goesOn();
  for (const [key, one] of await works(ENDS)) expect([key, one.opened, one.end]).toEqual([key, 1, null]);
});

it('a first start: what is observed, off or permitted goes on; the rest ends at both sides, at once', async () => {
  await lab.sniffer.clear();
  drawbridge = lab.drawbridge({ config: { default: 'observe' } });
  await drawbridge.ready();
  await goesOn();
  const ended = async (): Promise<boolean> => [...(await works(ENDS))].every(([, one]) => one.end !== null);
  await waitFor('the rest to end', ended, 30_000).catch(async (e: Error) => {
    throw new Error(`${e.message}: ${JSON.stringify([...(await works(ENDS))])}`);
  });
  const resets = await lab.sniffer.packets({ direction: 'out', flags: 'R' });
  const servers = [...new Set(resets.map((p) => `${p.dst}:${p.dport}`))].sort();
  expect(servers).toEqual(['93.184.3.2:80', '93.184.4.1:19', '93.184.4.1:7777', '93.184.4.2:9999']);
  expect((await workOf('denied'))['serve=7100']).toMatchObject({ ends: [expect.stringMatching(/^E/)] });
});

it('no flow is recorded as opened by the side that answers', async () => {
  const { stdout } = await drawbridge.cli(['flows', '--json']);
  const { items } = JSON.parse(stdout) as { items: readonly Recorded[] };
  const recorded = items.map((f) => `${f.container} ${f.address}:${f.port}`);
  expect(recorded).toContain('address 93.184.2.1:80');
  expect(recorded.filter((f) => /^(db|denied) 172\.30\./.test(f))).toEqual([]);
});

it('a configuration with another prefix and default: the same goes on', async () => {
  drawbridge.configure({ default: 'off', kernel: { prefix: 'OTHER' } });
  drawbridge.kill('SIGHUP');
  const isNew = async (): Promise<boolean> => {
    const { body } = await drawbridge.get('/v1/containers').catch(() => ({ body: '{"items":[]}' }));
    const { items } = JSON.parse(body) as { items: readonly { name: string; mode: string }[] };
    return items.some((c) => c.name === 'observed' && c.mode === 'off');
  };
  await waitFor('the new configuration', isNew, 60_000);
  await drawbridge.ready();
  await goesOn(AWAY);
});

it('teardown, and a start over the state that is left: the same goes on', async () => {
  expect((await drawbridge.cli(['teardown'])).code).toBe(0);
  await drawbridge.exited();
  await goesOn(AWAY);
  drawbridge.start();
  await drawbridge.ready();
  await goesOn(AWAY);
});
