import { createHash } from 'node:crypto';
import { readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { deserialize, serialize } from 'node:v8';
import type { Family } from '../lib/ip.js';
import { ARP_TABLE, BACKSTOP_TABLE } from '../ruleset/backstop-table.js';
import { BRIDGE_TABLE } from '../ruleset/bridge-table.js';
import type { BridgeDesired } from '../ruleset/desired-state.js';
import { IDENTIFY, IDENTITY_TABLE, QUEUE } from '../ruleset/host-identity.js';
import type { Names } from '../ruleset/naming.js';
import type { NftAbilities } from './cgroups.js';
import { type Exec, fingerprintOf, hasFailed, must } from './exec.js';
import { parseSetNames, parseSetSave, type SavedSet, type SetNames } from './ipset-text.js';
import { parseSave, RESTORE, type SavedTable, type SavedTables } from './iptables-text.js';
import { namespaceCookie } from './netlink/libc.js';
import {
  type IndexOf,
  type ParsedBridge,
  parseBridge,
  parseProgram,
  parseSenders,
  type SenderRule,
} from './nft-parse.js';
import { EMPTY_BRIDGE, type ObservedBridge, type ObservedProgram } from './nft-text.js';

/** The rules and sets in the kernel: those of Drawbridge, and the chains of other programs. */
export interface Observed {
  readonly tables: ReadonlyMap<Family, SavedTables>;
  /** Those of threats without members. */
  readonly sets: ReadonlyMap<string, SavedSet>;
  readonly bridge: ObservedBridge;
  readonly backstop: ObservedProgram;
  readonly arp: ObservedProgram;
  /** With what its rules say, if they were read and not predicted. */
  readonly identity: ObservedProgram & { readonly senders?: readonly SenderRule[] };
  /** The list of all tables of nf_tables, as nft prints it. */
  readonly nftTables?: string;
}
/** No rule of Drawbridge is installed: the containers of this host were open until now. */
export const hasNoRules = ({ bridge, backstop, arp, identity, tables }: Observed): boolean =>
  bridge.rules.length + backstop.rules.length + arp.rules.length + identity.rules.length === 0 &&
  [...tables.values()].every((saved) =>
    [...saved.values()].every((t) => [...t.values()].flat().every((r) => r.hash === undefined)),
  );

type ObservedNft = Pick<Observed, 'bridge' | 'backstop' | 'arp' | 'identity' | 'nftTables'>;
/** What nf_tables holds. Its generation counts each change of it. */
export type ObservedRules = Omit<Observed, 'sets'>;
const SAVE: Readonly<Record<Family, string>> = { 4: 'iptables-save', 6: 'ip6tables-save' };

/** The rules of other programs that coverage depends on, as they were last read. */
export interface HostRules {
  /** The tables `filter`. */
  readonly filters: ReadonlyMap<Family, SavedTable>;
  readonly nftTables?: string | undefined;
}

/**
 * Reads everything, or only the sets where the rules are known. Any tool that fails fails the whole: a half view would be taken for the
 * truth.
 */
export async function observe(
  run: Exec,
  prefix: string,
  indexOf: IndexOf,
  known?: ObservedRules,
): Promise<Observed> {
  const [rules, sets] = await Promise.all([
    known ?? observeRules(run, prefix, indexOf),
    observeSets(run, prefix),
  ]);
  return { ...rules, sets };
}

async function observeRules(run: Exec, prefix: string, indexOf: IndexOf): Promise<ObservedRules> {
  const [v4, v6, nft] = await Promise.all([
    savedRules(run, 4, []),
    savedRules(run, 6, []),
    observeNft(run, indexOf),
  ]);
  return {
    tables: new Map([
      [4, parseSave(v4, prefix)],
      [6, parseSave(v6, prefix)],
    ]),
    ...nft,
  };
}

/**
 * The output of iptables-save for one family. iptables-save requests the names of sets after it has read the rules: it
 * fails if a pass destroys a set in between, and is run again. Rejects with KernelError.
 */
export async function savedRules(run: Exec, family: Family, args: readonly string[]): Promise<string> {
  for (let n = 1; ; n++) {
    try {
      return await must(run, SAVE[family], args);
    } catch (e) {
      if (n === READINGS || !hasFailed(e, 'set removed')) throw e;
    }
  }
}
/** Attempts of one read. A host with many short-lived containers changes a set about once a second. */
const READINGS = 5;

export const setNames = async (run: Exec, prefix: string): Promise<SetNames> =>
  parseSetNames(await must(run, 'ipset', ['list', '-terse']), prefix);

/**
 * Reads Drawbridge's sets. Sets of threats are read by name only, since they can have a million members. A pass may destroy a set between the
 * listing and its turn: then both are repeated.
 */
async function observeSets(run: Exec, prefix: string): Promise<Observed['sets']> {
  for (let n = 1; ; n++) {
    const names = await setNames(run, prefix);
    try {
      const saved = parseSetSave(await savedSets(run, names), prefix);
      return new Map([
        ...names.plain.flatMap((name) => {
          const set = saved.get(name);
          return set ? [[name, set] as const] : [];
        }),
        ...names.threats,
      ]);
    } catch (e) {
      if (n === READINGS || !hasFailed(e, 'set removed')) throw e;
    }
  }
}

/** To save all sets takes a quarter of the time that it takes one by one. As many members of others are read with them. */
const MOST_OTHERS = 5_000;

/** At least the plain sets as `ipset save` prints them. "restore" accepts "save NAME". */
async function savedSets(run: Exec, { plain, others }: SetNames): Promise<string> {
  if (plain.length === 0) return '';
  if (others <= MOST_OTHERS) return must(run, 'ipset', ['save']);
  return must(run, 'ipset', ['restore'], { input: plain.map((name) => `save ${name}\n`).join('') });
}

/** Another process may delete a table between the listing of tables and its turn: then both are repeated. */
async function observeNft(run: Exec, indexOf: IndexOf): Promise<ObservedNft> {
  for (let n = 1; ; n++) {
    try {
      return await listNft(run, indexOf);
    } catch (e) {
      if (n === READINGS || !hasFailed(e, 'table removed')) throw e;
    }
  }
}

async function listNft(run: Exec, indexOf: IndexOf): Promise<ObservedNft> {
  const nftTables = await must(run, 'nft', ['list', 'tables']);
  const tables = nftTables.split('\n');
  const list = async (table: string): Promise<string | undefined> =>
    tables.includes(`table ${table}`)
      ? must(run, 'nft', ['-j', 'list', 'table', ...table.split(' ')])
      : undefined;
  const program = async (table: string): Promise<ObservedProgram> => {
    const json = await list(table);
    return json ? parseProgram(json) : ABSENT;
  };
  const [bridge, backstop, arp, identity] = await Promise.all([
    observeBridge(() => list(`bridge ${BRIDGE_TABLE}`), indexOf),
    program(BACKSTOP_TABLE),
    program(ARP_TABLE),
    list(IDENTITY_TABLE),
  ]);
  const senders = identity ? { ...parseProgram(identity), senders: parseSenders(identity) } : ABSENT;
  return { bridge, backstop, arp, identity: senders, nftTables };
}

/** Lists again while interfaces vanish between nft's listing and our reading of it. */
async function observeBridge(
  list: () => Promise<string | undefined>,
  indexOf: IndexOf,
): Promise<ObservedBridge> {
  let read: ParsedBridge | undefined;
  for (let n = 0; n < READINGS; n++) {
    const json = await list();
    if (json === undefined) return { ...ABSENT, elements: EMPTY_BRIDGE };
    read = parseBridge(json, indexOf);
    if (!read.isStale) break;
  }
  const { exists, rules, elements } = read as ParsedBridge;
  return { exists, rules, elements };
}

const ABSENT: ObservedProgram = { exists: false, rules: [] };

/** State of earlier passes in the kernel, read when the service starts. */
export interface KernelSnapshot extends HostNetworkRules {
  readonly bridge: BridgeDesired;
  /** All rules are installed, because the backstop is the last one (`planSteps`): without elements those of the closed base, or of marks in another layout. */
  readonly isInstalled: boolean;
  readonly sets: Observed['sets'];
}

/** What the installed rules contain about the cgroups of containers in the host's network. */
interface HostNetworkRules {
  /** Identity mark by cgroup path. */
  readonly hostMarks: ReadonlyMap<string, number>;
  /** Cgroups with a jump to the chain that marks containers of the host's network. */
  readonly hostGates: readonly { readonly path: string }[];
  /** Paths of cgroups whose datagrams have a conntrack zone. */
  readonly hostZones: ReadonlySet<string>;
}

/**
 * Reads the same from the table of nft that identifies the senders and queues unknown ones. Undefined where iptables does either of the two:
 * then `readHostNetworkRules` finds all of it.
 */
export function readSenders(
  identity: Observed['identity'] | undefined,
  pathOf: (nftName: string) => string,
): HostNetworkRules | undefined {
  const senders = identity?.senders ?? [];
  if (!senders.some(({ chain }) => chain === QUEUE)) return undefined;
  const of = (isGate: boolean): (SenderRule & { readonly path: string })[] =>
    senders.flatMap((r) =>
      r.cgroup !== undefined && (r.chain === IDENTIFY) === isGate ? [{ ...r, path: pathOf(r.cgroup) }] : [],
    );
  const marked = of(false).flatMap(({ path, mark }) => (mark === undefined ? [] : [[path, mark] as const]));
  const zones = new Set(senders.flatMap(({ hasZone, compared }) => (hasZone ? (compared ?? []) : [])));
  return {
    hostMarks: new Map(marked),
    hostGates: of(true).map(({ path }) => ({ path })),
    hostZones: new Set(marked.flatMap(([path, mark]) => (zones.has(mark) ? [path] : []))),
  };
}

/**
 * Reads marks, gates and conntrack zones of cgroups from the rules in `mangle` and `raw`. Where nft identifies the senders and `raw` queues
 * unknown ones, all of them are in `raw`.
 */
export function readHostNetworkRules(tables: SavedTables | undefined, names: Names): HostNetworkRules {
  const [mangle, raw] = [tables?.get('mangle'), tables?.get('raw')];
  const marks = new Map<string, number>();
  for (const { text } of [...(mangle?.get(names.hostWho) ?? []), ...(raw?.get(names.hostZone) ?? [])]) {
    const [, path, mark] = /--path "?([^" ]+)"? .*--set-x?mark (0x[0-9a-f]+)/.exec(text) ?? [];
    if (path !== undefined) marks.set(path, Number(mark));
  }
  const gateRules = mangle?.get(names.hostMark) ?? raw?.get(names.hostRaw) ?? [];
  const gates = gateRules
    .filter((r) => r.text.includes('-g '))
    .flatMap((r) => /--path "?([^" ]+)"?/.exec(r.text)?.[1] ?? []);
  const zoned = (raw?.get(names.hostZone) ?? [])
    .filter((r) => r.text.includes('--zone-orig'))
    .flatMap((r) => /--path "?([^" ]+)"?/.exec(r.text)?.[1] ?? []);
  return { hostMarks: marks, hostGates: gates.map((path) => ({ path })), hostZones: new Set(zoned) };
}

/** What a start need not find out again while nothing has changed. */
export interface Kept {
  readonly rules: ObservedRules;
  /** What this kernel and its tools accept (cgroups.ts). That `raw` takes conntrack zones is a condition. */
  readonly abilities: { readonly isInNft: boolean; readonly nft: NftAbilities };
}
/** All that `Kept` depends on, but for the cgroups that rules name. */
interface Origin {
  /** Another build may keep other things, also under the same version. */
  readonly program: string;
  readonly prefix: string;
  /** No two boots have the same. */
  readonly boot: string;
  readonly namespace: bigint;
  readonly generation: number;
  readonly tools: string;
}
interface KeptFile {
  readonly origin: Origin;
  /** The object of each cgroup that a rule of nft names: nft has the path, the kernel the object. */
  readonly cgroups: readonly (readonly [path: string, object: string | undefined])[];
  readonly kept: Kept;
}
interface KeptOptions {
  /** Its folder is of root alone. */
  readonly path: string;
  readonly prefix: string;
  /** The object of a cgroup that nft names so. Undefined when there is none. */
  readonly objectOf: (nftName: string) => string | undefined;
}
const TOOLS = ['iptables', ...Object.values(SAVE), ...Object.values(RESTORE), 'nft'];
const HASH_BYTES = 32;
const { dev, ino, size, mtimeMs } = statSync(new URL(import.meta.url));
const PROGRAM = [dev, ino, size, mtimeMs].join(' ');

/**
 * The rules as they were last read, in a file: to read them takes a third of a start of 1,000 containers. They count only while the generation
 * of nf_tables is what it was, in the same network namespace and boot. Sets have no such count, and are always read.
 */
export class KeptRules {
  readonly #o: KeptOptions;

  constructor(options: KeptOptions) {
    this.#o = options;
  }

  /** Undefined when anything is not as it was, or cannot be read. */
  read(generation: number | undefined): Kept | undefined {
    try {
      const now = this.#origin(generation);
      const content = readFileSync(this.#o.path);
      const body = content.subarray(HASH_BYTES);
      if (!now || !hashOf(body).equals(content.subarray(0, HASH_BYTES))) return undefined;
      const { origin, cgroups, kept } = deserialize(body) as KeptFile;
      const isSame = (Object.keys(now) as (keyof Origin)[]).every((key) => now[key] === origin[key]);
      return isSame && cgroups.every(([path, object]) => this.#o.objectOf(path) === object)
        ? kept
        : undefined;
    } catch {
      return undefined; // there is none, or it is damaged: then all is read
    }
  }

  /** Quotas count without a change of the generation: with one, nothing is kept. Throws what the file system does. */
  write({ rules, abilities }: Kept, generation: number | undefined): void {
    const origin = this.#origin(generation);
    if (!origin || rules.bridge.elements.allowances.size > 0) return;
    const names = new Set((rules.identity.senders ?? []).flatMap(({ cgroup }) => cgroup ?? []));
    const tables = new Map([...rules.tables].map(([family, saved]) => [family, withoutOwnText(saved)]));
    const file: KeptFile = {
      origin,
      cgroups: [...names].map((name) => [name, this.#o.objectOf(name)]),
      kept: { rules: { ...rules, tables }, abilities },
    };
    const body = serialize(file);
    const next = `${this.#o.path}.new`;
    // not synced: after a crash of the host the boot is another one
    writeFileSync(next, Buffer.concat([hashOf(body), body]), { mode: 0o600 });
    renameSync(next, this.#o.path);
  }

  #origin(generation: number | undefined): Origin | undefined {
    const namespace = namespaceCookie();
    if (generation === undefined || namespace === undefined) return undefined;
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
    const { prefix } = this.#o;
    return { program: PROGRAM, prefix, boot, namespace, generation, tools: fingerprintOf(TOOLS) };
  }
}

const hashOf = (body: Buffer): Buffer => createHash('sha256').update(body).digest();

/** Rules of Drawbridge in `filter` are known by their hashes; they are most of the text. */
function withoutOwnText(tables: SavedTables): SavedTables {
  const filter = tables.get('filter');
  if (!filter) return tables;
  const short = [...filter].map(
    ([chain, rules]) =>
      [chain, rules.map((r) => (r.hash === undefined ? r : { text: '', hash: r.hash }))] as const,
  );
  return new Map(tables).set('filter', new Map(short));
}
