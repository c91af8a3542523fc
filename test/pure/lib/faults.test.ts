import { EventEmitter } from 'node:events';
import { expect, it, vi } from 'vitest';
import { Faults } from '../../../src/lib/faults.js';

function made() {
  const said: string[] = [];
  const exits: number[] = [];
  let held: () => void = () => undefined;
  const resync = vi.fn(() => new Promise<void>((done) => (held = done)));
  const log = { error: (_o: object, m?: string) => said.push(m ?? ''), info: () => undefined };
  const faults = new Faults({ resync, exit: (code) => exits.push(code), log, now: () => 0 });
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
  expect(said).toHaveLength(1);
  hold();
  await vi.waitFor(() => expect(faults.pending).toBeUndefined());
  faults.take(exhausted());
  expect(resync).toHaveBeenCalledTimes(2);
});

it('a fault of the program ends it, and so do a hundred of any kind within a minute', () => {
  const first = made();
  first.faults.take(new TypeError('x is not a function'));
  expect(first.exits).toEqual([1]);
  const second = made();
  for (let i = 0; i < 100; i++) second.faults.take(exhausted());
  expect(second.exits).toEqual([]);
  second.faults.take(exhausted());
  expect(second.exits).toEqual([1]);
});

it('what nothing catches arrives, a rejection and a throw, until it is let go', () => {
  const { faults, exits } = made();
  const process = new EventEmitter();
  const watch = faults.watch(process);
  process.emit('uncaughtException', new Error('a'));
  process.emit('unhandledRejection', new Error('b'));
  expect(exits).toEqual([1, 1]);
  watch[Symbol.dispose]();
  expect(process.listenerCount('uncaughtException') + process.listenerCount('unhandledRejection')).toBe(0);
});
