/** Flows of the host network whose names are checked: which rules their packets meet, and what lets none of them pass. */
import { describe, expect, it } from 'vitest';
import { backstopProgram } from '../../../src/ruleset/backstop-table.js';
import { planClasses } from '../../../src/ruleset/classes.js';
import { compile } from '../../../src/ruleset/compile.js';
import type { DesiredInput, DesiredState, Subject } from '../../../src/ruleset/desired-state.js';
import { identityProgram, OWN, OWN_MARKED } from '../../../src/ruleset/host-identity.js';
import { hex, identityMark, markOf } from '../../../src/ruleset/marks.js';
import { namesFor } from '../../../src/ruleset/naming.js';
import { type TracePacket, trace } from '../../../src/ruleset/trace.js';
import { entriesOf, input, member, shape as plain } from './sample.js';

const NAMES = { verify: true, quic: 'verify', ports: [443] } as const;
const shape = { ...plain, names: NAMES };
const { marks } = shape;
const names = namesFor(shape.prefix);
const { check } = marks;
if (!check) throw new Error('the mask has no bits for the check');

const cgroup = (path: string) => ({ path, object: path, nft: `unified/${path}` });
const hosted = (identity: number, mode: Subject['policy']['mode'] = 'enforce'): Subject => ({
  ...member(identity, 'good.example', mode, []),
  classes: planClasses(entriesOf('good.example'), () => [], NAMES),
  host: { cgroups: [cgroup(`docker/${identity}`)], zoned: true },
});
const world = (native: boolean, ...members: Subject[]): DesiredInput => ({
  ...input(...members),
  shape,
  hostNet: { gates: [cgroup('docker')], exempt: [], builds: [], zones: true, native, queues: native },
});
const LEARNED = '93.184.7.1';
const packet = (more: Partial<TracePacket>): TracePacket => ({
  family: 4,
  mark: markOf(marks, 2, 'enforce'),
  proto: 'tcp',
  src: '192.0.2.2',
  dst: LEARNED,
  dport: 443,
  cgroup: 'docker/2',
  states: ['ESTABLISHED'],
  ...more,
});
const ofFlow = (state: number, identity = 2): number => (identityMark(marks, identity) | state) >>> 0;
function sent(desired: DesiredState, more: Partial<TracePacket>) {
  const chains = desired.tables.find((t) => t.layer === 'verdict' && t.family === 4)?.chains ?? new Map();
  const has = (set: string, _: string, p: TracePacket): boolean => set.endsWith('4l') && p.dst === LEARNED;
  const result = trace(chains, names.output, packet(more), has);
  return { ...result, chains: new Set(result.steps.map((s) => s.chain)) };
}
const native = compile(world(true, hosted(2), hosted(3)));

describe.each([
  ['nft', true],
  ['iptables', false],
] as const)('filter, where %s identifies the senders', (_, isNative) => {
  const desired = compile(world(isNative, hosted(2), hosted(3)));

  it('a SYN that only a name permits begins the check, and is not bounded by its address', () => {
    const result = sent(desired, { states: ['NEW'], syn: true });
    expect([...result.chains]).toContain(names.hostChecked);
    expect([...result.chains]).not.toContain(names.bound);
    expect(result.mark & marks.evaluated).toBe(marks.evaluated);
  });
  it('later packets of the flow are queued, until the service has released them', () => {
    for (const state of [check.open, check.requests]) {
      expect(sent(desired, { connmark: ofFlow(state) }).verdict).toBe('queue');
      const released = (packet({}).mark | marks.held | check.requests) >>> 0;
      const passed = sent(desired, { connmark: ofFlow(state), mark: released });
      expect([passed.verdict, passed.mark & marks.evaluated]).toEqual(['return', marks.evaluated]);
    }
  });
  it('the first packet of a flow that begins in the middle is refused', () => {
    expect(sent(desired, { states: ['NEW'], syn: false }).verdict).toBe('reject');
  });
  it('another container on the flow does not go the way of it', () => {
    const result = sent(desired, {
      mark: markOf(marks, 3, 'enforce'),
      cgroup: 'docker/3',
      connmark: ofFlow(check.open),
    });
    expect(result.verdict).toBe('reject');
    expect([...result.chains]).not.toContain(names.checking);
  });
  it('a flow that was checked passes, but for a SYN', () => {
    const mark = ofFlow(check.verified);
    expect(sent(desired, { connmark: mark }).mark & marks.evaluated).toBe(marks.evaluated);
    expect([...sent(desired, { connmark: mark, syn: true }).chains]).toContain(names.hostChecked);
  });
});

it('without a mark a packet of an established flow passes where iptables identifies the senders, unless its name is being checked', () => {
  const desired = compile(world(false, hosted(2)));
  expect(sent(desired, { mark: 0, connmark: ofFlow(0) }).verdict).toBe('return');
  expect(sent(desired, { mark: 0, connmark: ofFlow(check.open) }).verdict).toBe('drop');
  // what chain `own` has let pass
  expect(sent(desired, { mark: marks.evaluated, connmark: ofFlow(check.open) }).verdict).toBe('return');
});

describe('chain `own`', () => {
  const own = (more: Partial<TracePacket>) => trace(native.identity, OWN, packet(more), () => false);
  it('evaluates established flows of their own sender that are not checked, and no others', () => {
    expect(own({ connmark: ofFlow(0) }).mark & marks.evaluated).toBe(marks.evaluated);
    for (const connmark of [
      ofFlow(0, 3),
      ...[check.open, check.requests, check.verified].map((state) => ofFlow(state)),
    ])
      expect([hex(connmark), own({ connmark }).mark & marks.evaluated]).toEqual([hex(connmark), 0]);
  });
  it('is left by packets of the host with the first rule, and by established ones of a container with the next of its own', () => {
    const rules = identityProgram(native.identity, shape).rules.get(OWN) ?? [];
    expect(rules[0]).toBe(`meta mark & ${hex(marks.identity)} == 0x0 return`);
    for (const rule of rules.slice(1, 3)) expect(rule).toMatch(/ accept$/);
  });
  it('drops data with the SYN of an enforced container', () => {
    for (const isNative of [true, false]) {
      const program = identityProgram(compile(world(isNative, hosted(2))).identity, shape);
      expect(
        program.rules.get(isNative ? OWN : OWN_MARKED)?.filter((r) => /doff != .* drop$/.test(r)),
      ).toHaveLength(2);
      // behind `mangle`, where that identifies the senders
      expect(program.declarations).toContain(`priority ${isNative ? -151 : -149}`);
    }
  });
  it('leads checked flows to a chain that drops a SYN first', () => {
    const { rules } = identityProgram(native.identity, shape);
    expect(rules.get('checked')?.[0]).toMatch(/^tcp flags & \(syn \| ack\) == syn log .* drop$/);
  });
  it('compares nothing more where no names are checked', () => {
    const off = { ...world(true, hosted(2)), shape: plain };
    const { rules } = identityProgram(compile(off).identity, plain);
    expect(rules.get(OWN)?.join('\n')).not.toContain('goto checked');
    expect(rules.get('checked')).toBeUndefined();
  });
});

describe('answers', () => {
  const rulesOf = (of: DesiredInput) => backstopProgram(of.shape, compile(of).hostNet).rules;
  it('are read at INPUT from other hosts only, while a container is in the host network', () => {
    const [first = ''] = rulesOf(world(true, hosted(2))).get('input') ?? [];
    expect(first).toContain('iif != "lo" jump answers');
    expect(rulesOf(world(true)).get('input')?.[0]).not.toContain('answers');
    expect(rulesOf({ ...world(true, hosted(2)), shape: plain }).get('input')?.[0]).not.toContain('answers');
  });
  it('that are no ServerHello are copied, and dropped when there are too many to copy', () => {
    const rules = rulesOf(world(true, hosted(2))).get('answers') ?? [];
    expect(rules.at(-1)).toMatch(/^log prefix "DB:answer" group 54 /);
    expect(rules.at(-2)).toMatch(/^limit rate over .* drop$/);
  });
});
