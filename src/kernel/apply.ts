import type { Family } from '../lib/ip.js';
import { backstopProgram } from '../ruleset/backstop-table.js';
import { BRIDGE_TABLE } from '../ruleset/bridge-table.js';
import type { DesiredState, KernelConfig, TableName } from '../ruleset/desired-state.js';
import { IDENTITY_TABLE, identityProgram, QUEUE, queueProgram } from '../ruleset/host-identity.js';
import type { Delta } from '../ruleset/recompile.js';
import { type Exec, must } from './exec.js';
import { diffSets } from './ipset-text.js';
import { diffFamily, RESTORE, restoreScript, type TableEdit } from './iptables-text.js';
import type { SetWriter } from './netlink/ipset.js';
import { addressBytes, u32le } from './netlink/netlink-codec.js';
import { NetlinkError } from './netlink/netlink-error.js';
import type { ElementChange, NftElements, RawElement } from './netlink/nft-codec.js';
import { bridgeScript, closingScript, hasOurLayout, programScript } from './nft-text.js';
import type { Observed } from './read-rules.js';

/** One run of one kernel tool with its input. A plan is a list of these, and can be printed. */
export interface Step {
  readonly tool: 'ipset' | 'iptables-restore' | 'ip6tables-restore' | 'nft';
  readonly script: string;
}
export interface Plan {
  /** Stages run one after the other; the steps of a stage side by side. */
  readonly stages: readonly (readonly Step[])[];
  /** The number of stages at the start that fill the sets which keep other endpoints from opening flows to their addresses. */
  readonly blockingStages: number;
  /** Timed sets that are new and empty. */
  readonly refill: readonly string[];
}

/** Tighten first, loosen last: marks of another layout → members out → sets in → rules → ports to identities → sets that nothing uses. */
export function planSteps(
  shape: KernelConfig,
  desired: DesiredState,
  observed: Observed,
  open = false,
): Plan {
  const sets = diffSets(desired.sets, observed.sets);
  const tables = FAMILIES.map((f) => tableSteps(f, desired, observed, shape.prefix, open));
  const backstop = programScript(shape, backstopProgram(shape, desired.hostNet), observed.backstop);
  const identity = identityScripts(shape, desired.identity, observed.identity).map(nftStep);
  const bridge = bridgeScript(shape, desired.bridge, observed.bridge);
  const withCgroups = (names: readonly TableName[]): Step[][] =>
    names.map((name) => tables.flatMap((t) => t.withCgroups.get(name) ?? []));
  // the rules of iptables rely on its marks; installed alone, it only adds marks
  const isMissing = observed.identity.rules.length === 0;
  // Without it packets of containers have no mark: the rules drop new ones, or know them by the sets of addresses, which may become empty.
  const isBridgeFirst = open || (observed.bridge.rules.length === 0 && isWithoutIdentities(desired));
  const blocking = [
    closingSteps(shape, observed),
    nftStep(isBridgeFirst ? bridge : ''),
    ipsetStep(sets.tighten + sets.loosen),
  ].filter(isSome);
  const stages = [
    ...blocking,
    ...(isMissing ? identity : []),
    tables.flatMap((t) => t.plain),
    ...withCgroups(BEFORE_IDENTITY),
    ...(isMissing ? [] : identity),
    ...withCgroups(WITH_IDENTITY),
    nftStep(backstop),
    nftStep(isBridgeFirst ? '' : bridge),
    ipsetStep(sets.destroy),
  ];
  return { stages: stages.filter(isSome), blockingStages: blocking.length, refill: sets.refill };
}

/** Whether no veth gets an identity, as in the closed base: the rules of an identity must be installed before a veth gets it. */
const isWithoutIdentities = ({ bridge: { id4, id6 } }: DesiredState): boolean => id4.size + id6.size === 0;

/** The queue first, so that no packet of an unknown sender comes to an empty chain. */
function identityScripts(
  shape: KernelConfig,
  desired: DesiredState['identity'],
  observed: Observed['identity'],
): string[] {
  const queue = queueProgram(desired);
  if (queue === undefined) return [programScript(shape, identityProgram(desired, shape), observed)];
  const isQueue = (rule: string): boolean => rule.startsWith(`${QUEUE} `);
  const rules = (of: boolean): string[] => observed.rules.filter((r) => isQueue(r) === of);
  return [
    programScript(shape, queue, { ...observed, rules: rules(true) }),
    programScript(shape, identityProgram(desired, shape), { ...observed, rules: rules(false) }),
  ];
}

/** The steps to a desired state that differs from the observed one in these sets and chains only. */
export function planDelta(
  shape: KernelConfig,
  desired: DesiredState,
  observed: Observed,
  delta: Delta,
): Plan {
  const sets = diffSets(among(desired.sets, delta.sets), among(observed.sets, delta.sets));
  const tables = FAMILIES.map((family) => {
    const names = delta.chains.get(family) ?? new Set();
    const filter = desired.tables.filter((t) => t.table === 'filter' && t.family === family);
    const wanted = filter.map((t) => ({ ...t, chains: among(t.chains, names), hooks: [] }));
    const installed = among(observed.tables.get(family)?.get('filter') ?? new Map(), names);
    return diffFamily(wanted, new Map([['filter', installed]]), shape.prefix);
  });
  const blocking = [ipsetStep(sets.tighten + sets.loosen)].filter(isSome);
  const rules = tables.flatMap((edits, i) =>
    edits.length === 0 ? [] : [restoreStep(FAMILIES[i] as Family, edits)],
  );
  const stages = [...blocking, rules, ipsetStep(sets.destroy)].filter(isSome);
  return { stages, blockingStages: blocking.length, refill: sets.refill };
}

function among<T>(all: ReadonlyMap<string, T>, names: ReadonlySet<string>): ReadonlyMap<string, T> {
  const found = new Map<string, T>();
  for (const name of names) {
    const one = all.get(name);
    if (one !== undefined) found.set(name, one);
  }
  return found;
}

/** Marks of another layout would be read as other containers': nothing passes while they are exchanged. */
function closingSteps(shape: KernelConfig, { bridge }: Observed): Step[] {
  if (bridge.rules.length === 0 || hasOurLayout(shape, bridge)) return [];
  return [{ tool: 'nft', script: closingScript() }];
}

const isSome = (stage: readonly Step[]): boolean => stage.length > 0;
const nftStep = (script: string): Step[] => (script ? [{ tool: 'nft', script }] : []);
const ipsetStep = (script: string): Step[] => (script ? [{ tool: 'ipset', script }] : []);

const FAMILIES = [4, 6] as const;
/**
 * The order in which the rules of a sender may be added. `mangle` assigns the mark, or the table of nft that identifies senders, so
 * that both come after the tables that act on the mark. `raw` assigns the conntrack zone and comes last: it lets the datagrams of a socket pass one by
 * one. If they were queued in `mangle`, each would get a flow of its own, and perhaps a NAT port of its own.
 */
const BEFORE_IDENTITY: readonly TableName[] = ['filter', 'nat', 'security'];
const WITH_IDENTITY: readonly TableName[] = ['mangle', 'raw'];
const CGROUP = / --path (\S+) /;

interface TableSteps {
  readonly plain: readonly Step[];
  /** Tables with rules that name cgroups, one step each: the rule of a removed cgroup fails its table, but no other table. */
  readonly withCgroups: ReadonlyMap<TableName, Step>;
}

function tableSteps(
  family: Family,
  desired: DesiredState,
  observed: Observed,
  prefix: string,
  open: boolean,
): TableSteps {
  // Where nothing was closed, `filter` would refuse a query that `nat` does not lead to our resolver yet.
  const rank = ({ table }: { readonly table: TableName }): number => Number(open && table !== 'nat');
  const mine = desired.tables.filter((t) => t.family === family).sort((a, b) => rank(a) - rank(b));
  const edits = diffFamily(mine, observed.tables.get(family) ?? new Map(), prefix);
  const isMortal = (e: TableEdit): boolean => [...e.refill.values()].flat().some((l) => CGROUP.test(l));
  const plain = edits.filter((e) => !isMortal(e));
  return {
    plain: plain.length === 0 ? [] : [restoreStep(family, plain)],
    withCgroups: new Map(edits.filter(isMortal).map((e) => [e.table, restoreStep(family, [e])])),
  };
}

const restoreStep = (family: Family, edits: readonly TableEdit[]): Step => ({
  tool: RESTORE[family] as Step['tool'],
  script: restoreScript(edits),
});

export interface ApplyOptions {
  /**
   * Deletes the flows of earlier owners of an address. It starts when the sets block new flows, because a flow that
   * another endpoint opens in between would persist, and it ends before the bridge table changes.
   */
  readonly beforeBinding?: () => Promise<void>;
  /** Whether a cgroup that a rule names is there. */
  readonly hasCgroup?: (path: string) => boolean;
}

/** Runs a plan. The first failure stops it and is thrown: the next pass continues from what it reads. False: rules of removed cgroups were left out. */
export async function applyPlan(run: Exec, plan: Plan, options: ApplyOptions = {}): Promise<boolean> {
  const { beforeBinding = async () => undefined, hasCgroup = () => true } = options;
  const complete: boolean[] = [];
  const runStage = async (stage: readonly Step[]): Promise<void> => {
    complete.push(
      ...(await Promise.all(stage.map((step) => runWithoutRemovedCgroups(run, step, hasCgroup)))),
    );
  };
  for (const stage of plan.stages.slice(0, plan.blockingStages)) await runStage(stage);
  const ready = beforeBinding();
  ready.catch(() => undefined); // awaited below, unless a stage's own error is thrown first
  for (const stage of plan.stages.slice(plan.blockingStages)) {
    if (stage.some((s) => s.tool === 'nft')) await ready;
    await runStage(stage);
  }
  await ready;
  return complete.every(Boolean);
}

const hasExistingCgroup = (line: string, hasCgroup: (path: string) => boolean): boolean => {
  const path = CGROUP.exec(line)?.[1] ?? nftCgroup(line);
  return path === undefined || hasCgroup(path);
};
/** nft names a cgroup from another root, and gives its depth below the root of the hierarchy. */
function nftCgroup(line: string): string | undefined {
  const [, level, path] = / socket cgroupv2 level (\d+) "([^"]+)" /.exec(line) ?? [];
  return path?.split('/').slice(-Number(level)).join('/');
}

const TRIES = 5;
/** Containers exit at any time, and crash loops do so continuously: their rules must not keep out the rules of others. */
async function runWithoutRemovedCgroups(
  run: Exec,
  step: Step,
  hasCgroup: (path: string) => boolean,
): Promise<boolean> {
  let script = step.script;
  for (let n = 1; ; n++) {
    try {
      await runStep(run, { ...step, script });
      return script === step.script;
    } catch (e) {
      const living = script
        .split('\n')
        .filter((l) => hasExistingCgroup(l, hasCgroup))
        .join('\n');
      if (n === TRIES || living === script) throw e;
      script = living;
    }
  }
}

export async function runStep(run: Exec, step: Step): Promise<void> {
  const args =
    step.tool === 'ipset' ? ['restore'] : step.tool === 'nft' ? ['-f', '-'] : ['--noflush', '-w', '10'];
  await must(run, step.tool, args, { input: step.script });
}

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
