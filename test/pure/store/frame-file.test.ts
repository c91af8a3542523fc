/** What the end of a log is: an unfinished write, which was never acknowledged, or damage. */
import { expect, it } from 'vitest';
import { encodeChanges, encodeFrame, tailKind } from '../../../src/store/frame-file.js';

const frame = (length: number): Buffer =>
  encodeFrame(encodeChanges([{ revision: 6, key: 'k5', json: JSON.stringify('y'.repeat(length)) }]));
/** Where the frame begins in its file. */
const OFFSETS = [8, 500, 505, 511, 512, 1000];

it('a frame that is short of its length is torn, at every length', () => {
  for (const offset of OFFSETS)
    for (let n = 1; n < frame(40).length; n++)
      expect(tailKind(frame(40).subarray(0, n), offset), `${n} at ${offset}`).toBe('torn');
});

it('a frame of the right length with any bit flipped is damage, in its head and its length too', () => {
  const whole = frame(40);
  for (const offset of OFFSETS)
    for (let at = 0; at < whole.length; at++)
      for (let bit = 1; bit < 256; bit <<= 1) {
        const bad = Buffer.from(whole);
        bad.writeUInt8(bad.readUInt8(at) ^ bit, at);
        expect(tailKind(bad, offset), `byte ${at}, bit ${bit}, at ${offset}`).toBe('corrupt');
      }
});

it('a frame with something else behind it is damage', () => {
  const whole = frame(40);
  const bad = Buffer.from(whole);
  bad.writeUInt8(0x21, 20);
  expect(tailKind(Buffer.concat([bad, Buffer.from('x')]), 8)).toBe('corrupt');
  expect(tailKind(Buffer.concat([bad, whole]), 8)).toBe('corrupt');
  expect(tailKind(Buffer.concat([whole.subarray(0, 30), whole]), 8)).toBe('corrupt');
});

it('sectors of zeros to the end are a write that a power loss has left without content', () => {
  const whole = frame(3000);
  for (const offset of OFFSETS)
    for (let sector = 512; sector < offset + whole.length; sector += 512) {
      const zeroed = Buffer.from(whole).fill(0, Math.max(0, sector - offset));
      expect(tailKind(zeroed, offset), `from ${sector} at ${offset}`).toBe('torn');
      expect(tailKind(zeroed.subarray(0, whole.length - 7), offset)).toBe('torn');
    }
  expect(tailKind(Buffer.alloc(100), 8)).toBe('torn');
});

it('zeros that no sector begins with, or with content behind them, are damage', () => {
  const whole = frame(3000);
  const from = (at: number, to = whole.length): Buffer => Buffer.from(whole).fill(0, at, to);
  expect(tailKind(from(whole.length - 3), 8)).toBe('corrupt');
  expect(tailKind(from(512 - 8 + 1), 8)).toBe('corrupt');
  expect(tailKind(from(512 - 8, 1024 - 8), 8)).toBe('corrupt');
  expect(tailKind(Buffer.concat([from(1024 - 8), Buffer.alloc(10)]), 8)).toBe('corrupt');
});

it('writes no frame that is too large to be read', () => {
  expect(() => encodeFrame('x'.repeat(256 * 1024 * 1024 + 1))).toThrow(/cannot be read back/);
});
