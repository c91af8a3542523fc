import { type Family, rangeToCidrs } from '../lib/ip.js';
import type { ClassPlan } from './classes.js';
import {
  classMatches,
  containerChain,
  hasFamily,
  hostChainRules,
  neighbourSet,
  observedHostRules,
} from './container-chain.js';
import { ownErrorChains } from './icmp-errors.js';
import { limitChains } from './limit-chains.js';
import { identityMark } from './marks.js';
import { classSet, type Names, namesFor } from './naming.js';
import { type Rule, rule } from './rules.js';
import type { KernelConfig, SetDesired, Subject } from './state.js';

type Chains = ReadonlyMap<string, readonly Rule[]>;
/** What the kernel holds for one member alone. */
export interface MemberParts {
  readonly sets: readonly SetDesired[];
  readonly families: Readonly<Record<Family, FamilyParts>>;
  /** What it may open on the host itself; undefined: nothing. */
  readonly host: readonly Rule[] | undefined;
  /** What an observed container opens on the host: all of it passes, some is logged. Undefined: it is not observed. */
  readonly observedHost: readonly Rule[] | undefined;
  /** Bounds of its own, the same in both families. */
  readonly limits: Chains;
}
interface FamilyParts {
  readonly chain: readonly Rule[];
  readonly errors: Chains;
  /** For nat: what its own resolver is asked is not brought to ours. */
  readonly direct: readonly Rule[];
}

const FAMILIES: readonly Family[] = [4, 6];
/** By objects that nothing changes: what is made depends on these two alone. */
const known = new WeakMap<KernelConfig, WeakMap<Subject, MemberParts>>();

/** Rendered once for each member object. Equal members that are two objects are rendered twice. */
export function partsOf(member: Subject, shape: KernelConfig): MemberParts {
  const ofShape = known.get(shape) ?? new WeakMap<Subject, MemberParts>();
  known.set(shape, ofShape);
  const parts = ofShape.get(member) ?? makeParts(member, shape);
  ofShape.set(member, parts);
  return parts;
}

function makeParts(member: Subject, shape: KernelConfig): MemberParts {
  const names = namesFor(shape.prefix);
  const ofFamily = (family: Family): FamilyParts => ({
    chain: containerChain(member, family, names, shape),
    errors: ownErrorChains([member], family, names, shape),
    direct: directReturns(member, family, names, shape),
  });
  return {
    sets: memberSets(member, names),
    families: { 4: ofFamily(4), 6: ofFamily(6) },
    host: hostChainRules(member, names),
    observedHost: observedHostRules(member, names, shape),
    limits: limitChains([member], names),
  };
}

/** dns=direct entries keep their own resolver: nat leaves them alone, the container's chain judges them. */
function directReturns(m: Subject, family: Family, names: Names, { marks }: KernelConfig): Rule[] {
  if (m.policy.mode !== 'enforce') return [];
  const who = { k: 'mark', value: identityMark(marks, m.identity), mask: marks.identity } as const;
  return m.classes
    .filter((c) => c.direct && c.statics.some((s) => s.range.family === family))
    .flatMap((c) =>
      classMatches(c).map((when) =>
        rule(
          [
            who,
            ...when,
            { k: 'set', set: classSet(names.prefix, m.id, c.key, family, 'static'), dir: 'dst' },
          ],
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
    type: 'hash:net' as const,
    family,
    timed: false,
    members: m.neighbours.filter((a) => a.includes(':') === (family === 6)),
  }));
  return [...sets, ...neighbours];
}

function classSets(m: Subject, c: ClassPlan, names: Names, family: Family): SetDesired[] {
  const sets: SetDesired[] = [];
  const statics = c.statics.filter((s) => s.range.family === family);
  if (statics.length > 0)
    sets.push({
      name: classSet(names.prefix, m.id, c.key, family, 'static'),
      owner: m.id,
      type: 'hash:net',
      family,
      timed: false,
      members: [...new Set(statics.flatMap((s) => setCidrs(s.range)))],
    });
  const timed = (kind: 'learned' | 'shown'): SetDesired => ({
    name: classSet(names.prefix, m.id, c.key, family, kind),
    owner: m.id,
    type: 'hash:ip',
    family,
    timed: true,
    members: [],
  });
  if (c.names.length > 0) sets.push(timed('learned'));
  if (c.names.length > 0 && m.policy.mode === 'observe') sets.push({ ...timed('shown'), isShown: true });
  return sets;
}

/** CIDRs of a range; hash:net has no /0, so everything is two halves. */
function setCidrs(range: Parameters<typeof rangeToCidrs>[0]): string[] {
  return rangeToCidrs(range).flatMap((c) => {
    if (c.prefix > 0) return [c.text];
    return c.family === 4 ? ['0.0.0.0/1', '128.0.0.0/1'] : ['::/1', '8000::/1'];
  });
}
