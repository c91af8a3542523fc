/** What a start asks of an engine with many containers. */
import { mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { DockerWatch } from '../../../src/docker/watch.js';
import { containerInspect, ID, listItem, networkInspect } from './samples.js';

const COUNT = 100;
const ids = Array.from({ length: COUNT }, (_, n) => n.toString(16).padStart(64, '0'));
const members = Object.fromEntries(
  ids.map((id, n) => [
    id,
    {
      Name: id.slice(-4),
      IPv4Address: `172.18.0.${2 + n}/16`,
      MacAddress: `02:42:ac:12:00:${(2 + n).toString(16).padStart(2, '0')}`,
    },
  ]),
);
const quiet = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
};

const folder = mkdtempSync(join(tmpdir(), 'watch-'));
const socket = join(folder, 'docker.sock');
const asked = new Map<string, number>();
let name = 'front';
/** Of the first container: other values in its item of the list, and another endpoint. */
let item: object = {};
let endpoint: object = {};
/** Instead of the answer to a request of the stream of events. */
let onEvents: ((answer: () => void) => void) | undefined;
/** The engine refuses the next list of containers, and so many requests of the stream of events. */
let failing = false;
let refused = 0;
/** Inspects wait until the test lets them be answered. */
const held: (() => void)[] = [];

const server = createServer((request, response) => {
  const path = (request.url ?? '').replace(/\?.*/, '').replace(/^\/v[\d.]+/, '');
  const id = /^\/containers\/([0-9a-f]{64})\/json$/.exec(path)?.[1];
  const kind = id === undefined ? path : 'inspect';
  asked.set(kind, (asked.get(kind) ?? 0) + 1);
  const send = (value: unknown): void => void response.end(JSON.stringify(value));
  if (path === '/events') {
    const answer = (): void => response.writeHead(200).flushHeaders();
    if (refused > 0) {
      refused -= 1;
      response.writeHead(500).end('{"message":"not yet"}');
    } else if (onEvents) onEvents(answer);
    else answer();
  } else if (path === '/containers/json' && failing) {
    failing = false;
    response.writeHead(500).end('{"message":"not yet"}');
  } else if (path === '/containers/json')
    send(ids.map((Id, n) => listItem({ Id, Names: [`/${Id.slice(-4)}`], ...(n === 0 ? item : {}) })));
  else if (path === '/networks') send([networkInspect({ Name: name, Containers: {} })]);
  else if (path.startsWith('/networks/'))
    send(networkInspect({ Name: name, Containers: { ...members, ...endpoint } }));
  else if (id !== undefined) held.push(() => send(containerInspect({ Id: id, Name: `/${id.slice(-4)}` })));
  else if (path === '/info') send({ DockerRootDir: folder });
  else send({ Config: { Labels: {} } });
});
beforeAll(() => new Promise<void>((done) => server.listen(socket, done)));
afterAll(async () => {
  server.closeAllConnections();
  await new Promise((done) => server.close(done));
  rmSync(folder, { recursive: true });
});

const inspected = (watch: DockerWatch): number =>
  [...watch.view().containers.values()].filter((c) => c.practices).length;

/** Answers the inspects that wait, again and again, until `isDone` or the test's own time is over. */
async function answerUntil(isDone: () => boolean): Promise<void> {
  while (!isDone()) {
    for (const answer of held.splice(0)) answer();
    await new Promise((resume) => setTimeout(resume, 1));
  }
}

it('shows each container once all are inspected, and asks once where the engine keeps its files', async () => {
  const watch = new DockerWatch({ socket, log: quiet, now: () => performance.now() });
  const seen: number[] = [];
  watch.onChange(() => void seen.push(inspected(watch)));
  watch.start();
  await watch.refresh();
  await answerUntil(() => inspected(watch) === COUNT);
  // The last publication has included all of them.
  await expect.poll(() => seen.at(-1)).toBe(COUNT);
  expect(asked.get('inspect')).toBeGreaterThanOrEqual(COUNT);
  await Promise.all(ids.map((id) => watch.resolver(id)));
  expect(asked.get('/info')).toBe(1);
  await watch.close();
});

it('asks the engine once for each connection, and again when it is asked now', async () => {
  asked.clear();
  const watch = new DockerWatch({ socket, log: quiet, now: () => performance.now() });
  let connections = 0;
  watch.onChange((_view, { kind }) => {
    if (kind === 'connected') connections += 1;
  });
  await watch.begin(() => true);
  expect(await watch.infoAtConnection()).toMatchObject({ rootDir: folder });
  await watch.infoAtConnection();
  expect(asked.get('/info')).toBe(1);
  await watch.info();
  expect(asked.get('/info')).toBe(2);
  server.closeAllConnections();
  await expect.poll(() => connections, { timeout: 10_000 }).toBe(2);
  await watch.infoAtConnection();
  expect(asked.get('/info')).toBe(3);
  await watch.close();
});

it('a single inspect is published with its answer', async () => {
  const watch = new DockerWatch({ socket, log: quiet, now: () => performance.now() });
  watch.start();
  await watch.refresh();
  const one = ID('0');
  let isShown = false;
  watch.onChange((view) => {
    isShown ||= view.containers.get(one)?.practices !== undefined;
  });
  await answerUntil(() => isShown);
  await watch.close();
});

it('lists once at the start; inspects that may wait begin when the service is ready', async () => {
  asked.clear();
  held.splice(0);
  const watch = new DockerWatch({ socket, log: quiet, now: () => performance.now() });
  const view = await watch.begin((networks) => networks.length > 0);
  expect([view.connected, view.listings, view.containers.size]).toEqual([true, 1, COUNT]);
  expect([asked.get('/containers/json'), asked.get('/networks')]).toEqual([1, 1]);
  expect(asked.get('inspect')).toBeUndefined();
  watch.inspectRest();
  await answerUntil(() => inspected(watch) === COUNT);
  expect(asked.get('inspect')).toBe(COUNT);
  await watch.close();
});

it('lists while the stream of events is opened, and again when that takes longer than the engine keeps events', async () => {
  for (const [skew, lists] of [
    [0, 1],
    [1_000, 2],
  ] as const) {
    asked.clear();
    let late = 0;
    onEvents = (answer) => {
      const isListed = (): boolean => (asked.get('/containers/json') ?? 0) > 0;
      void expect
        .poll(isListed)
        .toBe(true)
        .then(() => {
          late = skew;
          answer();
        });
    };
    const watch = new DockerWatch({ socket, log: quiet, now: () => performance.now() + late });
    try {
      const view = await watch.begin(() => true);
      expect([view.connected, view.containers.size]).toEqual([true, COUNT]);
      expect(asked.get('/containers/json')).toBe(lists);
    } finally {
      onEvents = undefined;
      await watch.close();
    }
  }
});

it('asks an engine that refuses its events for one list, not for one with each attempt', async () => {
  asked.clear();
  refused = 3;
  const watch = new DockerWatch({ socket, log: quiet, now: () => performance.now() });
  await expect(watch.begin(() => true)).rejects.toThrow('Docker has not listed its containers');
  await expect.poll(() => watch.view().connected, { timeout: 5_000 }).toBe(true);
  expect([asked.get('/events'), asked.get('/containers/json')]).toEqual([4, 2]);
  await watch.close();
});

it('lists again over the same stream when the first list failed', async () => {
  asked.clear();
  failing = true;
  const watch = new DockerWatch({ socket, log: quiet, now: () => performance.now() });
  const view = await watch.begin(() => true);
  expect([view.connected, view.containers.size]).toEqual([true, COUNT]);
  expect([asked.get('/containers/json'), asked.get('/events')]).toEqual([2, 1]);
  await watch.close();
});

it('inspects at once those whose aliases a resolver inside a namespace needs', async () => {
  asked.clear();
  held.splice(0);
  const watch = new DockerWatch({ socket, log: quiet, now: () => performance.now() });
  const view = await watch.begin((networks) => networks.length > 0);
  await watch.inspectOn(new Set());
  expect(asked.get('inspect')).toBeUndefined();
  const [first] = view.containers.values();
  const networks = new Set(first?.endpoints.map((e) => e.networkId));
  expect(networks.size).toBe(1);
  let isDone = false;
  const done = watch.inspectOn(networks).then(() => (isDone = true));
  await answerUntil(() => isDone);
  await done;
  expect(inspected(watch)).toBe(COUNT);
  watch.inspectRest();
  await watch.refresh();
  expect(asked.get('inspect')).toBe(COUNT);
  await watch.close();
});

it('containers of which the kernel does not show the namespace are inspected at once', async () => {
  asked.clear();
  held.splice(0);
  const watch = new DockerWatch({ socket, log: quiet, now: () => performance.now() });
  await watch.begin(() => false);
  await expect.poll(() => asked.get('inspect')).toBeGreaterThan(0);
  await watch.close();
});

it('a list that shows nothing new has the same content, at a later time', async () => {
  const watch = new DockerWatch({ socket, log: quiet, now: () => performance.now() });
  watch.start();
  await watch.refresh();
  await answerUntil(() => inspected(watch) === COUNT);
  await watch.refresh();
  const before = watch.view();
  const after = await watch.refresh();
  expect(after.content).toBe(before.content);
  expect(after.listBegan).toBeGreaterThan(before.listBegan);
  expect([...after.networks.values()][0]?.askedAt).toBeGreaterThan(
    [...before.networks.values()][0]?.askedAt ?? 0,
  );
  name = 'other';
  expect((await watch.refresh()).content).not.toBe(before.content);
  name = 'front';
  await watch.close();
});

it('answers that show nothing new are not parsed again, and whatever else they show ends that', async () => {
  const watch = new DockerWatch({ socket, log: quiet, now: () => performance.now() });
  watch.start();
  await watch.refresh();
  await answerUntil(() => inspected(watch) === COUNT);
  const askedAt = () => watch.view().containers.get(ids[1] ?? '')?.endpoints[0]?.askedAt ?? 0;
  const parse = vi.spyOn(JSON, 'parse');
  const parsed = async (): Promise<number> => {
    parse.mockClear();
    const before = askedAt();
    await watch.refresh();
    expect(askedAt()).toBeGreaterThan(before);
    return parse.mock.calls.length;
  };
  const rest = async (): Promise<void> => {
    for (let n = 0; n < 5 && (await parsed()) > 0; n++);
    const { content } = watch.view();
    expect(await parsed()).toBe(0);
    expect(watch.view().content).toBe(content);
  };
  const first = () => watch.view().containers.get(ids[0] ?? '');
  try {
    item = { Status: 'Up 2 seconds' };
    await rest();
    item = { Status: 'Up 3 weeks (healthy)' };
    expect(await parsed()).toBe(0);
    for (const [change, shows] of [
      [() => (item = { Labels: { 'drawbridge.mode': 'observe' } }), () => first()?.labels['drawbridge.mode']],
      [() => (item = { State: 'paused' }), () => first()?.state],
      [() => (item = { Names: ['/renamed'] }), () => first()?.name],
      [() => (item = {}), () => first()?.name],
      [
        () =>
          (endpoint = { [ids[0] ?? '']: { IPv4Address: '172.18.9.9/16', MacAddress: '02:42:ac:12:09:09' } }),
        () => first()?.endpoints[0]?.ip4,
      ],
      [() => (name = 'other'), () => [...watch.view().networks.values()][0]?.name],
    ] as const) {
      const before = shows();
      const { content } = watch.view();
      change();
      expect(await parsed()).toBeGreaterThan(0);
      expect(shows()).not.toBe(before);
      expect(watch.view().content).not.toBe(content);
      await answerUntil(() => inspected(watch) === COUNT);
      await rest();
    }
  } finally {
    parse.mockRestore();
    [name, item, endpoint] = ['front', {}, {}];
    await watch.close();
  }
});

it('reports at once that the engine is away, and shows its containers later', async () => {
  const away = join(folder, 'away.sock');
  const watch = new DockerWatch({ socket: away, log: quiet, now: () => performance.now() });
  await expect(watch.begin(() => false)).rejects.toThrow('Docker has not listed its containers');
  symlinkSync(socket, away);
  await expect.poll(() => watch.view().containers.size).toBe(COUNT);
  await watch.close();
});
