/** Hellos of an attempt, and segments of them. */
import { helloFor, padding } from '../pure/connections/hello-maker.js';
import { GOOD, type Try } from './names.js';
import type { RawTcp, Sent } from './raw-tcp.js';
import { type Bytes, bytes, u8, u16 } from './wire.js';

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

/** A record of a ServerHello, as far as it matters: it asks for no other hello. */
export const ANSWER = bytes(
  u8(22, 3, 3),
  u16(74),
  u8(2, 0, 0, 70),
  u16(0x0303),
  Buffer.alloc(68, 9),
).toString('latin1');

/** The permitted hello, and the answer that ends the check. */
export async function verified(t: Try, fromPort = t.nextPort()): Promise<RawTcp> {
  const good = goodOf(t);
  const c = await t.open({ fromPort, answers: [{ after: good.length, send: ANSWER }] });
  c.segment(good);
  await t.answered(c);
  await t.lab.web.answerStream(fromPort, []);
  return c;
}
/** Another connection of the same ports, with a forbidden name. */
export async function again(t: Try, before: RawTcp, o: { isn?: number; syn?: Sent } = {}): Promise<void> {
  const { fromPort } = before;
  const c = await t.open({ fromPort, isn: o.isn ?? before.isn + 500_000, ...(o.syn ? { syn: o.syn } : {}) });
  c.segment(evilOf(t));
}
/** Both ends close, the client first: its entry in conntrack stays for two minutes, and the server forgets it. */
export async function close(t: Try, c: RawTcp): Promise<void> {
  c.segment('', { flags: 'FA' });
  c.skip(1);
  // a server that has not closed yet would answer no other SYN of these ports
  await t.until(() => c.isEnded, 8_000);
  c.acknowledge();
}

/** RFC 8446 4.1.3: a ServerHello with this random asks for another hello. */
const RETRY_RANDOM = Buffer.from('cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c', 'hex');
export const RETRY = bytes(
  u8(22, 3, 3),
  u16(74),
  u8(2, 0, 0, 70),
  u16(0x0303),
  RETRY_RANDOM,
  Buffer.alloc(36, 9),
);
