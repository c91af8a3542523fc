/** Rules and sets of deny entries. In each chain of a subject they come before every rule that permits. */
import type { Family } from '../lib/ip.js';
import { portsOf } from '../policy/entry-ports.js';
import type { PolicyEntry } from '../policy/policy.js';
import { cidrsOf, classMatches, entriesOf } from './classes.js';
import { type DenyClass, hasStatics } from './deny-plan.js';
import type { KernelConfig, SetDesired, Subject } from './desired-state.js';
import { classSet, type Names, sharedSet } from './naming.js';
import { type Match, type Rule, rule } from './rules.js';
import { unpermitted } from './verdict-chains.js';

const denySet = (prefix: string, id: string, c: DenyClass, family: Family): string =>
  classSet(prefix, id, `deny ${c.key}`, family, 'static');

/** Packets to what deny entries cover, before every rule that permits: one rule for the addresses of each class, and for `any`. */
export function denialRules(m: Subject, family: Family, names: Names, shape: KernelConfig): Rule[] {
  return (m.denied?.classes ?? []).flatMap((c) => [
    ...addressDenials(m, c, family, names, shape),
    ...publishedDenials(m, c, names, shape),
    ...anyDenials(m, c, family, names, shape),
  ]);
}

function anyDenials(m: Subject, c: DenyClass, family: Family, names: Names, shape: KernelConfig): Rule[] {
  if (c.any.length === 0) return [];
  const set: Match = { k: 'set', set: sharedSet(names.prefix, 'any', family), by: 'dst' };
  return denied(m, classMatches(c), [set], c.any, { names, shape });
}

function addressDenials(m: Subject, c: DenyClass, family: Family, names: Names, shape: KernelConfig): Rule[] {
  if (!hasStatics(c, family)) return [];
  const set: Match = { k: 'set', set: denySet(names.prefix, m.id, c, family), by: 'dst' };
  const entries = c.statics.map((s) => s.entry);
  return denied(m, classMatches(c), [set], entries, { names, shape });
}

/** Ports that the host publishes for containers, by the port before DNAT. */
function publishedDenials(m: Subject, c: DenyClass, names: Names, shape: KernelConfig): Rule[] {
  const protos = c.proto === 'all' ? PUBLISHED : PUBLISHED.filter((proto) => proto === c.proto);
  if (c.host.length === 0) return [];
  return protos.flatMap((proto) =>
    portsOf(c).flatMap((port) =>
      denied(m, [[{ k: 'proto', proto }]], [{ k: 'sentTo', port, here: shape.marks.here }], c.host, {
        names,
        shape,
      }),
    ),
  );
}
const PUBLISHED = ['tcp', 'udp', 132] as const;

/** To the refusal of the subject: of an observed one the packet is logged, and passes. */
function denied(
  m: Subject,
  heads: readonly Match[][],
  match: readonly Match[],
  entries: readonly PolicyEntry[],
  { names, shape }: { readonly names: Names; readonly shape: KernelConfig },
): Rule[] {
  const why = entriesOf(entries);
  return heads.flatMap((head) =>
    unpermitted(m, names, shape).map((r) => rule([...head, ...match, ...r.when], r.then, why)),
  );
}

/** Deny entries for the host, and for addresses that the host has. */
export function hostDenials(m: Subject, family: Family, names: Names, shape: KernelConfig): Rule[] {
  return (m.denied?.classes ?? []).flatMap((c) => [
    ...addressDenials(m, c, family, names, shape),
    ...(c.host.length > 0 ? denied(m, classMatches(c), [], c.host, { names, shape }) : []),
  ]);
}

const FAMILIES: readonly Family[] = [4, 6];
export const denySets = (m: Subject, names: Names): SetDesired[] =>
  (m.denied?.classes ?? []).flatMap((c) =>
    FAMILIES.filter((f) => hasStatics(c, f)).map((family) => ({
      name: denySet(names.prefix, m.id, c, family),
      owner: m.id,
      of: 'net' as const,
      family,
      timed: false,
      denies: true as const,
      members: cidrsOf(c.statics, family),
    })),
  );
