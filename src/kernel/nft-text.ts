import { createHash } from 'node:crypto';
import { BRIDGE_TABLE, bridgeProgram } from '../ruleset/bridge-table.js';
import type { BridgeDesired, KernelConfig, NftProgram } from '../ruleset/desired-state.js';
import { IDENTITY_TABLE, QUEUE } from '../ruleset/host-identity.js';
import { hex } from '../ruleset/marks.js';
import type { Exec } from './exec.js';
import { addressBytes, u32le } from './netlink/netlink-codec.js';
import { NetlinkError } from './netlink/netlink-error.js';
import type { ElementChange, NftElements, RawElement } from './netlink/nft-codec.js';

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

type Field = 'iif' | 'mark' | 'mac' | 'ip' | 'frame';
interface Layout {
  readonly key: readonly Field[];
  readonly data?: Field;
}
/** Sets and maps of the bridge table that change when a container starts or stops, as ruleset/bridge declares them. */
const LAYOUTS: Readonly<Record<string, Layout>> = {
  routed4: { key: ['iif', 'frame', 'ip'], data: 'mark' },
  id4: { key: ['iif', 'mac', 'ip'], data: 'mark' },
  id6: { key: ['iif', 'mac', 'ip'], data: 'mark' },
  loose: { key: ['iif'], data: 'mark' },
  nameless: { key: ['iif'], data: 'mark' },
  up: { key: ['iif'], data: 'mac' },
  strict: { key: ['iif'] },
  macs: { key: ['iif', 'mac'] },
  ll6: { key: ['iif', 'ip'] },
  exempt: { key: ['iif'] },
  bridgemac: { key: ['iif', 'mac'] },
  enf4: { key: ['ip'] },
  enf6: { key: ['ip'] },
  own4: { key: ['ip'] },
  own6: { key: ['ip'] },
};
/** More elements than this are written as fast by a run of nft. */
const MOST_ELEMENTS = 256;
const LINE = new RegExp(`^(add|delete) element bridge ${BRIDGE_TABLE} (\\w+) \\{ (.+) \\}$`);

/**
 * An Exec that runs `nft -f -` over netlink if the input only adds or deletes elements of the bridge table. This takes about 1 ms;
 * a process takes 15 ms or more, and the first packet of a new container waits for the result. If the kernel refuses the
 * batch, nft runs with the same input: a refused batch has changed nothing, and the message of nft names the line.
 */
export function withFastElements(run: Exec, elements: Pick<NftElements, 'change'>): Exec {
  return async (file, args, options) => {
    const changes = file === 'nft' && args[0] === '-f' ? changesOf(options?.input ?? '') : undefined;
    const isWritten = changes !== undefined && accepted(() => elements.change(BRIDGE_TABLE, changes));
    if (!isWritten) return run(file, args, options);
    return { code: 0, stdout: '', stderr: '' };
  };
}

const [FAMILY, QUEUE_TABLE = ''] = IDENTITY_TABLE.split(' ');
/** The text of `queueProgram`. */
const QUEUE_RULE = new RegExp(
  `^table ${FAMILY} ${QUEUE_TABLE} {\\s+chain ${QUEUE} { }\\s+}\nflush chain ${FAMILY} ${QUEUE_TABLE} ${QUEUE}\n` +
    `table ${FAMILY} ${QUEUE_TABLE} {\\s+chain ${QUEUE} {\\s+queue num (\\d+) comment "([^"]+)"\\s+}\\s+}\n$`,
);

/**
 * An Exec that runs `nft -f -` over netlink if the input only has the rule that queues: there it is a target of iptables, which kernels have
 * that cannot queue by nft alone. If the kernel refuses it, nft runs with the same input.
 */
export function withQueueRule(run: Exec, elements: Pick<NftElements, 'setQueueRule'>): Exec {
  return async (file, args, options) => {
    const [, queue, comment] =
      file === 'nft' && args[0] === '-f' ? (QUEUE_RULE.exec(options?.input ?? '') ?? []) : [];
    if (queue === undefined || comment === undefined) return run(file, args, options);
    const isWritten = accepted(() =>
      elements.setQueueRule({ table: QUEUE_TABLE, chain: QUEUE, queue: Number(queue), comment }),
    );
    return isWritten ? { code: 0, stdout: '', stderr: '' } : run(file, args, options);
  };
}

function accepted(change: () => void): boolean {
  try {
    change();
    return true;
  } catch (error) {
    if (!(error instanceof NetlinkError)) throw error;
    return false; // the caller runs nft, which succeeds or reports the reason
  }
}

/** Returns undefined when the input has other lines, other sets, or too many elements. */
function changesOf(input: string): readonly ElementChange[] | undefined {
  const lines = input.split('\n').filter((line) => line !== '');
  const changes = lines.map(changeOf).filter((c) => c !== undefined);
  const count = changes.reduce((sum, c) => sum + c.elements.length, 0);
  return changes.length === lines.length && count > 0 && count <= MOST_ELEMENTS ? changes : undefined;
}

function changeOf(line: string): ElementChange | undefined {
  const [, verb, set = '', members = ''] = LINE.exec(line) ?? [];
  const layout = LAYOUTS[set];
  if (layout === undefined || (verb !== 'add' && verb !== 'delete')) return undefined;
  const texts = members.split(', ');
  const elements = texts.map((text) => rawElement(text, layout)).filter((e) => e !== undefined);
  return elements.length === texts.length ? { verb, set, elements } : undefined;
}

function rawElement(text: string, layout: Layout): RawElement | undefined {
  const [keyText = '', dataText] = text.split(' : ');
  const parts = keyText.split(' . ');
  const fields = parts.map((part, i) => bytesOf(part, layout.key[i])).filter((b) => b !== undefined);
  const data = dataText === undefined ? undefined : bytesOf(dataText, layout.data);
  const isWhole = fields.length === layout.key.length && parts.length === layout.key.length;
  if (!isWhole || (data === undefined) !== (layout.data === undefined)) return undefined;
  // each field of a concatenation begins at a register of 32 bits
  const [only = Buffer.alloc(0)] = fields;
  const key = fields.length === 1 ? only : Buffer.concat(fields.map(padded));
  return data === undefined ? { key } : { key, data };
}

const padded = (field: Buffer): Buffer => Buffer.concat([field, Buffer.alloc(-field.length & 3)]);
const MAC = /^[0-9a-f]{2}(?::[0-9a-f]{2}){5}$/;
const FRAME = /^0x[0-9a-f]{30}$/;
const NUMBER = /^(?:0x[0-9a-f]{1,8}|\d{1,10})$/;

/** In the byte order in which the kernel's registers have it: numbers of the host are little endian. */
function bytesOf(text: string, field: Field | undefined): Buffer | undefined {
  if (field === 'ip') return addressBytes(text);
  if (field === 'mac') return MAC.test(text) ? Buffer.from(text.replaceAll(':', ''), 'hex') : undefined;
  if (field === 'frame') return FRAME.test(text) ? Buffer.from(text.slice(2), 'hex') : undefined;
  return field !== undefined && NUMBER.test(text) ? u32le(Number(text)) : undefined;
}
