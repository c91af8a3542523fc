/** What the deny entries of a policy deny: their rules, which come before every other rule of the subject. */

import { type Family, parseAddress, type Range, rangeHas } from '../lib/ip.js';
import { memo } from '../lib/memo.js';
import { DeniedNames, deniesPort, mayOverlap } from '../policy/deny-entries.js';
import type { PortRange } from '../policy/entry.js';
import { classHas, deniedPorts, formatPorts, mergePorts, type PortClass } from '../policy/entry-ports.js';
import type { Policy, PolicyEntry } from '../policy/policy.js';
import {
  type CheckedPorts,
  type ClassPlan,
  checkedByDenial,
  type NameChecks,
  NO_NAME_CHECKS,
  planClasses,
  protoOf,
  type ResolveContainer,
  type StaticDest,
} from './classes.js';

/** One (protocol, ports) of deny entries for destinations that are no names. It has a set and rules of its own. */
export interface DenyClass {
  /** Canonical: "all:", "tcp:22". */
  readonly key: string;
  readonly proto: ClassPlan['proto'] | 'all';
  /** Empty: every port. */
  readonly ports: readonly PortRange[];
  readonly statics: readonly StaticDest[];
  readonly any: readonly PolicyEntry[];
  readonly host: readonly PolicyEntry[];
}

export interface DenyPlan {
  readonly classes: readonly DenyClass[];
  /** Deny entries for names have no rules: they count for DNS and for the names that connections ask for. */
  readonly names: DeniedNames;
  /** Ports on which every connection must name what it goes to. Absent: deny entries for names add no check. */
  readonly checked?: CheckedPorts;
}

const namesOf = memo(
  (denied: readonly PolicyEntry[]) => new DeniedNames(denied.filter((pe) => pe.entry.target.kind === 'name')),
);

/** What a policy permits and denies. */
export function planPolicy(
  { entries, denied }: Pick<Policy, 'entries' | 'denied'>,
  resolve: ResolveContainer,
  checks: NameChecks = NO_NAME_CHECKS,
): { readonly classes: readonly ClassPlan[]; readonly denied?: DenyPlan } {
  if (!denied) return { classes: planClasses(entries, resolve, checks) };
  const names = namesOf(denied);
  const checked = checkedByDenial(names, checks);
  const parts = { names, ...(checked ? { checked } : {}) };
  return {
    classes: planClasses(entries, resolve, checks, parts),
    denied: { ...parts, classes: denyClasses(denied, resolve) },
  };
}

/** Of senders that are no container. The same classes for the same policy. */
export const planUnattributed = memo((policy: Policy) => planPolicy(policy, () => []));

interface Draft extends DenyClass {
  readonly statics: StaticDest[];
  readonly any: PolicyEntry[];
  readonly host: PolicyEntry[];
}

const ALL: readonly (PortClass | { readonly proto: 'all'; readonly ports: readonly PortRange[] })[] = [
  { proto: 'all', ports: [] },
];

function denyClasses(denied: readonly PolicyEntry[], resolve: ResolveContainer): DenyClass[] {
  const drafts = new Map<string, Draft>();
  for (const pe of denied) {
    if (pe.entry.target.kind === 'name') continue;
    for (const part of deniedPorts(pe.entry) ?? ALL) {
      const proto = part.proto === 'all' ? part.proto : protoOf(part);
      const ports = mergePorts(part.ports);
      const key = `${proto}:${formatPorts(ports)}`;
      const draft = drafts.get(key) ?? { key, proto, ports, statics: [], any: [], host: [] };
      drafts.set(key, draft);
      file(draft, pe, resolve);
    }
  }
  return [...drafts.values()].sort((a, b) => (a.key < b.key ? -1 : 1));
}

function file(draft: Draft, pe: PolicyEntry, resolve: ResolveContainer): void {
  const { target } = pe.entry;
  if (target.kind === 'address') draft.statics.push({ range: target.range, entry: pe });
  else if (target.kind === 'container')
    for (const range of resolve(target.name)) draft.statics.push({ range, entry: pe });
  else if (target.kind === 'any') draft.any.push(pe);
  else if (target.kind === 'host') draft.host.push(pe);
}

/** Whether a deny entry covers this port of an address. `any` and `host` are left out: they are no ranges. */
export function deniesAddress(
  plan: DenyPlan | undefined,
  { dst, proto, dport }: { readonly dst: string; readonly proto: string; readonly dport: number },
): boolean {
  const to = plan && parseAddress(dst);
  if (!to) return false;
  return plan.classes.some(
    (c) => (c.proto === 'all' || classHas(c, proto, dport)) && c.statics.some((s) => rangeHas(s.range, to)),
  );
}

/** The deny entry to whose rule these belong (`why` of rules), if its destination is this one. */
export function denialIn(
  plan: DenyPlan | undefined,
  why: ReadonlySet<string>,
  dst: string,
): PolicyEntry | undefined {
  const to = plan && parseAddress(dst);
  if (!to) return undefined;
  const leading = plan.classes.flatMap((c) => [
    ...c.statics.filter((s) => rangeHas(s.range, to)).map((s) => s.entry),
    ...c.host,
    ...c.any,
  ]);
  return leading.find((pe) => why.has(pe.entry.canonical));
}

/** Whether deny entries that a subject did not have before may cover the name of a connection that was permitted then. */
export function mayBeDenied(
  was: { readonly classes: readonly ClassPlan[]; readonly denied?: DenyPlan },
  { names }: DenyPlan,
  flow: { readonly how: 'address' | 'name'; readonly proto: 'tcp' | 'udp'; readonly port: number },
): boolean {
  const before = new Set(was.denied?.names.entries.map(({ entry }) => entry.canonical));
  const permitted = was.classes.flatMap((c) => c.names);
  return names.entries.some(
    (pe) =>
      !before.has(pe.entry.canonical) &&
      deniesPort(pe, flow.proto, flow.port) &&
      (flow.how === 'address' || permitted.some((n) => mayOverlap(n.entry, pe.entry))),
  );
}

export const hasStatics = (c: DenyClass, family: Family): boolean =>
  c.statics.some((s: { readonly range: Range }) => s.range.family === family);
