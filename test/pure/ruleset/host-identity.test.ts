/** Senders in the host network where nft identifies them: the same verdicts as where iptables does. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { planSteps } from '../../../src/kernel/apply.js';
import { expectedAfter } from '../../../src/kernel/dataplane.js';
import { EMPTY_BRIDGE, programScript, programTags } from '../../../src/kernel/nft-text.js';
import type { Observed } from '../../../src/kernel/read-rules.js';
import { backstopProgram } from '../../../src/ruleset/backstop-table.js';
import { compile } from '../../../src/ruleset/compile.js';
import type { Cgroup, DesiredInput, HostNet, Layer, Subject } from '../../../src/ruleset/desired-state.js';
import {
  IDENTIFY,
  identityProgram,
  OWN,
  QUEUE,
  queueProgram,
  unknownSender,
} from '../../../src/ruleset/host-identity.js';
import { identityMark, markOf } from '../../../src/ruleset/marks.js';
import { namesFor } from '../../../src/ruleset/naming.js';
import { PolicyEvaluator } from '../../../src/ruleset/policy-evaluator.js';
import type { Rule } from '../../../src/ruleset/rules.js';
import { type TracePacket, type TraceResult, trace } from '../../../src/ruleset/trace.js';
import { input, member, shape } from './sample.js';

const { marks } = shape;
const names = namesFor(shape.prefix);
const cgroup = (path: string): Cgroup => ({ path, object: path, nft: `unified/${path}` });
const net = (native: boolean, queues = false): HostNet => ({
  gates: [cgroup('docker')],
  exempt: [cgroup('docker/self')],
  builds: [cgroup('docker/buildkit')],
  zones: true,
  native,
  queues,
});
const hosted = (identity: number, allow: string, mode: Subject['policy']['mode'] = 'enforce'): Subject => ({
  ...member(identity, allow, mode, []),
  host: { cgroups: [cgroup(`docker/${identity}`)], zoned: true },
});
const world = (native: boolean, ...members: Subject[]): DesiredInput => ({
  ...input(...members),
  hostNet: net(native),
});
/** A kernel without any rule. */
const NOTHING: Observed = {
  tables: new Map(),
  sets: new Map(),
  bridge: { exists: false, rules: [], elements: EMPTY_BRIDGE },
  backstop: { exists: false, rules: [] },
  arp: { exists: false, rules: [] },
  identity: { exists: false, rules: [] },
};
const packet: TracePacket = {
  family: 4,
  mark: 0,
  proto: 'tcp',
  src: '192.0.2.2',
  dst: '198.51.100.9',
  dport: 80,
  syn: true,
  states: ['NEW'],
};

/** What a packet passes on its way out: nft, then the jumps at OUTPUT of raw, nat (only the first of a flow), filter and security. */
function sent(desired: ReturnType<typeof compile>, more: Partial<TracePacket>, hasOwn = true): TraceResult {
  const p = { ...packet, ...more };
  const tables: readonly Layer[] = [
    'untracked',
    ...(p.connmark === undefined ? (['redirect'] as const) : []),
    'verdict',
    'backstop',
  ];
  let result = trace(desired.identity, IDENTIFY, p, () => false);
  for (const table of tables) {
    if (table === 'verdict' && hasOwn) {
      const own = trace(desired.identity, OWN, { ...p, mark: result.mark }, () => false);
      result = { ...own, steps: [...result.steps, ...own.steps] };
    }
    const next = trace(
      withJumps(desired, table, p.family),
      'OUTPUT',
      { ...p, mark: result.mark },
      () => false,
    );
    result = { ...next, steps: [...result.steps, ...next.steps] };
    if (next.verdict !== 'return') return result;
  }
  return result;
}

/** The chains of a table, and OUTPUT with Drawbridge's jumps and their conditions. */
function withJumps(
  desired: ReturnType<typeof compile>,
  table: Layer,
  family: 4 | 6,
): ReadonlyMap<string, readonly Rule[]> {
  const found = desired.tables.find((t) => t.layer === table && t.family === family);
  const jumps = (found?.hooks ?? []).filter((h) => h.at === 'output').map((h) => h.rule);
  return new Map([...(found?.chains ?? []), ['OUTPUT', jumps]]);
}

const here = compile(
  world(true, hosted(2, '198.51.100.9:80'), hosted(3, '', 'off'), hosted(4, '', 'observe')),
);
const of = (identity: number): Partial<TracePacket> => ({
  states: ['ESTABLISHED'],
  connmark: identityMark(marks, identity),
});

describe('the verdicts', () => {
  it('are those of iptables, for every policy and packet', () => {
    const entry = fc.constantFrom(
      '198.51.100.9',
      '198.51.100.9:80',
      'host',
      'host:80',
      'any:443',
      '10.0.0.0/8',
    );
    fc.assert(
      fc.property(
        fc.uniqueArray(entry, { maxLength: 3 }),
        fc.constantFrom('enforce', 'observe', 'off'),
        fc.constantFrom('198.51.100.9', '127.0.0.1', '10.1.1.1', '93.184.1.1', '192.0.2.2'),
        fc.constantFrom<readonly ['tcp' | 'udp', number]>(
          ['tcp', 80],
          ['tcp', 443],
          ['udp', 53],
          ['udp', 80],
        ),
        fc.constantFrom(0, 1, 2, 3),
        fc.constantFrom('NEW', 'ESTABLISHED', 'RELATED', 'INVALID'),
        (entries, mode, dst, [proto, dport], owner, state) => {
          const m = hosted(2, entries.join('\n'), mode as 'enforce');
          const flow = state === 'NEW' ? {} : { connmark: identityMark(marks, owner) };
          const said = [net(true, true), net(true), net(false)].map((hostNet) => {
            const judge = new PolicyEvaluator(
              shape,
              compile({ ...world(true, m), hostNet }),
              () => false,
              new Set(['192.0.2.2']),
            );
            const p = {
              ...packet,
              dst,
              proto,
              dport,
              syn: state === 'NEW',
              states: [state] as const,
              ...flow,
            };
            // where iptables identifies the sender, a packet of its own established flow passes without a mark
            const { verdict, mark } = judge.evaluate(judge.sentBy(m, p));
            return [
              verdict,
              verdict === 'return' &&
                ((mark & marks.identity) === 0 || mode !== 'enforce' || (mark & marks.evaluated) !== 0),
            ];
          });
          expect(said[0]).toEqual(said[2]);
          expect(said[1]).toEqual(said[2]);
        },
      ),
    );
  });

  it('what a container marks itself with is overwritten', () => {
    for (const mark of [marks.evaluated, identityMark(marks, 3), marks.held, marks.all, unknownSender(shape)])
      expect(trace(here.identity, IDENTIFY, { ...packet, mark, cgroup: 'docker/2' }, () => false).mark).toBe(
        markOf(marks, 2, 'enforce'),
      );
  });

  it('an unknown cgroup below a gate: queued once before conntrack, then dropped; known meanwhile, it goes on with its zone', () => {
    const first = sent(here, { cgroup: 'docker/77', proto: 'udp' });
    expect(first.verdict).toBe('queue');
    expect(first.mark).toBe(unknownSender(shape));
    const again = (path: string): TraceResult => {
      const chains = here.tables.find((t) => t.layer === 'untracked' && t.family === 4)?.chains ?? new Map();
      const repeated = { ...packet, proto: 'udp' as const, mark: marks.unknown | marks.held, cgroup: path };
      return trace(chains, names.hostRaw, repeated, () => false);
    };
    expect(again('docker/77').verdict).toBe('drop');
    expect(again('docker/2')).toMatchObject({ verdict: 'return', mark: markOf(marks, 2, 'enforce') });
    expect(again('docker/2').steps.at(-1)?.rule.then).toEqual({ k: 'zone', zone: 2 });
    expect(again('docker/buildkit/x').mark).toBe(markOf(marks, 1, 'observe'));
  });

  describe('where the table of nft queues', () => {
    const input = { ...world(true, hosted(2, '')), hostNet: net(true, true) };
    const desired = compile(input);
    const seen = (more: Partial<TracePacket>): TraceResult =>
      trace(desired.identity, IDENTIFY, { ...packet, proto: 'udp', ...more }, () => false);

    it('an unknown cgroup is queued there once, then dropped; known meanwhile, it goes on with its zone', () => {
      expect(seen({ cgroup: 'docker/77' })).toMatchObject({ verdict: 'queue', mark: unknownSender(shape) });
      const mark = marks.unknown | marks.held;
      expect(seen({ cgroup: 'docker/77', mark }).verdict).toBe('drop');
      const known = seen({ cgroup: 'docker/2', mark });
      expect(known).toMatchObject({ verdict: 'return', mark: markOf(marks, 2, 'enforce') });
      expect(known.steps.at(-1)?.rule.then).toEqual({ k: 'zone', zone: 2 });
    });

    it('`raw` has no chain that packets of the host would meet; with `failure: open` it has', () => {
      const raw = (d: typeof desired): number[] =>
        d.tables.filter((t) => t.layer === 'untracked').flatMap((t) => [t.chains.size, t.hooks.length]);
      expect(raw(desired)).toEqual([0, 0, 0, 0]);
      const open = compile({ ...input, shape: { ...shape, failure: 'open' } });
      expect(raw(open)).toEqual([3, 1, 3, 1]);
      expect(queueProgram(open.identity)).toBeUndefined();
    });

    it('the rule that queues comes first, is repaired alone, and stays when senders change', () => {
      const scripts = (to: typeof desired, from: Observed): string[] =>
        planSteps(shape, to, from)
          .stages.flat()
          .map((s) => s.script);
      const tables = scripts(desired, NOTHING).filter((s) => s.includes('drawbridge_host'));
      expect(tables.map((s) => s.includes('queue num 53'))).toEqual([true, false]);
      const whole = expectedAfter(shape, desired, NOTHING);
      expect(scripts(desired, whole)).toEqual([]);
      const rules = whole.identity.rules.filter((r) => !r.startsWith(`${QUEUE} `));
      const repair = scripts(desired, { ...whole, identity: { exists: true, rules } });
      expect(repair.map((s) => [s.includes('queue num 53'), s.includes('senders')])).toEqual([[true, false]]);
      const more = compile({ ...input, subjects: [...input.subjects, hosted(3, '')] });
      const changed = scripts(more, whole).filter((s) => s.includes('drawbridge_host'));
      expect(changed.map((s) => s.includes(`flush chain inet drawbridge_host ${QUEUE}`))).toEqual([false]);
    });
  });

  it('a flow that stands goes on for its own; on that of another its own policy decides', () => {
    for (const hasOwn of [true, false]) {
      const at = (connmark: Partial<TracePacket>, cgroup: string): TraceResult =>
        sent(here, { ...connmark, cgroup, dport: 81 }, hasOwn);
      expect(at(of(2), 'docker/2')).toMatchObject({
        verdict: 'return',
        mark: hasOwn ? marks.enforced | marks.evaluated : markOf(marks, 2, 'enforce') | marks.evaluated,
      });
      for (const owner of [0, 1, 3]) expect(at(of(owner), 'docker/2').verdict).toBe('reject');
      expect(at(of(2), 'docker/77').verdict).toBe('queue');
    }
  });

  it('an established flow of its own sender meets no chain of iptables', () => {
    const { steps } = sent(here, { ...of(2), cgroup: 'docker/2' });
    expect(steps.map((s) => s.chain)).toEqual([IDENTIFY, 'senders', 'zones', OWN]);
  });

  it('an established ping of its own sender meets none for the ICMP of the host', () => {
    const { steps, mark } = sent(here, { ...of(2), cgroup: 'docker/2', proto: 'icmp' });
    expect(steps.map((s) => s.chain)).toEqual([IDENTIFY, 'senders', 'zones', OWN]);
    expect(mark & marks.identity).toBe(0);
  });

  it('`own` exists while there are senders; without them its rules go, and the chain stays', () => {
    const alone = { ...world(true), hostNet: { ...net(true), builds: [] } };
    const none = identityProgram(compile(alone).identity, shape);
    const some = identityProgram(compile({ ...alone, subjects: [hosted(2, '')] }).identity, shape);
    expect([none.declarations, some.declarations].map((d) => d.includes(`chain ${OWN}`))).toEqual([
      false,
      true,
    ]);
    const observed = { exists: true, rules: programTags(shape, some) };
    expect(programScript(shape, none, observed)).toContain(`flush chain inet drawbridge_host ${OWN}\n`);
    expect(programScript(shape, none, { exists: true, rules: programTags(shape, none) })).toBe('');
  });

  it('datagrams have the zone of their container, streams and the host have none', () => {
    const zone = (more: Partial<TracePacket>): readonly unknown[] =>
      trace(here.identity, IDENTIFY, { ...packet, ...more }, () => false).steps.flatMap((s) =>
        s.rule.then.k === 'zone' ? [s.rule.then.zone] : [],
      );
    expect(zone({ cgroup: 'docker/2', proto: 'udp' })).toEqual([2]);
    expect(zone({ cgroup: 'docker/buildkit/x', proto: 'udp' })).toEqual([1]);
    for (const more of [
      { cgroup: 'docker/2' },
      { cgroup: 'docker/self', proto: 'udp' },
      { proto: 'udp' },
    ] as const)
      expect(zone(more)).toEqual([]);
  });
});

describe('the host', () => {
  const foreign = [0, 0xca6c, identityMark(marks, 2) | marks.enforced];
  it.each(['system.slice/sshd.service', 'docker2/x'])(
    '%s: no verdict, and no mark changes, whatever it had set',
    (path) => {
      for (const mark of foreign)
        for (const more of [{}, { dport: 53, proto: 'udp' as const }, of(0), of(3)])
          expect(sent(here, { cgroup: path, mark, ...more })).toMatchObject({ verdict: 'return', mark });
    },
  );

  it('a packet of an established flow meets the conditions of the jumps, and no chain', () => {
    const { steps } = sent(here, { ...of(0), cgroup: 'system.slice/sshd.service' });
    expect(steps.map((s) => s.text)).toEqual(['own: -m mark --mark 0x0/0x3fff -j RETURN']);
    const jumps = here.tables.flatMap((t) => (t.layer === 'redirect' ? [] : t.hooks));
    for (const { rule } of jumps.filter((h) => h.at === 'output'))
      expect(rule.when.some((m) => m.k === 'cgroup' || m.k === 'ct')).toBe(false);
  });

  it('ICMP is checked for redirects, also of an established flow', () => {
    for (const family of [4, 6] as const) {
      const icmp = { ...of(0), family, proto: 'icmp' as const, cgroup: 'system.slice/sshd.service' };
      const { steps } = sent(here, { ...icmp, src: 'fd00::2', dst: 'fd00::9' });
      expect(steps.map((s) => s.rule.then)).toContainEqual({ k: 'jump', chain: names.output });
    }
  });

  it('`security` has a jump while a sender is known that is not enforced; what is unknown ends in `filter`, and in the backstop', () => {
    const jumps = (hostNet: HostNet, ...members: Subject[]): number =>
      compile({ ...world(true, ...members), hostNet }).tables.filter(
        (t) => t.layer === 'backstop' && t.hooks.some((h) => h.at === 'output'),
      ).length;
    const alone = { ...net(true), builds: [] };
    expect(jumps(alone)).toBe(0);
    expect(jumps(alone, hosted(2, ''))).toBe(0);
    expect(jumps(alone, hosted(2, ''), hosted(3, '', 'observe'))).toBe(2);
    expect(jumps(alone, hosted(3, '', 'off'))).toBe(2);
    expect(jumps(net(true))).toBe(2);
    expect(jumps({ ...alone, native: false })).toBe(2);
    const unknown = { mark: unknownSender(shape) | marks.held, cgroup: 'docker/77' };
    const { chains } =
      compile({ ...world(true), hostNet: alone }).tables.find((t) => t.layer === 'verdict') ?? {};
    expect(trace(chains ?? new Map(), names.output, { ...packet, ...unknown }, () => false).verdict).toBe(
      'drop',
    );
  });

  it('the first packet of a flow is checked for enforced neighbours', () => {
    const { steps } = sent(here, { cgroup: 'system.slice/sshd.service' });
    expect(steps.some((s) => s.rule.then.k === 'jump' && s.rule.then.chain === names.middle)).toBe(true);
  });
});

describe('the table', () => {
  it('names each cgroup with its depth, and another object at the same path is another program', () => {
    const { rules, objects } = identityProgram(here.identity, shape);
    expect(rules.get(IDENTIFY)).toContain('socket cgroupv2 level 1 "unified/docker" goto senders');
    expect(rules.get('senders')?.[2]).toMatch(
      /^socket cgroupv2 level 2 "unified\/docker\/2" meta mark set .* goto zones$/,
    );
    expect(objects).toContain('docker/2');
  });

  it('does not exist where iptables identifies senders, and mangle has no chain where nft does', () => {
    expect(
      [...identityProgram(compile(world(false, hosted(2, ''))).identity, shape).rules.values()].flat(),
    ).toEqual([]);
    expect(
      here.tables.filter((t) => t.layer === 'mark').flatMap((t) => [...t.chains.keys(), ...t.hooks]),
    ).toEqual([]);
  });

  it('the backstop begins with what was evaluated while there are senders: a packet of the host meets one match less without', () => {
    const output = (d: ReturnType<typeof compile>): readonly string[] =>
      backstopProgram(shape, d.hostNet).rules.get('output') ?? [];
    const gate = 'socket cgroupv2 level 1 "unified/docker" goto host';
    const evaluated = 'meta mark & 0x28000000 == 0x28000000 @nh,0,8 0x45 accept';
    expect(output(here)).toEqual([evaluated, gate]);
    expect(output(compile({ ...world(true), hostNet: { ...net(true), builds: [] } }))).toEqual([gate]);
    expect(output(compile(world(false, hosted(2, ''))))).toEqual([gate]);
  });

  it('the backstop permits no established flow without a mark', () => {
    const lines = (native: boolean): string =>
      (backstopProgram(shape, net(native)).rules.get('host') ?? []).join('\n');
    expect(lines(true)).not.toContain('ct mark & 0x3fff != 0 accept');
    expect(lines(false)).toContain('ct mark & 0x3fff != 0 accept');
  });

  it('missing, it is loaded before the rules that read its marks; a new sender comes after them, and before raw', () => {
    const order = (observed: Observed, desired: ReturnType<typeof compile>): readonly string[] =>
      planSteps(shape, desired, observed).stages.flatMap(([step]) => {
        const text = step?.script ?? '';
        return ['inet drawbridge_host', 'inet drawbridge_backstop', '*raw', '*filter'].filter((t) =>
          text.includes(t),
        );
      });
    const first = compile(world(true));
    expect(order(NOTHING, first)[0]).toBe('inet drawbridge_host');
    const later = order(expectedAfter(shape, first, NOTHING), compile(world(true, hosted(2, 'a.example'))));
    expect(later.indexOf('*filter')).toBeLessThan(later.indexOf('inet drawbridge_host'));
    expect(later.indexOf('inet drawbridge_host')).toBeLessThan(later.indexOf('*raw'));
  });
});
