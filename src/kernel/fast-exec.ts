import { BRIDGE_TABLE } from '../ruleset/bridge-table.js';
import { IDENTITY_TABLE, QUEUE } from '../ruleset/host-identity.js';
import type { Exec } from './exec.js';
import type { SetWriter } from './netlink/ipset.js';
import { addressBytes, u32le } from './netlink/netlink-codec.js';
import { NetlinkError } from './netlink/netlink-error.js';
import type { ElementChange, NftElements, RawElement } from './netlink/nft-codec.js';

/** More members than this are written faster by one run of ipset. */
const MOST_MEMBERS = 64;
/** A line of `ipset restore` that changes one single address or network of a set. */
const MEMBER_CHANGE = /^(add|del) (\S+) ([0-9a-f.:]+(?:\/\d+)?) -exist$/;

/**
 * An Exec that runs `ipset restore` over netlink if the input only adds or removes a few addresses: 6 µs each, where a
 * process takes milliseconds, and the first packet of a new container waits for it. If netlink refuses a change, ipset
 * runs with the same input: adding and removing with `-exist` can be repeated, and the message of ipset names the line.
 */
export function withFastSets(run: Exec, sets: SetWriter): Exec {
  return async (file, args, options) => {
    const changes =
      file === 'ipset' && args[0] === 'restore' ? memberChanges(options?.input ?? '') : undefined;
    if (changes === undefined || !(await addedOrRemoved(changes, sets))) return run(file, args, options);
    return { code: 0, stdout: '', stderr: '' };
  };
}

interface MemberChange {
  readonly verb: string;
  readonly set: string;
  readonly member: string;
}
/** Returns undefined when the input has other lines, or too many. */
function memberChanges(input: string): readonly MemberChange[] | undefined {
  const lines = input.split('\n').filter((line) => line !== '');
  if (lines.length === 0 || lines.length > MOST_MEMBERS) return undefined;
  const changes = lines.flatMap((line) => {
    const [, verb = '', set = '', member = ''] = MEMBER_CHANGE.exec(line) ?? [];
    return verb === '' ? [] : [{ verb, set, member }];
  });
  return changes.length === lines.length ? changes : undefined;
}

async function addedOrRemoved(changes: readonly MemberChange[], sets: SetWriter): Promise<boolean> {
  try {
    for (const { verb, set, member } of changes)
      await (verb === 'add' ? sets.add(set, member, undefined) : sets.remove(set, member));
    return true;
  } catch {
    return false; // the caller runs ipset, which succeeds or reports the reason
  }
}

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
