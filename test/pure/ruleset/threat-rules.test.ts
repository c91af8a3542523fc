import { describe, expect, it } from 'vitest';
import { readConfig } from '../../../src/config/config.js';
import { TUNNEL_NAMES, type Tunnel } from '../../../src/lib/special-use.js';
import type { Mode } from '../../../src/policy/policy.js';
import { compile } from '../../../src/ruleset/compile.js';
import type { Layer, Subject } from '../../../src/ruleset/desired-state.js';
import { shapeOf } from '../../../src/ruleset/kernel-config.js';
import { identityMark, markOf, UNATTRIBUTED } from '../../../src/ruleset/marks.js';
import { threatSet } from '../../../src/ruleset/naming.js';
import { membershipOf, PolicyEvaluator } from '../../../src/ruleset/policy-evaluator.js';
import { type TracePacket, trace } from '../../../src/ruleset/trace.js';
import { input, member, shape } from './sample.js';

const SETS = new Map([
  [threatSet('DB', 'block', 'both', 'ip', 4), ['192.0.2.66']],
  [threatSet('DB', 'block', 'both', 'net', 4), ['192.0.2.200']],
  [threatSet('DB', 'block', 'both', 'ip', 6), ['2001:db8::66']],
  [threatSet('DB', 'observe', 'both', 'ip', 4), ['192.0.2.77']],
  [threatSet('DB', 'block', 'outbound', 'ip', 4), ['192.0.2.88']],
  [threatSet('DB', 'block', 'inbound', 'net', 4), ['192.0.2.99']],
  [threatSet('DB', 'block', 'outbound', 'net', 6), ['2001:db8::88']],
  [threatSet('DB', 'block', 'inbound', 'ip', 6), ['2001:db8::99']],
  [threatSet('DB', 'observe', 'inbound', 'ip', 4), ['192.0.2.55']],
]);
const held = (set: string, address: string): boolean => SETS.get(set)?.includes(address) ?? false;
const MODES: readonly Mode[] = ['enforce', 'observe', 'off'];
const ALL = 'any:1-65535/tcp+udp, any:1-65535/tcp';

function world(mode: Mode) {
  const m = { ...member(2, ALL, mode), published: [{ proto: 'tcp' as const, port: 80 }] };
  const desired = compile(input(m));
  return { m, desired, judge: new PolicyEvaluator(shape, desired, held, new Set()) };
}
function out(m: Subject, dst: string, more: Partial<TracePacket> = {}): TracePacket {
  const family = dst.includes(':') ? 6 : 4;
  const src = (family === 4 ? m.veths[0]?.ip4 : m.veths[0]?.ip6) ?? '';
  return { family, mark: 0, proto: 'tcp', src, dst, dport: 443, states: ['NEW'], syn: true, ...more };
}
const inward = (m: Subject, src: string, more: Partial<TracePacket> = {}): TracePacket => {
  const p = out(m, src, { dport: 80, states: ['NEW', 'DNAT'], ...more });
  return { ...p, src: p.dst, dst: p.src };
};

describe.each(MODES)('threats beat the policy of a container in mode %s', (mode) => {
  const { m, desired, judge } = world(mode);
  const sent = (p: TracePacket) => judge.evaluate({ ...p, mark: judge.markOf(m) });

  it.each(['192.0.2.66', '192.0.2.200', '2001:db8::66'])('%s is refused, both ways', (bad) => {
    for (const proto of ['tcp', 'udp', 'icmp', 47] as const)
      expect(sent(out(m, bad, { proto })).verdict).toBe('reject');
    expect(judge.evaluate(inward(m, bad)).verdict).toBe('reject');
    expect(sent(out(m, bad)).steps.some((s) => s.text.includes('--nflog-prefix DB:threat'))).toBe(true);
  });

  it('its neighbours in address space are not, and what is only watched is logged and passes', () => {
    expect(sent(out(m, '192.0.2.67')).verdict).toBe('return');
    expect(judge.evaluate(inward(m, '192.0.2.67')).verdict).toBe('return');
    const seen = sent(out(m, '192.0.2.77'));
    expect(seen.verdict).toBe('return');
    expect(seen.steps.some((s) => s.text.includes('--nflog-prefix DB:seen'))).toBe(true);
    expect(judge.permits({ ...out(m, '192.0.2.77'), mark: judge.markOf(m) })).toBe(true);
  });

  it.each([
    ['192.0.2.88', '192.0.2.99'],
    ['2001:db8::88', '2001:db8::99'],
  ])('%s, of an outbound feed, may come in, and %s, of an inbound one, is reached', (destination, source) => {
    expect([sent(out(m, destination)).verdict, judge.evaluate(inward(m, destination)).verdict]).toEqual([
      'reject',
      'return',
    ]);
    expect([sent(out(m, source)).verdict, judge.evaluate(inward(m, source)).verdict]).toEqual([
      'return',
      'reject',
    ]);
  });

  it('what an inbound feed only watches is logged as it comes in, and not on the way out', () => {
    const isSeen = (steps: readonly { readonly text: string }[]): boolean =>
      steps.some((s) => s.text.includes('--nflog-prefix DB:seen'));
    const [came, went] = [judge.evaluate(inward(m, '192.0.2.55')), sent(out(m, '192.0.2.55'))];
    expect([came.verdict, isSeen(came.steps), went.verdict, isSeen(went.steps)]).toEqual([
      'return',
      true,
      'return',
      false,
    ]);
  });

  it('an established flow meets no set', () => {
    const on = sent(out(m, '192.0.2.66', { states: ['ESTABLISHED'] }));
    expect([on.verdict, on.steps.length]).toEqual(['return', 1]);
  });

  it.each([4, 6] as const)('with IPv%i rules in filter gone, security drops', (family) => {
    const table = desired.tables.find((t) => t.family === family && t.layer === 'backstop');
    const bad = family === 4 ? '192.0.2.200' : '2001:db8::66';
    const has = membershipOf(desired, held);
    const walk = (p: TracePacket) => trace(table?.chains ?? new Map(), 'DB-BACKSTOP', p, has).verdict;
    // as if somebody's rule had accepted it: judged or not
    for (const judged of [0, shape.marks.evaluated])
      expect(walk({ ...out(m, bad), mark: (judge.markOf(m) | judged) >>> 0 })).toBe('drop');
    expect(walk(inward(m, bad))).toBe('drop');
    const [to, from] = family === 4 ? ['192.0.2.88', '192.0.2.99'] : ['2001:db8::88', '2001:db8::99'];
    const judged = (judge.markOf(m) | shape.marks.evaluated) >>> 0;
    const ways = [walk({ ...out(m, to), mark: judged }), walk(inward(m, from))];
    const others = [walk({ ...out(m, from), mark: judged }), walk(inward(m, to))];
    expect(ways).toEqual(['drop', 'drop']);
    expect(others).not.toContain('drop');
  });
});

describe.each([4, 6] as const)('a forged source, IPv%i', (family) => {
  const enforced = { ...member(2, ALL), published: [{ proto: 'udp' as const, port: 80 }] };
  const base = input(enforced, member(3, '', 'observe'), member(4, '', 'off'));
  const from = {
    ...base,
    bridges: base.bridges.map((b) => ({ ...b, subnets: ['172.18.0.0/16', 'fd00:18::/64'] })),
  };
  const desired = compile(from);
  const has = membershipOf(desired, held);
  const addressOf = (n: number): string => base.subjects[n]?.veths[0]?.[family === 4 ? 'ip4' : 'ip6'] ?? '';
  const send = (table: Layer, chain: string, src: string, dst: string, mark: number) =>
    trace(
      desired.tables.find((t) => t.family === family && t.layer === table)?.chains ?? new Map(),
      chain,
      { family, mark, proto: 'udp', src, dst, dport: 80, states: ['NEW'] },
      has,
    );
  const LISTED =
    family === 4
      ? ['192.0.2.66', '192.0.2.88', '192.0.2.99']
      : ['2001:db8::66', '2001:db8::88', '2001:db8::99'];
  const UNLISTED = family === 4 ? '192.0.2.1' : '2001:db8::1';
  const GATEWAY = family === 4 ? '172.18.0.1' : 'fd00:18::1';
  const unattributed = identityMark(shape.marks, UNATTRIBUTED);
  const SENDERS = [
    ['observed', markOf(shape.marks, 3, 'observe')],
    ['off', markOf(shape.marks, 4, 'off')],
    ['unattributed', unattributed],
  ] as const;

  it.each(SENDERS)('that a feed of any direction lists goes nowhere: %s', (_, mark) => {
    for (const bad of LISTED) {
      // never an answer: it would go to the threat
      for (const [table, chain, dst] of [
        ['verdict', 'DB-FORWARD', addressOf(0)],
        ['verdict', 'DB-FORWARD', addressOf(1)],
        ['verdict', 'DB-FORWARD', LISTED[0] ?? ''],
        ['verdict', 'DB-FORWARD', UNLISTED],
        ['verdict', 'DB-INPUT', GATEWAY],
        ['verdict', 'DB-INPUT', family === 4 ? shape.dns.v4 : shape.dns.v6],
        ['backstop', 'DB-BACKSTOP', addressOf(1)],
        ['backstop', 'DB-BACKSTOP-IN', GATEWAY],
      ] as const)
        expect([chain, dst, send(table, chain, bad, dst, mark).verdict]).toEqual([chain, dst, 'drop']);
      for (const [table, chain] of [
        ['verdict', 'DB-INPUT'],
        ['backstop', 'DB-BACKSTOP-IN'],
      ] as const)
        expect(send(table, chain, addressOf(1), GATEWAY, mark).verdict).toBe('return');
    }
  });

  it('of nobody is not heard by an enforced container, and by an observed one it is', () => {
    for (const [who, mark] of SENDERS) {
      expect([who, send('verdict', 'DB-FORWARD', UNLISTED, addressOf(0), mark).verdict]).toEqual([
        who,
        'drop',
      ]);
      expect([who, send('verdict', 'DB-FORWARD', UNLISTED, addressOf(1), mark).verdict]).toEqual([
        who,
        'return',
      ]);
      expect([who, send('verdict', 'DB-FORWARD', addressOf(1), addressOf(0), mark).verdict]).toEqual([
        who,
        'return',
      ]);
    }
    const free = family === 4 ? '172.18.0.77' : 'fd00:18::77';
    expect(send('verdict', 'DB-FORWARD', free, addressOf(0), unattributed).verdict).toBe('return');
    expect(send('verdict', 'DB-FORWARD', free, addressOf(0), SENDERS[0][1]).verdict).toBe('drop');
  });
});

describe('tunnels that carry IPv4', () => {
  const TUNNELED = [
    '2002:c000:242::1',
    '2001:0:1:2:3:4:5:6',
    '2600:9000::5efe:c000:242',
    '2600:9000::200:5efe:1:2',
  ];
  const walk = (table: Layer, chain: string, more: Partial<TracePacket>, tunnels: readonly Tunnel[]) => {
    const base = input(member(2, ALL, 'observe'), member(3, ALL));
    const desired = compile({ ...base, shape: { ...shape, tunnels } });
    const packet: TracePacket = {
      family: 6,
      mark: markOf(shape.marks, 2, 'observe'),
      proto: 'udp',
      src: base.subjects[0]?.veths[0]?.ip6 ?? '',
      dst: '2600:9000::1',
      dport: 80,
      states: ['NEW'],
      ...more,
    };
    const chains = desired.tables.find((t) => t.family === 6 && t.layer === table)?.chains ?? new Map();
    return trace(chains, chain, packet, membershipOf(desired, held)).verdict;
  };
  it.each(TUNNELED)('%s is closed as a destination and as a forged source where there are feeds', (text) => {
    for (const [table, chain] of [
      ['verdict', 'DB-FORWARD'],
      ['backstop', 'DB-BACKSTOP'],
    ] as const) {
      expect(walk(table, chain, { dst: text }, TUNNEL_NAMES)).toMatch(/^(drop|reject)$/);
      expect(walk(table, chain, { src: text }, TUNNEL_NAMES)).toBe('drop');
      expect(walk(table, chain, {}, TUNNEL_NAMES)).toBe('return');
      expect(walk(table, chain, { dst: text }, [])).toBe('return');
    }
  });
  it('"any" never means an ISATAP address, feeds or not', () => {
    const mark = markOf(shape.marks, 3, 'enforce');
    expect(walk('verdict', 'DB-FORWARD', { mark }, [])).toBe('return');
    for (const dst of TUNNELED.slice(1))
      expect(walk('verdict', 'DB-FORWARD', { mark, dst }, [])).toBe('reject');
  });
});

describe('what is no container', () => {
  const { judge } = world('enforce');
  const strange = (src: string, dst: string): TracePacket => ({
    family: 4,
    mark: 0,
    proto: 'tcp',
    src,
    dst,
    dport: 443,
    states: ['NEW'],
    syn: true,
  });
  it('is left alone: other tools’ bridges, the host’s own routing', () => {
    expect(judge.evaluate(strange('10.200.0.2', '192.0.2.66')).verdict).toBe('return');
    expect(judge.evaluate(strange('192.0.2.66', '10.200.0.2')).verdict).toBe('return');
  });
  it('but for build steps and other unattributed senders', () => {
    const mark = (1 << shape.marks.shift) >>> 0;
    expect(judge.evaluate({ ...strange('172.18.0.9', '192.0.2.66'), mark }).verdict).toBe('reject');
  });
});

describe('the sets of threats', () => {
  const lookups = (withoutFeeds: boolean): string[] => {
    const desired = compile({
      ...input(member(2, ALL, 'observe')),
      shape: { ...shape, ...(withoutFeeds && { withoutFeeds: true as const }) },
    });
    return desired.tables.flatMap(({ layer, family, chains }) =>
      [...chains].flatMap(([chain, rules]) =>
        rules.some((r) => r.then.k === 'jump' && /-THREAT(?:-FORGED)?$/.test(r.then.chain))
          ? [`${layer}${family} ${chain}`]
          : [],
      ),
    );
  };

  it('are looked up if and only if a feed is configured', () => {
    expect(lookups(false)).toEqual(
      expect.arrayContaining(
        ([4, 6] as const).flatMap((family) => [
          ...['DB-OPEN', 'DB-INPUT', 'DB-HN-OUT'].map((chain) => `verdict${family} ${chain}`),
          ...['DB-BACKSTOP', 'DB-BACKSTOP-IN', 'DB-BACKSTOP-HN'].map((chain) => `backstop${family} ${chain}`),
        ]),
      ),
    );
    expect(lookups(true).filter((chain) => !chain.endsWith(' DB-THREAT'))).toEqual([]);
    const configured = (text: string): boolean => {
      const config = readConfig({ file: { name: 'drawbridge.yaml', text } });
      if (!config.ok) throw new Error(JSON.stringify(config.problems));
      return shapeOf(config.value).withoutFeeds !== true;
    };
    expect(configured('')).toBe(false);
    expect(configured('threats: { catalogue: true }')).toBe(true);
    expect(configured('threats: { feeds: [{ name: a, url: "https://feeds.test/a" }] }')).toBe(true);
  });
});
