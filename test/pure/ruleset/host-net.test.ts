import { describe, expect, it } from 'vitest';
import { formatAddress, parseAddress } from '../../../src/lib/ip.js';
import { compile } from '../../../src/ruleset/compile.js';
import type { DesiredInput, HostNet, Layer, Subject } from '../../../src/ruleset/desired-state.js';
import { hostResolver, isHostResolver } from '../../../src/ruleset/host-net.js';
import { identityMark } from '../../../src/ruleset/marks.js';
import { namesFor } from '../../../src/ruleset/naming.js';
import { PolicyEvaluator } from '../../../src/ruleset/policy-evaluator.js';
import { chainHashes } from '../../../src/ruleset/render/iptables.js';
import { rule } from '../../../src/ruleset/rules.js';
import { type TracePacket, type TraceResult, trace } from '../../../src/ruleset/trace.js';
import { input, member, shape } from './sample.js';

const { marks } = shape;
const names = namesFor(shape.prefix);
const PARENT = 'docker';
const HOST = new Set(['192.0.2.2', '2001:db8:fff0::2']);
const NET: HostNet = {
  gates: [{ path: PARENT, object: '1' }],
  exempt: [{ path: `${PARENT}/self`, object: '9' }],
  builds: [{ path: `${PARENT}/buildkit`, object: '8' }],
};
const cgroupOf = (identity: number): string => `${PARENT}/${identity}`;
const hosted = (identity: number, allow: string, mode: Subject['policy']['mode'] = 'enforce'): Subject => ({
  ...member(identity, allow, mode, []),
  host: { cgroups: [{ path: cgroupOf(identity), object: `${identity}00` }] },
});
const world = (...members: Subject[]): DesiredInput => ({ ...input(...members), hostNet: NET });
const judgeOf = (...members: Subject[]): PolicyEvaluator =>
  new PolicyEvaluator(shape, compile(world(...members)), () => false, HOST);

const packet = (dst: string, proto: 'tcp' | 'udp' | 'icmp', dport?: number): Omit<TracePacket, 'mark'> => ({
  family: dst.includes(':') ? 6 : 4,
  proto,
  src: '192.0.2.2',
  dst,
  states: ['NEW'],
  syn: proto === 'tcp',
  ...(proto === 'icmp' ? { echo: true } : {}),
  ...(dport === undefined ? {} : { dport }),
});

/** One table's walk for a packet of a cgroup. */
function walk(
  desired: DesiredInput,
  table: Layer,
  start: string,
  cgroup: string,
  more: Partial<TracePacket> = {},
): TraceResult {
  const chains =
    compile(desired).tables.find((t) => t.layer === table && t.family === 4)?.chains ?? new Map();
  const p: TracePacket = { ...packet('198.51.100.9', 'tcp', 80), mark: 0, cgroup, ...more };
  return trace(chains, start, p, () => false);
}

describe('a container in the host network', () => {
  const m = hosted(2, '10.1.0.0/16:5432, [2001:db8::/32]:443, any:443, host:22, 192.0.2.9/icmp');
  const judge = judgeOf(m, hosted(3, 'host'), hosted(4, '', 'observe'));
  const permits = (who: Subject, p: Omit<TracePacket, 'mark'>): boolean =>
    judge.permits(judge.sentBy(who, p));

  it.each<[string, 'tcp' | 'udp' | 'icmp', number | undefined, boolean]>([
    ['10.1.2.3', 'tcp', 5432, true],
    ['10.1.2.3', 'udp', 5432, false],
    ['10.2.2.3', 'tcp', 5432, false],
    ['93.184.1.1', 'tcp', 443, true],
    ['93.184.1.1', 'tcp', 80, false],
    ['2001:db8::7', 'tcp', 443, true],
    ['2600::7', 'tcp', 443, true],
    ['2600::7', 'tcp', 80, false],
    ['192.0.2.9', 'icmp', undefined, true],
    ['192.0.2.10', 'icmp', undefined, false],
    ['93.184.1.1', 'udp', 53, false],
    ['192.0.2.2', 'tcp', 22, true],
    ['127.0.0.1', 'tcp', 22, true],
    ['::1', 'tcp', 22, true],
    ['192.0.2.2', 'tcp', 443, false],
    ['127.0.0.1', 'tcp', 443, false],
    ['2001:db8:fff0::2', 'tcp', 443, false],
  ])('%s %s %s: %s', (dst, proto, port, permitted) => {
    expect(permits(m, packet(dst, proto, port))).toBe(permitted);
  });

  it('its own resolver is open to it, everybody else’s is not, whatever its entries say', () => {
    const all = hosted(3, 'host');
    for (const family of [4, 6] as const) {
      expect(permits(all, packet(hostResolver(3, family), 'udp', shape.dns.port))).toBe(true);
      expect(permits(all, packet(hostResolver(3, family), 'tcp', shape.dns.port))).toBe(true);
      expect(permits(all, packet(hostResolver(2, family), 'udp', shape.dns.port))).toBe(false);
    }
    expect(permits(all, { ...packet(shape.dns.v4, 'udp', shape.dns.port), toHost: true })).toBe(false);
    expect(permits(all, packet('127.0.0.1', 'tcp', 8080))).toBe(true);
  });

  it('Drawbridge’s own ports are nobody’s, in any mode, by whatever way', () => {
    const closed = [{ port: 7070 }, { address: '127.0.0.1', port: 6379 }];
    const all = [hosted(3, 'host, 172.18.0.9'), hosted(4, '', 'observe'), hosted(5, '', 'off')];
    const strict = new PolicyEvaluator(shape, compile({ ...world(...all), closed }), () => false, HOST);
    const verdict = (m: Subject, p: Omit<TracePacket, 'mark'>): string =>
      strict.evaluate(strict.sentBy(m, p)).verdict;
    for (const m of all) {
      expect(verdict(m, packet('127.0.0.1', 'tcp', 7070))).toBe('reject');
      expect(verdict(m, packet('192.0.2.2', 'tcp', 7070))).toBe('reject');
      expect(verdict(m, packet('127.0.0.1', 'tcp', 6379))).toBe('reject');
      expect(verdict(m, packet('192.0.2.2', 'tcp', 6379))).toBe('return');
      const published = {
        ...packet('172.18.0.9', 'tcp', 80),
        sentTo: 7070,
        states: ['NEW', 'DNAT'] as const,
      };
      expect(verdict(m, published)).toBe('reject');
    }
  });

  it('a published port of the host by `host:`, not what DNAT of another program leads elsewhere', () => {
    const m = hosted(3, 'host:8080');
    const sent = { ...packet('172.18.0.9', 'tcp', 80), sentTo: 8080, states: ['NEW', 'DNAT'] as const };
    expect(permits(m, { ...sent, sentHere: true })).toBe(true);
    expect(permits(m, sent)).toBe(false);
  });

  it('observed: everything passes, itself included', () => {
    const observed = hosted(4, '', 'observe');
    expect(permits(observed, packet('203.0.113.1', 'tcp', 25))).toBe(true);
    expect(permits(observed, packet('127.0.0.1', 'tcp', 25))).toBe(true);
  });

  it('what it marks itself with is overwritten', () => {
    const forged = [marks.evaluated, identityMark(marks, 4), marks.held, marks.all];
    for (const mark of forged) {
      const said = walk(world(m, hosted(4, '', 'off')), 'mark', names.hostMark, cgroupOf(2), { mark });
      expect(said).toMatchObject({ verdict: 'return', mark: identityMark(marks, 2) | marks.enforced });
    }
  });
});

describe('zones of datagrams', () => {
  const zoned = (identity: number): Subject => {
    const m = hosted(identity, '');
    return { ...m, host: { cgroups: m.host?.cgroups ?? [], zoned: true } };
  };
  const desired: DesiredInput = {
    ...input(zoned(2), hosted(3, ''), zoned(70_000)),
    hostNet: { ...NET, zones: true },
  };
  const last = (cgroup: string, more: Partial<TracePacket> = {}): readonly [string, string] => {
    const { verdict, steps } = walk(desired, 'untracked', names.hostRaw, cgroup, { proto: 'udp', ...more });
    const zone = steps.find((s) => s.rule.then.k === 'zone')?.rule.then;
    return [verdict, zone?.k === 'zone' ? `${zone.zone}` : ''];
  };
  /** Conntrack has not seen it, and no rule has given it a template. */
  const states = ['INVALID'] as const;

  it('each has its own; who came late with a stream, or has a number too large, has none', () => {
    expect(last(cgroupOf(2))).toEqual(['return', '2']);
    expect(last(cgroupOf(2), { proto: 'icmp' })).toEqual(['return', '2']);
    expect(last(`${PARENT}/buildkit/x`)).toEqual(['return', '1']);
    for (const cgroup of [cgroupOf(3), cgroupOf(70_000), `${PARENT}/self`, 'system.slice/sshd.service'])
      expect(last(cgroup, { states })).toEqual(['return', '']);
  });

  it('streams have none; who is not known waits once, and is not judged here', () => {
    for (const proto of ['tcp', 132] as const)
      for (const cgroup of [cgroupOf(2), `${PARENT}/77`])
        expect(last(cgroup, { proto, states })).toEqual(['return', '']);
    expect(last(`${PARENT}/77`, { states })).toEqual(['queue', '']);
    expect(last(`${PARENT}/77`, { states, mark: marks.held })).toEqual(['return', '']);
  });

  it('where the kernel has none there is no such table', () => {
    expect(compile(world(zoned(2))).tables.some((t) => t.layer === 'untracked')).toBe(false);
  });
});

describe('who is known', () => {
  const here = world(hosted(2, ''), hosted(3, '', 'off'));
  const named = (cgroup: string, mark = 0): TraceResult =>
    walk(here, 'mark', names.hostMark, cgroup, { mark });

  it('nobody below a gate: held once, then dropped', () => {
    expect(named(`${PARENT}/77`)).toMatchObject({ verdict: 'queue' });
    expect(named(`${PARENT}/77`, marks.held)).toMatchObject({ verdict: 'drop' });
    expect(named(cgroupOf(2), marks.held)).toMatchObject({ verdict: 'return' });
  });

  it('a cgroup of its own making stays the container’s; a longer name is another', () => {
    expect(named(`${cgroupOf(2)}/init/x`).mark).toBe(identityMark(marks, 2) | marks.enforced);
    expect(named(`${cgroupOf(2)}2`)).toMatchObject({ verdict: 'queue' });
    expect(named(`${PARENT}2/x`)).toMatchObject({ verdict: 'return', mark: 0 });
  });

  it('the host, and Drawbridge itself, meet nothing in any table', () => {
    const starts: [Layer, string][] = [
      ['mark', names.hostMark],
      ['verdict', names.output],
      ['redirect', names.hostDns],
      ['backstop', names.backstopOutput],
    ];
    for (const cgroup of ['system.slice/sshd.service', `${PARENT}/self`])
      for (const [table, start] of starts)
        for (const mark of [0, identityMark(marks, 2) | marks.enforced])
          expect(walk(here, table, start, cgroup, { mark, dport: 53 })).toMatchObject({
            verdict: 'return',
            mark,
          });
  });

  it('build steps are the unattributed', () => {
    expect(named(`${PARENT}/buildkit/x`).mark).toBe(identityMark(marks, 1) | marks.redirect);
  });

  it('without mangle nothing passes filter; without filter nothing enforced passes security', () => {
    expect(walk(here, 'verdict', names.output, cgroupOf(2))).toMatchObject({ verdict: 'drop' });
    const at = (mark: number): string =>
      walk(here, 'backstop', names.backstopOutput, cgroupOf(2), { mark }).verdict;
    expect(at(identityMark(marks, 2) | marks.enforced)).toBe('drop');
    expect(at(0)).toBe('drop');
    expect(at(identityMark(marks, 3))).toBe('return');
    expect(at(identityMark(marks, 2) | marks.enforced | marks.evaluated)).toBe('return');
  });

  it('names of enforced ones go to their own resolver, of others nowhere else', () => {
    const to = (mark: number, dport: number): TraceResult =>
      walk(here, 'redirect', names.hostDns, cgroupOf(2), { mark, dport, proto: 'udp' });
    const asked = to(identityMark(marks, 2) | marks.enforced, 53);
    expect(asked.verdict).toBe('dnat');
    expect(asked.steps.at(-1)?.text).toContain(`--to-destination ${hostResolver(2, 4)}:${shape.dns.port}`);
    expect(to(identityMark(marks, 2) | marks.enforced, 54).verdict).toBe('return');
    expect(to(identityMark(marks, 3), 53).verdict).toBe('return');
  });
});

describe('a flow that stands', () => {
  const here = world(hosted(2, ''), hosted(3, '', 'off'));
  const of = (identity: number): Partial<TracePacket> => ({
    states: ['ESTABLISHED'],
    connmark: identityMark(marks, identity),
  });
  const starts: [Layer, string][] = [
    ['verdict', names.output],
    ['backstop', names.backstopOutput],
  ];
  const named = (more: Partial<TracePacket>): TraceResult =>
    walk(here, 'mark', names.hostMark, cgroupOf(2), more);

  it('goes on for its own, without a mark, whatever it had set itself', () => {
    expect(named({ ...of(2), mark: marks.all & ~marks.held })).toMatchObject({ verdict: 'return', mark: 0 });
    for (const [table, start] of starts)
      expect(walk(here, table, start, cgroupOf(2), of(2))).toMatchObject({ verdict: 'return', mark: 0 });
  });

  it.each([
    ['the host', 0],
    ['another container', 3],
    ['a build', 1],
  ])('of %s: who sends on it is named, and judged by its own policy', (_, identity) => {
    const { mark } = named(of(identity));
    expect(mark).toBe(identityMark(marks, 2) | marks.enforced);
    const verdicts = starts.map(
      ([table, start]) => walk(here, table, start, cgroupOf(2), { ...of(identity), mark }).verdict,
    );
    expect(verdicts).toEqual(['reject', 'drop']);
    expect(named({ ...of(identity), cgroup: `${PARENT}/77` }).verdict).toBe('queue');
  });

  it('without mangle nobody goes on with what the host opened', () => {
    for (const [table, start] of starts)
      expect(walk(here, table, start, cgroupOf(2), of(0)).verdict).toBe('drop');
  });

  it('bears the number of who opened it, not of who came later', () => {
    const saves = (more: Partial<TracePacket>): boolean =>
      named(more).steps.some((s) => s.rule.then.k === 'saveMark');
    expect(saves({})).toBe(true);
    expect(saves({ connmark: 0 })).toBe(false);
    expect(saves(of(0))).toBe(false);
  });
});

describe('how it is rendered', () => {
  it('another object at the same path is another rule', () => {
    const at = (object: string): readonly string[] =>
      chainHashes([rule([{ k: 'cgroup', path: 'docker/x', object }], { k: 'return' })], 4);
    expect(at('1')).toEqual(at('1'));
    expect(at('1')).not.toEqual(at('2'));
  });

  it('resolvers are canonical addresses, each its own', () => {
    const seen = new Set<string>();
    for (const id of [2, 255, 256, 8191])
      for (const family of [4, 6] as const) {
        const address = hostResolver(id, family);
        const parsed = parseAddress(address);
        expect(parsed && formatAddress(family, parsed.value)).toBe(address);
        seen.add(address);
      }
    expect(seen.size).toBe(8);
    expect(isHostResolver(hostResolver(2, 6))).toBe(true);
    expect(isHostResolver(shape.dns.v6)).toBe(false);
  });
});
