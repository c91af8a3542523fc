/** A resolver's answers as an attacker makes them: it owns a zone that is permitted, and sends to whatever it is told. */
import type { NameRule } from '../lab/zone.js';
import { ask, type Query } from './dns.js';
import { spray } from './listener.js';
import type { Family } from './report.js';
import { type Attempt, PERMITTED, seen, type Technique } from './technique.js';

/** Everything below it is the attacker's, and permitted. */
export const ZONE = 'answers.test';
export const PORT = 5000;
export const BOTH: readonly Family[] = ['v4', 'v6'];
export const ALLOW = `${PERMITTED.v4}:80, [${PERMITTED.v6}]:80, .${ZONE}:${PORT}/tcp+udp`;

export const name = (a: Attempt): string => `${a.tag}.${ZONE}`;
export const type = (a: Attempt): number => (a.family === 'v4' ? 1 : 28);
/** An address of the private network behind the uplink that only this attempt uses. */
export const inside = (a: Attempt): string =>
  a.family === 'v4' ? a.target.replace('93.184', '10.200') : a.target.replace('2600:9000', 'fdc0:200');
export const pointing = (a: Attempt, to: string): NameRule =>
  a.family === 'v4' ? { A: [to] } : { AAAA: [to] };
export const beside = (
  a: Attempt,
  section: 'answers' | 'authorities' | 'additionals',
  owner: string,
): NonNullable<NameRule['beside']> => [
  { section, name: owner, type: a.family === 'v4' ? 'A' : 'AAAA', data: a.target },
];

interface Lie {
  readonly rule: (a: Attempt) => NameRule;
  /** What the attacker's other zone says of the attempt's name. */
  readonly elsewhere?: (a: Attempt) => NameRule;
  /** Where it wants to get: it sends there, and to all that it is told. */
  readonly aim?: (a: Attempt) => string;
  readonly query?: (a: Attempt) => Partial<Query>;
  readonly times?: number;
  readonly families?: readonly Family[];
}
export function lying({ rule, elsewhere, aim = (a) => a.target, query, times = 1, families = BOTH }: Lie) {
  return {
    families,
    attack: async (a) => {
      await a.lab.dns.set({
        [name(a)]: rule(a),
        ...(elsewhere && { [`${a.tag}.elsewhere.test`]: elsewhere(a) }),
      });
      const told = new Set([aim(a)]);
      for (let i = 0; i < times; i++) {
        const { replies } = await ask(a, { name: name(a), type: type(a), ...query?.(a) });
        for (const address of replies.flatMap((r) => r.addresses)) told.add(address);
      }
      await spray(a, [...told], PORT);
    },
    reached: (a) => seen(a, { dst: plain(aim(a)), dport: PORT, payloadIncludes: a.tag }),
  } satisfies Pick<Technique, 'families' | 'attack' | 'reached'>;
}
/** A mapped address is its IPv4 address on the wire. */
const plain = (address: string): string => address.replace('::ffff:', '');
export const forged = (forge: NonNullable<NameRule['forge']>) =>
  lying({
    rule: (a) => ({
      ...pointing(a, a.family === 'v4' ? '93.184.90.9' : '2600:9000:90::9'),
      forge,
      forgedAddress: a.target,
      delayMs: 200,
    }),
    query: () => ({ naive: true }),
  });
