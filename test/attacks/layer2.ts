/** A bridge with an attacker, a neighbour that plays the accomplice and listens, and victims. */
import { afterAll } from 'vitest';
import type { Container } from '../lab/container.js';
import type { Lab } from '../lab/lab.js';
import { Wire } from './neighbour.js';
import { sendFrames, where } from './raw.js';
import type { Side } from './report.js';
import type { Attempt, How } from './technique.js';
import { type Bytes, type Ends, ip, mac, udp } from './wire.js';

const UDP = 17;
let neighbour: Container;
/** One for each side: both attack at the same time. */
const victims = new Map<Side, Container>();
let wire: Wire | undefined;

function victimOf(a: Attempt): Container {
  const victim = victims.get(a.side);
  if (victim === undefined) throw new Error(`no victim for the ${a.side}`);
  return victim;
}
export interface Scene {
  readonly own: { readonly ip4: string; readonly ip6: string; readonly mac: string };
  readonly neighbour: { readonly ip4: string; readonly ip6: string; readonly mac: string };
  readonly victim: { readonly ip4: string; readonly ip6: string; readonly mac: string };
  readonly gateway4: string;
  readonly bridgeMac: string;
}
export async function scene(a: Attempt): Promise<Scene> {
  const { gateway4, gatewayMac, ...own } = await where(a);
  return {
    own,
    gateway4,
    bridgeMac: gatewayMac,
    neighbour: await neighbour.addresses(),
    victim: await victimOf(a).addresses(),
  };
}
type Make = (s: Scene, a: Attempt) => readonly Bytes[];
/** Seen at the neighbour, by the attempt's tag. */
export const toNeighbour = (make: Make): How => ({
  families: ['v4'],
  attack: async (a) => sendFrames(a.attacker, make(await scene(a), a)),
  reached: async (a) => (await wire?.saw((f) => f.includes(a.tag))) ?? false,
});
export const over6 = (make: Make): How => ({
  ...toNeighbour(make),
  families: ['v6'],
});
/** A datagram to the neighbour, from whoever. */
export const udpTo = (s: Scene, src: string, tag: string): Bytes => {
  const e = { src, dst: src.includes(':') ? s.neighbour.ip6 : s.neighbour.ip4 };
  return ip(e, UDP, udp(e, 4600, 4601, tag));
};
/** The same from its destination to its end. A source that the bridge table has written over is still not the sender's own. */
const isSent = (frame: Bytes, seen: Bytes, own: Bytes): boolean =>
  frame.subarray(0, 6).equals(seen.subarray(0, 6)) &&
  frame.subarray(12).equals(seen.subarray(12)) &&
  (frame.subarray(6, 12).equals(seen.subarray(6, 12)) || !own.equals(seen.subarray(6, 12)));
/**
 * Frames of exactly the shape that an honest container sends, so that no bound on length stops them: seen at the neighbour,
 * byte by byte. No two techniques may send the same.
 */
export const exactly = (make: Make, by: (a: Attempt) => Container = (a) => a.attacker): How => {
  const sent = new Map<string, { readonly frames: readonly Bytes[]; readonly after: number }>();
  return {
    families: ['v4'],
    attack: async (a) => {
      const frames = make(await scene(a), a);
      // the control's attacker had the same addresses: what it sent is in the capture, too
      sent.set(a.tag, { frames, after: wire?.length ?? 0 });
      await sendFrames(by(a), frames);
    },
    reached: async (a) => {
      const own = mac((await by(a).addresses()).mac);
      const { frames, after } = sent.get(a.tag) ?? { frames: [], after: 0 };
      return (await wire?.saw((f) => frames.some((frame) => isSent(frame, f, own)), after)) ?? false;
    },
  };
};
export const exactly6 = (make: Make, by?: (a: Attempt) => Container): How => ({
  ...exactly(make, by),
  families: ['v6'],
});
/** Between the frame and what the host sends the victim may speak by itself (IPv6 begins with reports), and has its place back. */
const THEFTS = 3;
/** What the host sends to the victim arrives at the thief instead, once the frame that `make` makes has taught the bridge. */
export const steals = (
  make: (s: Scene, a: Attempt, own: Ends & { readonly mac: string }) => Bytes,
  thief: (a: Attempt) => Container = (a) => a.attacker,
): How & { readonly alone: true } => {
  const got = new Map<string, boolean>();
  return {
    alone: true,
    families: ['v4'],
    attack: async (a) => {
      const s = await scene(a);
      const { ip4, mac: own } = await thief(a).addresses();
      const tap = await Wire.tap(a.lab, thief(a));
      const speak = (): Promise<unknown> => victimOf(a).exec(['ping', '-c', '1', '-W', '2', s.gateway4]);
      try {
        await speak(); // host and bridge know it
        const isTheirs = (f: Buffer): boolean =>
          f.includes(a.tag) && f.subarray(0, 6).equals(mac(s.victim.mac));
        for (let n = 0; n < THEFTS && got.get(a.tag) !== true; n++) {
          await sendFrames(thief(a), [make(s, a, { src: ip4, dst: s.gateway4, mac: own })]);
          const tell = `printf ${a.tag} > /dev/udp/${s.victim.ip4}/4602`;
          await a.lab.inHost(['bash', '-c', tell], { check: true });
          got.set(a.tag, await tap.saw(isTheirs));
        }
        await speak(); // from here on the bridge knows the truth again
      } finally {
        await tap.stop();
      }
    },
    reached: async (a) => got.get(a.tag) === true,
  };
};

/** `prepare` of the suites. Ends the capture with the file's tests. */
export async function bridge(l: Lab): Promise<void> {
  neighbour = await l.start({ name: 'neighbour' });
  for (const side of ['control', 'held'] as const)
    victims.set(side, await l.start({ name: `victim-${side}` }));
  wire = await Wire.tap(l, neighbour);
  // as on a bare bridge: with these on, iptables reads what neighbours say to one another
  for (const table of ['iptables', 'ip6tables', 'arptables'])
    await l.inHost(['sysctl', '-qw', `net.bridge.bridge-nf-call-${table}=0`], { check: true });
}
/** Call it in each file. */
export const endCapture = (): void => afterAll(() => wire?.stop());
