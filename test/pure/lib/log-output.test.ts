import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { type LogDevice, LogOutput } from '../../../src/lib/log.js';

/** A device with moods: `failure` is thrown; `room` is how many bytes it takes at once. */
class Device implements LogDevice {
  text = '';
  failure: string | undefined;
  room = Number.POSITIVE_INFINITY;
  calls = 0;
  write(bytes: Buffer): number {
    this.calls += 1;
    if (this.failure || this.room === 0)
      throw Object.assign(new Error('no'), { code: this.failure ?? 'EAGAIN' });
    const taken = bytes.subarray(0, this.room);
    this.room -= taken.length;
    this.text += taken.toString();
    return taken.length;
  }
}

let device: Device;
beforeEach(() => {
  vi.useFakeTimers();
  device = new Device();
});
afterEach(() => {
  vi.useRealTimers();
});

it.each(['ENOSPC', 'EIO', 'EAGAIN', 'EDQUOT'])('keeps lines through %s, whole and in order', (code) => {
  const output = new LogOutput(device);
  output.write('one\n');
  device.failure = code;
  output.write('two\n');
  output.write('three\n');
  device.failure = undefined;
  vi.advanceTimersByTime(1_000);
  expect(device.text).toBe('one\ntwo\nthree\n');
});

it('goes on in the middle of a line that was written in part', () => {
  const output = new LogOutput(device);
  device.room = 5;
  output.write('one\n');
  output.write('two\n');
  device.room = 100;
  vi.advanceTimersByTime(100);
  expect(device.text).toBe('one\ntwo\n');
});

it('drops lines beyond its bound, and says how many when it writes again', () => {
  const output = new LogOutput(device, 100);
  const recovered: unknown[] = [];
  output.onRecovered = (...what) => {
    recovered.push(what);
    output.write(`lost ${what[0]}\n`);
  };
  device.failure = 'ENOSPC';
  for (let i = 0; i < 1_000; i++) output.write('123456789\n');
  expect(device.calls).toBe(1);
  device.failure = undefined;
  vi.advanceTimersByTime(1_000);
  expect(recovered).toEqual([[990, 'ENOSPC']]);
  expect(device.text).toBe(`${'123456789\n'.repeat(10)}lost 990\n`);
});

it('keeps nothing for a reader that has gone', () => {
  const output = new LogOutput(device);
  const recovered: unknown[] = [];
  output.onRecovered = (...what) => recovered.push(what);
  device.failure = 'EPIPE';
  output.write('one\n');
  output.write('two\n');
  device.failure = undefined;
  output.write('three\n');
  expect(device.text).toBe('three\n');
  expect(recovered).toEqual([[2, 'EPIPE']]);
});
