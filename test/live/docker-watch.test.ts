/** The watch against a real engine: fast enough, right after every rearrangement, and not to be fooled. */
import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { needsNamespaceDns } from '../../src/docker/resolv.js';
import { DockerWatch } from '../../src/docker/watch.js';
import type { ContainerFacts, DockerView } from '../../src/model/container.js';
import type { Logger } from '../../src/ports.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';

const warnings: string[] = [];
const log: Logger = {
  debug: () => undefined,
  info: () => undefined,
  warn: (o, msg) => void warnings.push(`${msg}: ${'err' in o ? String(o.err) : JSON.stringify(o)}`),
  error: (o, msg) => void warnings.push(`${msg}: ${JSON.stringify(o)}`),
};
const open: AsyncDisposable[] = [];
async function watching(socket: string, resyncMs = 30_000): Promise<DockerWatch> {
  const w = new DockerWatch({ socket, log, now: () => performance.now(), resyncMs });
  open.push(w);
  w.start();
  await until(w, 'connection', (v) => v.connected);
  return w;
}
/** Resolves when the view fits; at once when it does already. */
function until(
  w: DockerWatch,
  what: string,
  fits: (v: DockerView) => boolean,
  ms = 20_000,
): Promise<DockerView> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => end(new Error(`${what}: not seen within ${ms} ms`)), ms);
    const subscription = w.onChange((v) => fits(v) && end());
    const end = (error?: Error): void => {
      clearTimeout(timer);
      subscription[Symbol.dispose]();
      if (error) reject(error);
      else resolve(w.view());
    };
    if (fits(w.view())) end();
  });
}
const named = (v: DockerView, name: string): ContainerFacts | undefined =>
  [...v.containers.values()].find((c) => c.name === name);
const complete = (name: string) => (v: DockerView) => {
  const c = named(v, name);
  return (
    c?.state === 'running' && c.privileges !== undefined && c.privileges.pid > 0 && !v.starting.has(c.id)
  );
};

interface Inspect {
  readonly NetworkID: string;
  readonly MacAddress: string;
  readonly IPAddress: string;
  readonly GlobalIPv6Address: string;
  readonly DNSNames: readonly string[] | null;
}
/** What docker inspect says, in the view's words. */
async function truth(lab: Lab, name: string): Promise<unknown> {
  const json = await lab.docker('inspect', '-f', '{{json .NetworkSettings.Networks}}', name);
  const networks = Object.values(JSON.parse(json) as Record<string, Inspect>).filter(
    (n) => n.MacAddress !== '',
  );
  return networks.map((n) => ({
    networkId: n.NetworkID,
    mac: n.MacAddress,
    ip4: n.IPAddress || undefined,
    ip6: n.GlobalIPv6Address || undefined,
    dnsNames: n.DNSNames ?? [],
  }));
}
async function expectTruth(lab: Lab, w: DockerWatch, name: string): Promise<void> {
  const endpoints = named(w.view(), name)?.endpoints ?? [];
  const shown = endpoints.map(({ networkId, mac, ip4, ip6, dnsNames }) => ({
    networkId,
    mac,
    ip4,
    ip6,
    dnsNames,
  }));
  expect(shown).toHaveLength(((await truth(lab, name)) as unknown[]).length);
  expect(shown).toEqual(expect.arrayContaining((await truth(lab, name)) as unknown[]));
}

let lab: Lab;
beforeAll(async () => {
  lab = await Lab.up();
  await lab.docker('network', 'create', '--ipv6', 'six');
  await lab.docker('network', 'create', '--internal', 'inside');
  await lab.docker('network', 'create', '-o', 'com.docker.network.bridge.name=own0', 'own');
});
afterEach(async () => {
  await Promise.all(open.splice(0).map((o) => o[Symbol.asyncDispose]()));
  const ids = (await lab.docker('ps', '-aq')).split('\n').filter((id) => id !== '');
  if (ids.length > 0) await lab.docker('rm', '-f', '-v', ...ids);
  warnings.length = 0;
});
afterAll(() => lab?.down());

const median = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[values.length >> 1] ?? Number.NaN;
const digest = (values: readonly number[]): string =>
  `min ${Math.min(...values).toFixed(1)} median ${median(values).toFixed(1)} max ${Math.max(...values).toFixed(1)} ms`;

describe('speed', () => {
  it('a burst of 20 is in the view, addresses, labels and all, before any first instruction', async () => {
    const w = await watching(lab.socketPath);
    const known = new Map<string, number>();
    w.onChange((v) => {
      for (const c of v.containers.values()) {
        const whole = c.imageLabels !== undefined && c.endpoints.some((e) => e.mac !== '' && e.ip4 && e.ip6);
        if (whole && c.labels.burst === 'yes' && !known.has(c.id)) known.set(c.id, Date.now());
      }
    });
    const out = mkdtempSync(join(tmpdir(), 'burst-'));
    const spec = (i: number) => ({
      network: 'six',
      node: false,
      labels: { burst: 'yes' },
      mounts: [`${out}:/out`],
      cmd: ['sh', '-c', `: > /out/${i}; exec sleep 1000`],
    });
    const begun = Date.now() / 1000 - 1;
    const started = await Promise.all(Array.from({ length: 20 }, (_, i) => lab.start(spec(i))));
    await until(w, 'all complete', (v) => v.starting.size === 0 && v.containers.size === 20);
    const written = (i: number): string => join(out, String(i));
    await waitFor('every first instruction', async () => started.every((_, i) => existsSync(written(i))));
    const ahead = started.map((c, i) => statSync(written(i)).birthtimeMs - (known.get(c.id) ?? Number.NaN));
    const events = await lab.docker(
      'events',
      '--since',
      String(begun),
      '--until',
      String(Date.now() / 1000),
      '--format',
      '{{json .}}',
    );
    const connects = events
      .split('\n')
      .map(
        (l) =>
          JSON.parse(l) as {
            Action: string;
            timeNano: number;
            Actor: { Attributes: { container?: string } };
          },
      )
      .filter((e) => e.Action === 'connect')
      .map((e) => (known.get(e.Actor.Attributes.container ?? '') ?? Number.NaN) - e.timeNano / 1e6);
    rmSync(out, { recursive: true });
    process.stdout.write(
      `known before the first instruction: ${digest(ahead)}; after network:connect: ${digest(connects)}\n`,
    );
    expect(Math.min(...ahead)).toBeGreaterThan(0);
    for (const c of started.slice(0, 3)) {
      await expectTruth(lab, w, w.view().containers.get(c.id)?.name ?? '');
    }
  });

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
    expect(named(w.view(), 'multi')?.published).toEqual([{ proto: 'tcp', containerPort: 80 }]);
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

/** A socket before the engine's: can cut all connections, and can keep the event stream silent. */
class SocketProxy implements AsyncDisposable {
  readonly path = join(mkdtempSync(join(tmpdir(), 'proxy-')), 'docker.sock');
  readonly #server: Server;
  readonly #pairs = new Set<{ client: Socket; upstream: Socket; events: boolean }>();
  mute = false;
  streams = 0;
  constructor(target: string) {
    this.#server = createServer((client) => {
      const pair = { client, upstream: createConnection(target), events: false };
      this.#pairs.add(pair);
      client.on('data', (data) => {
        pair.events ||= data.includes('GET /events');
        if (data.includes('GET /events')) this.streams += 1;
        pair.upstream.write(data);
      });
      pair.upstream.on('data', (data) => {
        if (!(this.mute && pair.events)) client.write(data);
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
    proxy.mute = true;
    await lab.start({ name: 'unheard', network: 'six', node: false });
    await until(w, 'the container', (v) => named(v, 'unheard')?.endpoints.length === 1);
    await until(w, 'the end of the silent stream', (v) => !v.connected);
    proxy.mute = false;
    await until(w, 'a new stream', (v) => v.connected);
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
    expect(await w.daemonInfo()).toMatchObject({
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
      const before = w.view().containers.get(stay.id);
      const away = until(w, 'absence', (v) => !v.connected);
      await live.engine.stop(signal);
      await away;
      expect(w.view().containers.get(stay.id)).toEqual(before);
      process.kill(w.view().containers.get(end.id)?.privileges?.pid ?? 0, 'SIGKILL');
      await live.engine.start();
      await until(
        w,
        'return',
        (v) => v.connected && complete(stay.name)(v) && v.containers.get(end.id)?.state === 'exited',
      );
      expect(w.view().containers.get(stay.id)).toEqual(before);
      expect(w.view().containers.get(end.id)?.endpoints).toEqual([]);
      await live.docker('rm', '-f', stay.name, end.name);
      await until(w, 'removal', (v) => v.containers.size === 0);
    },
  );
});
