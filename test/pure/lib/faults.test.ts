import { EventEmitter } from 'node:events';
import { expect, it, vi } from 'vitest';
import { contained, Faults, logContained } from '../../../src/lib/faults.js';

function made() {
  const said: string[] = [];
  const exits: string[] = [];
  let held: () => void = () => undefined;
  const resync = vi.fn(() => new Promise<void>((done) => (held = done)));
  const log = { error: (_o: object, m?: string) => said.push(m ?? ''), info: () => undefined };
  const faults = new Faults({ resync, exit: (cause) => exits.push(cause), log, now: () => 0 });
  return { faults, said, exits, resync, hold: () => held() };
}
const exhausted = (): Error => Object.assign(new Error('too many open files'), { code: 'EMFILE' });
/** As `os.networkInterfaces()` throws it. */
const system = (): Error =>
  Object.assign(new Error('A system error occurred'), { code: 'ERR_SYSTEM_ERROR', info: { code: 'EMFILE' } });

it('a resource that has run out ends nothing: the service is not ready until a fresh pass has held', async () => {
  const { faults, exits, resync, said, hold } = made();
  for (const error of [exhausted(), system()]) faults.take(error);
  expect(exits).toEqual([]);
  expect(faults.pending).toMatch(/descriptors/);
  expect(resync).toHaveBeenCalledTimes(1);
  expect(said).toHaveLength(2);
  hold();
  await vi.waitFor(() => expect(resync).toHaveBeenCalledTimes(2));
  hold();
  await vi.waitFor(() => expect(faults.pending).toBeUndefined());
  faults.take(exhausted());
  expect(resync).toHaveBeenCalledTimes(3);
});

it('a fault during the recovery is logged, and recovered from before the service is ready', async () => {
  const { faults, resync, said, hold } = made();
  const rejected = (message: string): void => faults.take(new Error(message), true);
  rejected('first');
  for (const round of [1, 2, 3]) {
    await vi.waitFor(() => expect(resync).toHaveBeenCalledTimes(round));
    for (let times = 0; times < 5; times++) rejected(`in round ${round}`);
    hold();
    expect(faults.pending).toContain(`in round ${round}`);
  }
  await vi.waitFor(() => expect(resync).toHaveBeenCalledTimes(4));
  expect(faults.pending).toContain('in round 3');
  expect(said).toHaveLength(4);
  hold();
  await vi.waitFor(() => expect(faults.pending).toBeUndefined());
  expect(resync).toHaveBeenCalledTimes(4);
});

it('a fault of the program ends it, and so do a hundred of any kind within a minute', () => {
  const first = made();
  first.faults.take(new TypeError('x is not a function'));
  expect(first.exits).toEqual([
    expect.stringMatching(/^TypeError: x is not a function, at .*faults\.test\.ts/),
  ]);
  const second = made();
  for (let i = 0; i < 100; i++) second.faults.take(exhausted());
  expect(second.exits).toEqual([]);
  second.faults.take(exhausted());
  expect(second.exits).toEqual([expect.stringContaining('100 faults within a minute')]);
});

it('a refused system call and a rejected promise end nothing', () => {
  const { faults, exits, resync } = made();
  const refused = Object.assign(new Error('connect ENETUNREACH'), { code: 'ENETUNREACH', errno: -101 });
  const late = Object.assign(new Error('Socket is not connected'), {
    code: 'ERR_SOCKET_DGRAM_NOT_CONNECTED',
  });
  for (const error of [refused, late]) faults.take(error);
  faults.take(new TypeError('x is not a function'), true);
  expect(exits).toEqual([]);
  expect(resync).toHaveBeenCalledTimes(1);
  // an argument that is wrong is a fault of the program
  faults.take(Object.assign(new TypeError('wrong'), { code: 'ERR_INVALID_ARG_TYPE' }));
  expect(exits).toHaveLength(1);
});

it('what is contained is logged, or ends a program that has no log for it', () => {
  const said: object[] = [];
  logContained({ error: (facts) => said.push(facts) });
  const error = new Error('of one packet');
  contained(error, 'one packet is dropped');
  logContained(undefined);
  expect(said).toEqual([{ err: error }]);
});

it('what nothing catches arrives, a rejection and a throw, until it is let go', () => {
  const { faults, exits } = made();
  const process = new EventEmitter();
  const watch = faults.watch(process);
  process.emit('uncaughtException', new Error('a'));
  expect(exits).toHaveLength(1);
  process.emit('unhandledRejection', new Error('b'));
  expect(exits).toHaveLength(1);
  expect(faults.pending).toContain('(b)');
  watch[Symbol.dispose]();
  expect(process.listenerCount('uncaughtException') + process.listenerCount('unhandledRejection')).toBe(0);
});
