/** The watch against a real engine: right after every rearrangement, and not to be fooled. */
import { existsSync, mkdtempSync } from 'node:fs';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { DockerWatch } from '../../src/docker/watch.js';
import type { DockerView } from '../../src/policy/container.js';
import { needsNamespaceDns } from '../../src/policy/engine.js';
import { Lab } from '../lab/lab.js';
import {
  closeAll,
  complete,
  expectTruth,
  log,
  named,
  open,
  until,
  warnings,
  watching,
} from './watch-support.js';

let lab: Lab;
beforeAll(async () => {
  lab = await Lab.up();
  await lab.docker('network', 'create', '--ipv6', 'six');
  await lab.docker('network', 'create', '--internal', 'inside');
  await lab.docker('network', 'create', '-o', 'com.docker.network.bridge.name=own0', 'own');
});
afterEach(async () => {
  await closeAll();
  const ids = (await lab.docker('ps', '-aq')).split('\n').filter((id) => id !== '');
  if (ids.length > 0) await lab.docker('rm', '-f', '-v', ...ids);
  warnings.length = 0;
});
afterAll(() => lab?.down());

/** What is known of a container, but for when it was asked. */
function factsOf(w: DockerWatch, id: string) {
  const facts = w.view().containers.get(id);
  return facts && { ...facts, endpoints: facts.endpoints.map((e) => ({ ...e, askedAt: undefined })) };
}

describe('asking', () => {
  it('a refresh is begun after it was asked for, and shared', async () => {
    const w = await watching(lab.socketPath);
    const asked = performance.now();
    const { listings } = w.view();
    const views = await Promise.all(Array.from({ length: 50 }, () => w.refresh()));
    for (const v of views) expect(v.listBegan).toBeGreaterThanOrEqual(asked);
    expect(w.view().listings - listings).toBeLessThanOrEqual(2);
  });

  it('one network can be asked at once', async () => {
    const w = await watching(lab.socketPath);
    const c = await lab.start({ network: 'six', node: false });
    const id = (await lab.docker('network', 'inspect', '-f', '{{.Id}}', 'six')) ?? '';
    expect((await w.inspectNetwork(id))?.members.get(c.id)?.mac).toMatch(/^02:42:/);
    expect(await w.inspectNetwork('f'.repeat(64))).toBeUndefined();
  });
});

describe('what containers and networks do', () => {
  it('several networks, IPv6, internal, an own interface name; connected and disconnected while running', async () => {
    const w = await watching(lab.socketPath);
    await lab.start({
      name: 'multi',
      network: 'six',
      node: false,
      args: ['--network-alias', 'other', '-p', '8099:80'],
    });
    await lab.docker('network', 'connect', 'inside', 'multi');
    await lab.docker('network', 'connect', '--alias', 'third', 'own', 'multi');
    await until(w, 'three endpoints with names', (v) => {
      const ends = named(v, 'multi')?.endpoints ?? [];
      return complete('multi')(v) && ends.length === 3 && ends.some((e) => e.dnsNames.includes('third'));
    });
    await expectTruth(lab, w, 'multi');
    const published = named(w.view(), 'multi')?.published ?? [];
    expect(published).toMatchObject([{ proto: 'tcp', containerPort: 80 }]);
    expect(published[0]?.hosts).toContainEqual({ address: '0.0.0.0', port: 8099 });
    const networks = [...w.view().networks.values()];
    expect(networks.find((n) => n.name === 'own')).toMatchObject({ bridge: 'own0', internal: false });
    expect(networks.find((n) => n.name === 'inside')).toMatchObject({ internal: true, ipv6: false });
    const six = networks.find((n) => n.name === 'six');
    expect(six).toMatchObject({ ipv6: true, bridge: `br-${six?.id.slice(0, 12)}` });
    expect(networks.find((n) => n.name === 'bridge')).toMatchObject({ bridge: 'docker0' });
    await lab.docker('network', 'disconnect', 'six', 'multi');
    await until(w, 'two endpoints', (v) => named(v, 'multi')?.endpoints.length === 2);
    await expectTruth(lab, w, 'multi');
  });

  it('twenty containers started at once: each with its addresses and labels', async () => {
    const w = await watching(lab.socketPath);
    const spec = { network: 'six', node: false, labels: { burst: 'yes' } };
    const started = await Promise.all(Array.from({ length: 20 }, () => lab.start(spec)));
    const isWhole = ({ containers, starting }: DockerView): boolean =>
      starting.size === 0 &&
      started.every(({ id }) => {
        const c = containers.get(id);
        return c?.imageLabels !== undefined && c.labels.burst === 'yes' && c.endpoints.length === 1;
      });
    await until(w, 'all of them', isWhole);
    for (const { id } of started) await expectTruth(lab, w, w.view().containers.get(id)?.name ?? '');
  });

  it('a network made and removed', async () => {
    const w = await watching(lab.socketPath);
    await lab.docker('network', 'create', 'brief');
    await until(w, 'the network', (v) => [...v.networks.values()].some((n) => n.name === 'brief'));
    await lab.docker('network', 'rm', 'brief');
    await until(w, 'its end', (v) => [...v.networks.values()].every((n) => n.name !== 'brief'));
  });

  it('pause, rename, stop, start, removal and recreation under the same name', async () => {
    const w = await watching(lab.socketPath);
    const first = await lab.start({
      name: 'one',
      network: 'six',
      node: false,
      args: ['--label', 'com.docker.compose.service=web'],
    });
    await until(w, 'start', complete('one'));
    await lab.docker('pause', 'one');
    await until(w, 'pause', (v) => named(v, 'one')?.state === 'paused');
    await lab.docker('unpause', 'one');
    await until(w, 'unpause', (v) => named(v, 'one')?.state === 'running');
    await lab.docker('rename', 'one', 'uno');
    await until(
      w,
      'rename, in DNS too',
      (v) => named(v, 'uno')?.endpoints[0]?.dnsNames.includes('uno') === true,
    );
    await lab.docker('stop', 'uno');
    await until(
      w,
      'stop',
      (v) => named(v, 'uno')?.state === 'exited' && named(v, 'uno')?.endpoints.length === 0,
    );
    await lab.docker('start', 'uno');
    await until(w, 'second start', complete('uno'));
    await expectTruth(lab, w, 'uno');
    await lab.docker('rm', '-f', 'uno');
    await until(w, 'removal', (v) => !v.containers.has(first.id));
    const second = await lab.start({ name: 'uno', network: 'six', node: false });
    await until(w, 'recreation', complete('uno'));
    expect(named(w.view(), 'uno')?.id).toBe(second.id);
  });

  it('a start that fails leaves nothing in progress', async () => {
    const w = await watching(lab.socketPath);
    const result = await lab.dockerResult(
      ['run', '--name', 'broken', '--network', 'six', lab.images.busybox, '/no/such'],
      { check: false },
    );
    expect(result.code).not.toBe(0);
    await until(w, 'the failed container', (v) => named(v, 'broken') !== undefined && v.starting.size === 0);
    expect(named(w.view(), 'broken')).toMatchObject({ state: 'created', endpoints: [] });
  });

  it('shared namespaces, host mode, privileges', async () => {
    const w = await watching(lab.socketPath);
    const owner = await lab.start({ name: 'owner', network: 'six', node: false });
    await lab.start({ name: 'guest', network: 'container:owner', node: false });
    await lab.start({
      name: 'hosty',
      network: 'host',
      node: false,
      args: ['--cap-add', 'NET_ADMIN', '--pid', 'host'],
    });
    const v = await until(w, 'all', (x) => ['owner', 'guest', 'hosty'].every((n) => complete(n)(x)));
    expect(named(v, 'guest')).toMatchObject({ sharesWith: owner.id, endpoints: [] });
    expect(named(v, 'hosty')).toMatchObject({ networkMode: 'host', endpoints: [] });
    expect(named(v, 'hosty')?.privileges).toMatchObject({ capAdd: ['NET_ADMIN'], pidMode: 'host' });
    expect(existsSync(named(v, 'owner')?.privileges?.sandboxKey ?? '')).toBe(true);
  });
});

describe('not to be fooled', () => {
  it('labels called name and image are labels, and the image’s labels are told from the container’s', async () => {
    const w = await watching(lab.socketPath);
    const image = await lab.image('sly:1', {
      labels: { name: 'db', image: 'trusted:1', 'drawbridge.mode': 'off' },
    });
    await lab.start({
      name: 'sly',
      image,
      network: 'six',
      node: false,
      labels: { oldName: 'x', container: 'y', own: 'z' },
    });
    const c = named(await until(w, 'start', complete('sly')), 'sly');
    expect(c).toMatchObject({ name: 'sly', image: 'sly:1' });
    expect({ ...c?.labels }).toEqual({
      name: 'db',
      image: 'trusted:1',
      'drawbridge.mode': 'off',
      oldName: 'x',
      container: 'y',
      own: 'z',
    });
    expect({ ...c?.imageLabels }).toEqual({ name: 'db', image: 'trusted:1', 'drawbridge.mode': 'off' });
    await lab.docker('rename', 'sly', 'slier');
    await until(w, 'rename', (v) => named(v, 'slier') !== undefined);
  });

  it('a resolv.conf is believed until the container writes it', async () => {
    const w = await watching(lab.socketPath);
    await lab.start({ name: 'user', network: 'six', node: false });
    await lab.start({ name: 'plain', node: false });
    await until(w, 'both', (v) => complete('user')(v) && complete('plain')(v));
    const id = (name: string): string => named(w.view(), name)?.id ?? '';
    expect(await w.resolver(id('user'))).toMatchObject({
      embedded: true,
      hostAsked: false,
      servers: ['198.51.100.53', '2001:db8:53::53'],
    });
    expect(await w.resolver(id('plain'))).toMatchObject({ embedded: false, hostAsked: false });
    await lab.exec('user', ['sh', '-c', 'cat /etc/resolv.conf > /tmp/r; cat /tmp/r > /etc/resolv.conf']);
    const after = await w.resolver(id('user'));
    expect(after).toMatchObject({ embedded: true, hostAsked: true });
    expect(needsNamespaceDns(after)).toBe(true);
  });
});

/** A socket before the engine's: can cut all connections, and can keep the event streams that are open silent. */
class SocketProxy implements AsyncDisposable {
  readonly path = join(mkdtempSync(join(tmpdir(), 'proxy-')), 'docker.sock');
  readonly #server: Server;
  readonly #pairs = new Set<{ client: Socket; upstream: Socket; events: boolean; mute: boolean }>();
  streams = 0;
  constructor(target: string) {
    this.#server = createServer((client) => {
      const pair = { client, upstream: createConnection(target), events: false, mute: false };
      this.#pairs.add(pair);
      client.on('data', (data) => {
        pair.events ||= data.includes('GET /events');
        if (data.includes('GET /events')) this.streams += 1;
        pair.upstream.write(data);
      });
      pair.upstream.on('data', (data) => {
        if (!pair.mute) client.write(data);
      });
      const end = (): void => {
        client.destroy();
        pair.upstream.destroy();
        this.#pairs.delete(pair);
      };
      for (const socket of [client, pair.upstream]) socket.on('close', end).on('error', end);
    });
  }
  listen(): Promise<void> {
    return new Promise((resolve) => this.#server.listen(this.path, resolve));
  }
  cut(): void {
    for (const { client } of this.#pairs) client.destroy();
  }
  /** The event streams that are open now send nothing from here on; one that is opened later does. */
  mute(): void {
    for (const pair of this.#pairs) pair.mute = pair.events;
  }
  async [Symbol.asyncDispose](): Promise<void> {
    this.cut();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

describe('connections', () => {
  it('a socket that is not there yet is waited for', async () => {
    const proxy = new SocketProxy(lab.socketPath);
    const w = new DockerWatch({ socket: proxy.path, log, now: () => performance.now() });
    open.push(w, proxy);
    w.start();
    await expect(w.refresh()).rejects.toThrow(/ENOENT/);
    expect(w.view()).toMatchObject({ connected: false, listings: 0 });
    await proxy.listen();
    await until(w, 'connection', (v) => v.connected && v.networks.size >= 6);
    expect(warnings.filter((m) => m.includes('Docker is away'))).toHaveLength(1);
  });

  it('a stream cut in the middle of changes ends in the truth', async () => {
    const proxy = new SocketProxy(lab.socketPath);
    open.push(proxy);
    await proxy.listen();
    const w = await watching(proxy.path);
    for (let i = 0; i < 4; i += 1) {
      const starting = lab.start({ name: `cut${i}`, network: 'six', node: false });
      proxy.cut();
      await starting;
      if (i > 0) await lab.docker('rm', '-f', `cut${i - 1}`);
      proxy.cut();
    }
    await until(w, 'the last one', (v) => v.connected && complete('cut3')(v) && v.containers.size === 1);
    await expectTruth(lab, w, 'cut3');
  });

  it('a silent stream is noticed by the next list and opened anew', async () => {
    const proxy = new SocketProxy(lab.socketPath);
    open.push(proxy);
    await proxy.listen();
    const w = await watching(proxy.path, 300);
    proxy.mute();
    const ended = until(w, 'the end of the silent stream', (v) => !v.connected);
    await lab.start({ name: 'unheard', network: 'six', node: false });
    await ended;
    const isSeen = (v: DockerView): boolean => named(v, 'unheard')?.endpoints.length === 1;
    await until(w, 'a new stream and the container', (v) => v.connected && isSeen(v));
    expect(proxy.streams).toBeGreaterThanOrEqual(2);
  });

  it('Docker restarted: its containers have ended, then start again', async () => {
    const w = await watching(lab.socketPath);
    await lab.start({ name: 'back', network: 'six', node: false, args: ['--restart', 'always'] });
    await lab.start({ name: 'gone', network: 'six', node: false });
    await until(w, 'both', (v) => complete('back')(v) && complete('gone')(v));
    const pid = named(w.view(), 'back')?.privileges?.pid;
    const away = until(w, 'absence', (v) => !v.connected);
    await lab.restartDocker();
    await away;
    await until(
      w,
      'return',
      (v) => v.connected && complete('back')(v) && named(v, 'back')?.privileges?.pid !== pid,
    );
    expect(named(w.view(), 'gone')).toMatchObject({ state: 'exited', endpoints: [] });
    await expectTruth(lab, w, 'back');
    expect(await w.info()).toMatchObject({
      rootDir: lab.dataRoot,
      liveRestore: false,
      cgroupDriver: 'cgroupfs',
    });
  });
});

describe('live restore', () => {
  let live: Lab;
  beforeAll(async () => {
    live = await Lab.up({ daemon: { 'live-restore': true } });
  });
  afterAll(() => live?.down());
  it.each(['SIGTERM', 'SIGKILL'] as const)(
    'Docker away by %s: containers run on, and what ended meanwhile is seen',
    async (signal) => {
      const w = await watching(live.socketPath);
      await live.docker('network', 'create', `net-${signal}`);
      const stay = await live.start({ name: `stay-${signal}`, network: `net-${signal}`, node: false });
      const end = await live.start({ name: `end-${signal}`, network: `net-${signal}`, node: false });
      await until(w, 'both', (v) => complete(stay.name)(v) && complete(end.name)(v));
      const before = factsOf(w, stay.id);
      const away = until(w, 'absence', (v) => !v.connected);
      await live.engine.stop(signal);
      await away;
      expect(factsOf(w, stay.id)).toEqual(before);
      process.kill(w.view().containers.get(end.id)?.privileges?.pid ?? 0, 'SIGKILL');
      await live.engine.start();
      await until(
        w,
        'return',
        (v) => v.connected && complete(stay.name)(v) && v.containers.get(end.id)?.state === 'exited',
      );
      expect(factsOf(w, stay.id)).toEqual(before);
      expect(w.view().containers.get(end.id)?.endpoints).toEqual([]);
      await live.docker('rm', '-f', stay.name, end.name);
      await until(w, 'removal', (v) => v.containers.size === 0);
    },
  );
});
