import type { Family } from '../lib/ip.js';
import { memo } from '../lib/memo.js';
import { TUNNELS } from '../lib/special-use.js';
import type { PortRange } from '../policy/entry.js';
import { portsOf } from '../policy/entry-ports.js';
import { type ClassPlan, cidrsOf, classMatches, entriesOf } from './classes.js';
import { denialRules, denySets, hostDenials } from './deny-rules.js';
import type { KernelConfig, SetDesired, Subject } from './desired-state.js';
import { identityMark } from './marks.js';
import { classSet, type Names, namesFor, sharedSet } from './naming.js';
import { type Match, type Rule, rule } from './rules.js';
import {
  asking,
  checkedChain,
  limitChains,
  ownErrorChains,
  ownErrors,
  permitChain,
  QUOTA_WHY,
  unpermitted,
} from './verdict-chains.js';

const DNS_PORT = [{ lo: 53, hi: 53 }];
const NEIGHBOURS = 'neighbours';
const neighbourSet = (prefix: string, id: string, family: Family): string =>
  classSet(prefix, id, NEIGHBOURS, family, 'static');

/** New connections of one container through FORWARD. Entered and left by goto: its permits and denials end the traversal. */
export function containerChain(member: Subject, family: Family, names: Names, shape: KernelConfig): Rule[] {
  const permits = permitsOf(member, family, names, shape);
  if (member.policy.mode === 'off') return [rule([], { k: 'goto', chain: names.ok })];
  const denials = denialRules(member, family, names, shape);
  // errors about flows that others opened are no connections of the container: deny entries do not hold them back
  const errors = ownErrors(member, names);
  const [first, last] = denials.length > 0 ? [[...errors, ...denials], []] : [[], errors];
  if (member.policy.mode === 'observe')
    return [...first, ...permits, ...last, ...unpermitted(member, names, shape)];
  if (member.limits?.quota?.spent) return spent(names);
  return [
    ...first,
    ...directPermits(member, family, names, shape),
    ...dnsDenials(names),
    ...permits,
    ...last,
    ...asking(member, names, shape),
    ...unpermitted(member, names, shape),
  ];
}

const spent = (names: Names): Rule[] => [rule([], { k: 'goto', chain: names.quota }, [QUOTA_WHY])];

/** Address entries with dns=direct: the only way to another resolver. */
function directPermits(member: Subject, family: Family, names: Names, shape: KernelConfig): Rule[] {
  return member.classes.filter((c) => c.direct).flatMap((c) => classRules(member, c, family, names, shape));
}

/** Deny port 53 that nat did not redirect to Drawbridge. */
const dnsDenials = (names: Names): Rule[] =>
  (['udp', 'tcp'] as const).map((proto) =>
    rule(
      [
        { k: 'proto', proto },
        { k: 'dports', ports: DNS_PORT },
      ],
      { k: 'goto', chain: names.no },
      ['dns'],
    ),
  );

function permitsOf(member: Subject, family: Family, names: Names, shape: KernelConfig): Rule[] {
  const rulesOf = (classes: readonly ClassPlan[]): Rule[] =>
    classes.flatMap((c) => classRules(member, c, family, names, shape));
  const free = member.classes.filter((c) => !c.direct && !c.isChecked);
  const checked = member.classes.filter((c) => !c.direct && c.isChecked);
  // a connection is checked if nothing permits it but a name
  return [...rulesOf(free), ...neighbourRules(member, family, names), ...rulesOf(checked)];
}

function neighbourRules(member: Subject, family: Family, names: Names): Rule[] {
  if (!hasFamily(member.neighbours, family)) return [];
  const set: Match = { k: 'set', set: neighbourSet(names.prefix, member.id, family), by: 'dst' };
  const chain = permitChain(member, names);
  const checked = (['tcp', 'udp'] as const).flatMap((proto) => {
    const ports = (member.denied?.checked?.[proto] ?? []).map((port) => ({ lo: port, hi: port }));
    if (ports.length === 0) return [];
    const to = { k: 'goto', chain: checkedChain(member, names) } as const;
    return classMatches({ proto, ports }).map((head) => rule([...head, set], to, ['eastWest']));
  });
  return [...checked, rule([set], { k: 'goto', chain }, ['eastWest'])];
}

/** At most three rules per class and family (static, learned, any). */
function classRules(
  member: Subject,
  c: ClassPlan,
  family: Family,
  names: Names,
  { marks }: KernelConfig,
): Rule[] {
  const { prefix } = names;
  const rules: Rule[] = [];
  const chain = c.isChecked ? checkedChain(member, names) : permitChain(member, names);
  const permit = (match: Match, why: readonly string[], ...more: readonly Match[]): void => {
    for (const head of classMatches(c))
      rules.push(rule([...head, match, ...more], { k: 'goto', chain }, why));
  };
  if (c.statics.some((s) => s.range.family === family))
    permit(
      { k: 'set', set: classSet(prefix, member.id, c.key, family, 'static'), by: 'dst' },
      entriesOf(c.statics.map((s) => s.entry)),
    );
  if (c.names.length > 0)
    permit(
      { k: 'set', set: classSet(prefix, member.id, c.namesKey, family, 'learned'), by: 'dst' },
      entriesOf(c.names),
    );
  if (c.host.length > 0 && (c.proto === 'tcp' || c.proto === 'udp'))
    for (const port of portsOf(c))
      rules.push(publishedRule(c.proto, { port, here: marks.here }, chain, entriesOf(c.host)));
  if (c.any.length > 0)
    permit(
      { k: 'set', set: sharedSet(prefix, 'any', family), by: 'dst' },
      entriesOf(c.any),
      ...(family === 6 ? [NO_ISATAP] : []),
    );
  return rules;
}

/** Such an address carries an IPv4 address, which may be private, in any network. */
const NO_ISATAP: Match = { k: 'within', end: 'dst', net: TUNNELS.ISATAP, not: true };
/**
 * A port that the host publishes for another container: evaluated as the host's, wherever DNAT leads. A DNAT rule of another
 * program for an address that is not the host's matches no `host:` entry.
 */
const publishedRule = (
  proto: 'tcp' | 'udp',
  sent: { readonly port: PortRange; readonly here: number },
  chain: string,
  why: readonly string[],
): Rule =>
  rule(
    [
      { k: 'proto', proto },
      { k: 'sentTo', ...sent },
    ],
    { k: 'goto', chain },
    why,
  );

/** Chain of an enforced container for the host itself (`host:` entries). Returns undefined when it has no such entry. */
function hostChainRules(
  member: Subject,
  family: Family,
  names: Names,
  shape: KernelConfig,
): Rule[] | undefined {
  if (member.policy.mode !== 'enforce' || !member.classes.some((c) => c.host.length > 0)) return undefined;
  if (member.limits?.quota?.spent) return spent(names);
  const denials = hostDenials(member, family, names, shape);
  return [...denials, ...hostPermits(member, names), rule([], { k: 'goto', chain: names.no })];
}

/** Chain of an observed container for the host: all packets pass, and those that no `host:` entry permits are logged first. */
const observedHostRules = (
  member: Subject,
  family: Family,
  names: Names,
  shape: KernelConfig,
): Rule[] | undefined =>
  member.policy.mode === 'observe'
    ? [
        ...hostDenials(member, family, names, shape),
        ...hostPermits(member, names),
        ...unpermitted(member, names, shape),
      ]
    : undefined;

function hostPermits(member: Subject, names: Names): Rule[] {
  const chain = permitChain(member, names);
  return member.classes
    .filter((c) => c.host.length > 0)
    .flatMap((c) => classMatches(c).map((when) => rule(when, { k: 'goto', chain }, entriesOf(c.host))));
}

const hasFamily = (addresses: readonly string[], family: Family): boolean =>
  addresses.some((a) => a.includes(':') === (family === 6));

type Chains = ReadonlyMap<string, readonly Rule[]>;
/** Sets and chains of one subject. */
interface MemberParts {
  readonly sets: readonly SetDesired[];
  readonly families: Readonly<Record<Family, FamilyParts>>;
  /** Bounds of its own, the same in both families. */
  readonly limits: Chains;
}
/** What one family has. Each part is rendered when it is first read: most containers have addresses of one family only. */
class FamilyParts {
  readonly #of: { readonly member: Subject; readonly family: Family; readonly shape: KernelConfig };
  #chain: readonly Rule[] | undefined;
  #errors: Chains | undefined;
  #direct: readonly Rule[] | undefined;
  #host: { readonly rules: readonly Rule[] | undefined } | undefined;
  #observedHost: { readonly rules: readonly Rule[] | undefined } | undefined;

  constructor(member: Subject, family: Family, shape: KernelConfig) {
    this.#of = { member, family, shape };
  }

  get chain(): readonly Rule[] {
    const { member, family, shape } = this.#of;
    this.#chain ??= containerChain(member, family, namesFor(shape.prefix), shape);
    return this.#chain;
  }
  get errors(): Chains {
    const { member, family, shape } = this.#of;
    this.#errors ??= ownErrorChains([member], family, namesFor(shape.prefix), shape);
    return this.#errors;
  }
  /** Chain for new connections to the host. Absent if the subject may open none. */
  get host(): readonly Rule[] | undefined {
    const { member, family, shape } = this.#of;
    this.#host ??= { rules: hostChainRules(member, family, namesFor(shape.prefix), shape) };
    return this.#host.rules;
  }
  /** Chain for connections of an observed container to the host: all pass, some are logged. Absent if it is not observed. */
  get observedHost(): readonly Rule[] | undefined {
    const { member, family, shape } = this.#of;
    this.#observedHost ??= { rules: observedHostRules(member, family, namesFor(shape.prefix), shape) };
    return this.#observedHost.rules;
  }
  /** Rules for nat: queries to a resolver that a dns=direct entry permits are not redirected. */
  get direct(): readonly Rule[] {
    const { member, family, shape } = this.#of;
    this.#direct ??= directReturns(member, family, namesFor(shape.prefix), shape);
    return this.#direct;
  }
}

const FAMILIES: readonly Family[] = [4, 6];
const partsFor = memo((shape: KernelConfig) => memo((member: Subject) => makeParts(member, shape)));
/** Rendered once for each member object. Equal members that are two objects are rendered twice. */
export const partsOf = (member: Subject, shape: KernelConfig): MemberParts => partsFor(shape)(member);

function makeParts(member: Subject, shape: KernelConfig): MemberParts {
  const names = namesFor(shape.prefix);
  return {
    sets: memberSets(member, names),
    families: { 4: new FamilyParts(member, 4, shape), 6: new FamilyParts(member, 6, shape) },
    limits: limitChains([member], names, shape),
  };
}

/** Destinations of dns=direct entries are not redirected in nat; the chain of the container evaluates them. */
function directReturns(m: Subject, family: Family, names: Names, { marks }: KernelConfig): Rule[] {
  if (m.policy.mode !== 'enforce') return [];
  const who = { k: 'mark', value: identityMark(marks, m.identity), mask: marks.identity } as const;
  return m.classes
    .filter((c) => c.direct && c.statics.some((s) => s.range.family === family))
    .flatMap((c) =>
      classMatches(c).map((when) =>
        rule(
          [who, ...when, { k: 'set', set: classSet(names.prefix, m.id, c.key, family, 'static'), by: 'dst' }],
          { k: 'return' },
        ),
      ),
    );
}

function memberSets(m: Subject, names: Names): SetDesired[] {
  if (m.policy.mode === 'off') return [];
  const sets = m.classes.flatMap((c) => FAMILIES.flatMap((f) => classSets(m, c, names, f)));
  const neighbours = FAMILIES.filter((f) => hasFamily(m.neighbours, f)).map((family) => ({
    name: neighbourSet(names.prefix, m.id, family),
    owner: m.id,
    of: 'net' as const,
    family,
    timed: false,
    members: m.neighbours.filter((a) => a.includes(':') === (family === 6)),
  }));
  return [...sets, ...neighbours, ...denySets(m, names)];
}

function classSets(m: Subject, c: ClassPlan, names: Names, family: Family): SetDesired[] {
  const sets: SetDesired[] = [];
  const statics = c.statics.filter((s) => s.range.family === family);
  if (statics.length > 0)
    sets.push({
      name: classSet(names.prefix, m.id, c.key, family, 'static'),
      owner: m.id,
      of: 'net',
      family,
      timed: false,
      members: cidrsOf(statics, family),
    });
  if (c.names.length > 0)
    sets.push({
      name: classSet(names.prefix, m.id, c.namesKey, family, 'learned'),
      owner: m.id,
      of: 'address',
      family,
      timed: true,
      members: [],
    });
  return sets;
}
