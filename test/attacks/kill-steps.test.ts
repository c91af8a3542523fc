/**
 * The service killed at each call that it makes of the kernel's tools, for each kind of change, under a permanent attack.
 * Briefly (the default) at every STRIDE-th call from the first; `npm run soak -- all` tries each, before and after it.
 */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type Drawbridge, isCore } from '../lab/drawbridge.js';
import { Lab } from '../lab/lab.js';
import { alive, waitFor } from '../lab/process.js';
import {
  type Arena,
  control,
  enterArena,
  isAttacking,
  NOTHING,
  openHost,
  permittedWork,
  reached,
} from '../live/chaos-support.js';
import { Faults, type When } from './faults.js';
import { shownHere } from './report.js';

const PATIENCE_MS = 60_000;
/** Longer than from one call to the next. */
const STEP_MS = 700;
/** More steps than a change can have. */
const MOST = 40;
const STRIDE = process.env.KILLS === undefined ? 4 : 1;
/** Before its nth call all calls before it are done: what is tried after a call differs by the last one alone. */
const MOMENTS: readonly When[] = process.env.KILLS === 'both' ? ['before', 'after'] : ['before'];
const shown = shownHere({
  id: 'kill-every-step',
  title: 'the service killed at every step of applying a change: a list, a start, a stop, a repair',
  families: ['v4', 'v6'],
  stoppedBy:
    'tighten first, loosen last; the installed rules are closed after every step, and the next start continues from them',
});

let lab: Lab;
let arena: Arena;
let drawbridge: Drawbridge;
let faults: Faults;
const controls: string[] = [];

beforeAll(async () => {
  lab = await Lab.up();
  await openHost(lab);
  controls.push(...(await control(lab)));
  faults = new Faults(lab);
  drawbridge = lab.drawbridge({ env: faults.env, lists: { 'moving.yaml': list(0) } });
  await drawbridge.ready();
  arena = await enterArena(lab);
  await lab.start({ name: 'subject', network: 'arena', labels: { 'drawbridge.lists': 'moving' } });
  await waitFor('the first list', () => opens(place(0)));
  await isAttacking(arena);
});
afterAll(async () => {
  await arena?.[Symbol.asyncDispose]();
  await lab?.down();
});

const place = (n: number): string => `93.184.50.${1 + (n % 200)}`;
const list = (n: number): string => `allow: ["${place(n)}:443", "[2600:9000:50::${n + 1}]:443"]\n`;
async function opens(address: string): Promise<boolean> {
  const { stdout } = await lab.exec('subject', [
    'node',
    '/probe.cjs',
    'tcp',
    address,
    '443',
    '--timeout',
    '1500',
  ]);
  return (JSON.parse(stdout) as { ok: boolean }).ok;
}
const running = (): boolean => alive(drawbridge.pid);

/** A change, number n of its kind: how it begins, and whether all of it is in force. */
interface Change {
  readonly what: string;
  begin(n: number): Promise<unknown>;
  inForce(n: number): Promise<boolean>;
  /** Leaves no traces for the next. */
  end?(n: number): Promise<unknown>;
}
const DOCKER_USER = ['-S', 'DOCKER-USER'];
const jumps = async (): Promise<boolean> => {
  const all = await Promise.all(['iptables', 'ip6tables'].map((t) => lab.inHost([t, '-w', ...DOCKER_USER])));
  return all.every((r) => r.stdout.includes('-j DB-FORWARD'));
};
/** Its first instruction is forbidden; what is permitted it reaches sooner or later. */
const FIRST = (n: number): string => `wget -q -T 1 -O /dev/null http://93.184.200.7/ &
  for i in 1 2 3 4 5 6 7 8 9; do wget -q -T 5 -O /dev/null http://${place(n)}/ && echo reached && break; sleep 1; done
  wait; sleep 600`;
const name = (n: number): string => `started-${n}`;
const startOne = (n: number): Promise<unknown> => {
  const labels = { 'drawbridge.allow': `${place(n)}:80` };
  return lab.start({ name: name(n), network: 'arena', node: false, labels, cmd: ['sh', '-c', FIRST(n)] });
};
const hasReached = async (n: number): Promise<boolean> =>
  (await lab.docker('logs', name(n))).includes('reached');
const removeOne = (n: number): Promise<unknown> => lab.dockerResult(['rm', '-f', name(n)], { check: false });
const ids = new Map<number, string>();
/** Its rules stay for a while after it: they are the last to go. */
const isGone = async (n: number): Promise<boolean> => {
  const { status } = await drawbridge.get(`/v1/containers/${name(n)}`).catch(() => ({ status: 0 }));
  // it fails while a set of a rule is being removed
  const { code, stdout } = await lab.inHost(['iptables-save', '-t', 'filter']);
  return status === 404 && code === 0 && !stdout.includes(`DB-c-${ids.get(n)}`);
};

const CHANGES: readonly Change[] = [
  {
    what: 'a list that loses an address and gets another',
    begin: async (n) => drawbridge.writeList('moving.yaml', list(n)),
    inForce: async (n) => (await opens(place(n))) && !(await opens(place(n - 1))),
  },
  { what: 'a container that starts', begin: startOne, inForce: hasReached, end: removeOne },
  {
    what: 'a container that ends',
    begin: async (n) => {
      faults.disarm();
      await startOne(n);
      await waitFor('it to reach what it may', () => hasReached(n), PATIENCE_MS);
      ids.set(n, (await lab.docker('inspect', '-f', '{{slice .Id 0 12}}', name(n))).trim());
      expect((await lab.inHost(['iptables-save', '-t', 'filter'])).stdout).toContain(`DB-c-${ids.get(n)}`);
      rearm();
      await removeOne(n);
    },
    inForce: isGone,
  },
  {
    what: 'a repair',
    begin: async () => {
      for (const tool of ['iptables', 'ip6tables'])
        await lab.inHost([tool, '-w', '-F', 'DOCKER-USER'], { check: true });
    },
    inForce: jumps,
  },
  {
    what: 'a start after another process has deleted the bridge table',
    begin: async () => {
      faults.disarm();
      drawbridge.kill('SIGKILL');
      await drawbridge.exited();
      await lab.inHost(['nft', 'delete', 'table', 'bridge', 'drawbridge'], { check: true });
      await isAttacking(arena);
      rearm();
      drawbridge.start();
    },
    inForce: async () => (await drawbridge.get('/readyz').catch(() => undefined))?.status === 200,
  },
];
let rearm = (): void => undefined;
let made = 0;

/** What is in force may have steps left: the armed one comes and kills, or none has come for a while. */
async function lastStep(n: number): Promise<void> {
  let calls = -1;
  const isOver = async (): Promise<boolean> => {
    const before = calls;
    calls = faults.calls().length;
    return !running() || (calls === before && calls < n);
  };
  await waitFor(`the end of ${n} steps`, isOver, PATIENCE_MS, STEP_MS);
}

/** One change with the nth call armed: whether the service was killed. Either way it is in force at the end. */
async function attempt(change: Change, n: number, when: When, number: number): Promise<boolean> {
  rearm = () => faults.arm(n, when);
  rearm();
  await change.begin(number);
  const settled = async (): Promise<boolean> => !running() || (await change.inForce(number));
  await waitFor(`${change.what}, step ${n}`, settled, PATIENCE_MS);
  await lastStep(n);
  const killed = !running();
  faults.disarm();
  await isAttacking(arena);
  if (killed) {
    drawbridge.start();
    await drawbridge.ready(PATIENCE_MS);
    await waitFor(`${change.what}, after step ${n}`, () => change.inForce(number), PATIENCE_MS);
  }
  await change.end?.(number);
  return killed;
}

it('control: without Drawbridge every kind of packet gets out', () => {
  expect(controls).toEqual(expect.arrayContaining(['tcp/4', 'tcp/6', 'udp/4', 'udp/6']));
  shown.control();
});

it.each(CHANGES)('$what', async (change) => {
  const after = await lab.sniffer.settle();
  const steps = { before: 0, after: 0 };
  for (const when of MOMENTS)
    for (let n = 1; n <= MOST; n += STRIDE) {
      if (!(await attempt(change, n, when, ++made))) break;
      expect({ n, when, ...(await reached(arena, after)) }).toEqual({ n, when, ...NOTHING });
      steps[when]++;
    }
  console.log(
    `${change.what}: killed at ${steps.before} + ${steps.after} steps; then: ${faults.calls().join(', ')}`,
  );
  expect(steps.before).toBeGreaterThan(STRIDE === 1 ? 1 : 0);
  expect(steps.before * STRIDE).toBeLessThan(MOST);
});

it('at the end all is as it should be, and nothing has got out', async () => {
  if (!isCore) {
    // The core has no API, and so no plan.
    const plan = await drawbridge.cli(['plan', '--json'], { timeoutMs: PATIENCE_MS });
    expect(JSON.parse(plan.stdout)).toEqual([]);
  }
  await permittedWork(arena);
  await isAttacking(arena);
  expect(arena.hostCount()).toBe(0);
  shown.held();
});
