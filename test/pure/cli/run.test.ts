import { writeFile } from 'node:fs/promises';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { Host } from '../../../src/cli/host.js';
import type { Config } from '../../../src/config/config.js';
import { NetlinkError } from '../../../src/kernel/netlink/netlink-error.js';
import type { Service } from '../../../src/ops/service-manager.js';
import { Bench } from './bench.js';

let bench: Bench;
let started: Config[];
let said: string[];
let handlers: Map<NodeJS.Signals, (name: NodeJS.Signals) => void>;
const signal = (name: NodeJS.Signals): void => handlers.get(name)?.(name);
let ended: (() => void)[];
let waiting: (() => void) | undefined;

beforeEach(async () => {
  bench = await Bench.make();
  started = [];
  said = [];
  ended = [];
  handlers = new Map();
  const say = (o: object, msg?: string) => said.push(`${msg} ${JSON.stringify(o)}`);
  const log = { debug: say, info: say, warn: say, error: say };
  const start: Host['start'] = async (config) => {
    started.push(config);
    waiting?.();
    return service();
  };
  bench.host = {
    start,
    createLog: async () => log,
    onSignal: (signals, handler) => {
      for (const name of signals) handlers.set(name, handler);
      return {
        [Symbol.dispose]: () => {
          for (const name of signals) handlers.delete(name);
        },
      };
    },
  };
});
afterEach(() => bench.end());

function service(): Service {
  let end: () => void = () => undefined;
  const done = new Promise<void>((resolve) => {
    end = resolve;
  });
  ended.push(end);
  return { done, stop: async () => end(), stuck: () => undefined };
}
/** Resolves when the service has been started this many times and its signals are heard. */
async function startedTimes(n: number): Promise<void> {
  while (started.length < n) {
    await new Promise<void>((resolve) => {
      waiting = resolve;
    });
  }
  await new Promise((resolve) => setImmediate(resolve));
}

it('runs until SIGTERM, with keys from the command line', async () => {
  const running = bench.run('run', '--default', 'enforce', '--dns.grace=30m', '--json');
  await startedTimes(1);
  expect(started[0]).toMatchObject({ default: 'enforce', dns: { graceMs: 1_800_000 } });
  signal('SIGTERM');
  expect((await running).code).toBe(0);
});

it('ends when the service has been torn down, with a status by which it is not started again', async () => {
  const running = bench.run('run');
  await startedTimes(1);
  ended[0]?.();
  expect((await running).code).toBe(4);
});

it('reads the configuration again at SIGHUP, and keeps the old one when the new is wrong', async () => {
  const good = `api: { listen: "unix:${bench.socket}" }\n`;
  const running = bench.run('run');
  await startedTimes(1);
  await writeFile(bench.config, `${good}default: maybe\n`);
  signal('SIGHUP');
  while (!said.some((line) => line.includes('is refused')))
    await new Promise((resolve) => setImmediate(resolve));
  expect(started).toHaveLength(1);
  await writeFile(bench.config, `${good}default: enforce\n`);
  signal('SIGHUP');
  await startedTimes(2);
  expect(started[1]?.default).toBe('enforce');
  signal('SIGINT');
  expect((await running).code).toBe(0);
});

it('takes up the old configuration again when the new one does not start', async () => {
  const good = `api: { listen: "unix:${bench.socket}" }\n`;
  const start = bench.host.start as Host['start'];
  bench.host.start = (config, log) =>
    config.default === 'enforce' ? Promise.reject(new Error('queue 53 is in use')) : start(config, log);
  const running = bench.run('run');
  await startedTimes(1);
  await writeFile(bench.config, `${good}default: enforce\n`);
  signal('SIGHUP');
  await startedTimes(2);
  expect(said.some((line) => line.includes('is taken up again'))).toBe(true);
  expect(started.map((config) => config.default)).toEqual(['observe', 'observe']);
  signal('SIGTERM');
  const ran = await running;
  expect(ran.code).toBe(0);
  expect(ran.err).toContain('queue 53 is in use');
});

it('a SIGHUP while it starts is heard once it has', async () => {
  const good = `api: { listen: "unix:${bench.socket}" }\n`;
  const start = bench.host.start as Host['start'];
  let begun: () => void = () => undefined;
  const isBegun = new Promise<void>((resolve) => (begun = resolve));
  let letGo: () => void = () => undefined;
  const held = new Promise<void>((resolve) => (letGo = resolve));
  bench.host.start = async (config, log) => {
    begun();
    await held;
    return start(config, log);
  };
  const running = bench.run('run');
  await isBegun;
  await writeFile(bench.config, `${good}default: enforce\n`);
  signal('SIGHUP');
  letGo();
  await startedTimes(2);
  expect(started.map((config) => config.default)).toEqual(['observe', 'enforce']);
  signal('SIGTERM');
  expect((await running).code).toBe(0);
});

it.each([
  [
    Object.assign(new Error("EEXIST: file already exists, mkdir '/x'"), { code: 'EEXIST', syscall: 'mkdir' }),
    /^EEXIST.*\/x'\n {2}→ move what is there away/,
  ],
  [
    new NetlinkError('bind packet queue 53', 1, { reason: 'taken', remedy: 'Choose another queue.' }),
    /^bind packet queue 53: taken \(EPERM\)\n {2}→ Choose another queue/,
  ],
])('says of %s what to do', async (error, wanted) => {
  bench.host = { ...bench.host, start: () => Promise.reject(error) };
  expect(await bench.run('run')).toMatchObject({ code: 1, err: expect.stringMatching(wanted) });
});

it('fails when the service does not start', async () => {
  bench.host = { ...bench.host, start: () => Promise.reject(new Error('no nft')) };
  const ran = await bench.run('run');
  expect(ran).toMatchObject({ code: 1, err: expect.stringContaining('no nft') });
});

it('a refused configuration ends the start, closed by the keys of it that are valid', async () => {
  const closed: Config[] = [];
  bench.host = { ...bench.host, layClosed: async (config) => void closed.push(config) };
  await writeFile(bench.config, 'kernel: { prefix: XY }\ndnss: {}\n');
  const ran = await bench.run('run');
  expect([ran.code, ran.err]).toEqual([1, expect.stringContaining('dnss')]);
  expect(closed.map((c) => c.kernel.prefix)).toEqual(['XY']);
  expect(started).toEqual([]);
});
