import { link, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { HEADER, placeFile, prepareFile, syncFolder } from './durable-file.js';
import { lockFolder } from './folder-lock.js';
import { encodeBase, encodeFrame } from './frame-file.js';
import { logFile, replay, type ScannedLog, scanLog, snapshotFile } from './log-file.js';
import { previousOf, readSnapshot, type Snapshot, writeSnapshot } from './snapshot-file.js';
import { errorCode, StoreError } from './store-error.js';
import { identityIn, type Stored } from './stored-item.js';

/** What one way of reading the store's files gives. */
export interface Recoverable {
  /** current: the snapshot and its log. previous: the snapshot before, its log, and the current log if that continues it. */
  readonly source: 'current' | 'previous';
  readonly identity: string;
  readonly revision: number;
  readonly items: number;
  /** Every record that may have been acknowledged was read: nothing is lost. */
  readonly isComplete: boolean;
  /** What was not read, and why; empty when complete. */
  readonly missing: readonly string[];
}

export interface StoreInspection {
  /** The store opens as it is. */
  readonly isGood: boolean;
  /** A file of a newer version: neither restore nor empty is the remedy, the newer version is. */
  readonly isNewer: boolean;
  /** Best first: complete ones, then those of the highest revision. None: nothing can be read. */
  readonly recoverable: readonly Recoverable[];
  /** What is wrong, in sentences that name the file. */
  readonly problems: readonly string[];
}

interface Reading extends Recoverable {
  readonly content: ReadonlyMap<string, Stored>;
}

/** What can be read of an embedded store in this folder. Changes nothing, and needs no lock. */
export async function inspectStore(dir: string): Promise<StoreInspection> {
  const readings = await readAll(dir);
  const current = readings.find((r) => r.source === 'current');
  const problems = [...new Set(readings.flatMap((r) => r.missing))];
  return {
    isGood: current?.isComplete === true && current.revision > 0,
    isNewer: problems.some((p) => /written by a newer version/.test(p)),
    recoverable: ranked(readings).map(({ content: _, ...shown }) => shown),
    problems: current?.isComplete ? [] : problems,
  };
}

/**
 * Makes a store of what can be read from that source. The files that are there are set aside (NAME.damaged-TIME) and
 * named in the result. Throws StoreError: `locked` (a service uses the folder), `corrupt` (nothing can be read).
 */
export async function restoreStore(
  dir: string,
  source: Recoverable['source'],
  now: Date = new Date(),
): Promise<{ readonly restored: Recoverable; readonly setAside: readonly string[] }> {
  return locked(dir, async () => {
    const reading = ranked(await readAll(dir)).find((r) => r.source === source);
    if (!reading) throw new StoreError('corrupt', `nothing can be read from the ${source} files of ${dir}`);
    const { content, ...restored } = reading;
    const target = join(dir, 'store.recovered');
    // Whole and durable before anything is moved: a full disk leaves everything as it is.
    await writeSnapshot(target, content, restored.revision);
    await prepareFile(logFile(dir), [HEADER, encodeFrame(encodeBase(restored.revision))]);
    const names = await filesOf(dir);
    const setAside = await Promise.all(names.map((name) => secondName(dir, name, now)));
    // A crash from here on leaves a snapshot with a log that does not continue it, or the whole.
    await rename(target, snapshotFile(dir));
    await placeFile(logFile(dir));
    const others = names.filter((name) => name !== 'store.log' && name !== 'store.snapshot');
    for (const name of others) await rm(join(dir, name));
    return { restored, setAside };
  });
}

/** Sets all files of the embedded store aside: the next start begins with an empty one of another identity. */
export function beginEmpty(dir: string, now: Date = new Date()): Promise<readonly string[]> {
  return locked(dir, () => setFilesAside(dir, now));
}

async function locked<T>(dir: string, work: () => Promise<T>): Promise<T> {
  const lock = await lockFolder(dir);
  try {
    return await work();
  } finally {
    await lock.release();
  }
}

const filesOf = async (dir: string): Promise<readonly string[]> =>
  (await readdir(dir)).filter((name) => /^store\.(log|snapshot)(\.previous|\.torn)?$/.test(name));

async function secondName(dir: string, name: string, now: Date): Promise<string> {
  const to = asideOf(dir, name, now);
  await link(join(dir, name), to);
  return to;
}

const asideOf = (dir: string, name: string, now: Date): string =>
  join(dir, `${name}.damaged-${now.toISOString().replace(/[:.]/g, '-')}`);

async function setFilesAside(dir: string, now: Date): Promise<readonly string[]> {
  const moved: string[] = [];
  // The log last: it does not open without the snapshot that it continues.
  for (const name of [...(await filesOf(dir))].sort().reverse()) {
    const to = asideOf(dir, name, now);
    await rename(join(dir, name), to);
    moved.push(to);
  }
  await syncFolder(dir);
  return moved;
}

async function readAll(dir: string): Promise<readonly Reading[]> {
  return [await readCurrent(dir), await readPrevious(dir)].filter((r) => r !== undefined);
}

function ranked(readings: readonly Reading[]): readonly Reading[] {
  return readings
    .filter((r) => r.revision > 0)
    .sort((a, b) => Number(b.isComplete) - Number(a.isComplete) || b.revision - a.revision);
}

async function readCurrent(dir: string): Promise<Reading | undefined> {
  const snapshot = await attempt(() => readSnapshot(snapshotFile(dir)));
  const log = await attempt(() => scanLog(logFile(dir)));
  const missing = [...faultsOf(snapshot), ...logFaults(logFile(dir), log)];
  if (!snapshot.value) return reading('current', { items: new Map(), revision: 0 }, [], missing);
  if (log.value?.isNew && snapshot.value.revision > 0) missing.push(`${logFile(dir)} is missing or empty`);
  return reading('current', snapshot.value, [log.value], missing);
}

async function readPrevious(dir: string): Promise<Reading | undefined> {
  const [snapshotPath, former] = [previousOf(snapshotFile(dir)), previousOf(logFile(dir))];
  const snapshot = await attempt(() => readSnapshot(snapshotPath));
  const log = await attempt(() => scanLog(former));
  const now = await attempt(() => scanLog(logFile(dir)));
  if (!snapshot.value || log.value?.isNew) return undefined;
  const missing = [...faultsOf(snapshot), ...logFaults(former, log), ...logFaults(logFile(dir), now)];
  if (now.value?.isNew) missing.push(`${logFile(dir)} is missing or empty`);
  return reading('previous', snapshot.value, [log.value, now.value], missing);
}

/** Applies one log after the other, as far as each continues what was reached. */
function reading(
  source: Reading['source'],
  { items, revision: base }: Snapshot,
  logs: readonly (ScannedLog | undefined)[],
  faults: readonly string[],
): Reading {
  let content: Map<string, Stored> = items;
  const missing = [...faults];
  let revision = base;
  for (const log of logs) {
    if (!log) continue;
    if (log.base > revision) {
      missing.push(`records between revision ${revision} and ${log.base} are in no file that can be read`);
      break;
    }
    const reached = new Map(content);
    try {
      revision = replay(source, reached, revision, log.changes);
    } catch (e) {
      if (!(e instanceof StoreError)) throw e;
      missing.push(`the log that continues revision ${revision} has a gap: it was not read`);
      break;
    }
    content = reached;
  }
  const isComplete = missing.length === 0;
  const identity = identityIn(content);
  return { source, identity, revision, items: content.size, isComplete, missing, content };
}

interface Attempt<T> {
  readonly value?: T;
  readonly fault?: string;
}

async function attempt<T>(read: () => Promise<T>): Promise<Attempt<T>> {
  try {
    return { value: await read() };
  } catch (e) {
    if (!(e instanceof StoreError) && errorCode(e) === undefined) throw e;
    return { fault: e instanceof Error ? e.message : String(e) };
  }
}

const faultsOf = ({ fault }: Attempt<unknown>): string[] => (fault === undefined ? [] : [fault]);

function logFaults(path: string, log: Attempt<ScannedLog>): string[] {
  const { value } = log;
  if (!value?.damaged) return faultsOf(log);
  return [
    `${path} is damaged at byte ${value.goodLength}: what follows revision ${lastOf(value)} was not read`,
  ];
}

const lastOf = (log: ScannedLog): number => log.changes.at(-1)?.revision ?? log.base;
