import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formatAddress, parseAddress, parseCidr, rangeHas } from '../../../src/lib/ip.js';
import { privateRangeOf } from '../../../src/lib/special-use.js';
import { compile } from '../../../src/ruleset/compile.js';
import type { Subject } from '../../../src/ruleset/desired-state.js';
import { classSet } from '../../../src/ruleset/naming.js';
import { PolicyEvaluator } from '../../../src/ruleset/policy-evaluator.js';
import { type TracePacket, trace } from '../../../src/ruleset/trace.js';
import { BARE_FLOW } from '../bare-flow.js';
import { runs } from '../runs.js';
import { entriesOf, input, member, shape } from './sample.js';

const HOST = new Set(['172.18.0.1', '192.0.2.2']);

function judgeOf(
  members: readonly Subject[],
  learned: ReadonlyMap<string, ReadonlySet<string>> = new Map(),
): PolicyEvaluator {
  return new PolicyEvaluator(
    shape,
    compile(input(...members)),
    (set, address) => learned.get(set)?.has(address) ?? false,
    HOST,
  );
}

function packet(m: Subject, dst: string, proto: TracePacket['proto'], dport?: number): TracePacket {
  const family = dst.includes(':') ? 6 : 4;
  return {
    family,
    mark: 0,
    proto,
    src: (family === 4 ? m.veths[0]?.ip4 : m.veths[0]?.ip6) ?? '',
    dst,
    states: ['NEW'],
    syn: proto === 'tcp',
    ...(dport === undefined ? {} : { dport }),
    ...(proto === 'icmp' ? { echo: true } : {}),
  };
}
const permits = (j: PolicyEvaluator, m: Subject, p: TracePacket): boolean =>
  j.permits({ ...p, mark: j.markOf(m) });

/** What the entries say, read off the specification and not off the rules. */
function oracle(m: Subject, p: TracePacket): boolean {
  const value = parseAddress(p.dst);
  if (!value) return false;
  return m.policy.entries.some(({ entry }) => {
    const t = entry.target;
    const isThere =
      (t.kind === 'address' && rangeHas(t.range, value)) ||
      (t.kind === 'any' && privateRangeOf(value) === undefined && !HOST.has(p.dst)) ||
      (t.kind === 'host' && HOST.has(p.dst));
    if (!isThere || (t.kind !== 'host' && HOST.has(p.dst))) return false;
    const isDns = p.dport === 53 && (p.proto === 'tcp' || p.proto === 'udp');
    if (isDns && t.kind !== 'host' && !entry.flags.includes('dns=direct')) return false;
    return portsPermit(entry, p);
  });
}

function portsPermit(entry: Subject['policy']['entries'][number]['entry'], p: TracePacket): boolean {
  const inPorts =
    entry.ports.length === 0 ||
    entry.ports.some((r) => p.dport !== undefined && p.dport >= r.lo && p.dport <= r.hi);
  if (entry.proto === undefined)
    return entry.ports.length > 0
      ? p.proto === 'tcp' && inPorts
      : p.proto === 'tcp' || p.proto === 'udp' || p.proto === 'icmp';
  if (entry.proto === 'tcp+udp') return (p.proto === 'tcp' || p.proto === 'udp') && inPorts;
  if (entry.proto === 'gre') return p.proto === 47;
  return p.proto === entry.proto && inPorts;
}

const POOL = [
  '10.1.0.0/16:5432',
  '10.0.0.5-10.0.0.9:22',
  '140.82.112.3',
  '[2001:db8::/32]:443',
  'any:443',
  'any:8000-8100/udp',
  'host:8125/udp',
  'host:22',
  '192.0.2.9/icmp',
  '198.51.100.0/24/gre',
  '10.9.0.1:53/udp dns=direct',
  '203.0.113.0/24:1,3,5,7,9,11,13,15,17,19,21,23,25,27,29,31,33-40/tcp+udp',
];
const DESTINATIONS = [
  '10.1.2.3',
  '10.0.0.5',
  '10.0.0.9',
  '10.0.0.10',
  '140.82.112.3',
  '140.82.112.4',
  '2001:db8::7',
  '2600::1',
  '93.184.1.1',
  '172.18.0.1',
  '192.0.2.2',
  '192.0.2.9',
  '198.51.100.7',
  '10.9.0.1',
  '203.0.113.5',
  '169.254.169.254',
  'fe80::1',
  '100.64.0.1',
];
const PORTS = [1, 22, 33, 35, 41, 53, 80, 443, 5432, 8000, 8050, 8100, 8101, 8125];

describe('the rendered rules say what the entries say', () => {
  it('for any set of entries and any new connection', { timeout: 60_000 }, () => {
    const packets = fc.record({
      dst: fc.constantFrom(...DESTINATIONS),
      proto: fc.constantFrom('tcp' as const, 'udp' as const, 'icmp' as const, 47),
      port: fc.constantFrom(...PORTS),
    });
    fc.assert(
      fc.property(
        fc.subarray(POOL),
        fc.integer({ min: 2, max: 8000 }),
        packets,
        (entries, identity, { dst, proto, port }) => {
          const m = member(identity, entries.join('\n'));
          const others = [member(identity === 2 ? 3 : 2, 'any:1-65535/tcp+udp')];
          const p = packet(m, dst, proto, proto === 'tcp' || proto === 'udp' ? port : undefined);
          expect(permits(judgeOf([m, ...others]), m, p)).toBe(oracle(m, p));
        },
      ),
      { numRuns: runs(500) },
    );
  });

  it('a learned address opens the ports of its names only, for its container only', () => {
    const m = member(2, 'a.org, b.org:8443');
    const other = member(3, 'a.org');
    const web = classSet('DB', m.id, 'tcp:80,443 udp:443', 4, 'learned');
    const j = judgeOf([m, other], new Map([[web, new Set(['93.184.1.1'])]]));
    expect(permits(j, m, packet(m, '93.184.1.1', 'tcp', 443))).toBe(true);
    expect(permits(j, m, packet(m, '93.184.1.1', 'tcp', 8443))).toBe(false);
    expect(permits(j, m, packet(m, '93.184.1.2', 'tcp', 443))).toBe(false);
    expect(permits(j, other, packet(other, '93.184.1.1', 'tcp', 443))).toBe(false);
  });

  it('"any" leaves out public space that Docker networks use', () => {
    const m = member(2, 'any:443');
    const at = (inside: readonly string[], dst: string): boolean => {
      const ranges = inside.flatMap((text) => parseCidr(text) ?? []);
      const j = new PolicyEvaluator(shape, compile({ ...input(m), inside: ranges }), () => false, HOST);
      return permits(j, m, packet(m, dst, 'tcp', 443));
    };
    const networks = ['45.45.0.0/24', '2606:4700:77::/64'];
    for (const dst of ['45.45.0.7', '2606:4700:77::7'])
      expect([at([], dst), at(networks, dst)]).toEqual([true, false]);
    for (const dst of ['45.45.1.7', '2606:4700:78::7']) expect(at(networks, dst)).toBe(true);
  });

  it('an identity that no chain knows is denied, an unknown port is held once', () => {
    const m = member(2, 'any');
    const j = judgeOf([m]);
    const { marks } = shape;
    const p = packet(m, '93.184.1.1', 'tcp', 443);
    expect(j.evaluate({ ...p, mark: marks.enforced | 77 }).verdict).toBe('reject');
    expect(j.evaluate({ ...p, mark: (marks.enforced | marks.unknown | 5) >>> 0 }).verdict).toBe('queue');
    expect(j.evaluate({ ...p, mark: (marks.enforced | marks.unknown | marks.held | 5) >>> 0 }).verdict).toBe(
      'drop',
    );
    expect(
      j.evaluate({ ...p, mark: (marks.enforced | marks.unknown) >>> 0, states: ['ESTABLISHED'] }).verdict,
    ).toBe('queue');
  });

  describe('held while its flow was ended', () => {
    const { marks } = shape;
    const verdict = (m: Subject, more: Partial<TracePacket> = {}) => {
      const j = judgeOf([m]);
      const mark = (j.markOf(m) | marks.held) >>> 0;
      const p = packet(m, '93.184.1.1', 'udp', 443);
      return j.evaluate({ ...p, mark, connmark: marks.ended, states: ['ESTABLISHED'], ...more }).verdict;
    };
    const permitted = member(2, '93.184.1.1:443/udp, host:443/udp');
    const denied = member(2, '');
    const observed = member(2, '', 'observe');
    it('it is judged as what opens a flow', () => {
      expect([permitted, denied, observed].map((m) => verdict(m))).toEqual(['return', 'reject', 'return']);
      expect(verdict(denied, { connmark: 0 })).toBe('return'); // its flow is there
      expect(verdict(denied, { mark: judgeOf([denied]).markOf(denied) })).toBe('return'); // it has not waited
    });
    it('no ICMP error about it passes, and nothing to the host', () => {
      for (const m of [permitted, denied, observed]) {
        expect(verdict(m, { proto: 'icmp', states: ['RELATED'] })).toBe('drop');
        expect(verdict(m, { dst: '192.0.2.2' })).toBe('drop');
        expect(verdict(m, { dst: '192.0.2.2', connmark: 0 })).toBe('return');
      }
    });
  });

  it('from elsewhere to an enforced container only what was DNATed or opens a published port', () => {
    const m = { ...member(2, ''), published: [{ proto: 'tcp' as const, port: 80 }] };
    const j = judgeOf([m]);
    const inward: TracePacket = {
      family: 4,
      mark: 0,
      proto: 'tcp',
      src: '93.184.1.1',
      dst: m.veths[0]?.ip4 ?? '',
      dport: 80,
      states: ['NEW'],
      syn: true,
    };
    expect(j.evaluate(inward).verdict).toBe('return');
    expect(j.evaluate({ ...inward, syn: false }).verdict).toBe('drop');
    expect(j.evaluate({ ...inward, dport: 81 }).verdict).toBe('drop');
    expect(j.evaluate({ ...inward, dport: 81, states: ['NEW', 'DNAT'] }).verdict).toBe('return');
    expect(j.evaluate({ ...inward, dst: '172.18.9.9' }).verdict).toBe('return');
  });
});

it.each(['tcp', 'udp'] as const)('a published %s port opens no port of another protocol', (proto) => {
  const m = { ...member(2, ''), published: [{ proto, port: 80 }] };
  const j = judgeOf([m]);
  for (const family of [4, 6] as const)
    for (const sent of ['tcp', 'udp', 132] as const) {
      const p: TracePacket = {
        family,
        mark: 0,
        proto: sent,
        src: family === 4 ? '93.184.1.1' : '2600:9000::1',
        dst: m.veths[0]?.[family === 4 ? 'ip4' : 'ip6'] ?? '',
        dport: 80,
        states: ['NEW'],
        syn: sent === 'tcp',
      };
      expect([family, sent, j.evaluate(p).verdict]).toEqual([
        family,
        sent,
        sent === proto ? 'return' : 'drop',
      ]);
    }
});

describe.each([4, 6] as const)('a `host:` entry and DNAT, IPv%i', (family) => {
  const m = member(2, 'host:8080/tcp+udp');
  const j = judgeOf([m]);
  const [inside, own, foreign] =
    family === 4 ? ['172.19.0.5', '192.0.2.2', '203.0.113.9'] : ['fd00:19::5', 'fd00::2', '2001:db8::9'];
  const flow = (to: string, proto: number) => ({
    ...BARE_FLOW,
    family,
    proto,
    mark: 0,
    orig: { src: m.veths[0]?.[family === 4 ? 'ip4' : 'ip6'] ?? '', dst: to, sport: 4000, dport: 8080 },
    reply: { src: inside, dst: '', sport: 80, dport: 4000 },
  });
  const at = new PolicyEvaluator(shape, compile(input(m)), () => false, new Set([own]));

  it('permits what was sent to the host, and no address that somebody maps', () => {
    for (const proto of ['tcp', 'udp'] as const) {
      const sent = { ...packet(m, inside, proto, 80), sentTo: 8080, states: ['NEW', 'DNAT'] as const };
      expect(permits(j, m, { ...sent, sentHere: true })).toBe(true);
      expect(permits(j, m, sent)).toBe(false);
      expect(permits(j, m, { ...sent, sentHere: true, sentTo: 8081 })).toBe(false);
    }
  });
  it('a flow is marked as sent to the host by its first destination', () => {
    const nat = compile(input(m)).tables.find((t) => t.family === family && t.layer === 'redirect')?.chains;
    const isMarked = (toHost: boolean): boolean =>
      trace(
        nat ?? new Map(),
        'DB-PREROUTING',
        { ...packet(m, own, 'tcp', 8080), mark: j.markOf(m), toHost },
        () => false,
      ).steps.some(({ rule }) => rule.then.k === 'connMark');
    expect([isMarked(true), isMarked(false)]).toEqual([true, false]);
  });
  it('keeps flows by the same', () => {
    for (const proto of [6, 17]) {
      expect(at.keeps(m, flow(own, proto))).toBe(true);
      expect(at.keeps(m, flow(foreign, proto))).toBe(false);
    }
  });
});

describe.each([4, 6] as const)('a container without a veth, as on macvlan, IPv%i', (family) => {
  const [src, permitted, forbidden] =
    family === 4
      ? ['10.77.0.2', '93.184.7.2', '93.184.9.9']
      : ['fd00:77::2', '2600:9000:7::2', '2600:9000:9::9'];
  const m = member(2, permitted, 'enforce', []);
  const j = judgeOf([m]);
  const flow = (dst: string) => ({
    ...BARE_FLOW,
    family,
    proto: 6,
    mark: 0,
    orig: { src, dst, sport: 4000, dport: 80 },
    reply: { src: dst, dst: src, sport: 80, dport: 4000 },
  });

  it('keeps in its namespace what its entries permit, and nothing on the host', () => {
    expect(j.keeps(m, flow(permitted), 'namespace')).toBe(true);
    expect(j.keeps(m, flow(forbidden), 'namespace')).toBe(false);
    expect(j.keeps(m, flow(permitted))).toBe(false);
  });
  it('is evaluated by its entries when the packet has no source', () => {
    expect(permits(j, m, packet(m, permitted, 'tcp', 80))).toBe(true);
    expect(permits(j, m, packet(m, forbidden, 'tcp', 80))).toBe(false);
    expect(permits(j, m, { ...packet(m, permitted, 'tcp', 80), src })).toBe(false);
  });
});

describe('the dispatch tree', () => {
  it('leads every identity to its own chain, and only that, within four levels', () => {
    const ids = fc.uniqueArray(fc.integer({ min: 2, max: 8191 }), { minLength: 1, maxLength: 60 });
    fc.assert(
      fc.property(ids, (identities) => {
        const members = identities.map((n) => member(n, `10.0.${n >> 8}.${n & 255}:80`));
        const j = judgeOf(members);
        for (const m of members) {
          const own = `10.0.${m.identity >> 8}.${m.identity & 255}`;
          const result = j.evaluate({ ...packet(m, own, 'tcp', 80), mark: j.markOf(m) });
          expect(result.mark & shape.marks.evaluated).not.toBe(0);
          expect(result.steps.length).toBeLessThan(12);
          const foreign = members.find((x) => x !== m);
          if (foreign)
            expect(
              permits(j, m, packet(m, `10.0.${foreign.identity >> 8}.${foreign.identity & 255}`, 'tcp', 80)),
            ).toBe(false);
        }
      }),
      { numRuns: 40 },
    );
  });

  it('needs entries to say anything: an empty policy permits nothing', () => {
    const m = member(5, '');
    const j = judgeOf([m]);
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 0xffffffffn }), fc.integer({ min: 1, max: 65535 }), (v, port) => {
        expect(permits(j, m, packet(m, formatAddress(4, v), 'tcp', port))).toBe(false);
      }),
      { numRuns: 300 },
    );
    expect(entriesOf('')).toEqual([]);
  });
});
