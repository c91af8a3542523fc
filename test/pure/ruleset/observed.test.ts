/** What observed containers open passes, and is logged exactly where mode enforce would deny it. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { compile } from '../../../src/ruleset/compile.js';
import type { DesiredInput, Subject } from '../../../src/ruleset/desired-state.js';
import { hostResolver } from '../../../src/ruleset/host-net.js';
import { asEnforced, PolicyEvaluator } from '../../../src/ruleset/policy-evaluator.js';
import type { TracePacket } from '../../../src/ruleset/trace.js';
import { entriesOf, input, member, shape } from './sample.js';

const HOST = new Set(['172.18.0.1', '192.0.2.2', 'fd00:18::ffff']);
const NEIGHBOUR = '172.18.9.9';
const POOL = [
  '10.1.0.0/16:5432',
  '192.0.2.0/24:22',
  '[2001:db8::/32]:443',
  'any:443',
  'host:9100',
  'host:8125/udp',
  'host:8000-8010/tcp+udp',
  '192.0.2.9/icmp',
  '172.18.9.9:6379',
];
const DESTINATIONS = [...HOST, NEIGHBOUR, '10.1.2.3', '192.0.2.9', '93.184.1.1', '2001:db8::7', '2600::1'];
const PORTS = [22, 80, 443, 5432, 6379, 8005, 8125, 9100];
const never = (): boolean => false;

const judgeOf = (given: DesiredInput): PolicyEvaluator =>
  new PolicyEvaluator(shape, compile(given), never, HOST);
function packetOf(m: Subject, dst: string, proto: 'tcp' | 'udp' | 'icmp', port: number) {
  const family = dst.includes(':') ? (6 as const) : (4 as const);
  const packet: Omit<TracePacket, 'mark'> = {
    family,
    proto,
    src: (family === 4 ? m.veths[0]?.ip4 : m.veths[0]?.ip6) ?? '',
    dst,
    states: ['NEW'],
    syn: proto === 'tcp',
    ...(proto === 'icmp' ? { echo: true } : { dport: port }),
  };
  return packet;
}
const isLogged = (judge: PolicyEvaluator, m: Subject, packet: Omit<TracePacket, 'mark'>): boolean =>
  judge
    .evaluate(judge.sentBy(m, packet))
    .steps.some(({ rule: { then } }) => then.k === 'nflog' && then.prefix === 'DB:would');

describe('an observed container', () => {
  it('passes, and is logged if and only if enforce would deny it', { timeout: 60_000 }, () => {
    const packets = fc.record({
      dst: fc.constantFrom(...DESTINATIONS),
      proto: fc.constantFrom('tcp' as const, 'udp' as const, 'icmp' as const),
      port: fc.constantFrom(...PORTS),
      hasNeighbour: fc.boolean(),
      isHostNet: fc.boolean(),
    });
    fc.assert(
      fc.property(
        fc.subarray(POOL),
        fc.integer({ min: 2, max: 8000 }),
        packets,
        (entries, identity, { dst, proto, port, hasNeighbour, isHostNet }) => {
          const cgroups = [{ path: 'docker/abc', object: '7' }];
          const m: Subject = {
            ...member(identity, entries.join('\n'), 'observe', isHostNet ? [] : undefined),
            neighbours: hasNeighbour ? [NEIGHBOUR] : [],
            ...(isHostNet ? { host: { cgroups } } : {}),
          };
          const given: DesiredInput = {
            ...input(m),
            hostNet: { gates: [{ path: 'docker', object: '1' }], exempt: [], builds: [] },
          };
          const judge = judgeOf(given);
          const packet = packetOf(m, dst, proto, port);
          const enforced = asEnforced({ input: given }, m, { shape, hostAddresses: HOST, learned: never });
          const passes = enforced.evaluator.permits(enforced.evaluator.sentBy(enforced.member, packet));
          expect(judge.permits(judge.sentBy(m, packet))).toBe(true);
          expect(isLogged(judge, m, packet)).toBe(!passes);
        },
      ),
      { numRuns: 300 },
    );
  });

  it('reaches a service of the host in a family that its rules do not have', () => {
    const m: Subject = { ...member(2, '', 'observe'), families: new Set([4] as const) };
    const judge = judgeOf(input(m));
    expect(judge.permits(judge.sentBy(m, packetOf(m, 'fd00:18::ffff', 'tcp', 9100)))).toBe(true);
  });

  it('of the host network is logged on loopback, and not where Drawbridge answers names', () => {
    const cgroups = [{ path: 'docker/abc', object: '7' }];
    const m: Subject = { ...member(3, '', 'observe', []), host: { cgroups } };
    const hostNet = { gates: [{ path: 'docker', object: '1' }], exempt: [], builds: [] };
    const judge = judgeOf({ ...input(m), hostNet });
    expect(isLogged(judge, m, packetOf(m, '127.0.0.1', 'tcp', 9100))).toBe(true);
    expect(isLogged(judge, m, packetOf(m, hostResolver(3, 4), 'udp', shape.dns.port))).toBe(false);
  });

  it('has the policy of mode enforce evaluated with its entries and neighbours', () => {
    const m: Subject = { ...member(2, 'host:9100', 'observe'), neighbours: [NEIGHBOUR] };
    const { evaluator: judge, member: as } = asEnforced({ input: input(m) }, m, {
      shape,
      hostAddresses: HOST,
      learned: never,
    });
    const permits = (dst: string, port: number): boolean =>
      judge.permits(judge.sentBy(as, packetOf(m, dst, 'tcp', port)));
    expect(entriesOf('host:9100')).toHaveLength(1);
    expect([permits('192.0.2.2', 9100), permits('192.0.2.2', 9101), permits(NEIGHBOUR, 1)]).toEqual([
      true,
      false,
      true,
    ]);
  });
});
