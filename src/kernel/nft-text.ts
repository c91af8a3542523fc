import { createHash } from 'node:crypto';
import { BRIDGE_TABLE, bridgeProgram } from '../desired/bridge.js';
import { hex } from '../desired/marks.js';
import type { BridgeDesired, Shape } from '../desired/state.js';

/** The bridge table as it stands: our program's tag and the elements, keyed as we write them. */
export interface ObservedBridge {
  readonly program: string | undefined;
  readonly elements: BridgeDesired;
}
export const EMPTY_BRIDGE: BridgeDesired = {
  id4: new Map(),
  id6: new Map(),
  loose: new Map(),
  up: new Map(),
  strict: new Set(),
  exempt: new Set(),
  hostmac: new Set(),
  enf4: new Set(),
  enf6: new Set(),
  mcast4: new Set(),
  mcast6: new Set(),
};
const MAPS = ['id4', 'id6', 'loose', 'up'] as const;
const SETS = ['strict', 'exempt', 'hostmac', 'enf4', 'enf6', 'mcast4', 'mcast6'] as const;
const CHAINS = ['senders', 'route', 'lift', 'ports'] as const;

/** Name of an empty chain that tells which program is loaded (a table's own comment cannot be changed later). */
export function programTag(shape: Shape): string {
  return `program_${createHash('sha256').update(bridgeProgram(shape)).digest('hex').slice(0, 12)}`;
}

/** The nft file that takes the table from observed to desired, one transaction; base chains are never removed. */
export function bridgeScript(shape: Shape, desired: BridgeDesired, observed: ObservedBridge): string {
  const program = observed.program === programTag(shape) ? '' : loadProgram(shape, observed.program);
  const gone: string[] = [];
  const added: string[] = [];
  for (const name of MAPS) diffMap(name, desired[name], observed.elements[name], gone, added);
  for (const name of SETS) diffSet(name, desired[name], observed.elements[name], gone, added);
  return `${program}${lines([...gone, ...added])}`;
}

function loadProgram(shape: Shape, old: string | undefined): string {
  const flushed = CHAINS.map((c) => `flush chain bridge ${BRIDGE_TABLE} ${c}`);
  const dropOld = old ? [`delete chain bridge ${BRIDGE_TABLE} ${old}`] : [];
  const declare = `table bridge ${BRIDGE_TABLE} {\n${bridgeProgram(shape)}\n  chain ${programTag(shape)} {\n  }\n}\n`;
  return old ? `${flushed.join('\n')}\n${lines(dropOld)}${declare}` : declare;
}

function diffMap(
  name: (typeof MAPS)[number],
  want: ReadonlyMap<string | number, string | number>,
  have: ReadonlyMap<string | number, string | number>,
  gone: string[],
  added: string[],
): void {
  const out = [...have].filter(([k, v]) => want.get(k) !== v).map(([k, v]) => `${k} : ${value(v)}`);
  const fresh = [...want].filter(([k, v]) => have.get(k) !== v).map(([k, v]) => `${k} : ${value(v)}`);
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

const value = (v: string | number): string => (typeof v === 'number' ? hex(v) : v);
const element = (verb: 'add' | 'delete', name: string, members: readonly (string | number)[]): string =>
  `${verb} element bridge ${BRIDGE_TABLE} ${name} { ${members.join(', ')} }`;
const lines = (l: readonly string[]): string => (l.length === 0 ? '' : `${l.join('\n')}\n`);
