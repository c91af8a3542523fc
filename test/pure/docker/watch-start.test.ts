/** What a start asks of an engine with many containers. */
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { DockerWatch } from '../../../src/docker/watch.js';
import { containerInspect, ID, listItem, networkInspect } from './samples.js';

const COUNT = 100;
const ids = Array.from({ length: COUNT }, (_, n) => n.toString(16).padStart(64, '0'));
const quiet = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
};

const folder = mkdtempSync(join(tmpdir(), 'watch-'));
const socket = join(folder, 'docker.sock');
const asked = new Map<string, number>();
/** Inspects wait until the test lets them be answered. */
const held: (() => void)[] = [];

const server = createServer((request, response) => {
  const path = (request.url ?? '').replace(/\?.*/, '').replace(/^\/v[\d.]+/, '');
  const id = /^\/containers\/([0-9a-f]{64})\/json$/.exec(path)?.[1];
  const kind = id === undefined ? path : 'inspect';
  asked.set(kind, (asked.get(kind) ?? 0) + 1);
  const send = (value: unknown): void => void response.end(JSON.stringify(value));
  if (path === '/events') response.writeHead(200).flushHeaders();
  else if (path === '/containers/json') send(ids.map((Id) => listItem({ Id, Names: [`/${Id.slice(-4)}`] })));
  else if (path === '/networks') send([networkInspect({ Containers: {} })]);
  else if (path.startsWith('/networks/')) send(networkInspect({ Containers: {} }));
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

it('shows each container once all are inspected, and asks once where the engine keeps its files', async () => {
  const watch = new DockerWatch({ socket, log: quiet, now: () => performance.now() });
  const seen: number[] = [];
  const known = (): number => [...watch.view().containers.values()].filter((c) => c.practices).length;
  watch.onChange(() => void seen.push(known()));
  watch.start();
  await watch.refresh();
  while (known() < COUNT) {
    for (const answer of held.splice(0)) answer();
    await new Promise((done) => setTimeout(done, 1));
  }
  // The last publication has included all of them.
  await expect.poll(() => seen.at(-1)).toBe(COUNT);
  expect(asked.get('inspect')).toBeGreaterThanOrEqual(COUNT);
  await Promise.all(ids.map((id) => watch.resolver(id)));
  expect(asked.get('/info')).toBe(1);
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
  while (!isShown) {
    for (const answer of held.splice(0)) answer();
    await new Promise((done) => setTimeout(done, 1));
  }
  await watch.close();
});
