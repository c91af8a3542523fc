/** The controller killed at random moments of many changes, frozen, and out of descriptors, under attack. */
import { Agent, request } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { shownHere } from '../attacks/report.js';
import { holdConnections, limitDescriptors } from '../lab/descriptors.js';
import type { Drawbridge } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { alive, waitFor } from '../lab/process.js';
import { placeForeign, readKernel, strangers } from './chaos-kernel.js';
import {
  type Arena,
  control,
  enterArena,
  isAttacking,
  kernelStatus,
  NOTHING,
  openHost,
  permittedWork,
  reached,
  streamed,
} from './chaos-support.js';

/** Kinds of changes that are made at once; `npm run soak -- all` makes a hundred of them. */
const MANY = Number(process.env.CHANGES ?? 30);
const CHANGES = { list: 0.4 * MANY, grants: 0.4 * MANY, containers: 0.2 * MANY } as const;
const PATIENCE_MS = 60_000;
/** Up to this long after it is ready, the controller is killed. */
const LIFE_MS = 1_500;
/** Seconds of SIGSTOP. */
const FROZEN = Number(process.env.FROZEN ?? 10);
/** Descriptors that the service may still open, and connections that are tried without a token. */
const SPARE = Number(process.env.SPARE ?? 5);
const CONNECTIONS = 100;
const PORT = 7070;
const API = {
  listen: `127.0.0.1:${PORT}`,
  tokens: [{ name: 'operator', role: 'read', token: 'operator-0123456789abcdef' }],
};
const BOTH = ['v4', 'v6'] as const;
const shown = {
  killed: shownHere({
    id: 'kill-random',
    title: 'the service killed at random moments during changes of every kind',
    families: BOTH,
    stoppedBy: 'the rules in the kernel are closed at every moment, and the next start continues from them',
  }),
  frozen: shownHere({
    id: 'service-frozen',
    title: 'the service frozen (SIGSTOP) while other processes flush its rules, and containers start',
    families: BOTH,
    stoppedBy:
      'queued packets stay in the queue while the service does not read it; a second layer replaces the flushed rules',
  }),
  exhausted: shownHere({
    id: 'service-no-descriptors',
    title:
      'the service without file descriptors, taken by connections without a token, while containers start',
    families: BOTH,
    stoppedBy:
      'rules stay, a new veth gets nothing until its policy is in force, and the service continues and reports that it is not ready',
  }),
};

let lab: Lab;
let arena: Arena;
let drawbridge: Drawbridge;
/** What the last acknowledged change says, by address. */
const promised = new Map<string, boolean>();
const grants = new Map<string, string>();

beforeAll(async () => {
  lab = await Lab.up();
  await openHost(lab);
  await placeForeign(lab);
  expect(await control(lab)).toEqual(expect.arrayContaining(['tcp/4', 'tcp/6', 'udp/4', 'udp/6']));
  for (const s of Object.values(shown)) s.control();
  drawbridge = lab.drawbridge({ config: { api: API }, lists: { 'moving.yaml': list([]) } });
  await drawbridge.ready();
  arena = await enterArena(lab);
  await lab.start({ name: 'subject', network: 'arena', labels: { 'drawbridge.lists': 'moving' } });
  await isAttacking(arena);
  await waitFor('the stream', async () => (await streamed(arena)) > 0);
});
afterAll(async () => {
  await arena?.[Symbol.asyncDispose]();
  await lab?.down();
});

function list(addresses: readonly string[]): string {
  return `allow:\n${addresses.map((a) => `  - ${a}:443\n`).join('') || '  []\n'}`;
}

/** The file is in force when a controller that lives has read it. */
function changeList(n: number): void {
  const address = `93.184.50.${1 + (n % 5)}`;
  promised.set(address, !promised.get(address));
  const now = [...promised].filter(([a, on]) => on && a.startsWith('93.184.50.')).map(([a]) => a);
  drawbridge.writeList('moving.yaml', list(now));
}

/** Repeated until it is acknowledged: the controller is away now and then. */
async function changeGrant(n: number): Promise<void> {
  const address = `93.184.60.${1 + (n % 5)}`;
  const path = '/v1/containers/subject/grants';
  await waitFor(
    `an answer to change ${n}`,
    async () => {
      const id = grants.get(address);
      const answer = await (id === undefined
        ? drawbridge.request('POST', path, { entry: `${address}:443` })
        : drawbridge.request('DELETE', `${path}/${id}`)
      ).catch(() => undefined); // killed meanwhile, or away
      if (answer === undefined) return false;
      if (id !== undefined) return [200, 204, 404].includes(answer.status) && grants.delete(address);
      const given = [200, 201].includes(answer.status) ? (JSON.parse(answer.body).id as string) : undefined;
      if (given !== undefined) grants.set(address, given);
      return given !== undefined;
    },
    PATIENCE_MS,
  );
  promised.set(address, grants.has(address));
}

/** Its first instruction is forbidden; what is permitted it reaches sooner or later, whoever is killed meanwhile. */
async function startContainer(n: number): Promise<void> {
  const labels = { 'drawbridge.allow': `93.184.70.${1 + n}:80` };
  const script = `(wget -q -T 1 -O /dev/null http://93.184.200.7/; ping -c 1 -W 1 93.184.200.8) >/dev/null 2>&1 &
    for i in 1 2 3 4 5 6 7 8; do wget -q -T 5 -O /dev/null http://93.184.70.${1 + n}/ && echo reached && break; sleep 1; done; wait`;
  const spec = { network: 'arena', labels, node: false, cmd: ['sh', '-c', script] };
  const { stdout } = await lab.run(spec, { timeoutMs: PATIENCE_MS });
  expect({ n, reached: stdout.includes('reached') }).toEqual({ n, reached: true });
}

/** Three people at once: one edits the file, one uses the API, one starts containers. */
async function makeChanges(): Promise<void> {
  const lane = async (count: number, change: (n: number) => unknown): Promise<void> => {
    for (let n = 0; n < count; n++) await change(n);
  };
  await Promise.all([
    lane(CHANGES.list, (n) => {
      changeList(n);
      return sleep(Math.random() * LIFE_MS);
    }),
    lane(CHANGES.grants, changeGrant),
    lane(CHANGES.containers, startContainer),
  ]);
}

/** Kills and starts the controller until told to stop; how often. */
async function killer(isDone: () => boolean): Promise<number> {
  let kills = 0;
  for (; kills < 1_000 && !isDone(); kills++) {
    await sleep(Math.random() * LIFE_MS);
    drawbridge.kill('SIGKILL');
    await drawbridge.exited();
    drawbridge.start();
    await drawbridge.ready(PATIENCE_MS);
  }
  return kills;
}

const opened = async (address: string): Promise<boolean> => {
  const { stdout } = await lab.exec('subject', ['node', '/probe.cjs', 'tcp', address, '443']);
  return (JSON.parse(stdout) as { ok: boolean }).ok;
};

/** GET /readyz over a connection that is kept: a new one needs a descriptor of the service. */
function readyOver(agent: Agent): Promise<string> {
  return new Promise((resolve, reject) => {
    const asked = request({ socketPath: drawbridge.apiSocket, path: '/readyz', agent }, (answer) => {
      const parts: Buffer[] = [];
      answer.on('data', (part: Buffer) => parts.push(part));
      answer.on('end', () => resolve(`${answer.statusCode} ${Buffer.concat(parts)}`));
      answer.on('error', reject);
    });
    asked.on('error', reject);
    asked.end();
  });
}

/** Its first instruction is forbidden; it tries that and what is permitted for ever, and says so. */
const startRestless = (name: string, permitted: string): Promise<string> => {
  const script = `while :; do
    wget -q -T 1 -O /dev/null http://93.184.200.9/
    wget -q -T 2 -O /dev/null http://${permitted}/ && echo reached
    echo tried
  done`;
  const args = ['--name', name, '--network', 'arena', '--stop-timeout', '0'];
  const label = `drawbridge.allow=${permitted}:80`;
  return lab.docker('run', '-d', ...args, '--label', label, lab.images.busybox, 'sh', '-c', script);
};
const said = async (name: string, word: string): Promise<number> =>
  (await lab.docker('logs', name)).split(word).length - 1;

describe('the controller, under attack', () => {
  it(`killed at random moments during ${MANY} changes`, async () => {
    const before = strangers((await readKernel(lab)).others);
    const after = await lab.sniffer.settle();
    const bytes = await streamed(arena);
    let isDone = false;
    const kills = killer(() => isDone);
    try {
      await makeChanges();
    } finally {
      isDone = true;
    }
    console.log(`${MANY} changes, ${await kills} kills`);
    expect(await kills).toBeGreaterThan(2);

    expect(await reached(arena, after)).toEqual(NOTHING);
    expect(strangers((await readKernel(lab)).others)).toEqual(before);
    const now = new Map<string, boolean>();
    for (const address of promised.keys()) now.set(address, await opened(address));
    expect(now).toEqual(promised);
    const plan = await drawbridge.cli(['plan', '--json'], { timeoutMs: PATIENCE_MS });
    expect(JSON.parse(plan.stdout)).toEqual([]);
    await waitFor('the old stream to go on', async () => (await streamed(arena)) > bytes);
    await permittedWork(arena);
    shown.killed.held();
  });

  it(`frozen for ${FROZEN} s, while others flush what holds: closed, and repaired when it wakes`, async () => {
    const after = await lab.sniffer.settle();
    const { lastRepair } = await kernelStatus(drawbridge);
    drawbridge.kill('SIGSTOP');
    const frozen = performance.now();
    const args = ['run', '-d', '--network', 'arena', '--label', 'drawbridge.allow=93.184.1.9:80'];
    const ask =
      'wget -q -T 2 -O /dev/null http://93.184.1.9/ && echo reached; wget -q -T 1 -O /dev/null http://93.184.200.9/';
    const fresh = await lab.docker(...args, lab.images.busybox, 'sh', '-c', ask);
    for (const tool of ['iptables', 'ip6tables'])
      await lab.inHost([tool, '-w', '-F', 'DOCKER-USER'], { check: true });
    await isAttacking(arena);
    await lab.docker('wait', fresh);
    expect(await lab.docker('logs', fresh)).not.toContain('reached');
    await sleep(Math.max(0, FROZEN * 1000 - (performance.now() - frozen)));
    expect(await reached(arena, after)).toEqual(NOTHING);
    drawbridge.kill('SIGCONT');
    await waitFor('a repair', async () => (await kernelStatus(drawbridge)).lastRepair !== lastRepair);
    await isAttacking(arena);
    await permittedWork(arena);
    expect(await reached(arena, after)).toEqual(NOTHING);
    expect(await lab.sniffer.count({ dst: '93.184.1.9', direction: 'out', after })).toBe(0);
    shown.frozen.held();
  });

  it('without a file descriptor left: it lives, holds, says why it is not ready, and recovers by itself', async () => {
    const after = await lab.sniffer.settle();
    const bytes = await streamed(arena);
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    expect(await readyOver(agent)).toMatch(/^200 /);
    {
      await using _limit = await limitDescriptors(drawbridge.pid, SPARE);
      await using _held = await holdConnections(lab, PORT, CONNECTIONS);
      await waitFor(
        '/readyz to say why',
        async () => /^503 .*no file descriptor left/.test(await readyOver(agent)),
        PATIENCE_MS,
      );
      await startRestless('fresh', '93.184.1.5');
      await waitFor('its attempts', async () => (await said('fresh', 'tried')) >= 2, PATIENCE_MS);
      await isAttacking(arena);
      const work = await arena.worker.probe('tcp', '93.184.1.1', 443, '--timeout', 10_000);
      expect(work).toMatchObject({ ok: true });
      await waitFor('the old stream to go on', async () => (await streamed(arena)) > bytes);
      // its policy may be in force already: a pass needs one descriptor, which may be free for a moment
      expect(await reached(arena, after)).toEqual(NOTHING);
      expect(alive(drawbridge.pid), drawbridge.logs().slice(-4000)).toBe(true);
    }
    agent.destroy();
    await drawbridge.ready(PATIENCE_MS);
    await waitFor('the policy of that container', async () => (await said('fresh', 'reached')) > 0);
    await startContainer(90);
    await permittedWork(arena);
    const plan = await drawbridge.cli(['plan', '--json'], { timeoutMs: PATIENCE_MS });
    expect(JSON.parse(plan.stdout)).toEqual([]);
    expect(await reached(arena, after)).toEqual(NOTHING);
    await lab.docker('rm', '-f', 'fresh');
    shown.exhausted.held();
  });
});
