import { BRIDGE_TABLE, bridgeProgram } from '../ruleset/bridge.js';
import { hex } from '../ruleset/marks.js';
import type { BridgeDesired, KernelConfig } from '../ruleset/state.js';
import { diffObjects, quoted } from './nft-objects.js';
import { layoutOf, lines, type ObservedProgram, programScript } from './nft-program.js';

/** The bridge table as it stands: its rules' tags in order, and the elements, keyed as we write them. */
export interface ObservedBridge extends ObservedProgram {
  readonly elements: BridgeDesired;
}
export const EMPTY_BRIDGE: BridgeDesired = {
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
const MAPS = ['id4', 'id6', 'loose', 'nameless', 'up', 'rates', 'quotas'] as const;
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
/** The marks that stand in the table mean what ours do. False too when nobody can tell; rules of others do not count. */
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
