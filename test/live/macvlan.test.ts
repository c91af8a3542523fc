/** Containers whose frames never pass the host: macvlan, held by rules inside their own namespaces. */
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { shownHere } from '../attacks/report.js';
import type { Container, RunSpec } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { MACVLAN, makeMacvlan } from '../lab/macvlan.js';
import { waitFor } from '../lab/process.js';
import { Flows } from './flows.js';
import { inParallel } from './support.js';

const NAME = 'api.example.com';
const NAMED = { v4: '93.184.7.1', v6: '2600:9000:7::1' } as const;
const ENTRY = { v4: '93.184.7.2', v6: '2600:9000:7::2' } as const;
const FORBIDDEN = { v4: '93.184.9.9', v6: '2600:9000:9::9' } as const;
/** Spec: within a second. */
const CUT_MS = 1_000;
/** How long stragglers get to pick a flow up again. */
const WATCH_MS = 2_000;
const RACES = Number(process.env.MACVLAN_RACES ?? 9);

/** Tells whoever connects. */
const SERVE = ['sh', '-c', 'mkdir -p /www && echo db > /www/index.html && exec httpd -f -p 8000 -h /www'];

let lab: Lab;
let d: Drawbridge;

const onLan = (spec: RunSpec = {}): RunSpec => ({
  network: MACVLAN.name,
  ...spec,
  args: ['--cap-drop=NET_RAW', ...(spec.args ?? [])],
});
const allow = (entries: string): Record<string, string> => ({ 'drawbridge.allow': entries });
const reaches = async (c: Container, host: string, port = 80): Promise<boolean> =>
  (await c.probe('tcp', host, port, '--timeout', 2500)).ok;
const got = (dst: string | readonly string[]): Promise<number> =>
  lab.sniffer.count({ dst: typeof dst === 'string' ? dst : [...dst] });
const state = async (name: string): Promise<string> => {
  const { body } = await d.get(`/v1/containers/${name}`);
  return (JSON.parse(body) as { coverage?: { state: string } }).coverage?.state ?? '';
};
const enforced = (name: string): Promise<unknown> =>
  waitFor(`${name} to be enforced`, async () => (await state(name)) === 'enforced').catch(
    async (e: Error) => {
      throw new Error(
        `${e.message}: ${(await d.get(`/v1/containers/${name}`)).body}\n${d.logs().slice(-3000)}`,
      );
    },
  );
const inside = async (c: Container, ...argv: string[]) =>
  lab.inHost(['nsenter', `--net=/proc/${await c.pid()}/ns/net`, '--', ...argv]);

const shown = {
  start: shownHere({
    id: 'macvlan-start',
    title: 'on a macvlan network, in the first instruction of a container, several starting at once',
    families: ['v4'],
    stoppedBy: 'its namespace is closed when Docker creates it, before its container is known',
  }),
  join: shownHere({
    id: 'macvlan-join',
    title: 'a container that sends all the time joins a macvlan network while it runs',
    families: ['v4'],
    stoppedBy: 'when the link is created, the namespaces of all containers that might join are closed to it',
  }),
};

/** The first instructions of `count` containers: a forbidden address and a permitted one at once. */
async function burst(
  from: number,
  count: number,
): Promise<{ leaked: number; reached: number; syns: number }> {
  const forbidden = (n: number): string => `93.184.99.${n + 1}`;
  const permitted = (n: number): string => `93.184.98.${n + 1}`;
  const script = (n: number): string =>
    `wget -q -T 1 -O /dev/null http://${forbidden(n)}/ & wget -q -T 5 -O /dev/null http://${permitted(n)}/ && echo reached; wait`;
  await lab.sniffer.clear();
  const numbers = Array.from({ length: count }, (_, n) => from + n);
  const printed = await inParallel(3, numbers, async (n) => {
    const { network = '', args = [] } = onLan();
    const label = `drawbridge.allow=${permitted(n)}:80`;
    const run = ['run', '--rm', '--network', network, ...args, '--label', label, lab.images.busybox];
    return (await lab.dockerResult([...run, 'sh', '-c', script(n)], { timeoutMs: 60_000 })).stdout;
  });
  const syns = await lab.sniffer.packets({ dst: numbers.map(permitted), onlyFlags: 'S' });
  return {
    leaked: await got(numbers.map(forbidden)),
    reached: printed.filter((p) => p.includes('reached')).length,
    syns: syns.length,
  };
}

const FLOOD = `const u = require('dgram').createSocket('udp4'); u.on('error', () => {}); setInterval(() => u.send('x', 4500, '${MACVLAN.gateway4}', () => {}), 1);`;
/** Packets to a neighbour on the macvlan network, past the host, of one that joins it while it sends. */
async function join(name: string): Promise<number> {
  const c = await lab.start({
    ...onLan({ name, labels: allow(ENTRY.v4) }),
    network: 'bridge',
    cmd: ['node', '-e', FLOOD],
  });
  if (name !== 'control') await enforced(name);
  await lab.sniffer.clear();
  for (let i = 0; i < 3; i++) {
    await lab.docker('network', 'connect', MACVLAN.name, name);
    if (name === 'control') await waitFor('a packet', async () => (await past()) > 0);
    else
      await waitFor('rules inside', async () =>
        (await inside(c, 'nft', 'list', 'table', 'netdev', 'drawbridge_lan')).stdout.includes('frames'),
      );
    await lab.docker('network', 'disconnect', MACVLAN.name, name);
  }
  const all = await past();
  await c.remove();
  return all;
}
const past = (): Promise<number> =>
  lab.sniffer.count({ direction: 'in', dst: MACVLAN.gateway4, dport: 4500 });

beforeAll(async () => {
  lab = await Lab.up({});
  await lab.dns.set({ [NAME]: { A: [NAMED.v4], AAAA: [NAMED.v6], ttl: 600 } });
  await makeMacvlan(lab);
});
afterAll(() => lab?.down());

describe('macvlan', () => {
  it('control: without Drawbridge everything is reached', async () => {
    const c = await lab.start(onLan({ labels: allow(ENTRY.v4) }));
    for (const host of [FORBIDDEN.v4, FORBIDDEN.v6, ENTRY.v4]) expect(await reaches(c, host)).toBe(true);
    await c.remove();
    expect(await burst(100, 2)).toMatchObject({ leaked: expect.toSatisfy((n: number) => n > 0), reached: 2 });
    expect(await join('control')).toBeGreaterThan(0);
    for (const s of Object.values(shown)) s.control();
    d = lab.drawbridge({});
    await d.ready();
  });

  it('names, addresses and ports of the policy, in both families, and nothing else', async () => {
    const c = await lab.start(onLan({ name: 'web', labels: allow(`${NAME}, ${ENTRY.v4}:80`) }));
    await enforced('web');
    await lab.sniffer.clear();
    await lab.dns.clearLog();
    const told = await c.probe('dns', '127.0.0.11', NAME, 'A');
    expect(told.addresses).toEqual([NAMED.v4]);
    await c.probe('dns', '8.8.8.8', NAME, 'AAAA');
    const results = await Promise.all([
      ...[NAMED.v4, NAMED.v6, ENTRY.v4].map((host) => reaches(c, host)),
      ...[FORBIDDEN.v4, FORBIDDEN.v6].map((host) => reaches(c, host)),
      reaches(c, ENTRY.v4, 8080),
      reaches(c, NAMED.v4, 8080),
    ]);
    expect(results).toEqual([true, true, true, false, false, false, false]);
    expect((await c.probe('dns', '8.8.8.8', 'secret.evil.example', 'A')).rcode).toBe('NXDOMAIN');
    expect((await c.probe('dns', '8.8.4.4', NAME, 'A', 'tcp')).addresses).toEqual([NAMED.v4]);
    await c.probe('udp', FORBIDDEN.v4, 4500, 'x', '--timeout', 500);
    await c.probe('dns', '2001:4860:4860::8888', NAME, 'A', '--timeout', 500);
    expect(await got([FORBIDDEN.v4, FORBIDDEN.v6, '8.8.8.8', '8.8.4.4', '2001:4860:4860::8888'])).toBe(0);
    expect(await lab.sniffer.count({ dport: 8080 })).toBe(0);
    expect((await lab.dns.queries()).map((q) => q.name)).not.toContain('secret.evil.example');
  });

  it('explain, ps and flows tell of it', async () => {
    const cli = (...args: string[]): ReturnType<Drawbridge['cli']> => d.cli(args);
    expect((await cli('explain', 'web', `${ENTRY.v4}:80`, '--exit-code')).code).toBe(0);
    const denied = await cli('explain', 'web', FORBIDDEN.v4, '--exit-code');
    expect(denied.stdout).toMatch(/deny/);
    expect(denied.code).not.toBe(0);
    expect((await cli('ps')).stdout).toMatch(/^web\tenforce\tfull/m);
    const flows = (await d.get('/v1/flows?container=web')).body;
    expect(flows).toContain(FORBIDDEN.v4);
  });

  it('neighbours on the same parent by policy alone; what others open is answered', async () => {
    const db = await lab.start(onLan({ name: 'db', labels: allow(ENTRY.v4), cmd: SERVE }));
    const client = await lab.start(onLan({ name: 'client', labels: allow('container:db:8000') }));
    await Promise.all([enforced('db'), enforced('client')]);
    const web = await lab.start(onLan({ name: 'stranger', labels: allow(ENTRY.v4) }));
    await enforced('stranger');
    const { ip4, ip6 } = await db.addresses();
    await waitFor('db to serve', async () => (await lab.probeFromNet('tcp', ip4, '8000')).ok);
    expect((await lab.probeFromNet('http', `http://${ip4}:8000/`)).ok).toBe(true);
    expect((await client.probe('http', `http://${ip4}:8000/`)).ok).toBe(true);
    expect(await reaches(client, ip4, 8001)).toBe(false);
    expect([await reaches(web, ip4, 8000), await reaches(web, ip6, 8000)]).toEqual([false, false]);
    for (const c of [client, web]) await c.remove();
  });

  it('a policy that shrinks ends what it carried within a second, and lets the rest go on', async () => {
    const entries = (...all: string[]): void => d.writeList('flows.yaml', `allow: [${all.join(', ')}]\n`);
    entries(ENTRY.v4, `"${ENTRY.v6}"`);
    await d.restart();
    const spec = onLan({ name: 'shrinks', labels: { 'drawbridge.lists': 'flows' } });
    const flows = await Flows.start(lab, spec, Object.values(ENTRY));
    await flows.moving();
    entries(ENTRY.v4);
    await waitFor('the entry to go', async () =>
      (await d.cli(['explain', 'shrinks', `[${ENTRY.v6}]:7777`])).stdout.includes('deny'),
    );
    const gone = Date.now() + CUT_MS;
    await delay(WATCH_MS);
    expect((await flows.movedAfter(gone)).sort()).toEqual(
      ['tcp from', 'tcp to', 'udp from', 'udp to'].map((f) => `four ${f}`),
    );
    expect(await lab.sniffer.count({ dst: ENTRY.v6, since: gone })).toBe(0);
    await flows.container.remove();
  });

  it('stands while the service is killed and comes back; what root takes away comes back', async () => {
    const spec = onLan({ name: 'lasting', labels: allow(`${NAME}, ${ENTRY.v4}`) });
    const flows = await Flows.start(lab, spec, [ENTRY.v4]);
    const c = flows.container;
    await enforced('lasting');
    expect(await reaches(c, NAME)).toBe(true);
    await lab.sniffer.clear();
    d.kill('SIGKILL');
    await d.exited();
    expect([await reaches(c, FORBIDDEN.v4), await reaches(c, NAMED.v4)]).toEqual([false, true]);
    const unknown = await c.probe('dns', '127.0.0.11', 'other.example.com', 'A', '--timeout', 500);
    expect(unknown.ok).toBe(false);
    d.start();
    await d.ready();
    await enforced('lasting');
    expect(await reaches(c, NAME)).toBe(true);
    expect(await got(Object.values(FORBIDDEN))).toBe(0);
    await inside(c, 'nft', 'flush', 'ruleset');
    await waitFor('the rules to come back', async () => !(await reaches(c, FORBIDDEN.v6)));
    await lab.sniffer.clear();
    expect([await reaches(c, FORBIDDEN.v4), await reaches(c, NAME)]).toEqual([false, true]);
    expect(await got(Object.values(FORBIDDEN))).toBe(0);
    await flows.moving();
    await c.remove();
  });

  it('beside a bridge, joined while it runs, started again, observed', async () => {
    await lab.docker('network', 'create', '--ipv6', 'inner');
    const c = await lab.start({
      ...onLan({ name: 'both', labels: allow(`${NAME}, ${ENTRY.v4}:80`) }),
      network: 'inner',
    });
    await enforced('both');
    const bothHold = async (when: string): Promise<void> => {
      await lab.sniffer.clear();
      const all = await Promise.all(
        [NAME, ENTRY.v4, FORBIDDEN.v4, FORBIDDEN.v6].map((h) => c.probe('tcp', h, 80, '--timeout', 2500)),
      );
      const what = `${when}: ${JSON.stringify(all)}`;
      expect(
        all.map((p) => p.ok),
        what,
      ).toEqual([true, true, false, false]);
      expect(await got(Object.values(FORBIDDEN))).toBe(0);
    };
    await bothHold('on the bridge');
    await lab.docker('network', 'connect', MACVLAN.name, 'both');
    await waitFor('rules inside', async () =>
      (await inside(c, 'nft', 'list', 'table', 'netdev', 'drawbridge_lan')).stdout.includes('frames'),
    );
    await bothHold('on both');
    // by the macvlan network alone
    const { stdout } = await inside(c, 'ip', '-j', 'address', 'show', 'to', MACVLAN.net4);
    const [link] = JSON.parse(stdout) as { ifname: string }[];
    await inside(c, 'ip', 'route', 'replace', 'default', 'via', MACVLAN.gateway4, 'dev', link?.ifname ?? '');
    await bothHold('by macvlan');
    await lab.docker('restart', '-t', '0', 'both');
    await enforced('both');
    // no queue holds its packets on macvlan until its rules stand there
    await waitFor('its rules to let it go on', () => reaches(c, ENTRY.v4));
    await bothHold('started again');
    expect((await d.cli(['mode', 'both', 'observe'])).code).toBe(0);
    await waitFor(
      'rules to go',
      async () => !(await inside(c, 'nft', 'list', 'tables')).stdout.includes('drawbridge_lan'),
    );
    await c.remove();
  });

  it('what may go around the rules is said', async () => {
    const specs: readonly (readonly [string, readonly string[], string])[] = [
      ['plain', [], 'partial'],
      ['admin', ['--cap-add=NET_ADMIN'], 'unenforced'],
      ['watched', ['--label=drawbridge.mode=observe'], 'unenforced'],
    ];
    for (const [name, args] of specs)
      await lab.start({ name, network: MACVLAN.name, labels: allow(ENTRY.v4), args });
    for (const [name, , expected] of specs)
      await waitFor(`${name} to be ${expected}`, async () => (await state(name)) === expected);
    const shown = (await d.get('/v1/containers/plain')).body;
    expect(shown).toContain('cap_drop: [NET_RAW]');
    for (const [name] of specs) await lab.docker('rm', '-f', name);
  });

  it(`${RACES} containers in bursts, from their first instruction`, async () => {
    expect(await burst(0, RACES)).toEqual({ leaked: 0, reached: RACES, syns: RACES });
    shown.start.held();
  });

  it('joined while it runs: nothing goes out before its rules stand', async () => {
    expect(await join('joiner')).toBe(0);
    shown.join.held();
  });

  it('teardown leaves nothing inside', async () => {
    const c = await lab.start(onLan({ name: 'last', labels: allow(ENTRY.v4) }));
    await enforced('last');
    expect((await d.cli(['teardown'])).code).toBe(0);
    await d.exited();
    expect((await inside(c, 'nft', 'list', 'tables')).stdout).not.toContain('drawbridge');
    expect(await reaches(c, FORBIDDEN.v4)).toBe(true);
  });
});
