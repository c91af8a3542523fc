/** A person is asked about what no entry permits, while the client waits for its first packet or its name. */
import { spawn } from 'node:child_process';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Container, ProbeResult } from '../lab/container.js';
import { type Drawbridge, program } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { waitFor } from '../lab/process.js';

const ASKING = { 'drawbridge.allow': '93.184.80.1:80, two.example:80', 'drawbridge.ask': '30s' };
const LONG = ['--timeout', 25_000] as const;

interface Ask {
  readonly id: string;
  readonly container: string;
  readonly containerId: string;
  readonly name: string | null;
  readonly address: string;
  readonly addresses: readonly string[];
  readonly port: number;
  readonly proto: string;
  readonly entry: string;
  readonly since: string;
  readonly until: string | null;
  readonly waiting: number;
  readonly attempts: number;
  readonly token: string;
}

let lab: Lab;
let drawbridge: Drawbridge;
let asker: Container;
/** A lookup in a container that was there before Drawbridge, so that Docker's resolver stays in it. */
let behindDocker: Promise<{ readonly error: string; readonly ask: Ask }>;
const started: Container[] = [];
const start = async (name: string, labels: Record<string, string>, network = 'asks'): Promise<Container> => {
  const container = await lab.start({ name, network, labels });
  started.push(container);
  return container;
};

beforeAll(async () => {
  lab = await Lab.up({});
  await lab.docker('network', 'create', '--ipv6', 'asks');
  await lab.dns.set({
    'new4.example': { A: ['93.184.81.4'] },
    'new6.example': { AAAA: ['2600:9000::81:6'] },
    'refused.example': { A: ['93.184.81.7'] },
    'two.example': { A: ['93.184.82.1', '93.184.82.2'], ttl: 600 },
  });
  const dns = ['--dns', '198.51.100.53'];
  const behind = await lab.start({ name: 'behind', network: 'asks', labels: ASKING, args: dns });
  drawbridge = lab.drawbridge({});
  await drawbridge.ready();
  const lookup = "require('node:dns').lookup('late.example', (e) => console.log(e.code))";
  const looked = behind.exec(['node', '-e', lookup]);
  behindDocker = (async () => {
    const ask = await asked({ entry: 'late.example' }, 'behind');
    return { ask, error: (await looked).stdout.trim() };
  })();
  behindDocker.catch(() => undefined); // a test awaits it
  asker = await start('asker', ASKING);
});
afterAll(() => lab?.down());

const allAsks = async (): Promise<readonly Ask[]> =>
  (JSON.parse((await drawbridge.get('/v1/asks')).body) as { items: readonly Ask[] }).items;
const asks = async (container = 'asker'): Promise<readonly Ask[]> =>
  (await allAsks()).filter((ask) => ask.container === container);
/** The request that fits, once there is one. */
async function asked(fits: Partial<Ask>, container = 'asker'): Promise<Ask> {
  let found: Ask | undefined;
  const looks = async (): Promise<boolean> => {
    found = (await asks(container)).find((ask) =>
      Object.entries(fits).every(([key, value]) => ask[key as keyof Ask] === value),
    );
    return found !== undefined;
  };
  await waitFor(`a request with ${JSON.stringify(fits)}`, looks, 10_000, 50);
  return found as Ask;
}
const decide = (ask: Ask, body: object): Promise<{ status: number; body: string }> =>
  drawbridge.request('POST', `/v1/asks/${ask.id}`, { token: ask.token, ...body });
async function allow(ask: Ask, body: object = {}): Promise<void> {
  expect(await decide(ask, { decision: 'allow', ...body })).toMatchObject({ status: 200 });
}
/** How long it waits in all, ms. */
const waits = ({ since, until }: Ask): number => Date.parse(until ?? '') - Date.parse(since);
const out = (dst: string): Promise<number> => lab.sniffer.count({ direction: 'out', dst });

describe('a connection to a new address', () => {
  it.each([
    ['tcp', '93.184.80.4', '93.184.80.4:7443'],
    ['tcp', '2600:9000::80:4', '[2600:9000::80:4]:7443'],
    ['udp', '93.184.80.5', '93.184.80.5:7443/udp'],
    ['udp', '2600:9000::80:5', '[2600:9000::80:5]:7443/udp'],
  ])('over %s to %s waits, and goes on when it is allowed', async (proto, address, entry) => {
    const probe = asker.probe(proto, address, 7443, 'hello', ...LONG);
    const ask = await asked({ entry, waiting: 1 });
    expect(ask).toMatchObject({ address, port: 7443, proto, name: null, attempts: 1 });
    expect(await out(address)).toBe(0);
    await allow(ask);
    expect(await probe).toMatchObject({ ok: true, data: 'hello' });
    expect(await asks()).toEqual([]);
    if (proto !== 'tcp') return;
    const syns = { direction: 'out', dst: address, onlyFlags: 'S' } as const;
    expect(await lab.sniffer.count(syns)).toBe(1);
  });

  it('of a container in the host network, too', async () => {
    const host = await start('hosted', ASKING, 'host');
    const probe = host.probe('tcp', '93.184.80.6', 7443, 'hello', ...LONG);
    const ask = await asked({ entry: '93.184.80.6:7443' }, 'hosted');
    expect(await out('93.184.80.6')).toBe(0);
    await allow(ask, { once: true });
    expect(await probe).toMatchObject({ ok: true, data: 'hello' });
  });

  it('as the first packet of a container', async () => {
    const probe = lab.runProbe(
      { name: 'first', network: 'asks', labels: ASKING },
      ...['tcp', '93.184.80.7', 7443, 'hello', ...LONG],
    );
    await allow(await asked({ entry: '93.184.80.7:7443' }, 'first'));
    expect(await probe).toMatchObject({ ok: true, data: 'hello' });
  });

  it('to a neighbour names the neighbour', async () => {
    const other = await start('other', { 'drawbridge.mode': 'observe' });
    const { ip4 } = await other.addresses('asks');
    void other.exec(['nc', '-l', '-p', '7777', '-e', 'cat']);
    const sockets = ['nsenter', `--net=/proc/${await other.pid()}/ns/net`, '--', 'ss', '-Hltn'];
    await waitFor('the listener', async () => (await lab.inHost(sockets)).stdout.includes(':7777'));
    const probe = asker.probe('tcp', ip4, 7777, 'hello', ...LONG);
    await allow(await asked({ entry: 'container:other:7777' }));
    expect(await probe).toMatchObject({ ok: true, data: 'hello' });
  });

  it('control: without the label it is refused at once, and nobody is asked', async () => {
    const plain = await start('plain', { 'drawbridge.allow': '93.184.80.1:80' });
    expect(await plain.probe('tcp', '93.184.80.4', 7443)).toMatchObject({ code: 'ECONNREFUSED' });
    expect(await asks('plain')).toEqual([]);
  });
});

describe('a query for a new name', () => {
  it.each([
    ['new4.example', '93.184.81.4'],
    ['new6.example', '2600:9000::81:6'],
  ])('%s waits for its answer, and nothing is asked of a resolver before', async (name, address) => {
    const probe = asker.probe('http', `http://${name}/`, ...LONG);
    const ask = await asked({ entry: name, proto: 'dns' });
    expect(ask).toMatchObject({ name, address: '', port: 0 });
    expect(Math.round(waits(ask) / 100)).toBe(95); // our resolver is in the namespace: 9.5 s of the 30 s
    expect(await lab.dns.queries(name)).toEqual([]);
    await allow(ask);
    expect(await probe).toMatchObject({ ok: true, status: 200 });
    expect(await out(address)).toBeGreaterThan(0);
    expect(await asks()).toEqual([]);
  });

  it('waits as long as the lookup of a program behind the resolver of Docker, which reads a denial then', async () => {
    const { ask, error } = await behindDocker;
    expect([Math.round(waits(ask) / 100), error]).toEqual([75, 'ENOTFOUND']);
    const [after] = await asks('behind');
    expect(after).toMatchObject({ id: ask.id, attempts: 2, waiting: 0, until: null }); // A and AAAA, each sent twice
  });

  it('over TCP', async () => {
    const probe = asker.probe('dns', '198.51.100.53', 'stream.example', 'A', 'tcp', ...LONG);
    await lab.dns.set({ 'stream.example': { A: ['93.184.81.9'] } });
    await allow(await asked({ entry: 'stream.example' }));
    expect(await probe).toMatchObject({ rcode: 'NOERROR', addresses: ['93.184.81.9'] });
  });
});

describe('a denial', () => {
  const denied = async (probe: Promise<ProbeResult>, fits: Partial<Ask>): Promise<ProbeResult> => {
    const ask = await asked(fits);
    expect(await decide(ask, { decision: 'deny' })).toMatchObject({ status: 200 });
    return probe;
  };

  it('by a person ends the wait, and is not asked about again', async () => {
    const once = denied(asker.probe('tcp', '93.184.80.9', 22, ...LONG), { entry: '93.184.80.9:22' });
    expect(await once).toMatchObject({ code: 'ECONNREFUSED' });
    expect(await asker.probe('tcp', '93.184.80.9', 22, ...LONG)).toMatchObject({ code: 'ECONNREFUSED' });
    const query = asker.probe('dns', '198.51.100.53', 'refused.example', 'A', ...LONG);
    expect(await denied(query, { entry: 'refused.example' })).toMatchObject({ rcode: 'NXDOMAIN' });
    expect(await asks()).toEqual([]);
    expect([await out('93.184.80.9'), await lab.dns.queries('refused.example')]).toEqual([0, []]);
  });

  it('without an answer comes when the time is over; the request stays for the next attempt', async () => {
    const brief = await start('brief', { ...ASKING, 'drawbridge.ask': '2s' });
    const attempt = (): Promise<ProbeResult> => brief.probe('tcp', '93.184.80.10', 22, ...LONG);
    expect(await attempt()).toMatchObject({ code: 'ECONNREFUSED' });
    const ask = await asked({ entry: '93.184.80.10:22', waiting: 0 }, 'brief');
    expect(ask).toMatchObject({ until: null, attempts: 1 });
    expect(await attempt()).toMatchObject({ code: 'ECONNREFUSED' });
    expect(await asked({ id: ask.id }, 'brief')).toMatchObject({ attempts: 2 });
    expect(await out('93.184.80.10')).toBe(0);
    await allow(await asked({ id: ask.id }, 'brief'));
    expect(await attempt()).toMatchObject({ ok: true });
  });

  it('is explained', async () => {
    const { stdout } = await drawbridge.cli(['explain', 'asker', '93.184.80.11:22']);
    expect(stdout).toMatch(/a person is asked, for 30s/);
  });
});

it('an approval counts only for what was shown', async () => {
  await asker.probe('dns', '198.51.100.53', 'two.example', 'A');
  const first = asker.probe('tcp', '93.184.82.1', 8080, ...LONG);
  const shown = await asked({ entry: 'two.example:8080' });
  const second = asker.probe('tcp', '93.184.82.2', 8080, ...LONG);
  const now = await asked({ entry: 'two.example:8080', waiting: 2 });
  expect(now.token).not.toBe(shown.token);
  expect(await decide(shown, { decision: 'allow' })).toMatchObject({ status: 409 });
  expect([await out('93.184.82.1'), await out('93.184.82.2')]).toEqual([0, 0]);
  await allow(now);
  expect(await Promise.all([first, second])).toMatchObject([{ ok: true }, { ok: true }]);
});

it('a flood from one container leaves room for another', async () => {
  const flooder = await start('flooder', ASKING);
  const flood = `
    const net = require('node:net'), dns = require('node:dns').promises;
    for (let i = 0; i < 300; i++) {
      net.connect({ host: '93.184.90.' + (i % 250), port: 1000 + i }).on('error', () => 0);
      dns.resolve4('flood' + i + '.example').catch(() => 0);
    }`;
  void flooder.exec(['node', '-e', flood]);
  await waitFor('a flood', async () => (await asks('flooder')).length === 16, 10_000, 50);
  const probe = asker.probe('tcp', '93.184.80.12', 7443, 'hello', ...LONG);
  await allow(await asked({ entry: '93.184.80.12:7443' }));
  expect(await probe).toMatchObject({ ok: true, data: 'hello' });
  expect(await asks('flooder')).toHaveLength(16);
  await flooder.remove();
  // between its end and that of its requests they have no name to show but its id
  await waitFor('no request of a removed container', async () =>
    (await allAsks()).every(({ containerId }) => containerId !== flooder.id),
  );
});

/** `drawbridge ask --watch` on a pseudo-terminal of 80 columns. */
function terminal() {
  const command = `stty cols 80 rows 24; exec ${[...program(), 'ask', '--watch'].join(' ')}`;
  const child = spawn('script', ['-qefc', command, '/dev/null'], {
    env: { ...process.env, DRAWBRIDGE_CONFIG: drawbridge.configFile, TERM: 'xterm', FORCE_COLOR: '1' },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  let text = '';
  child.stdout.on('data', (d: Buffer) => (text += d));
  const status = (): string => text.split('\r\u001b[K').at(-1) ?? '';
  return {
    write: (keys: string) => child.stdin.write(keys),
    text: () => text,
    bells: () => text.split('\u0007').length - 1,
    /** What is shown is there for so long that a key counts. */
    readable: async (bells: number): Promise<void> => {
      const isReadable = (): boolean =>
        text.split('\u0007').length - 1 === bells && /^ {2}\d+ attempts? waiting, /.test(status());
      await waitFor(`a prompt to decide about, after ${bells} bells`, isReadable, 20_000, 20).catch(
        (cause: unknown) => {
          throw new Error(`what the terminal shows: ${JSON.stringify(text)}`, { cause });
        },
      );
    },
    exited: new Promise<number | null>((resolve) => child.on('close', resolve)),
    [Symbol.dispose]: () => void child.kill('SIGKILL'),
  };
}

/** A key that is held. False: this process was not fast enough for the repetitions of a keyboard. */
async function hold(key: string, write: (keys: string) => void): Promise<boolean> {
  let longest = 0;
  for (let n = 0, before = performance.now(); n < 60; n++) {
    write(key);
    await delay(n === 0 ? 300 : 30);
    longest = Math.max(longest, performance.now() - before);
    before = performance.now();
  }
  return longest < 600;
}

it('a person at a terminal approves only what was there to read, and sees each container', async () => {
  const crowd = await start('crowd', { ...ASKING, 'drawbridge.ask': '3m' });
  const ports = `for (let i = 0; i < 50; i++) net.connect({ host: '93.184.91.1', port: 2000 + i }).on('error', () => 0)`;
  void crowd.exec(['node', '-e', `const net = require('node:net'); ${ports}`]);
  await waitFor('a crowd', async () => (await asks('crowd')).length === 16, 10_000, 50);
  const single = await start('single', { ...ASKING, 'drawbridge.ask': '3m' });
  const probe = single.probe('tcp', '93.184.80.20', 7443, 'hello', '--timeout', 120_000);
  await asked({ entry: '93.184.80.20:7443', waiting: 1 }, 'single');
  using term = terminal();

  await term.readable(1);
  expect(term.text()).toMatch(
    /\u0007\u001b\[1mcrowd\u001b\[22m\r\n {2}wants 93\.184\.91\.1:2\d+\/tcp\r\n {2}a allow/,
  );
  expect(term.text()).toMatch(/1 attempt waiting, .* · 16 more waiting, 1 of others/);
  const hints = (): number => term.text().split('read it first').length;
  const before = hints();
  term.write('aa');
  await waitFor('keys that do not count', () => hints() > before, 10_000, 50);
  await term.readable(1);
  expect([(await asks('crowd')).length, (await asks('single')).length]).toEqual([16, 1]);

  for (let tries = 1; !(await hold('a', term.write)); tries++) expect(tries).toBeLessThan(5);
  await waitFor('an approval', () => term.text().includes('may reach'), 10_000, 50);
  await term.readable(2);
  expect(term.text().match(/may reach/g)).toHaveLength(1);
  expect([(await asks('crowd')).length, (await asks('single')).length]).toEqual([15, 1]);
  expect(term.text().split('\u0007').at(-1)).toMatch(/^\u001b\[1msingle\u001b/);
  expect(await out('93.184.80.20')).toBe(0);

  const late = asker.probe('tcp', '93.184.80.21', 7443, 'hello', ...LONG);
  await waitFor('one more', () => term.text().endsWith('16 more waiting, 16 of others'), 10_000, 50);
  expect(term.bells()).toBe(2);
  await term.readable(2);
  term.write('a');
  expect(await probe).toMatchObject({ ok: true, data: 'hello' });
  await term.readable(3);
  expect(term.text().split('\u0007').at(-1)).toMatch(/^\u001b\[1masker\u001b/);
  term.write('d');
  expect(await late).toMatchObject({ code: 'ECONNREFUSED' });
  term.write('q');
  expect(await term.exited).toBe(0);
  await Promise.all([crowd.remove(), single.remove()]);
});

it('what waits stays closed when the service is killed', async () => {
  const probe = asker.probe('tcp', '93.184.80.13', 7443, '--timeout', 3_000);
  await asked({ entry: '93.184.80.13:7443', waiting: 1 });
  drawbridge.kill('SIGKILL');
  await drawbridge.exited();
  expect(await probe).toMatchObject({ ok: false });
  drawbridge.start();
  await drawbridge.ready();
  expect(await out('93.184.80.13')).toBe(0);
});
