import { describe, expect, it } from 'vitest';
import type { Mode } from '../../../src/policy/policy.js';
import { backstopProgram } from '../../../src/ruleset/backstop-table.js';
import { compile } from '../../../src/ruleset/compile.js';
import {
  type DesiredInput,
  type Layer,
  NO_HOST_NET,
  type Subject,
} from '../../../src/ruleset/desired-state.js';
import { markOf } from '../../../src/ruleset/marks.js';
import { containerChain, threatSet } from '../../../src/ruleset/naming.js';
import { membershipOf } from '../../../src/ruleset/policy-evaluator.js';
import { type TracePacket, trace } from '../../../src/ruleset/trace.js';
import { input, member, shape } from './sample.js';

const { marks } = shape;
const FAMILIES = [4, 6] as const;
type Family = (typeof FAMILIES)[number];
const INTERNET = { 4: '93.184.1.1', 6: '2600:9000::1' };
const BAD = { 4: '192.0.2.66', 6: '2001:db8::66' };
const HOST = { 4: '198.51.100.2', 6: '2001:db8:1::2' };
const OTHER = { 4: '172.18.0.9', 6: 'fd00:18::9' };
const listed = (set: string, address: string): boolean =>
  FAMILIES.some((f) => set === threatSet('DB', 'block', 'both', 'ip', f) && address === BAD[f]);

const sender = (mode: Mode) => member(2, '10.1.0.0/16', mode);
const own = (family: Family): string => sender('enforce').veths[0]?.[family === 4 ? 'ip4' : 'ip6'] ?? '';
/** An error of the container to the internet, about the flow with these sources. */
const error = (family: Family, mode: Mode, orig: string, reply: string): TracePacket => ({
  family,
  mark: markOf(marks, 2, mode),
  proto: 'icmp',
  src: own(family),
  dst: INTERNET[family],
  in: 'br-test',
  states: ['RELATED'],
  flowSources: { orig, reply },
});
function through(
  packet: TracePacket,
  chain = 'DB-FORWARD',
  table: Layer = 'verdict',
  from: DesiredInput = input(sender('enforce')),
) {
  const desired = compile(from);
  const chains = desired.tables.find((t) => t.layer === table && t.family === packet.family)?.chains;
  return trace(chains ?? new Map(), chain, packet, membershipOf(desired, listed));
}
const isJudged = (mark: number): boolean => (mark & marks.evaluated) !== 0;
const LAYERS = [
  ['verdict', 'DB-FORWARD'],
  ['verdict', 'DB-INPUT'],
  ['backstop', 'DB-BACKSTOP'],
  ['backstop', 'DB-BACKSTOP-IN'],
] as const;

describe.each(FAMILIES)('ICMP errors, IPv%i', (family) => {
  const foreign = error(family, 'enforce', INTERNET[family], OTHER[family]);
  const aboutOwn = [
    // what it opened, masqueraded; what was opened to its published port
    error(family, 'enforce', own(family), INTERNET[family]),
    error(family, 'enforce', INTERNET[family], own(family)),
  ];

  it.each(LAYERS)('%s %s, by itself, refuses one about a flow of others', (table, chain) => {
    expect(through(foreign, chain, table).verdict).toMatch(/^(drop|reject)$/);
  });

  it.each(['DB-FORWARD', 'DB-INPUT'])('%s permits one about an own flow, either end', (chain) => {
    for (const packet of aboutOwn) {
      const { verdict, mark } = through(packet, chain);
      expect([verdict, isJudged(mark)]).toEqual(['return', true]);
      const long = through({ ...packet, bytes: family === 4 ? 577 : 1281 }, chain);
      expect(long.verdict).toBe('reject');
      expect(through({ ...packet, bytes: family === 4 ? 576 : 1280 }, chain).verdict).toBe('return');
    }
  });

  it('security lets pass what filter permitted', () => {
    for (const [table, chain] of LAYERS.slice(2))
      for (const packet of aboutOwn)
        expect(
          through({ ...packet, mark: (packet.mark | marks.evaluated) >>> 0 }, chain, table).verdict,
        ).toBe('return');
  });

  it.each(['observe', 'off'] as const)('of a container in mode %s: none to a threat, else any', (mode) => {
    const from = input(sender(mode));
    const packet = error(family, mode, INTERNET[family], OTHER[family]);
    for (const [table, chain] of [LAYERS[0], LAYERS[2]]) {
      expect(through(packet, chain, table, from).verdict).toBe('return');
      expect(through({ ...packet, dst: BAD[family] }, chain, table, from).verdict).toMatch(/^(drop|reject)$/);
    }
  });

  it('a new port has no permit for them yet, and its container all others', () => {
    const m = sender('enforce');
    const fresh = input({ ...m, veths: m.veths.map((p) => ({ ...p, isNew: true as const })) });
    for (const packet of aboutOwn) {
      expect(through(packet, 'DB-FORWARD', 'verdict', fresh).verdict).toBe('reject');
      expect(through(packet).verdict).toBe('return');
    }
    const e: TracePacket = { ...error(4, 'enforce', '', ''), proto: 'tcp', dst: '10.1.0.1', states: ['NEW'] };
    expect(through({ ...e, dport: 443 }, 'DB-FORWARD', 'verdict', fresh).verdict).toBe('return');
  });

  it.each(['enforce', 'observe'] as const)('addresses change no rule that counts, in mode %s', (mode) => {
    const m = sender(mode);
    const rules = (ports: Subject['veths']) => {
      const tables = compile(input({ ...m, veths: ports })).tables;
      const filter = tables.find((t) => t.layer === 'verdict' && t.family === family);
      return filter?.chains.get(containerChain('DB', m.id));
    };
    const bound = rules(m.veths);
    expect(bound?.length).toBeGreaterThan(1);
    expect(rules([])).toEqual(bound);
    expect(rules(m.veths.map((p) => ({ ...p, isNew: true as const })))).toEqual(bound);
    expect(rules(m.veths.map((p) => ({ ...p, ip4: '10.1.0.99', ip6: 'fd00:10::99' })))).toEqual(bound);
  });

  it('those of routers come in to containers; without a mark none leaves a managed bridge', () => {
    for (const [table, chain] of LAYERS) {
      const router = { ...foreign, mark: 0, src: HOST[family], dst: own(family), in: 'eth0' };
      expect(through(router, chain, table).verdict).toBe('return');
      expect(through({ ...foreign, mark: 0 }, chain, table).verdict).toBe('drop');
    }
  });
});

it.each(['forward', 'input'])('the backstop in nft drops what has no permit, by itself: %s', (chain) => {
  const lines = backstopProgram(shape, NO_HOST_NET).rules.get(chain) ?? [];
  const { enforced, unknown, evaluated: judged } = marks;
  const unjudged = (bit: number): string =>
    `meta mark & 0x${((bit | judged) >>> 0).toString(16)} == 0x${bit.toString(16)} drop`;
  expect(lines.at(-1)).toBe(unjudged(enforced));
  // ahead of what stands, for veths that nobody knows
  expect(lines.indexOf(unjudged(unknown))).toBeGreaterThan(0);
  expect(lines.indexOf(unjudged(unknown))).toBeLessThan(lines.indexOf('ct state established accept'));
  // what `early` has marked has no identity and is established
  const answered = `meta mark 0x${judged.toString(16)} meta mark set 0 accept`;
  expect(lines.filter((l) => l === answered)).toHaveLength(chain === 'forward' ? 1 : 0);
  const accepts = lines.filter((l) => l.endsWith(' accept') && l !== answered);
  const both = `0x${((enforced | judged) >>> 0).toString(16)}`;
  expect(accepts).toEqual([
    // plain IPv4 only: no options, no extension headers
    ...(chain === 'forward' ? [`meta mark & ${both} == ${both} @nh,0,8 0x45 accept`] : []),
    `meta mark & 0x${enforced.toString(16)} == 0x0 accept`.replace('0x0', '0'),
    ...(chain === 'input' ? ['icmpv6 type { 133, 135, 136 } accept'] : []),
    'ct state established accept',
  ]);
});

it('an entry for a network of multicast opens no group: only one that names a group', () => {
  const of = (allow: string) => {
    const { mcast4, mcast6 } = compile(input(member(2, allow))).bridge;
    return [...mcast4, ...mcast6].map((e) => e.replace(/^\d+ /, ''));
  };
  expect(of('224.0.0.0/24:5353/udp, [ff02::/112]:5353/udp, 224.0.0.0-224.0.0.251:5353/udp')).toEqual([]);
  expect(of('224.0.0.251:5353/udp, [ff02::fb]:5353/udp')).toEqual([
    '. 224.0.0.251 . 5353',
    '. ff02::fb . 5353',
  ]);
  expect(of('224.0.0.251:5353/tcp')).toEqual([]);
});

it('the backstop in nft wants the permit of filter for an error, too', () => {
  const { rules } = backstopProgram(shape, NO_HOST_NET);
  for (const [chain, lines] of rules)
    expect([chain, lines.filter((l) => /related/.test(l))]).toEqual([chain, []]);
});

it('options and extension headers of the host network are looked at ahead of its permits and its flows', () => {
  const { rules } = backstopProgram(shape, NO_HOST_NET);
  const lines = rules.get('host') ?? [];
  const jumps = lines.filter((l) => l.endsWith(' jump extended'));
  expect(jumps).toEqual(['ip hdrlength != 5 jump extended', 'ip6 nexthdr { 0, 43, 51, 60 } jump extended']);
  const flags = ['meta mark', 'ct mark'].map(
    (mark) => `${mark} & 0x${marks.enforced.toString(16)} == 0x${marks.enforced.toString(16)} drop`,
  );
  expect(rules.get('extended')).toEqual(flags);
  const permits = lines.flatMap((l, i) => (/ accept$/.test(l) && !/direction reply/.test(l) ? [i] : []));
  expect(Math.min(...permits)).toBeGreaterThan(lines.indexOf(jumps[1] ?? ''));
});
