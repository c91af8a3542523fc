/** The lab itself: it stands, tells the truth, and leaves nothing behind. */
import { spawn } from 'node:child_process';
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Lab } from '../lab/lab.js';
import { engineOfRun, enginePath, provideEngine } from '../lab/packaged-engine.js';
import { alive, run, waitFor } from '../lab/process.js';
import { LABS, type LabRecord, load } from '../lab/registry.js';
import { reap } from '../lab/teardown.js';

/** Every trace of a lab on the machine, by its name. */
function traces(name: string): string[] {
  const netns = existsSync('/run/netns') ? readdirSync('/run/netns') : [];
  const cgroups = readdirSync('/sys/fs/cgroup', { withFileTypes: true })
    .filter((d) => d.isDirectory())
    .flatMap((d) => readdirSync(join('/sys/fs/cgroup', d.name)));
  const processes = readdirSync('/proc')
    .filter((n) => /^\d+$/.test(n) && Number(n) !== process.pid)
    .map((n) => {
      try {
        return readFileSync(`/proc/${n}/cmdline`, 'utf8').replaceAll('\0', ' ');
      } catch {
        return ''; // it has ended
      }
    });
  const mounts = readFileSync('/proc/self/mounts', 'utf8').split('\n');
  const words = [`dbl-${name}-`, `drawbridge-lab-${name}`, `${LABS}/${name}`];
  const all = [...netns, ...cgroups, ...processes, ...mounts, ...readdirSync(LABS).map((f) => join(LABS, f))];
  return all.filter((t) => words.some((w) => t.includes(w)));
}

describe('the folder of another engine (LAB_ENGINE_DIR)', () => {
  const PROGRAMS = 'dockerd docker docker-init docker-proxy containerd containerd-shim-runc-v2 runc'.split(
    ' ',
  );
  const before = { LAB_ENGINE: process.env.LAB_ENGINE, LAB_ENGINE_DIR: process.env.LAB_ENGINE_DIR };
  let folder: string;
  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'engine-'));
    const path = enginePath(engineOfRun());
    for (const name of PROGRAMS) {
      const { stdout } = await run(['env', `PATH=${path}`, 'which', name], { check: true });
      symlinkSync(stdout.trim(), join(folder, name));
    }
    delete process.env.LAB_ENGINE;
    process.env.LAB_ENGINE_DIR = folder;
  });
  afterAll(() => {
    rmSync(folder, { recursive: true });
    for (const [name, value] of Object.entries(before)) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
  });

  test('its programs come first, and what is missing or contradictory is said', async () => {
    await provideEngine('26');
    expect(enginePath('26', '/usr/bin')).toBe(`${folder}:/usr/bin`);
    expect(['26', '28']).toContain(engineOfRun());
    rmSync(join(folder, 'runc'));
    await expect(provideEngine('26')).rejects.toThrow(`${folder} has no program runc: an engine consists of`);
    writeFileSync(join(folder, 'runc'), '');
    await expect(provideEngine('26')).rejects.toThrow(`${join(folder, 'runc')} is not executable`);
    process.env.LAB_ENGINE = '28';
    expect(() => engineOfRun()).toThrow('LAB_ENGINE and LAB_ENGINE_DIR are both set');
    delete process.env.LAB_ENGINE;
    process.env.LAB_ENGINE_DIR = 'engine';
    await expect(provideEngine('26')).rejects.toThrow('use an absolute path');
  });
});

describe('one lab, the authority asked directly', () => {
  let lab: Lab;
  beforeAll(async () => {
    lab = await Lab.up();
  });
  afterAll(async () => {
    await lab.down();
    expect(traces(lab.name)).toEqual([]);
  });

  test('a container reaches public addresses over both families, and the sniffer sees each packet', async () => {
    const c = await lab.start();
    const after = await lab.sniffer.settle();
    expect(await c.probe('tcp', '2600:9000::7', 443)).toMatchObject({ ok: true, remote: '2600:9000::7' });
    expect(await c.probe('tcp', '93.184.1.7', 443)).toMatchObject({ ok: true, remote: '93.184.1.7' });
    expect(await c.probe('udp', '93.184.1.8', 5000, 'x', 20)).toMatchObject({ echoes: 20 });
    expect(await c.probe('udp', '2600:9000::8', 5000, 'x', 20)).toMatchObject({ echoes: 20 });
    expect((await c.exec(['ping', '-c1', '-W2', '93.184.1.9'])).code).toBe(0);
    expect((await c.exec(['ping', '-c1', '-W2', '2600:9000::9'])).code).toBe(0);

    const out = { after, direction: 'out' } as const;
    expect(await lab.sniffer.count({ ...out, dst: '93.184.1.7', onlyFlags: 'S', dport: 443 })).toBe(1);
    expect(await lab.sniffer.count({ ...out, dst: '2600:9000::7', onlyFlags: 'S', dport: 443 })).toBe(1);
    expect(await lab.sniffer.count({ ...out, dst: '93.184.1.8', proto: 'udp', payloadIncludes: 'x' })).toBe(
      20,
    );
    expect(await lab.sniffer.count({ ...out, dst: '2600:9000::8', proto: 'udp' })).toBe(20);
    expect(await lab.sniffer.count({ ...out, dst: '93.184.1.9', proto: 'icmp' })).toBe(1);
    expect(await lab.sniffer.count({ ...out, dst: '2600:9000::9', proto: 'icmp6' })).toBe(1);
    const [syn] = await lab.sniffer.packets({ ...out, dst: '93.184.1.7', flags: 'S' });
    expect(syn).toMatchObject({ family: 4, proto: 'tcp', src: lab.addresses.host4, dport: 443, flags: 'S' });
  });

  test('ports: echo, the closed one, chargen, HTTP, TLS for the asked name, uploads', async () => {
    const c = await lab.start();
    expect(await c.probe('tcp', '203.0.113.9', 7777, 'hello')).toMatchObject({ ok: true, data: 'hello' });
    expect(await c.probe('tcp', '203.0.113.9', 1)).toMatchObject({ code: 'ECONNREFUSED' });
    expect(await c.probe('udp', '203.0.113.9', 1)).toMatchObject({ code: 'ECONNREFUSED' });
    expect(await c.probe('tcp', '203.0.113.9', 19, 'go')).toMatchObject({ ok: true, data: 'line 0\n' });
    expect(await c.probe('http', 'http://10.200.3.4/x')).toMatchObject({
      body: { to: '10.200.3.4', path: '/x' },
    });
    const tls = await c.probe(
      'http',
      'https://93.184.3.3/',
      '--sni',
      'any.example.com',
      '--host',
      'other.example.com',
    );
    expect(tls).toMatchObject({ body: { sni: 'any.example.com', host: 'other.example.com', toPort: 443 } });
    const sent = await c.exec(['wget', '-qO-', '--post-data', 'abc', 'http://93.184.3.3/up']);
    expect(JSON.parse(sent.stdout)).toEqual({ received: 3 });
    expect((await lab.web.requests()).map((r) => r.path)).toContain('/up');
  });

  test('the sniffer misses nothing under a bulk download and a flood', async () => {
    const c = await lab.start();
    const after = await lab.sniffer.settle();
    const bulk = c.exec(['wget', '-qO', '/dev/null', 'http://93.184.4.4/bytes?n=500000000']);
    const flood = await c.probe('udp', '93.184.4.5', 5000, 'x', 3000, '--timeout', 2000);
    expect((await bulk).code).toBe(0);
    const sent = { after, direction: 'out', dst: '93.184.4.5' } as const;
    // an answer that comes after the probe has closed its socket is answered with an ICMP error
    const errors = await lab.sniffer.count({ ...sent, proto: 'icmp' });
    expect((await lab.sniffer.count(sent)) - errors).toBe(flood.sent);
    await lab.sniffer.clear();
  });

  test('the authority answers what its zones say, and logs each question', async () => {
    const many = Array.from({ length: 80 }, (_, i) => `93.184.80.${i}`);
    await lab.dns.set({
      'plain.example.com': { A: ['93.184.1.1'], AAAA: ['2600:9000::1'], ttl: 0, TXT: ['hi'] },
      'rotating.example.com': { A: many.slice(0, 40), rotate: 2, ttl: 1 },
      'many.example.com': { A: many },
      'one.example.com': { CNAME: 'two.example.com' },
      'two.example.com': { CNAME: 'plain.example.com' },
      'loop.example.com': { CNAME: 'pool.example.com' },
      'pool.example.com': { CNAME: 'loop.example.com' },
      'broken.example.com': { rcode: 'SERVFAIL' },
      'late.example.com': { A: ['93.184.1.2'], delayMs: 300 },
      'lost.example.com': { A: ['93.184.1.2'], lose: 1 },
      '*.wild.example.com': { A: ['10.200.0.9'] },
      'svc.example.com': {
        MX: [{ preference: 1, exchange: 'mx.example.com' }],
        SRV: [{ priority: 1, weight: 1, port: 5, target: 'x.example.com' }],
        HTTPS: [{ priority: 1, target: '.', alpn: ['h2'], ipv6hint: ['2600:9000::1'], ech: 'AAEC' }],
      },
    });
    await lab.dns.clearLog();
    const c = await lab.start();
    const ask = (name: string, type = 'A', over = 'udp', server = '198.51.100.53') =>
      c.probe('dns', server, name, type, over, '--timeout', 1500);

    expect(await ask('plain.example.com')).toMatchObject({
      rcode: 'NOERROR',
      answers: [{ ttl: 0, data: '93.184.1.1' }],
    });
    expect((await ask('plain.example.com', 'AAAA', 'tcp', '2001:db8:53::53')).addresses).toEqual([
      '2600:9000::1',
    ]);
    expect((await ask('rotating.example.com')).addresses).toEqual(['93.184.80.0', '93.184.80.1']);
    expect((await ask('rotating.example.com')).addresses).toEqual(['93.184.80.2', '93.184.80.3']);
    expect(await ask('many.example.com')).toMatchObject({ tc: true, addresses: [] });
    expect((await ask('many.example.com', 'A', 'tcp')).addresses).toEqual(many);
    expect((await ask('one.example.com')).answers?.map((a) => a.type)).toEqual(['CNAME', 'CNAME', 'A']);
    expect((await ask('loop.example.com')).answers).toHaveLength(2);
    expect(await ask('broken.example.com')).toMatchObject({ rcode: 'SERVFAIL' });
    expect((await ask('late.example.com')).ms).toBeGreaterThanOrEqual(300);
    expect(await ask('lost.example.com')).toMatchObject({ code: 'TIMEOUT' });
    expect((await ask('lost.example.com')).addresses).toEqual(['93.184.1.2']);
    expect((await ask('a.b.wild.example.com')).addresses).toEqual(['10.200.0.9']);
    expect(await ask('none.example.com')).toMatchObject({ rcode: 'NXDOMAIN' });
    expect(await ask('example.com')).toMatchObject({ rcode: 'NOERROR', addresses: [] });
    expect(await ask('plain.example.com', 'MX')).toMatchObject({ rcode: 'NOERROR', answers: [] });
    for (const type of ['MX', 'SRV', 'HTTPS'])
      expect((await ask('svc.example.com', type)).answers).toHaveLength(1);

    const log = await lab.dns.queries();
    expect(log).toHaveLength(19);
    expect(log[1]).toMatchObject({
      proto: 'tcp',
      to: '2001:db8:53::53',
      name: 'plain.example.com',
      type: 'AAAA',
    });
    expect(await lab.dns.queries('svc.example.com')).toHaveLength(3);
  });

  test("Docker's embedded resolver asks from the container's namespace", async () => {
    await lab.dns.set({ 'direct.example.com': { A: ['93.184.1.1'] } });
    await lab.docker('network', 'create', '--ipv6', 'direct');
    const rule = ['-p', 'udp', '--dport', '53', '-j', 'RETURN'];
    await lab.inHost(['iptables', '-I', 'DOCKER-USER', ...rule], { check: true });
    await lab.inHost(['iptables', '-I', 'OUTPUT', ...rule], { check: true });
    const c = await lab.start({ network: 'direct' });
    expect((await c.probe('http', 'http://direct.example.com/')).status).toBe(200);
    const counted = async (chain: string) =>
      Number((await lab.inHost(['iptables', '-vxnL', chain])).stdout.split('\n')[2]?.trim().split(/\s+/)[0]);
    expect(await counted('DOCKER-USER')).toBeGreaterThan(0);
    expect(await counted('OUTPUT')).toBe(0);
    expect(await lab.stub.queries()).toEqual([]);
    await lab.inHost(['iptables', '-D', 'DOCKER-USER', ...rule], { check: true });
    await lab.inHost(['iptables', '-D', 'OUTPUT', ...rule], { check: true });
  });

  test('images with labels and files, container names, published ports', async () => {
    await lab.image('labelled:1', {
      labels: { 'drawbridge.mode': 'off' },
      files: { '/hello': 'hello\n' },
      cmd: ['cat', '/hello'],
    });
    expect((await lab.run({ image: 'labelled:1' })).stdout).toBe('hello\n');
    expect(
      await lab.docker('inspect', '-f', '{{index .Config.Labels "drawbridge.mode"}}', 'labelled:1'),
    ).toBe('off');
    await lab.start({ cmd: ['httpd', '-f', '-p', '9000', '-h', '/etc'], args: ['-p', '9000:9000'] });
    const published = `http://${lab.addresses.host4}:9000/passwd`;
    await waitFor('the server', async () => (await lab.probeFromNet('http', published)).status === 200);
  });

  test('a Docker restart, clean and by kill, and the same kernel state after', async () => {
    await lab.docker('rm', '-f', ...(await lab.docker('ps', '-aq')).split('\n'));
    const before = await lab.snapshotKernel();
    expect(before.iptables).toContain('-A FORWARD -j DOCKER-USER');
    await lab.restartDocker();
    await lab.restartDocker('SIGKILL');
    expect((await lab.snapshotKernel()).iptables.split('\n').sort()).toEqual(
      before.iptables.split('\n').sort(),
    );
    expect((await lab.runProbe({}, 'tcp', '93.184.1.1', 443)).ok).toBe(true);
  });
});

describe('several labs, other ways', () => {
  test('with a loopback resolver the query comes from the namespace of the host; two labs do not see each other', async () => {
    await using a = await Lab.up({ dns: 'loopback', daemon: { 'live-restore': true } });
    await using b = await Lab.up({ iptables: 'legacy' });
    await Promise.all([a, b].map((l) => l.docker('network', 'create', '--ipv6', 'n')));
    await a.dns.set({ 'x.example.com': { A: ['93.184.1.1'] } });
    await b.dns.set({ 'x.example.com': { A: ['93.184.2.2'] } });
    const [ca, cb] = await Promise.all([
      a.start({ network: 'n', name: 'same' }),
      b.start({ network: 'n', name: 'same' }),
    ]);
    expect((await ca.addresses()).ip4).toBe((await cb.addresses()).ip4);
    expect(await ca.probe('http', 'http://x.example.com/')).toMatchObject({ body: { to: '93.184.1.1' } });
    expect(await cb.probe('http', 'http://x.example.com/')).toMatchObject({ body: { to: '93.184.2.2' } });
    expect(await a.sniffer.count({ dst: '93.184.2.2' })).toBe(0);
    expect(await b.sniffer.count({ dst: '93.184.1.1' })).toBe(0);
    expect((await a.stub.queries()).every((q) => q.from.startsWith('127.'))).toBe(true);
    expect((await a.stub.queries()).length).toBeGreaterThan(0);
    expect((await b.inHost(['iptables', '--version'])).stdout).toContain('legacy');
    expect((await b.snapshotKernel()).iptables).toContain('DOCKER-USER');

    const pid = await ca.pid();
    await a.restartDocker();
    expect(alive(pid)).toBe(true); // live-restore
    expect(await ca.probe('tcp', '93.184.1.1', 443)).toMatchObject({ ok: true });
    await a.down();
    expect(traces(a.name)).toEqual([]);
    expect(await cb.probe('tcp', '93.184.1.1', 443)).toMatchObject({ ok: true });
  });

  test('what a killed owner left is removed by the next who comes', async () => {
    const name = `killed-${process.pid}`;
    const script = `
      import { Lab } from ${JSON.stringify(join(import.meta.dirname, '../lab/lab.ts'))};
      const lab = await Lab.up({ name: ${JSON.stringify(name)} });
      await lab.start();
      console.log('up');
      setInterval(() => {}, 1000);`;
    const owner = spawn(
      process.execPath,
      ['--import', import.meta.resolve('tsx'), '--input-type=module', '-e', script],
      {
        stdio: ['ignore', 'pipe', 'inherit'],
      },
    );
    await new Promise<void>((resolve, reject) => {
      owner.stdout.once('data', () => resolve());
      owner.once('exit', (code) => reject(new Error(`the owner ended too early: ${code}`)));
    });
    expect(traces(name)).not.toEqual([]);
    const record = load(name) as LabRecord;
    owner.kill('SIGKILL');
    await waitFor('the end of the owner', () => !alive(record.owner?.pid ?? 0));
    await reap();
    await waitFor('all traces to be gone', () => load(name) === undefined, 30_000); // another run may have reaped it
    expect(traces(name)).toEqual([]);
  });

  test('a namespace without a record is removed', async () => {
    const name = `stray-${process.pid}`;
    await run(['ip', 'netns', 'add', `dbl-${name}-host`], { check: true });
    await reap();
    expect(traces(name)).toEqual([]);
  });

  test('a name that stands already is refused, with what to do', async () => {
    await using lab = await Lab.up();
    await expect(Lab.up({ name: lab.name })).rejects.toThrow(/stands already: scripts\/lab down/);
  });
});
