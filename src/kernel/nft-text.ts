import { createHash } from 'node:crypto';
import { BRIDGE_TABLE, bridgeProgram } from '../ruleset/bridge-table.js';
import type { BridgeDesired, KernelConfig, NftProgram } from '../ruleset/desired-state.js';
import { hex } from '../ruleset/marks.js';

/** An nft table as it was read: the tags of its rules in order. */
export interface ObservedProgram {
  readonly exists: boolean;
  readonly rules: readonly string[];
}
const TAG_LENGTH = 12;

/** "CHAIN TAG:PLACE" of every rule of a program, as read from the comments of its rules. */
export function programTags(shape: KernelConfig, program: NftProgram): string[] {
  const tag = tagOf(shape, program);
  return [...program.rules].flatMap(([chain, all]) => all.map((_, n) => ruleTag(chain, `${tag}:${n}`)));
}
export const ruleTag = (chain: string, comment: string): string => `${chain} ${comment}`;

/** "LAYOUT-HASH": the layout of marks, and a hash of the program. */
function tagOf(shape: KernelConfig, { declarations, rules, objects = [] }: NftProgram): string {
  const hash = createHash('sha256')
    .update([declarations, ...[...rules].flat(2), ...objects].join('\n'))
    .digest('hex')
    .slice(0, TAG_LENGTH);
  return `${layoutOf(shape)}-${hash}`;
}
const layoutOf = (shape: KernelConfig): string => shape.marks.all.toString(16);

/**
 * The nft text that loads a program into an existing table: it declares missing chains, then flushes and fills every
 * chain. Empty when the table has this program already.
 */
export function programScript(shape: KernelConfig, program: NftProgram, observed: ObservedProgram): string {
  if (byChain(observed.rules).join() === byChain(programTags(shape, program)).join()) return '';
  const tag = tagOf(shape, program);
  const table = (body: string): string => `table ${program.table} {${body}\n}\n`;
  // of a chain that the program no longer has, the rules go and the chain stays: removing a base chain drops queued packets
  const chains = new Set([...program.rules.keys(), ...observed.rules.filter(isTagged).map(chainOf)]);
  const flush = [...chains].map((chain) => `flush chain ${program.table} ${chain}`);
  const filled = [...program.rules].map(
    ([chain, all]) => `
  chain ${chain} {${all.map((r, n) => `\n    ${r} comment "${tag}:${n}"`).join('')}\n  }`,
  );
  return `${table(program.declarations)}${lines(flush)}${table(filled.join(''))}`;
}

/** Of Drawbridge. A rule of another program has no comment, or another one. */
const isTagged = (rule: string): boolean => / [0-9a-f]+-[0-9a-f]+:\d+$/.test(rule);

/** Chains have no order among themselves, their rules have. By code units: the locale of the process must not matter. */
const byChain = (tags: readonly string[]): string[] =>
  [...tags].sort((a, b) => order(chainOf(a), chainOf(b)));
const order = (a: string, b: string): number => (a < b ? -1 : Number(a > b));
const chainOf = (tag: string): string => tag.slice(0, tag.indexOf(' '));

const lines = (l: readonly string[]): string => (l.length === 0 ? '' : `${l.join('\n')}\n`);

/**
 * The bridge table as it was read: the tags of its rules in order, and the elements, keyed as Drawbridge writes them.
 */
export interface ObservedBridge extends ObservedProgram {
  readonly elements: BridgeDesired;
}
export const EMPTY_BRIDGE: BridgeDesired = {
  routed4: new Map(),
  id4: new Map(),
  id6: new Map(),
  loose: new Map(),
  nameless: new Map(),
  net4: new Set(),
  net6: new Set(),
  up: new Map(),
  strict: new Set(),
  macs: new Set(),
  ll6: new Set(),
  exempt: new Set(),
  bridgemac: new Set(),
  enf4: new Set(),
  own4: new Set(),
  own6: new Set(),
  enf6: new Set(),
  closed4: new Set(),
  closed6: new Set(),
  mcast4: new Set(),
  mcast6: new Set(),
  limits: new Map(),
  allowances: new Map(),
  rates: new Map(),
  quotas: new Map(),
};
const MAPS = ['routed4', 'id4', 'id6', 'loose', 'nameless', 'up', 'rates', 'quotas'] as const;
const SETS = [
  'strict',
  'macs',
  'll6',
  'exempt',
  'bridgemac',
  'enf4',
  'enf6',
  'closed4',
  'closed6',
  'mcast4',
  'mcast6',
  'own4',
  'own6',
  'net4',
  'net6',
] as const;
/**
 * Whether the marks in the table have the layout of this configuration. False when no rule has a tag; rules of other
 * programs do not count.
 */
export function hasOurLayout(shape: KernelConfig, { rules }: ObservedBridge): boolean {
  const layouts = rules.flatMap((r) => / ([0-9a-f]+)-[0-9a-f]+:\d+$/.exec(r)?.[1] ?? []);
  return layouts.length > 0 && layouts.every((l) => l === layoutOf(shape));
}

/** Nothing passes from any port but those of others, until a program is loaded. */
export const closingScript = (): string =>
  lines([
    `flush chain bridge ${BRIDGE_TABLE} ports`,
    `add rule bridge ${BRIDGE_TABLE} ports meta iifkind "veth" iif != @exempt drop`,
  ]);

/** The nft file that takes the table from observed to desired, one transaction; base chains are never removed. */
export function bridgeScript(shape: KernelConfig, desired: BridgeDesired, observed: ObservedBridge): string {
  const program = bridgeProgram(shape);
  const load = programScript(shape, program, observed);
  const gone: string[] = [];
  const added: string[] = [];
  for (const name of MAPS) diffMap(name, desired[name], observed.elements[name], gone, added);
  for (const name of SETS) diffSet(name, desired[name], observed.elements[name], gone, added);
  const objects = diffObjects(desired, observed.elements);
  return `${load}${lines([...objects.added, ...gone, ...added, ...objects.gone])}`;
}

function diffMap(
  name: (typeof MAPS)[number],
  want: ReadonlyMap<string | number, string | number>,
  have: ReadonlyMap<string | number, string | number>,
  gone: string[],
  added: string[],
): void {
  const out = [...have].filter(([k, v]) => want.get(k) !== v).map(([k, v]) => `${k} : ${value(v, name)}`);
  const fresh = [...want].filter(([k, v]) => have.get(k) !== v).map(([k, v]) => `${k} : ${value(v, name)}`);
  if (out.length > 0) gone.push(element('delete', name, out));
  if (fresh.length > 0) added.push(element('add', name, fresh));
}

function diffSet(
  name: (typeof SETS)[number],
  want: ReadonlySet<string | number>,
  have: ReadonlySet<string | number>,
  gone: string[],
  added: string[],
): void {
  const out = [...have].filter((k) => !want.has(k));
  const fresh = [...want].filter((k) => !have.has(k));
  if (out.length > 0) gone.push(element('delete', name, out));
  if (fresh.length > 0) added.push(element('add', name, fresh));
}

const value = (v: string | number, name: string): string =>
  typeof v === 'number' ? hex(v) : name === 'up' ? v : quoted(v);
const element = (verb: 'add' | 'delete', name: string, members: readonly (string | number)[]): string =>
  `${verb} element bridge ${BRIDGE_TABLE} ${name} { ${members.join(', ')} }`;

type Objects = Pick<BridgeDesired, 'limits' | 'allowances'>;

/** The name of an object, as an element of a map refers to it. */
const quoted = (name: string): string => `"${name}"`;

/**
 * The edits of named limits and quotas. New ones must exist before elements refer to them, and elements must be removed
 * before objects. A quota keeps its counter when its size changes.
 */
function diffObjects(want: Objects, have: Objects): { added: string[]; gone: string[] } {
  const limits = [...want.limits].filter(([name]) => !have.limits.has(name));
  const quotas = [...want.allowances].filter(([name, q]) => have.allowances.get(name)?.bytes !== q.bytes);
  return {
    added: [
      ...limits.map(([name, rate]) => `add limit ${place(name)} { ${rateText(rate)} }`),
      ...quotas.map(([name, q]) => `add quota ${place(name)} { over ${q.bytes} bytes used ${q.used} bytes }`),
    ],
    gone: [
      ...absent(have.limits, want.limits).map((name) => `delete limit ${place(name)}`),
      ...absent(have.allowances, want.allowances).map((name) => `delete quota ${place(name)}`),
    ],
  };
}

const place = (name: string): string => `bridge ${BRIDGE_TABLE} ${name}`;
const absent = (from: ReadonlyMap<string, unknown>, of: ReadonlyMap<string, unknown>): string[] =>
  [...from.keys()].filter((name) => !of.has(name));

/**
 * The kernel lets the bytes of one second accumulate, and `burst` in addition, which must fit the largest segments
 * (GSO).
 */
const rateText = (bytesPerSecond: number): string =>
  `rate over ${bytesPerSecond} bytes/second burst 65536 bytes`;
