/**
 * Flows to who is near and free to speak, a neighbour that nothing is enforced for and the host: its next packet would make
 * a flow anew that was cut, and as its own. When a permission is taken away, and after a moment without any rule.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { shownHere } from '../attacks/report.js';
import { PROGRAMS } from '../attacks/technique.js';
import type { Container } from '../lab/container.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { end, startDaemon, waitFor } from '../lab/process.js';
import { ADDRESSES } from '../lab/topology.js';
import { Flows, type Sample, samplesIn, sentBy } from './flows.js';
import { withInside } from './inside.js';

const HOST4 = '172.28.70.1';
const HOST6 = 'fd00:db:70::1';
const ENFORCED = { 'drawbridge.allow': '93.184.1.1:80' };
/** Where the internet echoes. */
const ELSEWHERE = ['93.184.70.1', '2600:9000:70::1'];
/** Permitted all the time: what is taken away leaves the ports and protocols of the policy as they are. */
const KEPT = [19, 7777].flatMap((port) => [`93.184.1.1:${port}`, `93.184.1.1:${port}/udp`]);
const SERVE = ['node', '/inside.mjs', 'serve'];
/** Spec: within a second. */
const CUT_MS = 1_000;
const WATCH_MS = 4_000;
/** How long each hole is pressed at, and how many holes there are at most until something got through. */
const PRESS_MS = 3_000;
const HOLES = 10;

const shown = {
  revoked: shownHere({
    id: 'near-after-revoke',
    title:
      'a flow to a free neighbour or the host when its permission is taken away, and its pick-up by the answers',
    families: ['v4', 'v6'],
    stoppedBy: 'flows that nothing permits are deleted; what the other side sends for them opens none',
  }),
  turned: shownHere({
    id: 'near-after-flush',
    title: 'a flow that an answer of a neighbour or the host opens after all rules were flushed',
    families: ['v4', 'v6'],
    stoppedBy: 'a flow that conntrack picked up mid-stream is evaluated in both directions',
  }),
  heir: shownHere({
    id: 'near-next-answers',
    title: 'the next container on an address continues to answer the clients of the one before',
    families: ['v4', 'v6'],
    stoppedBy: 'flows from and to an address are deleted before it is bound to a container',
  }),
};

/** Who answers, and what it has got so far. */
interface Peer {
  readonly addresses: readonly string[];
  readonly entries: readonly string[];
  samples(): Promise<readonly Sample[]>;
}

let lab: Lab;
let drawbridge: Drawbridge;
let hostPid: number | undefined;
/** Began before Drawbridge did. */
let before: Flows;
let readyAt = 0;
const peers = new Map<string, Peer>();

beforeAll(async () => {
  lab = await Lab.up({});
  await lab.docker(
    ...['network', 'create', '--ipv6', '--subnet=172.28.70.0/24', `--gateway=${HOST4}`],
    ...['--subnet=fd00:db:70::/64', `--gateway=${HOST6}`, 'near'],
  );
  const free = await inherited();
  expect([free.v4 > 0, free.v6 > 0]).toEqual([true, true]);
  shown.heir.control();
  await neighbour('observed', { 'drawbridge.mode': 'observe' });
  await neighbour('off', { 'drawbridge.mode': 'off' });
  await neighbour('enforced', {
    'drawbridge.allow': `container:${askerOf('enforced')}, container:${turningOf('enforced')}`,
  });
  const log = join(lab.dir, 'serve.log');
  const argv = [process.execPath, join(import.meta.dirname, 'inside.mjs'), 'serve'];
  hostPid = startDaemon(lab.view.inside(argv), log, lab.view.env);
  const host = {
    entries: ['host:19', 'host:7777', 'host:19/udp', 'host:7777/udp'],
    samples: async () => samplesIn(readFileSync(log, 'utf8')),
  };
  peers.set('host', { ...host, addresses: [HOST4, HOST6] });
  peers.set('host itself', { ...host, addresses: [ADDRESSES.host4, ADDRESSES.host6] });
  for (const [name, peer] of peers)
    await waitFor(`${name} to listen`, async () => (await peer.samples()).length > 0);
  const early = { network: 'near', name: 'early', labels: ENFORCED };
  before = await Flows.start(lab, early, [...peerOf('observed').addresses, ...peerOf('off').addresses]);
  await before.moving();
  drawbridge = lab.drawbridge({});
  await drawbridge.ready();
  readyAt = Date.now();
});
afterAll(async () => {
  if (hostPid !== undefined) await end(hostPid, 2_000);
  await lab?.down();
});

const PLACE = { ip4: '172.28.70.77', ip6: 'fd00:db:70::77' };
const AT = [`--ip=${PLACE.ip4}`, `--ip6=${PLACE.ip6}`];
/** A neighbour asks one container once; how many datagrams it gets of the next one on the same address. */
async function inherited(): Promise<{ v4: number; v6: number }> {
  const near = { network: 'near', labels: ENFORCED };
  const first = await lab.start({ ...withInside({ ...near, args: AT }), cmd: SERVE });
  await waitFor('the first one', async () => samplesIn(await first.logs()).length > 0);
  const asker = await lab.start({
    ...withInside({ network: 'near', labels: { 'drawbridge.mode': 'observe' } }),
    cmd: ['node', '/inside.mjs', 'hear', PLACE.ip4, PLACE.ip6],
  });
  const got = async (): Promise<{ v4: number; v6: number }> => {
    const counts = samplesIn(await asker.logs()).at(-1)?.counts;
    return { v4: counts?.[PLACE.ip4] ?? 0, v6: counts?.[PLACE.ip6] ?? 0 };
  };
  await waitFor('both answers', async () => ((now) => now.v4 > 0 && now.v6 > 0)(await got())).catch(
    async (e: Error) => {
      throw new Error(
        `${e.message}: ${(await asker.logs()).slice(-1000)} ${(await first.logs()).slice(-300)}`,
      );
    },
  );
  const { ip4, ip6 } = await asker.addresses();
  await first.remove();
  const before = await got();
  const spray = {
    to: [ip4, ip6],
    port: 7778,
    fromPort: 7777,
    shared: true,
    text: 'x',
    everyMs: 20,
    forMs: 2_000,
  };
  await lab.run({
    ...near,
    args: AT,
    mounts: [PROGRAMS],
    cmd: ['node', '/attacks/spray.mjs', JSON.stringify(spray)],
  });
  const all = await got();
  await asker.remove();
  return { v4: all.v4 - before.v4, v6: all.v6 - before.v6 };
}

async function neighbour(name: string, labels: Record<string, string>): Promise<void> {
  const c = await lab.start({ ...withInside({ network: 'near', name, labels }), cmd: SERVE });
  const { ip4, ip6 } = await c.addresses();
  peers.set(name, {
    addresses: [ip4, ip6],
    entries: [`container:${name}`],
    samples: async () => samplesIn(await c.logs()),
  });
}
const peerOf = (name: string): Peer => peers.get(name) as Peer;
const heard = async (peer: Peer): Promise<number> => (await peer.samples()).at(-1)?.counts.got ?? 0;
/** It has not got anything since this moment. */
async function silent(name: string, from: number): Promise<void> {
  const samples = await peerOf(name).samples();
  const later = samples.filter((_, i) => sentBy(samples, i) > from);
  expect(later.length).toBeGreaterThan(5);
  const [first, last] = [later[0]?.counts.got, later.at(-1)?.counts.got];
  const told = samples.slice(-80).map(({ at, counts }) => `${at - from}: ${counts.got}`);
  const why = `${name} got on, by ms since ${from}: ${told.join(', ')}; log:\n${drawbridge.logs().slice(-6_000)}`;
  expect(last, why).toBe(first);
}

async function putList(allow: readonly string[]): Promise<void> {
  const r = await drawbridge.request('PUT', '/v1/lists/near', { allow });
  expect({ status: r.status, body: r.body }).toMatchObject({ status: expect.toBeOneOf([200, 201]) });
}
const labels = { 'drawbridge.lists': 'near' };

it('who spoke before Drawbridge came: nothing moves but what the other side sends by itself', async () => {
  await delay(WATCH_MS);
  const moved = (await before.movedAfter(readyAt + CUT_MS)).filter((flow) => !flow.endsWith('udp from'));
  expect(moved).toEqual([]);
  for (const name of ['observed', 'off']) await silent(name, readyAt + CUT_MS);
  await before.container.remove();
});

type Pair = readonly [peer: string, network: string];
/** By a container on which network; the pairs of a group are tried side by side. */
const GROUPS: readonly { readonly what: string; readonly group: readonly Pair[] }[] = [
  {
    what: 'neighbours',
    group: [
      ['observed', 'near'],
      ['off', 'near'],
      ['enforced', 'near'],
    ],
  },
  {
    what: 'the host',
    group: [
      ['host', 'near'],
      ['host itself', 'host'],
    ],
  },
];
const askerOf = (name: string): string => `asker-${name.replace(' ', '-')}`;
const turningOf = (name: string): string => `turning-${name.replace(' ', '-')}`;
const turn = async (name: string, mode: string): Promise<number> =>
  (await drawbridge.request('PUT', `/v1/containers/${turningOf(name)}/mode`, { mode })).status;

describe.each(GROUPS)('$what', ({ group }) => {
  const flowsOf = new Map<string, { permitted: Flows; free: Flows }>();
  let from = 0;
  beforeAll(async () => {
    await putList([...new Set(group.flatMap(([name]) => peerOf(name).entries)), ...KEPT]);
    await Promise.all(
      group.map(async ([name, network]) => {
        const observed = { network, name: turningOf(name), labels: { 'drawbridge.mode': 'observe' } };
        const [permitted, free] = await Promise.all([
          Flows.start(lab, { network, name: askerOf(name), labels }, peerOf(name).addresses),
          Flows.start(lab, observed, peerOf(name).addresses),
        ]);
        flowsOf.set(name, { permitted, free });
        for (const flows of [permitted, free]) await flows.moving();
      }),
    );
    const since = Date.now();
    for (const { permitted, free } of flowsOf.values())
      for (const flows of [permitted, free]) await flows.moving(since); // all of them, at one time
    shown.revoked.control();
    for (const [name] of group) expect(await turn(name, 'enforce')).toBe(200);
    await putList(KEPT);
    from = Date.now();
    await delay(WATCH_MS);
  });
  afterAll(async () => {
    for (const [name] of group) await turn(name, 'auto');
    for (const { permitted, free } of flowsOf.values())
      for (const flows of [permitted, free]) await flows.container.remove();
  });

  it.each(group)(
    '%s, by a container on %s: revoked, and observed then enforced: nothing moves, at either end, for as long as it sends',
    async (name) => {
      const flows = flowsOf.get(name);
      expect(await flows?.permitted.movedAfter(from + CUT_MS)).toEqual([]);
      // datagrams that the other side goes on sending by itself are its own
      const moved = (await flows?.free.movedAfter(from + CUT_MS))?.filter(
        (flow) => !flow.endsWith('udp from'),
      );
      expect(
        moved,
        `since ${from}: ${JSON.stringify(await flows?.free.lastMoves())}; log:\n${drawbridge.logs().slice(-3_000)}`,
      ).toEqual([]);
      await silent(name, from + CUT_MS);
      shown.revoked.held();
    },
  );
});

it('the next one on an address answers nobody who spoke to the one before', async () => {
  expect(await inherited()).toEqual({ v4: 0, v6: 0 });
  shown.heir.held();
});

describe('after a moment without any rule', () => {
  let asker: Container;
  let hosted: Container;
  beforeAll(async () => {
    await putList(['93.184.1.1:80']);
    const out = ['node', '/inside.mjs', 'press', ...ELSEWHERE];
    hosted = await lab.start({ ...withInside({ network: 'host', name: 'hosted', labels }), cmd: out });
    await waitFor('the hosted', async () => samplesIn(await hosted.logs()).length > 0);
    // The asker gets the address of an observed container that has just been removed, and of which rules remain during the first hole.
    const all = ['observed', 'off', 'host'].flatMap((name) => peerOf(name).addresses);
    const press = (name: string, labels: Record<string, string>): Promise<Container> =>
      lab.start({
        ...withInside({ network: 'near', name, labels, args: AT }),
        cmd: ['node', '/inside.mjs', 'press', ...all],
      });
    const former = await press('former', { 'drawbridge.mode': 'observe' });
    await waitFor('the former', async () => samplesIn(await former.logs()).length > 0);
    await former.remove();
    asker = await press('asker', labels);
    await waitFor('the asker', async () => samplesIn(await asker.logs()).length > 0);
  });
  const status = async (): Promise<string> => {
    const r = await drawbridge.request('GET', '/v1/status');
    return (JSON.parse(r.body) as { kernel: { lastRepair: string } }).kernel.lastRepair;
  };

  it('what answers opened ends, at both ends, in the host’s network too', async () => {
    const out = { direction: 'out', dst: ELSEWHERE } as const;
    const names = ['observed', 'off', 'host'];
    let through = 0;
    for (let n = 0; n < HOLES && through < 3; n++) {
      const soFar = await Promise.all(names.map((name) => heard(peerOf(name))));
      const repair = await status();
      const began = Date.now();
      await lab.inHost(['nft', 'flush', 'ruleset'], { check: true });
      await waitFor('a repair', async () => (await status()) !== repair);
      const from = Date.now() + CUT_MS;
      await delay(PRESS_MS);
      const after = await Promise.all(names.map((name) => heard(peerOf(name))));
      const isThrough = after.every((count, i) => count > (soFar[i] ?? 0));
      if (isThrough && (await lab.sniffer.count({ ...out, since: began })) > 0) through++;
      for (const name of names) await silent(name, from);
      expect(await lab.sniffer.count({ ...out, since: from })).toBe(0);
    }
    expect(through).toBe(3); // the holes let something through, or nothing is proven
    shown.turned.control();
    shown.turned.held();
  });
});

describe('neighbours of one project', () => {
  const project = { 'com.docker.compose.project': 'shop' };
  const lockdown = (...args: string[]): Promise<unknown> => drawbridge.cli(['lockdown', ...args]);
  afterAll(() => lockdown('--off'));

  it('are cut from each other by a lockdown, though nothing else of an empty policy changes', async () => {
    await neighbour('mate', { ...project, 'drawbridge.mode': 'observe' });
    await waitFor('the mate', async () => (await peerOf('mate').samples()).length > 0);
    const spec = { network: 'near', name: 'member', labels: { ...project, 'drawbridge.mode': 'enforce' } };
    const flows = await Flows.start(lab, spec, peerOf('mate').addresses);
    await flows.moving();
    expect(await lockdown()).toMatchObject({ code: 0 });
    const from = Date.now();
    await delay(WATCH_MS);
    expect(await flows.movedAfter(from + CUT_MS)).toEqual([]);
    await silent('mate', from + CUT_MS);
  });
});
