/** Hellos of an attempt, and segments of them. */
import { helloFor, padding } from '../pure/connections/hello-maker.js';
import { GOOD, type Try } from './names.js';
import type { RawTcp, Sent } from './raw-tcp.js';
import type { Bytes } from './wire.js';

export const helloOf = (name: string, bytesOfPadding?: number): Bytes =>
  helloFor(name, ...(bytesOfPadding === undefined ? [] : [padding(bytesOfPadding)]));
export const evilOf = (t: Try): Bytes => helloOf(t.evil, 0);
/** As long as the forbidden one. */
export const goodOf = (t: Try): Bytes => helloOf(GOOD, evilOf(t).length - helloOf(GOOD, 0).length);
/** Where the names of both begin to differ. */
export const differAt = (t: Try): number => {
  const [evil, good] = [evilOf(t), goodOf(t)];
  return evil.findIndex((byte, i) => byte !== good[i]);
};
export const send = (c: RawTcp, all: Bytes, from: number, to = all.length, how: Sent = {}): void =>
  c.segment(all.subarray(from, to), { at: from, ...how });
