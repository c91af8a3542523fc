/** Random rules as text of each backend, and packets through them: the kernel counts at each rule what the tracer says. */
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Family } from '../../src/lib/ip.js';
import { iptablesRule } from '../../src/ruleset/render/iptables.js';
import { nftDeclarations, nftMatches, nftTarget } from '../../src/ruleset/render/nft.js';
import { type Match, type Rule, rule, type Target } from '../../src/ruleset/rules.js';
import { type HasMember, type TracePacket, trace } from '../../src/ruleset/trace.js';
import { runs } from '../pure/runs.js';
import { configure } from './frames.js';
import { makeNetns, type Netns } from './in-netns.js';

const FAMILIES = [4, 6] as const;
const BACKENDS = ['iptables', 'nft'] as const;
type Backend = (typeof BACKENDS)[number];
const ENDS = {
  4: {
    own: '198.51.100.1',
    here: '198.51.100.2',
    near: '203.0.113.9',
    far: '203.0.114.77',
    net: '203.0.113.0/28',
  },
  6: {
    own: '2001:db8:51::1',
    here: '2001:db8:51::2',
    near: '2001:db8:52::9',
    far: '2001:db8:53::77',
    net: '2001:db8:52::/64',
  },
} as const;
/** Of the packets of a test: what the kernel itself sends does not have it. */
const TESTED = 0x4000_0000;
/** Of the flow that is established before the tests: its source port, and its connmark. */
const FLOW = { port: 7001, mark: 0x11 } as const;
const SENT_TO = 99;
const REDIRECTED = 5300;
const MEMBERS: Readonly<Record<Family, Readonly<Record<string, readonly string[]>>>> = {
  4: { A: [ENDS[4].near], N: [ENDS[4].net], P: [`${ENDS[4].near},udp:53`, `${ENDS[4].here},udp:53`] },
  6: { A: [ENDS[6].near], N: [ENDS[6].net], P: [`${ENDS[6].near},udp:53`, `${ENDS[6].here},udp:53`] },
};
const TYPES = { A: 'hash:ip', N: 'hash:net', P: 'hash:ip,port', T: 'hash:ip' } as const;

/** Python: packets by sockets. Each has a new port or ICMP id, but for those of the established flow. */
const SEND = `
import json, socket, sys
def send(p):
    six = ':' in p['dst']
    family = socket.AF_INET6 if six else socket.AF_INET
    kind = {'udp': socket.SOCK_DGRAM, 'tcp': socket.SOCK_STREAM, 'icmp': socket.SOCK_RAW}[p['proto']]
    raw = (socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP) if p['proto'] == 'icmp' else 0
    with socket.socket(family, kind, raw) as s:
        s.setsockopt(socket.SOL_SOCKET, 36, p['mark'])  # SO_MARK
        s.setblocking(False)
        s.bind((p['src'], p.get('sport', 10000 + p['id']) if kind != socket.SOCK_RAW else 0))
        try:
            if p['proto'] == 'tcp': s.connect((p['dst'], p['dport']))
            elif p['proto'] == 'udp': s.sendto(bytes(p['payload']), (p['dst'], p['dport']))
            else: s.sendto(bytes([128 if six else 8, 0]) + ((0).to_bytes(2, 'big') if six else (0xf7ff - p['id']).to_bytes(2, 'big')) + p['id'].to_bytes(2, 'big') + bytes(2), (p['dst'], 0))
        except OSError: pass
for p in json.loads(sys.argv[1]): send(p)
`;
/** Python: a datagram and its answer. */
const ESTABLISH = `
import socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
a, b = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_DGRAM)
a.bind((sys.argv[1], ${FLOW.port})); b.bind((sys.argv[2], 53)); a.sendto(b'q', b.getsockname())
data, to = b.recvfrom(10); b.sendto(b'r', to); a.recvfrom(10)
`;

interface Sent extends TracePacket {
  readonly to: { readonly dst: string; readonly dport: number };
  readonly sport?: number;
  readonly payload: number;
}

const namespaces = new Map<Backend, Netns>();
let queues = false;
beforeAll(() => {
  for (const backend of BACKENDS) {
    const ns = makeNetns();
    namespaces.set(backend, ns);
    ns.run('sysctl', '-qw', 'net.ipv6.conf.default.accept_dad=0', 'net.ipv6.conf.all.accept_dad=0');
    const all = FAMILIES.flatMap((f) => {
      const { own, here, near, far } = ENDS[f];
      const bits = f === 4 ? 24 : 64;
      const neighbours = [near, far].map(
        (a) => `neigh add ${a} lladdr 02:00:00:00:00:99 dev away nud permanent`,
      );
      return [
        ...[own, here].map((a) => `address add ${a}/${bits} dev away`),
        `${f === 6 ? '-6 ' : ''}route add default dev away`,
        ...neighbours,
      ];
    });
    configure(ns, [
      'link set lo up',
      'link add away type veth peer name beyond',
      'link set away up',
      'link set beyond up',
      ...all.filter((l) => !l.startsWith('-6')),
    ]);
    ns.run('ip', '-6', 'route', 'add', 'default', 'dev', 'away');
    ns.run(
      'nft',
      `table inet before {
        chain marking { type filter hook output priority -140; udp sport ${FLOW.port} ct state new ct mark set ${FLOW.mark}; }
        chain redirecting { type nat hook output priority -100;
          udp dport ${SENT_TO} meta nfproto ipv4 dnat ip to ${ENDS[4].here}:${REDIRECTED}
          udp dport ${SENT_TO} meta nfproto ipv6 dnat ip6 to [${ENDS[6].here}]:${REDIRECTED}
        }
      }`,
    );
    for (const f of FAMILIES) {
      for (const [set, type] of Object.entries(TYPES)) {
        const timed = set === 'T' ? ['timeout', '0'] : [];
        ns.run('ipset', 'create', `${set}${f}`, type, 'family', f === 4 ? 'inet' : 'inet6', ...timed);
        for (const m of MEMBERS[f][set] ?? []) ns.run('ipset', 'add', `${set}${f}`, m);
      }
    }
  }
  const { run } = namespaces.get('nft') as Netns;
  try {
    run('nft', 'table ip asked { chain c { queue num 7; }; }; delete table ip asked');
    queues = true;
  } catch {
    queues = false; // without a listener it drops, and so does the text that replaces it
  }
});
afterAll(() => {
  for (const ns of namespaces.values()) ns[Symbol.dispose]();
});

const has: HasMember = (set, by, p) => {
  const members = MEMBERS[p.family][set.charAt(0)] ?? [];
  const address = by === 'src' ? p.src : p.dst;
  if (set.startsWith('N')) return address === ENDS[p.family].near;
  return members.includes(set.startsWith('P') ? `${address},${p.proto}:${p.dport}` : address);
};

type Of<T> = fc.Arbitrary<T>;
const not = fc.constantFrom({}, { not: true } as const);
const bit = fc.constantFrom(0x1, 0x2, 0x4, 0x10);
const masked = (k: 'mark' | 'connmark'): Of<Match> =>
  fc
    .tuple(bit, bit, fc.boolean(), not)
    .map(([a, b, isSet, n]) => ({ k, value: isSet ? a : 0, mask: a | b, ...n }));
const one = <T>(...all: T[]): Of<T> => fc.constantFrom(...all);
const proto = (p: 'tcp' | 'udp' | 'icmp'): Match => ({ k: 'proto', proto: p });
const PORTS = [
  { lo: 53, hi: 53 },
  { lo: 80, hi: 90 },
  { lo: REDIRECTED, hi: REDIRECTED },
];
const RATE = { perSecond: 1000, burst: 1000 };

function conditions(f: Family): Of<readonly Match[]> {
  const { own, here, near, far, net } = ENDS[f];
  const single: Of<Match> = fc.oneof(
    masked('mark'),
    masked('connmark'),
    fc
      .tuple(one<string | number>('tcp', 'udp', 'icmp', 132), not)
      .map(([p, n]) => ({ k: 'proto', proto: p, ...n }) as Match),
    fc
      .tuple(one('A', 'N'), one('src', 'dst'), not)
      .map(([s, by, n]) => ({ k: 'set', set: `${s}${f}`, by, ...n }) as Match),
    not.map((n) => ({ k: 'set', set: `P${f}`, by: 'dst+port', ...n }) as Match),
    fc
      .tuple(
        fc.subarray(['NEW', 'ESTABLISHED', 'RELATED', 'INVALID'] as const, { minLength: 1, maxLength: 3 }),
        not,
      )
      .map(([states, n]) => ({ k: 'ct', states, ...n }) as Match),
    not.map((n) => ({ k: 'ct', states: ['DNAT'], ...n }) as Match),
    not.map((n) => ({ k: 'confirmed', ...n }) as Match),
    fc
      .tuple(one('orig' as const, 'reply' as const), one(own, here, near))
      .map(([direction, address]): Match => ({ k: 'flowSource', direction, address })),
    one(100, 400).map((than): Match => ({ k: 'longer', than })),
    one<string>(here, near, far, net).map((address): Match => ({ k: 'dst', address })),
    fc
      .tuple(one('src', 'dst'), one(net, f === 4 ? '198.51.100.0/31' : '2001:db8:51::/127'), not)
      .map(([end, n, isNot]) => ({ k: 'within', end, net: n, ...isNot }) as Match),
    one<Match>(
      { k: 'answer' },
      { k: 'toHost' },
      { k: 'srcLocal' },
      { k: 'srcLocal', not: true },
      { k: 'in', device: 'lo' },
    ),
    one<Match>(
      { k: 'limit', name: 'l', ...RATE },
      { k: 'above', name: 'a', ...RATE },
      { k: 'paced', ...RATE },
      { k: 'sampled', oneIn: 1_000_000 },
      { k: 'connections', above: 1000, of: 'rule' },
      { k: 'connections', above: 1000, of: 'address' },
    ),
    ...(f === 6
      ? [
          one<Match>({ k: 'unrouted' }),
          not.map((n) => ({ k: 'within', end: 'dst', net: '::9/::ffff:ffff', ...n }) as Match),
        ]
      : []),
  );
  const pair: Of<readonly Match[]> = fc.oneof(
    fc
      .tuple(one('tcp' as const, 'udp' as const), fc.subarray(PORTS, { minLength: 1 }))
      .map(([p, ports]) => [proto(p), { k: 'dports', ports }] as const),
    not.map((n) => [proto('tcp'), { k: 'syn', ...n }] as const),
    one<Match>({ k: 'icmpType', type: 'echo-request' }, { k: 'icmpType', type: 'redirect' }).map(
      (m) => [proto('icmp'), m] as const,
    ),
    one<Match>(
      { k: 'sentTo', port: { lo: SENT_TO, hi: SENT_TO } },
      { k: 'sentTo', port: { lo: 90, hi: 120 } },
      { k: 'sentTo', port: { lo: 90, hi: 120 }, here: 0x80 },
    ).map((m) => [proto('udp'), m] as const),
  );
  return fc
    .tuple(fc.uniqueArray(single, { maxLength: 2, selector: placeOfMatch }), fc.oneof(fc.constant([]), pair))
    .map(([some, p]) => (some.some((m) => m.k === 'proto') ? some : [...p, ...some]));
}

/** iptables takes one condition of a rule on each of these. */
const placeOfMatch = (m: Match): string =>
  m.k === 'dst' ? 'within dst' : m.k === 'within' ? `within ${m.end}` : m.k;

const CHAINS = 4;
const nameOf = (n: number): string => `DBT-${n}`;
function targets(f: Family, chain: number): Of<Rule> {
  const later = Array.from({ length: CHAINS }, (_, n) => n)
    .filter((n) => n > chain)
    .map(nameOf);
  const plain: Of<Target> = fc.oneof(
    one<Target>(
      { k: 'return' },
      { k: 'drop' },
      { k: 'accept' },
      { k: 'reject', tcp: false },
      { k: 'queue', queue: 7 },
    ),
    bit.map((bits): Target => ({ k: 'mark', bits })),
    bit.map((value): Target => ({ k: 'setMark', value, mask: 0x17 })),
    one<Target>(
      { k: 'connMark', bits: 0x1000 },
      { k: 'saveMark', mask: 0xf00 },
      { k: 'nflog', group: 9, prefix: 'DB:t' },
      { k: 'addSource', set: `T${f}`, seconds: 60 },
      { k: 'removeSource', set: `T${f}` },
    ),
    ...(later.length > 0
      ? [fc.tuple(one('goto', 'jump'), one(...later)).map(([k, to]) => ({ k, chain: to }) as Target)]
      : []),
  );
  return fc.oneof(
    { weight: 9, arbitrary: fc.tuple(conditions(f), plain).map(([when, then]) => rule(when, then)) },
    { weight: 1, arbitrary: one(rule([proto('tcp')], { k: 'reject', tcp: true })) },
  );
}
type Chains = ReadonlyMap<string, readonly Rule[]>;
const rulesets = (f: Family): Of<Chains> =>
  fc
    .tuple(
      ...Array.from({ length: CHAINS }, (_, n) => fc.array(targets(f, n), { minLength: 3, maxLength: 8 })),
    )
    .map((all) => new Map(all.map((rules, n) => [nameOf(n), rules] as const)));

function packets(f: Family): Of<Sent> {
  const { own, here, near, far } = ENDS[f];
  const header = f === 4 ? 20 : 40;
  const base = { family: f, src: own, cgroup: 'x' } as const;
  const mark = fc.integer({ min: 0, max: 0x1f }).map((bits) => bits | TESTED);
  const at = fc.tuple(mark, one(near, far, here), one(53, 85, 4000), one(20, 200, 600));
  return fc.oneof(
    at.map(
      ([m, dst, dport, payload]): Sent => ({
        ...base,
        mark: m,
        proto: 'udp',
        dst,
        dport,
        payload,
        to: { dst, dport },
        states: ['NEW'],
        toHost: dst === here,
        bytes: header + 8 + payload,
        flowSources: { orig: own, reply: dst },
      }),
    ),
    at.map(
      ([m, dst, dport]): Sent => ({
        ...base,
        mark: m,
        proto: 'tcp',
        dst: dst === here ? near : dst,
        dport,
        payload: 0,
        syn: true,
        states: ['NEW'],
        bytes: header + 40,
        to: { dst: dst === here ? near : dst, dport },
        flowSources: { orig: own, reply: dst === here ? near : dst },
      }),
    ),
    at.map(
      ([m, dst]): Sent => ({
        ...base,
        mark: m,
        proto: 'icmp',
        dst: dst === here ? far : dst,
        payload: 0,
        echo: true,
        states: ['NEW'],
        bytes: header + 8,
        to: { dst: dst === here ? far : dst, dport: 0 },
        flowSources: { orig: own, reply: dst === here ? far : dst },
      }),
    ),
    at.map(
      ([m, dst, , payload]): Sent => ({
        ...base,
        mark: m,
        proto: 'udp',
        dst: here,
        dport: REDIRECTED,
        payload,
        to: { dst: dst === here ? near : dst, dport: SENT_TO },
        sentTo: SENT_TO,
        states: ['NEW', 'DNAT'],
        toHost: true,
        bytes: header + 8 + payload,
        flowSources: { orig: own, reply: here },
      }),
    ),
    at.map(
      ([m, , , payload]): Sent => ({
        ...base,
        mark: m,
        proto: 'udp',
        dst: here,
        dport: 53,
        payload,
        to: { dst: here, dport: 53 },
        sport: FLOW.port,
        toHost: true,
        states: ['ESTABLISHED'],
        connmark: FLOW.mark,
        bytes: header + 8 + payload,
        flowSources: { orig: own, reply: here },
      }),
    ),
  );
}

const texts = (chains: Chains): string[] =>
  [...chains].flatMap(([name, rules]) => rules.map((_, n) => `${name} ${n}`));
type Counts = Readonly<Record<string, number>>;

/** By the tracer: how many of the packets match each rule. */
function traced(chains: Chains, sent: readonly Sent[]): Counts {
  const counts = Object.fromEntries(texts(chains).map((t) => [t, 0]));
  for (const packet of sent)
    for (const step of trace(chains, nameOf(0), packet, has).steps) {
      const place = `${step.chain} ${(chains.get(step.chain) ?? []).indexOf(step.rule)}`;
      counts[place] = (counts[place] ?? 0) + 1;
    }
  return counts;
}

/** By the kernel, with the rules of one backend. */
let lastId = 0;
async function counted(backend: Backend, f: Family, chains: Chains, sent: readonly Sent[]): Promise<Counts> {
  const ns = namespaces.get(backend) as Netns;
  const send = (): string =>
    ns.run(
      'python3',
      '-c',
      SEND,
      JSON.stringify(sent.map((p, id) => ({ ...p, ...p.to, id: lastId + id + 1 }))),
    );
  // an entry of conntrack for a datagram and its answer ends after 30 s, which other tests may take in between
  ns.run('python3', '-c', ESTABLISH, ENDS[f].own, ENDS[f].here);
  const counts = await (backend === 'nft' ? byNft : byIptables)(ns, f, chains, send);
  lastId += sent.length;
  return counts;
}

async function byIptables(ns: Netns, f: Family, chains: Chains, send: () => string): Promise<Counts> {
  const tool = f === 4 ? 'iptables' : 'ip6tables';
  const lines = [...chains].flatMap(([name, rules]) => rules.map((r) => `-A ${name} ${iptablesRule(r, f)}`));
  const hook = `OUTPUT -m mark --mark ${TESTED}/${TESTED} -j ${nameOf(0)}`;
  const script = [
    '*filter',
    ...[...chains.keys()].map((c) => `:${c} -`),
    ...lines,
    `-A ${hook}`,
    'COMMIT',
    '',
  ];
  const loaded = await ns.exec(`${tool}-restore`, ['--noflush'], { input: script.join('\n') });
  expect(loaded, script.join('\n')).toMatchObject({ code: 0 });
  send();
  const found = ns.run(`${tool}-save`, '-c', '-t', 'filter').split('\n');
  ns.run(tool, '-D', ...hook.split(' '));
  ns.run(tool, '-F');
  ns.run(tool, '-X');
  return numbered(
    found.flatMap((l) => {
      const [, packetsSeen, chain] = /^\[(\d+):\d+\] -A (DBT-\d)/.exec(l) ?? [];
      return chain === undefined ? [] : [[chain, Number(packetsSeen)] as const];
    }),
  );
}

function numbered(counts: readonly (readonly [chain: string, packets: number])[]): Counts {
  const next = new Map<string, number>();
  return Object.fromEntries(
    counts.map(([chain, n]) => {
      const place = next.get(chain) ?? 0;
      next.set(chain, place + 1);
      return [`${chain} ${place}`, n];
    }),
  );
}

const SET_TYPES = {
  A: '',
  N: '; flags interval',
  P: ' . inet_proto . inet_service',
  T: '; flags dynamic, timeout',
};
function nftSets(f: Family): string[] {
  return Object.entries(SET_TYPES).map(([set, type]) => {
    const members = (MEMBERS[f][set] ?? []).map((m) => m.replace(/,(\w+):/, ' . $1 . '));
    const elements = members.length === 0 ? '' : `; elements = { ${members.join(', ')} }`;
    return `set ${set}${f} { type ipv${f}_addr${type}${elements}; }`;
  });
}
const withCounter = (r: Rule, f: Family): string =>
  `${nftMatches(r.when, f)} counter ${r.then.k === 'queue' && !queues ? 'drop' : nftTarget(r.then, f)}`;

async function byNft(ns: Netns, f: Family, chains: Chains, send: () => string): Promise<Counts> {
  const table = `${f === 4 ? 'ip' : 'ip6'} tested`;
  const all = [...chains.values()].flat();
  const filled = [...chains].map(
    ([name, rules]) => `chain ${name} {\n${rules.map((r) => withCounter(r, f)).join('\n')}\n}`,
  );
  const script = [
    `table ${table} {`,
    ...[...nftSets(f), ...nftDeclarations(all, f)],
    ...[...chains.keys()].map((name) => `chain ${name} { }`),
    ...filled,
    `chain entry { type filter hook output priority 0; meta mark & ${TESTED} == ${TESTED} jump ${nameOf(0)}; }`,
    '}\n',
  ].join('\n');
  const loaded = await ns.exec('nft', ['-f', '-'], { input: script });
  expect(loaded, script).toMatchObject({ code: 0 });
  send();
  const { nftables } = JSON.parse(ns.run('nft', '-j', 'list', 'table', ...table.split(' '))) as {
    nftables: { rule?: { chain: string; expr: { counter?: { packets: number } }[] } }[];
  };
  ns.run('nft', 'delete', 'table', ...table.split(' '));
  return numbered(
    nftables.flatMap(({ rule: r }) =>
      r?.chain.startsWith('DBT-')
        ? [[r.chain, r.expr.find((e) => e.counter)?.counter?.packets ?? 0] as const]
        : [],
    ),
  );
}

describe.each(FAMILIES)('IPv%i', (f) => {
  it.each(BACKENDS)('random rules count as the tracer says: %s', { timeout: 120_000 }, async (backend) => {
    let matched = 0;
    await fc.assert(
      fc.asyncProperty(
        rulesets(f),
        fc.array(packets(f), { minLength: 20, maxLength: 20 }),
        async (chains, sent) => {
          const expected = traced(chains, sent);
          const found = await counted(backend, f, chains, sent);
          const named = (c: Counts) =>
            texts(chains).map((t) => `${t} ${JSON.stringify(ruleAt(chains, t))}: ${c[t]}`);
          expect(named(found)).toEqual(named(expected));
          matched += Object.values(expected).reduce((a, b) => a + b, 0);
        },
      ),
      { numRuns: runs(8), endOnFailure: true },
    );
    expect(matched).toBeGreaterThan(20);
  });
});

const ruleAt = (chains: Chains, place: string): Rule | undefined => {
  const [chain = '', n] = place.split(' ');
  return chains.get(chain)?.[Number(n)];
};
