/** Deny entries from their text to the verdicts of the rules. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isWider, signatureOf } from '../../../src/enforce/revocation.js';
import { parseAddress, rangeHas } from '../../../src/lib/ip.js';
import type { NameChecks } from '../../../src/ruleset/classes.js';
import { compile } from '../../../src/ruleset/compile.js';
import { mayBeDenied, planPolicy } from '../../../src/ruleset/deny-plan.js';
import type { KernelConfig, Subject } from '../../../src/ruleset/desired-state.js';
import { PolicyEvaluator } from '../../../src/ruleset/policy-evaluator.js';
import type { TracePacket } from '../../../src/ruleset/trace.js';
import { BARE_FLOW } from '../bare-flow.js';
import { entriesOf, input, member, shape } from './sample.js';

const CHECKS: NameChecks = { verify: true, quic: 'verify', ports: [443] };
const checking: KernelConfig = { ...shape, names: CHECKS };
const HOST = '172.18.0.1';

/** A subject with this policy; `more`: what else it has. */
function subject(text: string, more: Partial<Subject> = {}): Subject {
  const all = entriesOf(text);
  const policy = {
    mode: more.policy?.mode ?? ('enforce' as const),
    modeSource: { kind: 'label' } as const,
    entries: all.filter(({ entry }) => !entry.deny),
    denied: all.filter(({ entry }) => entry.deny),
    lists: [],
    notes: [],
  };
  const neighbour = () => [{ family: 4 as const, lo: 0xac120009n, hi: 0xac120009n }];
  const plan = planPolicy(policy, neighbour, CHECKS);
  return { ...member(5, ''), ...more, policy, ...plan };
}

const LEARNED = '198.51.100.7';
function evaluatorFor(m: Subject) {
  const desired = compile({ ...input(m), shape: checking });
  const learned = (set: string, address: string) => set.endsWith('4l') && address === LEARNED;
  const evaluator = new PolicyEvaluator(checking, desired, learned, new Set([HOST]));
  const packet = (dst: string, proto: TracePacket['proto'], dport?: number): TracePacket =>
    evaluator.sentBy(m, {
      family: dst.includes(':') ? 6 : 4,
      proto,
      src: dst.includes(':') ? 'fd00:18::5' : '172.18.0.5',
      dst,
      states: ['NEW'],
      syn: proto === 'tcp',
      ...(proto === 'icmp' ? { echo: true } : {}),
      ...(dport === undefined ? {} : { dport }),
    });
  return { desired, evaluator, packet };
}
function permits(m: Subject, dst: string, proto: TracePacket['proto'], dport?: number): boolean {
  const { evaluator, packet } = evaluatorFor(m);
  return evaluator.permits(packet(dst, proto, dport));
}
function whyOf(m: Subject, dst: string, proto: TracePacket['proto'], dport?: number): readonly string[] {
  const { evaluator, packet } = evaluatorFor(m);
  return evaluator.evaluate(packet(dst, proto, dport)).steps.flatMap((s) => s.rule.why ?? []);
}

describe('a deny entry for addresses', () => {
  const text = '10.0.0.0/8, 10.0.0.0/8/gre, 10.0.0.0/8/ip-1, !10.0.0.5, !10.1.0.0/16:22, !10.2.0.0/16/icmp';
  it.each([
    ['10.0.0.4', 'tcp', 22, true],
    ['10.0.0.5', 'tcp', 22, false],
    ['10.0.0.5', 'udp', 53_000, false],
    ['10.0.0.5', 'icmp', undefined, false],
    ['10.0.0.5', 47, undefined, false],
    ['10.0.0.4', 47, undefined, true],
    ['10.1.2.3', 'tcp', 22, false],
    ['10.1.2.3', 'udp', 22, true],
    ['10.1.2.3', 'tcp', 23, true],
    ['10.2.2.3', 'icmp', undefined, false],
    ['10.2.2.3', 'tcp', 22, true],
  ] as const)('%s %s/%s: %s', (dst, proto, dport, isPermitted) => {
    expect(permits(subject(text), dst, proto, dport)).toBe(isPermitted);
  });
  it('is named by the rule, wherever the entry that permits comes', () => {
    expect(whyOf(subject(text), '10.0.0.5', 'tcp', 22)).toEqual(['!10.0.0.5']);
    expect(whyOf(subject('!10.0.0.5, 10.0.0.5:22'), '10.0.0.5', 'tcp', 22)).toEqual(['!10.0.0.5']);
  });
  it('beats addresses that names resolved to, dns=direct, neighbours and containers', () => {
    expect(permits(subject('a.org:22'), LEARNED, 'tcp', 22)).toBe(true);
    expect(permits(subject(`a.org:22, !${LEARNED}`), LEARNED, 'tcp', 22)).toBe(false);
    expect(permits(subject('192.0.2.53:53/udp dns=direct'), '192.0.2.53', 'udp', 53)).toBe(true);
    expect(permits(subject('192.0.2.53:53/udp dns=direct, !192.0.2.53'), '192.0.2.53', 'udp', 53)).toBe(
      false,
    );
    const free = { neighbours: ['172.18.0.8'] };
    expect(permits(subject('', free), '172.18.0.8', 'tcp', 80)).toBe(true);
    expect(permits(subject('!172.18.0.0/24:80', free), '172.18.0.8', 'tcp', 80)).toBe(false);
    expect(permits(subject('container:db'), '172.18.0.9', 'tcp', 5432)).toBe(true);
    expect(permits(subject('container:db, !container:db:5432'), '172.18.0.9', 'tcp', 5432)).toBe(false);
  });
  it('any: and host: cover what such entries permit', () => {
    expect(permits(subject('any, !any:25'), '93.184.7.1', 'tcp', 25)).toBe(false);
    expect(permits(subject('any, !any:25'), '93.184.7.1', 'tcp', 26)).toBe(true);
    expect(permits(subject('any, !any'), '2600:9000::1', 'udp', 26)).toBe(false);
    expect(permits(subject('host, !host:80'), HOST, 'tcp', 80)).toBe(false);
    expect(permits(subject('host, !host:80'), HOST, 'tcp', 81)).toBe(true);
    expect(permits(subject(`host, !${HOST}:80`), HOST, 'tcp', 80)).toBe(false);
  });
  it('of the host covers the ports that it publishes for containers', () => {
    const m = subject('host:8080, !host:8080');
    const { evaluator, packet } = evaluatorFor(m);
    const published = {
      ...packet('172.19.0.9', 'tcp', 80),
      sentTo: 8080,
      sentHere: true,
      states: ['NEW', 'DNAT'] as const,
    };
    expect(evaluator.permits(published)).toBe(false);
  });
  it('of an observed container is logged and denies nothing', () => {
    const m = subject('10.0.0.0/8, !10.0.0.5', { policy: { ...member(5, '').policy, mode: 'observe' } });
    const { evaluator, packet } = evaluatorFor(m);
    const result = evaluator.evaluate(packet('10.0.0.5', 'tcp', 22));
    expect(result.steps.map((s) => s.rule.then.k)).toContain('nflog');
    expect(evaluator.permits(packet('10.0.0.5', 'tcp', 22))).toBe(true);
  });
  it('is the entry that is reported', () => {
    const m = subject('10.0.0.0/8, !10.0.0.0/24, !10.0.9.0/24');
    const { evaluator, packet } = evaluatorFor(m);
    expect(evaluator.denialOf(m, packet('10.0.9.1', 'tcp', 1))?.entry.canonical).toBe('!10.0.9.0/24');
    expect(evaluator.denialOf(m, packet('10.0.8.1', 'tcp', 1))).toBeUndefined();
  });
  it('adds nothing where there is none', () => {
    const plain = {
      ...member(5, '10.0.0.0/8, a.org'),
      classes: planPolicy({ entries: entriesOf('10.0.0.0/8, a.org') }, () => [], CHECKS).classes,
    };
    expect(subject('10.0.0.0/8, a.org').denied?.classes).toEqual([]);
    const chains = (m: Subject) => compile({ ...input(m), shape: checking }).tables.map((t) => [...t.chains]);
    expect(chains(plain)).toEqual(chains(subject('10.0.0.0/8, a.org')));
  });
});

describe('properties', () => {
  const address = fc.integer({ min: 0, max: 255 }).map((n) => `10.0.0.${n}`);
  const ports = fc.constantFrom('', ':80', ':80-90', ':22/udp', '/icmp');
  const entry = fc.tuple(fc.boolean(), address, fc.constantFrom('', '/32', '-10.0.0.255'), ports);
  it('a packet passes exactly if an entry permits it and no deny entry covers it', () => {
    fc.assert(
      fc.property(
        fc.uniqueArray(entry, { maxLength: 6, selector: String }),
        address,
        fc.constantFrom(22, 80, 85),
        (all, dst, dport) => {
          const texts = all.map(
            ([isDenied, at, range, port]) => `${isDenied ? '!' : ''}${at}${range}${port}`,
          );
          const entries = [
            ...new Map(texts.flatMap((t) => entriesOf(t)).map((e) => [e.entry.canonical, e])).values(),
          ];
          const m = subject(entries.map((e) => e.entry.canonical).join('\n'));
          const to = parseAddress(dst);
          const covers = entries.filter(
            ({ entry: { target, ports: p, proto } }) =>
              target.kind === 'address' &&
              to !== undefined &&
              rangeHas(target.range, to) &&
              (proto === undefined || proto === 'tcp') &&
              (p.length === 0 || p.some((r) => r.lo <= dport && dport <= r.hi)),
          );
          const expected = covers.length > 0 && covers.every((e) => !e.entry.deny);
          expect(permits(m, dst, 'tcp', dport)).toBe(expected);
        },
      ),
      { numRuns: 150 },
    );
  });
});

describe('addresses on the ports that deny entries for names cover', () => {
  const checkedAt = (
    text: string,
    dst: string,
    proto: 'tcp' | 'udp',
    dport: number,
    more: Partial<Subject> = {},
  ) => {
    const { evaluator, packet } = evaluatorFor(subject(text, more));
    return evaluator.isCheckedByName(evaluator.evaluate(packet(dst, proto, dport)));
  };
  it.each([
    ['any, !*.corp.example', 'tcp', 443, true],
    ['any, !*.corp.example', 'tcp', 80, true],
    ['any, !*.corp.example', 'udp', 443, true],
    ['any, !*.corp.example', 'tcp', 8443, false],
    ['any, !*.corp.example:443', 'tcp', 80, false],
    ['any tls=off, !*.corp.example', 'tcp', 443, false],
    ['93.184.0.0/16, !*.corp.example', 'tcp', 443, true],
    ['any, !10.0.0.0/8', 'tcp', 443, false],
  ] as const)('%s: %s/%i is checked: %s', (text, proto, port, isChecked) => {
    expect(checkedAt(text, '93.184.7.1', proto, port)).toBe(isChecked);
    expect(permits(subject(text), '93.184.7.1', proto, port)).toBe(true);
  });
  it('are checked at neighbours and containers, too, and in the host network', () => {
    const free = { neighbours: ['172.18.0.8'] };
    expect(checkedAt('!*.corp.example', '172.18.0.8', 'tcp', 443, free)).toBe(true);
    expect(checkedAt('!*.corp.example', '172.18.0.8', 'tcp', 5432, free)).toBe(false);
    expect(checkedAt('container:db, !*.corp.example', '172.18.0.9', 'tcp', 443)).toBe(true);
    expect(subject('any, !a.org', { host: { cgroups: [] } }).classes.some((c) => c.isChecked)).toBe(true);
  });
  it('permit any name that is not denied only where the rules permit the address itself', () => {
    const m = subject('93.184.0.0/16:443, a.org, !*.corp.example');
    const { evaluator, packet } = evaluatorFor(m);
    const by = (dst: string, port: number) =>
      evaluator.addressPermits(m, packet(dst, 'tcp', port))?.map((pe) => pe.entry.canonical);
    expect(by('93.184.7.1', 443)).toEqual(['93.184.0.0/16:443']);
    expect(by('93.184.7.1', 80)).toBeUndefined();
    expect(by(LEARNED, 443)).toBeUndefined();
    expect(permits(m, LEARNED, 'tcp', 443)).toBe(true);
  });
});

describe('a deny entry for a name on some ports', () => {
  const classesFor = (text: string, withheld: string | undefined) =>
    subject(text)
      .classes.filter((c) => c.withheld === withheld)
      .map((c) => `${c.proto}:${c.ports.map((p) => `${p.lo}-${p.hi}`)}`);
  it('leaves out these ports, in sets of their own', () => {
    expect(classesFor('*.x.org:20-30, !a.x.org:22', 'tcp:22')).toEqual(['tcp:20-21,23-30']);
    expect(classesFor('*.x.org:22, !a.x.org:22', 'tcp:22')).toEqual([]);
    const keys = subject('*.x.org:20-30, !a.x.org:22').classes.map((c) => c.namesKey);
    expect(new Set(keys).size).toBe(2);
  });
  it('makes no class for an exact name that it does not cover', () => {
    expect(classesFor('b.x.org:20-30, !a.x.org:22', 'tcp:22')).toEqual([]);
  });
  it('joins the ports of all that cover a name', () => {
    const { denied } = subject('*.x.org, !*.x.org:80, !a.x.org:443, !a.x.org:443/udp');
    expect(denied?.names.withheld('a.x.org').key).toBe('tcp:443 tcp:80 udp:443');
    expect(denied?.names.withheld('b.x.org').key).toBe('tcp:80');
    expect(denied?.names.withheld('x.org').key).toBe('');
    expect(denied?.names.combinations.map((c) => c.key)).toEqual(['tcp:443 tcp:80 udp:443', 'tcp:80']);
  });
  it('has a bounded number of combinations', () => {
    const many = Array.from({ length: 100 }, (_, n) => `!n${n}.org:${n + 1}`).join(', ');
    expect(subject(`*.org broad, ${many}`).denied?.names.combinations.length).toBe(16);
  });
});

describe('an open connection that is checked by name', () => {
  const flowTo = (dst: string, dport: number) => ({
    ...BARE_FLOW,
    family: 4 as const,
    proto: 6,
    mark: 0,
    orig: { src: '172.18.0.5', dst, sport: 1, dport },
    reply: { src: dst, dst: '172.18.0.5', sport: dport, dport: 1 },
  });
  it('is permitted by its address, or only by its name', () => {
    const m = subject('93.184.0.0/16, a.org, !*.corp.example');
    const { evaluator } = evaluatorFor(m);
    expect(evaluator.checkedFlow(m, flowTo('93.184.7.1', 443))).toBe('address');
    expect(evaluator.checkedFlow(m, flowTo(LEARNED, 443))).toBe('name');
    expect(evaluator.checkedFlow(m, flowTo('93.184.7.1', 22))).toBeUndefined();
  });
  it('may have a name that is denied only since a deny entry has come that covers it', () => {
    const was = subject('any, *.cdn.example, !*.corp.example');
    const may = (text: string, how: 'address' | 'name', port = 443) => {
      const { denied } = subject(text);
      return denied !== undefined && mayBeDenied(was, denied, { how, proto: 'tcp', port });
    };
    expect(may('any, !*.corp.example', 'address')).toBe(false);
    expect(may('any, !*.corp.example, !evil.test', 'address')).toBe(true);
    expect(may('any, !*.corp.example, !evil.test', 'name')).toBe(false);
    expect(may('any, !*.corp.example, !a.cdn.example', 'name')).toBe(true);
    expect(may('any, !*.corp.example, !a.cdn.example:80', 'name')).toBe(false);
  });
  it('makes a policy narrower', () => {
    const [wide, narrow] = [subject('any, a.org'), subject('any, a.org, !10.0.0.5')];
    expect([isWider(wide, narrow), isWider(narrow, wide), isWider(narrow, { ...narrow })]).toEqual([
      false,
      true,
      true,
    ]);
    expect(signatureOf(wide)).not.toBe(signatureOf(narrow));
  });
});
