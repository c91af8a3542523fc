import { describe, expect, it } from 'vitest';
import { compile } from '../../../src/ruleset/compile.js';
import type { Subject } from '../../../src/ruleset/desired-state.js';
import {
  type LanInput,
  lanFramesProgram,
  lanKey,
  lanLearnedSets,
  lanProgram,
} from '../../../src/ruleset/netns-program.js';
import { input, member, shape } from './sample.js';

const of = (m: Subject, more: Partial<LanInput> = {}): LanInput => ({
  shape,
  member: m,
  sets: compile(input(m)).sets,
  closed: [],
  resolver: 20_053,
  links6: [],
  ...more,
});
const enforced = (allow: string): Subject => member(1, allow, 'enforce', []);
const linesOf = (m: Subject, more?: Partial<LanInput>): string[] =>
  lanProgram(of(m, more), new Map())
    .split('\n')
    .map((l) => l.trim());
const permits = (m: Subject): string[] =>
  linesOf(m).filter((l) => l.startsWith('meta nfproto') && l.endsWith('or 2 accept'));

describe('the program for a namespace', () => {
  it('an empty policy permits nothing', () => {
    expect(permits(enforced(''))).toEqual([]);
    expect(linesOf(enforced('')).filter((l) => l === 'goto denied')).toHaveLength(1);
  });

  it('permits by class of ports, with the sets that the host has', () => {
    const m = enforced('93.184.1.1:80,8000-8100, api.example.com');
    const found = permits(m);
    expect(
      found.every((l) =>
        /^meta nfproto ipv[46] meta l4proto (tcp|udp) th dport \{ [\d, -]+ \} ip6? daddr @DB-/.test(l),
      ),
    ).toBe(true);
    expect(found.some((l) => l.includes('th dport { 80, 8000-8100 } ip daddr @'))).toBe(true);
    for (const set of found.map((l) => /@(\S+)/.exec(l)?.[1] ?? ''))
      expect(compile(input(m)).sets.has(set)).toBe(true);
  });

  it('host entries permit nothing: no parent reaches its own host', () => {
    expect(permits(enforced('host:80, host:53/udp'))).toEqual([]);
  });

  it('learned members are no part of what makes two tables different', () => {
    const m = enforced('api.example.com');
    const [set = ''] = lanLearnedSets(of(m));
    const told = lanProgram(of(m), new Map([[set, new Map([['93.184.1.1', 60]])]]));
    expect(told).toContain('elements = { 93.184.1.1 timeout 60s }');
    expect(lanKey(of(m))).toBe(lanKey(of(enforced('api.example.com'))));
    expect(lanKey(of(m))).not.toBe(lanKey(of(enforced('api.example.com:8080'))));
    expect(lanKey(of(m))).not.toBe(lanKey(of(m, { resolver: undefined })));
  });

  it('without a resolver inside, no question leads anywhere', () => {
    expect(linesOf(enforced('api.example.com'), { resolver: undefined }).join()).not.toContain('dnat');
    expect(
      linesOf(enforced('api.example.com')).filter((l) => l.includes('dnat ip to 127.0.0.11:20053')),
    ).toHaveLength(4);
  });

  it("Drawbridge's own places come before every permit", () => {
    const lines = linesOf(enforced('0.0.0.0/0 broad'), { closed: [{ address: '192.0.2.2', port: 7070 }] });
    const closed = lines.indexOf('ip daddr 192.0.2.2 tcp dport 7070 goto denied');
    const first = lines.findIndex((l) => l.startsWith('meta nfproto') && l.endsWith('accept'));
    expect(closed).toBeGreaterThan(0);
    expect(first).toBeGreaterThan(closed);
  });

  it('frames: only at links, ARP only for its own addresses', () => {
    expect(lanFramesProgram([], [])).not.toContain('chain');
    const text = lanFramesProgram(['eth0', 'eth1'], ['10.77.0.2', 'fe80::1']);
    expect(text).toContain('devices = { "eth0", "eth1" }');
    expect(text).toContain('arp saddr ip { 0.0.0.0, 10.77.0.2 } accept');
  });
});
