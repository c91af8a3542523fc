import { BRIDGE_TABLE } from '../ruleset/bridge.js';
import type { Exec } from './exec.js';
import { addressBytes } from './netlink/address.js';
import { u32le } from './netlink/codec.js';
import { NetlinkError } from './netlink/errors.js';
import type { RawElement } from './netlink/nft-codec.js';
import type { ElementChange, NftElements } from './netlink/nft-elements.js';

type Field = 'iif' | 'mark' | 'mac' | 'ip';
interface Layout {
  readonly key: readonly Field[];
  readonly data?: Field;
}
/** Sets and maps of the bridge table that change when a container comes or goes, as ruleset/bridge declares them. */
const LAYOUTS: Readonly<Record<string, Layout>> = {
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
const MOST = 256;
const LINE = new RegExp(`^(add|delete) element bridge ${BRIDGE_TABLE} (\\w+) \\{ (.+) \\}$`);

/**
 * An Exec that runs `nft -f -` over netlink if the input only adds or deletes elements of the bridge table. This takes about 1 ms;
 * a process takes 15 ms or more, and the first packet of a new container waits for the result. If the kernel refuses the
 * batch, nft runs with the same input: a refused batch has changed nothing, and the message of nft names the line.
 */
export function withFastElements(run: Exec, elements: Pick<NftElements, 'change'>): Exec {
  return async (file, args, options) => {
    const changes = file === 'nft' && args[0] === '-f' ? changesOf(options?.input ?? '') : undefined;
    if (changes === undefined || !written(changes, elements)) return run(file, args, options);
    return { code: 0, stdout: '', stderr: '' };
  };
}

function written(changes: readonly ElementChange[], elements: Pick<NftElements, 'change'>): boolean {
  try {
    elements.change(BRIDGE_TABLE, changes);
    return true;
  } catch (error) {
    if (!(error instanceof NetlinkError)) throw error;
    return false; // the caller runs nft, which succeeds or reports the reason
  }
}

/** Undefined: the input has other lines, other sets, or too many elements. */
function changesOf(input: string): readonly ElementChange[] | undefined {
  const lines = input.split('\n').filter((line) => line !== '');
  const changes = lines.map(changeOf).filter((c) => c !== undefined);
  const count = changes.reduce((sum, c) => sum + c.elements.length, 0);
  return changes.length === lines.length && count > 0 && count <= MOST ? changes : undefined;
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
const NUMBER = /^(?:0x[0-9a-f]{1,8}|\d{1,10})$/;

/** In the byte order in which the kernel's registers have it: numbers of the host are little endian. */
function bytesOf(text: string, field: Field | undefined): Buffer | undefined {
  if (field === 'ip') return addressBytes(text);
  if (field === 'mac') return MAC.test(text) ? Buffer.from(text.replaceAll(':', ''), 'hex') : undefined;
  return field !== undefined && NUMBER.test(text) ? u32le(Number(text)) : undefined;
}
