/** One container after the other on the same address and MAC, while Docker's events come late, in another order or never. */
import { basename, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Random } from '../fuzz/random.js';
import { makeNetns } from '../kernel/in-netns.js';
import type { Container } from '../lab/container.js';
import { DockerProxy, type Fault, HEALTHY } from '../lab/docker-proxy.js';
import type { Drawbridge, DrawbridgeSpec } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';
import { shownHere } from './report.js';
import { PROGRAMS } from './technique.js';

const SEED = Number(process.env.SEED ?? 1);
/** `npm run soak -- all` tries more. */
const ROUNDS = Number(process.env.ROUNDS ?? 8);
const SUBNETS = ['--subnet', '172.30.0.0/24', '--subnet', 'fd00:db:f::/64'];
const PLACE = ['--ip', '172.30.0.7', '--ip6', 'fd00:db:f::7', '--mac-address', '02:42:00:00:00:07'];
const shown = shownHere({
  id: 'next-on-address',
  title: 'the next container on an address and MAC, with Docker’s events late, shuffled and lost',
  families: ['v4', 'v6'],
  stoppedBy:
    'packets of an unclassified veth are queued until a container list that was requested after them has been applied',
});

const joined = shownHere({
  id: 'join-late-events',
  title:
    'sending all the time while it joins and leaves networks, with Docker’s events late, shuffled and lost',
  families: ['v4', 'v6'],
  stoppedBy:
    'a veth counts as unattributed only if it never belonged to a container, does not lead to the namespace of one, and no event contradicts the list',
});

const UNNAMED =
  'sending all the time while it moves from one network to another, with its endpoint shown without the container, as Engine 29 does';
const unnamed = shownHere({
  id: 'connect-race-unnamed',
  title: UNNAMED,
  families: ['v4', 'v6'],
  stoppedBy:
    'a veth is not unattributed when it has the MAC of an endpoint without a container, leads to a sandbox of Docker, or has its far end on the host (a container has just left)',
});

let lab: Lab;
let proxy: DockerProxy;
beforeAll(async () => {
  lab = await Lab.up();
  await lab.docker('network', 'create', '--ipv6', ...SUBNETS, 'heir');
  await lab.docker('network', 'create', '--ipv6', 'aside');
  proxy = await new DockerProxy(lab.socketPath, join(lab.dir, 'late.sock'), new Random(SEED)).start();
});
afterAll(async () => {
  await lab?.down();
  await proxy?.[Symbol.asyncDispose]();
});

const four = (n: number): string => `93.184.31.${1 + n}`;
const six = (n: number): string => `2600:9000:31::${(1 + n).toString(16)}`;
interface Outcome {
  readonly v4: boolean;
  readonly v6: boolean;
  /** All that the internet saw of it. */
  readonly packets: readonly string[];
}
/** Both families as the first instruction of a container with this policy. */
async function next(n: number, allow: string): Promise<Outcome> {
  await lab.endConnections(); // those of the container before
  await lab.sniffer.clear();
  const get = (url: string, word: string): string => `wget -q -T 8 -O /dev/null '${url}' && echo ${word} &`;
  const script = `${get(`http://${four(n)}/`, 'four')}\n${get(`http://[${six(n)}]/`, 'six')}\nwait`;
  const args = ['run', '--rm', '--network', 'heir', ...PLACE, '--label', `drawbridge.allow=${allow}`];
  const command = [lab.images.busybox, 'sh', '-c', script];
  const { stdout } = await lab.dockerResult([...args, ...command], { timeoutMs: 60_000, check: false });
  const packets = await lab.sniffer.packets({ direction: 'out', dst: [four(n), six(n)] });
  return {
    v4: stdout.includes('four'),
    v6: stdout.includes('six'),
    packets: packets.map(
      (p) => `${new Date(p.time).toISOString()} ${p.src} ${p.sport} > ${p.dst} ${p.flags}`,
    ),
  };
}
const policyOf = (n: number): string => `${four(n)}:80, [${six(n)}]:80`;

let drawbridge: Drawbridge | undefined;
const specOf = (): DrawbridgeSpec => ({
  config: { docker: { socket: proxy.socketPath }, log: { level: 'debug' } },
});
async function begin(): Promise<void> {
  drawbridge ??= lab.drawbridge(specOf());
  await drawbridge.ready();
}
/** A service that does not see the folder of Docker's sandboxes. */
async function beginWithoutSandboxes(): Promise<void> {
  await drawbridge?.stop();
  const script = 'mount -t tmpfs none "$0" && exec "$@"';
  const through = ['unshare', '-m', 'sh', '-c', script, join(lab.execRoot, 'netns')];
  drawbridge = lab.drawbridge({ ...specOf(), through });
  await drawbridge.ready();
}
const isSome = (n: number): boolean => n > 0;
/** Each sends to addresses of its own; how many packets the internet saw. */
async function joining(
  numbers: readonly number[],
  moves: (c: Container, n: number) => Promise<void> = joinsAndLeaves,
  isHeld = true,
): Promise<{ v4: number; v6: number }> {
  await lab.sniffer.clear();
  await Promise.all(numbers.map((n) => sending(n, moves)));
  const count = (of: (n: number) => string): Promise<number> =>
    lab.sniffer.count({ direction: 'out', dst: numbers.map(of), dport: SPRAYED });
  const found = { v4: await count(four), v6: await count(six) };
  if (drawbridge && isHeld && found.v4 + found.v6 > 0) await tell(numbers, drawbridge);
  return found;
}
/** What a failure is to be understood by. */
async function tell(numbers: readonly number[], by: Drawbridge): Promise<void> {
  const packets = await lab.sniffer.packets({
    direction: 'out',
    dst: [...numbers.map(four), ...numbers.map(six)],
  });
  const shown = [...packets.slice(0, 5), ...packets.slice(-5)];
  const times = shown.map((p) => `${new Date(p.time).toISOString()} ${p.src} > ${p.dst}`);
  console.error(`${packets.length} packets\n${times.join('\n')}\n${by.logs().slice(-20_000)}`);
}
const SPRAYED = 7000;
const JOINS = 3;
async function sending(n: number, moves: (c: Container, n: number) => Promise<void>): Promise<void> {
  const spray = { to: [four(n), six(n)], port: SPRAYED, text: 'x', everyMs: 1, forMs: 120_000 };
  const c = await lab.start({
    network: 'aside',
    labels: { 'drawbridge.allow': policyOf(n) },
    mounts: [PROGRAMS],
    cmd: ['node', '/attacks/spray.mjs', JSON.stringify(spray)],
  });
  await moves(c, n);
  await c.remove();
}
async function joinsAndLeaves(c: Container): Promise<void> {
  for (let i = 0; i < JOINS; i++) {
    await lab.docker('network', 'connect', 'heir', c.id);
    await lab.docker('network', 'disconnect', 'aside', c.id);
    await lab.docker('network', 'connect', 'aside', c.id);
    await lab.docker('network', 'disconnect', 'heir', c.id);
  }
}
const STAYS = 12;
/** Leaves each network at once, before Drawbridge can attribute its packets. */
async function leaving(c: Container): Promise<void> {
  await lab.docker('network', 'disconnect', 'aside', c.id);
  for (let i = 0; i < STAYS; i++) {
    await lab.docker('network', 'connect', 'heir', c.id);
    await lab.docker('network', 'disconnect', 'heir', c.id);
  }
}
/** At each join it is on no other network; what it may reach, it reaches from each. */
async function moving(c: Container, n: number): Promise<void> {
  for (const [from, to] of [
    ['aside', 'heir'],
    ['heir', 'aside'],
    ['aside', 'heir'],
  ] as const) {
    await lab.docker('network', 'disconnect', from, c.id);
    await lab.docker('network', 'connect', to, c.id);
    for (const at of [four(n), six(n)])
      expect(await c.probe('tcp', at, 80, '--timeout', 10_000)).toMatchObject({ ok: true });
  }
}

it('control: without Drawbridge the next one reaches what the one before it may', async () => {
  await next(0, policyOf(0));
  expect(await next(0, policyOf(200))).toMatchObject({ v4: true, v6: true });
  shown.control();
  expect(await joining([250])).toMatchObject({ v4: expect.toSatisfy(isSome), v6: expect.toSatisfy(isSome) });
  joined.control();
  expect(await joining([251], leaving)).toMatchObject({
    v4: expect.toSatisfy(isSome),
    v6: expect.toSatisfy(isSome),
  });
});

it(`${ROUNDS} in a row, seed ${SEED}: each has its own policy and never the last one's`, async () => {
  await begin();
  for (let n = 1; n <= ROUNDS; n++) {
    expect({ n, ...(await next(n, policyOf(n))) }).toMatchObject({ n, v4: true, v6: true });
    const before = await lab.sniffer.packets({ direction: 'out', dst: [four(n), six(n)] });
    const heir = await next(n, policyOf(200 + (n % 50)));
    if (heir.packets.length > 0)
      console.error(
        `of the one before: ${before.map((p) => `${p.sport} ${p.flags}`)}\n${drawbridge?.logs().slice(-20_000)}`,
      );
    expect({ n, ...heir }).toEqual({ n, v4: false, v6: false, packets: [] });
  }
  console.log(`events: ${JSON.stringify(proxy.seen)}`);
  expect(proxy.seen.lost).toBeGreaterThan(ROUNDS);
  expect(proxy.seen.late).toBeGreaterThan(ROUNDS);
  shown.held();
});

it('one that joins and leaves networks all the time never gets out', async () => {
  await begin();
  for (let round = 0; round < ROUNDS / 4; round++)
    expect(await joining([0, 1, 2].map((n) => 100 + 3 * round + n))).toEqual({ v4: 0, v6: 0 });
  joined.held();
});

it('packets of a veth are dropped when its far end moves to the host before Docker has answered', async () => {
  await begin();
  await proxy.set({ ...HEALTHY, answers: 400 });
  expect(await fromUnattributed(140, false)).toEqual({ v4: 1, v6: 1 });
  expect(await fromUnattributed(141, true)).toEqual({ v4: 0, v6: 0 });
  await proxy.set({ ...HEALTHY });
});
const SPRAY = join(import.meta.dirname, 'programs/spray.mjs');
/**
 * Sends a datagram of each family from a veth that belongs to no container, and returns how many of them have left the host. With `isLeaving`,
 * the far end of the veth is moved to the network namespace of the host before Docker answers.
 */
async function fromUnattributed(n: number, isLeaving: boolean): Promise<{ v4: number; v6: number }> {
  using away = makeNetns();
  const host = (...args: string[]) => lab.inHost(['ip', ...args], { check: true });
  const id = (await lab.docker('network', 'inspect', '-f', '{{.Id}}', 'heir')).trim();
  await host('link', 'add', 'plain', 'type', 'veth', 'peer', 'name', 'far', 'netns', away.name);
  await host('link', 'set', 'plain', 'master', `br-${id.slice(0, 12)}`, 'up');
  away.run('ip', 'address', 'add', '172.30.0.99/24', 'dev', 'far');
  away.run('ip', 'address', 'add', 'fd00:db:f::99/64', 'dev', 'far', 'nodad');
  away.run('ip', 'link', 'set', 'far', 'up');
  away.run('ip', 'route', 'add', 'default', 'via', '172.30.0.1');
  away.run('ip', 'route', 'add', 'default', 'via', 'fd00:db:f::1');
  const from = proxy.lists;
  const spray = { to: [four(n), six(n)], port: SPRAYED, text: 'x' };
  await away.exec(process.execPath, [SPRAY, JSON.stringify(spray)]);
  await waitFor('a list for what was sent', () => proxy.lists > from);
  if (isLeaving) away.run('ip', 'link', 'set', 'far', 'netns', basename(lab.hostNetns));
  const count = (dst: string): Promise<number> =>
    lab.sniffer.count({ direction: 'out', dst, dport: SPRAYED });
  const found = async () => ({ v4: await count(four(n)), v6: await count(six(n)) });
  await waitFor('lists after the first, or what was sent', async () => {
    const { v4, v6 } = await found();
    return (isLeaving && proxy.lists > from + 4) || (v4 > 0 && v6 > 0);
  });
  await host('link', 'delete', 'plain');
  return found();
}

describe(UNNAMED, () => {
  /** Longer than on Engine 29, where it is 8 to 47 ms: on a slow host a list and a pass take longer, too. */
  const JOINS_MS = 200;
  const MOST_TRIES = 8;
  const shownAs = (shown: 'ep' | 'not'): Fault => ({ ...HEALTHY, joins: { ms: JOINS_MS, shown } });
  const moved = async (
    n: number,
    shown: 'ep' | 'not',
    isHeld = true,
    moves = moving,
  ): Promise<{ v4: number; v6: number }> => {
    await proxy.set(shownAs(shown));
    const before = proxy.seen.unnamed;
    const found = await joining([n], moves, isHeld);
    expect(proxy.seen.unnamed).toBeGreaterThan(before); // Drawbridge has seen an endpoint without a container
    await proxy.set({ ...HEALTHY });
    return found;
  };

  it('is held by the MAC of that endpoint and by the sandbox that the veth leads to', async () => {
    await begin();
    expect(await moved(130, 'ep')).toEqual({ v4: 0, v6: 0 });
  });
  it('is held by the sandbox alone, when Docker does not show the endpoint', async () => {
    await begin();
    expect(await moved(131, 'not')).toEqual({ v4: 0, v6: 0 });
  });
  it('is held when it leaves before Docker names it', async () => {
    await begin();
    expect(await moved(134, 'ep', true, leaving)).toEqual({ v4: 0, v6: 0 });
  });
  it('is held by the MAC alone, when the sandboxes cannot be seen', async () => {
    await beginWithoutSandboxes();
    expect(await moved(132, 'ep')).toEqual({ v4: 0, v6: 0 });
    unnamed.held();
  });
  it('control: without both it gets out', async () => {
    // whether a list comes before Docker shows the endpoint depends on the host
    const found = { v4: 0, v6: 0 };
    for (let tries = 0; tries < MOST_TRIES && !(found.v4 > 0 && found.v6 > 0); tries++) {
      const { v4, v6 } = await moved(133, 'not', false);
      found.v4 += v4;
      found.v6 += v6;
    }
    expect(found).toMatchObject({ v4: expect.toSatisfy(isSome), v6: expect.toSatisfy(isSome) });
    unnamed.control();
  });
});
