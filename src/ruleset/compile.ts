import type { Family } from '../lib/ip.js';
import { anyNetworks, nat64Ranges } from '../lib/special-use.js';
import { compileBridge, enforcedAddresses } from './bridge-elements.js';
import {
  backstopChain,
  bridgeChains,
  constantChains,
  inputChain,
  preroutingChain,
} from './constant-chains.js';
import { partsOf } from './container-chains.js';
import {
  type DesiredInput,
  type DesiredState,
  type Hook,
  type SetDesired,
  type SetKind,
  type Subject,
  type TableDesired,
  unattributedSubject,
} from './desired-state.js';
import { hostRaw, identityChains, isUnknown, OWN, queuesInTable } from './host-identity.js';
import {
  hostBackstop,
  hostBackstopWhen,
  hostFilter,
  hostMarkChains,
  hostNat,
  hostOutputWhen,
} from './host-net.js';
import { identityMark, type Marks, UNATTRIBUTED } from './marks.js';
import {
  containerChain as chainName,
  containerChain,
  hostChain,
  type Names,
  namesFor,
  sharedSet,
} from './naming.js';
import { type Match, type Rule, rule } from './rules.js';
import { threatBackstop, threatChains, threatSets } from './threat-rules.js';
import { boundChains } from './verdict-chains.js';

const FAMILIES: readonly Family[] = [4, 6];

/** Compile the kernel state for this input. Pure: equal inputs give equal states. */
export function compile(input: DesiredInput): DesiredState {
  const names = namesFor(input.shape.prefix);
  const everyone = [...input.subjects, unattributedSubject(input)];
  const identity = identityChains(input);
  const sets = [...sharedSets(input, names), ...everyone.flatMap((m) => partsOf(m, input.shape).sets)];
  return {
    sets: new Map(sets.map((s) => [s.name, s])),
    tables: FAMILIES.flatMap((f) => [
      verdictTable(input, everyone, names, f),
      redirectTable(input, everyone, names, f),
      backstopTable(input, names, f),
      markTable(input, names, f),
      ...(input.hostNet.zones || input.hostNet.native ? [untrackedTable(input, names, f)] : []),
    ]),
    bridge: compileBridge(input),
    identity,
    hostNet: { ...input.hostNet, hasSenders: identity.has(OWN) },
  };
}

function verdictTable(
  input: DesiredInput,
  members: readonly Subject[],
  names: Names,
  family: Family,
): TableDesired {
  const known = members.filter((m) => m.identity !== UNATTRIBUTED && m.families.has(family));
  const fallback = members.find((m) => m.identity === UNATTRIBUTED);
  const leaves = leavesOf(known, names, fallback ? leafOf(fallback, names) : names.no);
  const dispatch = dispatchTree(leaves, input.shape.marks, names);
  const present = fallback ? [...known, fallback] : known;
  const partsHere = present.map((m) => partsOf(m, input.shape));
  const hosts = hostChains(present, (m) => partsOf(m, input.shape).families[family].host, names);
  const jumps = hostJumps(input, present, hosts, names);
  const observed = present.filter((m) => m.policy.mode === 'observe');
  const observedHosts = hostChains(
    observed,
    (m) => partsOf(m, input.shape).families[family].observedHost,
    names,
  );
  const observedLeaves = new Map(observed.map((m) => [m.identity, hostChain(names.prefix, m.id)] as const));
  const chains = new Map<string, readonly Rule[]>([
    ...present
      .filter((m) => leafOf(m, names) === chainName(names.prefix, m.id))
      .map((m) => [chainName(names.prefix, m.id), partsOf(m, input.shape).families[family].chain] as const),
    ...hosts,
    ...observedHosts,
    ...observedHostTree(observedLeaves, input.shape.marks, names),
    ...partsHere.flatMap((p) => [...p.families[family].errors]),
    ...partsHere.flatMap((p) => [...p.limits]),
    ...boundChains(input.shape, names, family),
    ...dispatch,
    ...constantChains(input, names, family),
    ...threatChains(input.shape, names, family),
    ...bridgeChains(input, names, family),
    ...hostFilter(input, names, family, jumps),
    [names.input, inputChain(input, names, family, jumps)],
  ]);
  const hooks = [
    hook('forward', names.forward, [notEvaluated(input.shape.marks)]),
    ...inputWhen(input.shape.marks).map((when) => hook('input', names.input, when)),
    ...hostOutputWhen(input).map((when) => hook('output', names.output, when)),
  ];
  return { family, layer: 'verdict', chains, hooks };
}

function hostChains(
  members: readonly Subject[],
  rulesOf: (m: Subject) => readonly Rule[] | undefined,
  names: Names,
): Map<string, readonly Rule[]> {
  const chains = new Map<string, readonly Rule[]>();
  for (const m of members) {
    const rules = rulesOf(m);
    if (rules) chains.set(hostChain(names.prefix, m.id), rules);
  }
  return chains;
}

function hostJumps(
  input: DesiredInput,
  members: readonly Subject[],
  hosts: ReadonlyMap<string, unknown>,
  names: Names,
): Rule[] {
  const { marks } = input.shape;
  return members
    .filter((m) => hosts.has(hostChain(names.prefix, m.id)))
    .map((m) =>
      rule([{ k: 'mark', value: identityMark(marks, m.identity), mask: marks.identity }], {
        k: 'goto',
        chain: hostChain(names.prefix, m.id),
      }),
    );
}

function redirectTable(
  input: DesiredInput,
  members: readonly Subject[],
  names: Names,
  family: Family,
): TableDesired {
  const direct = members.flatMap((m) => partsOf(m, input.shape).families[family].direct);
  const chains = new Map([
    [names.prerouting, preroutingChain(input.shape, names, family, direct)],
    ...hostNat(input, names, family, direct),
  ]);
  const hooks = [hook('prerouting', names.prerouting), hook('output', names.hostDns)];
  return { family, layer: 'redirect', chains, hooks };
}

function backstopTable(input: DesiredInput, names: Names, family: Family): TableDesired {
  const chains = new Map([
    ...bridgeChains(input, names, family),
    [names.backstop, backstopChain(input.shape, names, family, 'forward')],
    [names.backstopInput, backstopChain(input.shape, names, family, 'host')],
    ...hostBackstop(input, names),
    ...threatBackstop(input.shape, names, family),
  ]);
  const hooks = [
    hook('forward', names.backstop, [notEvaluated(input.shape.marks)]),
    ...inputWhen(input.shape.marks).map((when) => hook('input', names.backstopInput, when)),
    ...hostBackstopWhen(input).map((when) => hook('output', names.backstopOutput, when)),
  ];
  return { family, layer: 'backstop', chains, hooks };
}

/** Applied last: a packet gets its mark when the chains for that mark are installed. If a cgroup ends meanwhile, only this table fails. */
function markTable(input: DesiredInput, names: Names, family: Family): TableDesired {
  // without a chain or hook the table is not created, and what an earlier version had in it is removed
  if (input.hostNet.native) return { family, layer: 'mark', chains: new Map(), hooks: [] };
  const hooks = [hook('output', names.hostMark)];
  return { family, layer: 'mark', chains: hostMarkChains(input, names, family), hooks };
}

function untrackedTable(input: DesiredInput, names: Names, family: Family): TableDesired {
  if (queuesInTable(input)) return { family, layer: 'untracked', chains: new Map(), hooks: [] };
  const when = input.hostNet.native ? [isUnknown(input.shape)] : [];
  const hooks = [hook('output', names.hostRaw, when)];
  return { family, layer: 'untracked', chains: hostRaw(input, names, family), hooks };
}

const hook = (at: Hook['at'], target: string, when: readonly Match[] = []): Hook => ({
  at,
  rule: rule(when, { k: 'jump', chain: target }),
});

/**
 * The backstop's chain `early` set the evaluated bit on packets of established flows, and `verdict` sets it on what it permits. With
 * `failure: open` it is also set on packets of unknown veths, which `backstop` checks for threats.
 */
const notEvaluated = ({ evaluated, unknown }: Marks): Match => ({
  k: 'mark',
  value: evaluated,
  mask: (evaluated | unknown) >>> 0,
  not: true,
});

/**
 * The packets that leave INPUT for the chains of `verdict` and `backstop`, one jump for each list of matches. The chains would let all
 * others return: those of established flows without an identity, which are most of what a host receives.
 */
const inputWhen = ({ identity }: Marks): readonly (readonly Match[])[] => [
  [{ k: 'mark', value: 0, mask: identity, not: true }],
  [
    { k: 'ct', states: ['ESTABLISHED'], not: true },
    { k: 'mark', value: 0, mask: identity },
  ],
];

function sharedSets(input: DesiredInput, names: Names): SetDesired[] {
  const { enf4, enf6 } = enforcedAddresses(input.subjects);
  return FAMILIES.flatMap((family) => {
    const set = (
      what: Parameters<typeof sharedSet>[1],
      of: SetKind,
      timed: boolean,
      members: readonly string[] = [],
    ): SetDesired => ({
      name: sharedSet(names.prefix, what, family),
      of,
      family,
      timed,
      members,
    });
    return [
      set('enf', 'address', false, [...(family === 4 ? enf4 : enf6)]),
      set('own', 'address', false, ownAddresses(input.subjects, family)),
      set('net', 'net', false, subnets(input, family)),
      ...threatSets(names.prefix, family),
      set('pub', 'address+port', false, publishedPairs(input.subjects, family)),
      set('any', 'net', false, anyNetworks(input.inside ?? [], family, nat64Ranges(input.shape.nat64))),
      set('alive', 'net', true),
      { ...set('cut', 'address+port+address', true), evicts: true },
      { ...set('full', 'address', true), evicts: true },
    ];
  });
}

const ownAddresses = (members: readonly Subject[], family: Family): string[] => [
  ...new Set(members.flatMap((m) => m.veths.flatMap((p) => (family === 4 ? p.ip4 : p.ip6) ?? []))),
];

const subnets = ({ bridges }: DesiredInput, family: Family): string[] => [
  ...new Set(bridges.flatMap((b) => b.subnets ?? []).filter((s) => s.includes(':') === (family === 6))),
];

function publishedPairs(members: readonly Subject[], family: Family): string[] {
  const pairs = members.flatMap((m) =>
    m.veths.flatMap((p) => {
      const address = family === 4 ? p.ip4 : p.ip6;
      return address ? m.published.map((x) => `${address},${x.proto}:${x.port}`) : [];
    }),
  );
  return [...new Set(pairs)];
}

const FANOUT_BITS = 4;

/**
 * From a mark to its container's chain in a tree of masks: 16 rules a level at most, so that a new flow's cost does not
 * grow with containers. Only levels that identities in use need are made. Chains by name, root first.
 */
function dispatchTree(leaves: ReadonlyMap<number, string>, marks: Marks, names: Names): Map<string, Rule[]> {
  return maskTree(leaves, marks, names.dispatch, [rule([], { k: 'goto', chain: names.no })]);
}

/**
 * The same for what observed containers send to the host. An identity without a leaf falls off the end of its chain, which
 * returns: unlike the tree of FORWARD, this one must not refuse anything.
 */
const observedHostTree = (
  leaves: ReadonlyMap<number, string>,
  marks: Marks,
  names: Names,
): Map<string, Rule[]> => maskTree(leaves, marks, names.observedHost, []);

function maskTree(
  leaves: ReadonlyMap<number, string>,
  marks: Marks,
  root: string,
  otherwise: readonly Rule[],
): Map<string, Rule[]> {
  const chains = new Map<string, Rule[]>();
  const highest = Math.max(1, ...leaves.keys());
  const levels = Math.max(1, Math.ceil(Math.log2(highest + 1) / FANOUT_BITS));
  const build = (name: string, level: number, members: readonly (readonly [number, string])[]): void => {
    chains.set(name, []);
    chains.set(name, [...branches(name, level, members), ...otherwise]);
  };
  const branches = (name: string, level: number, members: readonly (readonly [number, string])[]): Rule[] => {
    if (level === 0) return members.map(([id, chain]) => toChain(id, marks.identity, chain));
    return [...bySlot(members, level)].map(([slot, inside]) => {
      const child = `${name}${slot.toString(16)}`;
      build(child, level - 1, inside);
      return toChain(slot << (level * FANOUT_BITS), identityMark(marks, 15 << (level * FANOUT_BITS)), child);
    });
  };
  const toChain = (id: number, mask: number, chain: string): Rule =>
    rule([{ k: 'mark', value: identityMark(marks, id), mask }], { k: 'goto', chain });
  build(
    root,
    levels - 1,
    [...leaves].sort(([a], [b]) => a - b),
  );
  return chains;
}

/** Group identities by the nibble of this level. The members of a group share that nibble and all nibbles above it. */
function bySlot(
  members: readonly (readonly [number, string])[],
  level: number,
): Map<number, (readonly [number, string])[]> {
  const slots = new Map<number, (readonly [number, string])[]>();
  for (const member of members) {
    const slot = (member[0] >> (level * FANOUT_BITS)) & 15;
    const inside = slots.get(slot);
    if (inside) inside.push(member);
    else slots.set(slot, [member]);
  }
  return slots;
}

/** Map each identity to its chain. Containers in mode off share a chain. */
function leavesOf(members: readonly Subject[], names: Names, unattributed: string): Map<number, string> {
  const leaves = new Map<number, string>([[UNATTRIBUTED, unattributed]]);
  for (const m of members) leaves.set(m.identity, leafOf(m, names));
  return leaves;
}

function leafOf(m: Pick<Subject, 'policy' | 'id'>, names: Names): string {
  if (m.policy.mode === 'off') return names.ok;
  return containerChain(names.prefix, m.id);
}
