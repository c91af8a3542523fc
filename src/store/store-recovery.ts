import { link, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { errorCode, errorText } from '../lib/problem.js';
import { lockFolder } from './folder-lock.js';
import { encodeBase, encodeFrame, HEADER } from './frame-file.js';
import { placeFile, prepareFile, syncFolder } from './state-file.js';
import { StoreError } from './store-error.js';
import {
  logFile,
  previousOf,
  readSnapshot,
  replay,
  type ScannedLog,
  type Snapshot,
  scanLog,
  snapshotFile,
  writeSnapshot,
} from './store-files.js';
import { identityIn, type Stored } from './stored-item.js';

/** The result of one way to read the files of the store. */
export interface Recoverable {
  /** current: the snapshot and its log. previous: the previous snapshot, its log, and the current log if that continues it. */
  readonly source: 'current' | 'previous';
  readonly identity: string;
  readonly revision: number;
  readonly items: number;
  /** True when every record that may have been acknowledged was read, so that nothing is lost. */
  readonly isComplete: boolean;
  /** Describes each part that was not read, and why; empty when complete. */
  readonly missing: readonly string[];
}

export interface StoreInspection {
  /** True when the store opens as it is. */
  readonly isGood: boolean;
  /** True when a newer version wrote a file: the remedy is that version, not to restore or to start empty. */
  readonly isNewer: boolean;
  /** Complete ones first, then by revision; empty when nothing can be read. */
  readonly recoverable: readonly Recoverable[];
  /** Each problem in a sentence that names the file. */
  readonly problems: readonly string[];
}

interface Reading extends Recoverable {
  readonly content: ReadonlyMap<string, Stored>;
  readonly isNewer: boolean;
}

/** Reports what can be read of the embedded store in this folder. Changes nothing, and needs no lock. */
export async function inspectStore(dir: string): Promise<StoreInspection> {
  const readings = await readAll(dir);
  const current = readings.find((r) => r.source === 'current');
  const problems = [...new Set(readings.flatMap((r) => r.missing))];
  return {
    isGood: current?.isComplete === true && current.revision > 0,
    isNewer: readings.some((r) => r.isNewer),
    recoverable: ranked(readings).map(({ content: _content, isNewer: _isNewer, ...shown }) => shown),
    problems: current?.isComplete ? [] : problems,
  };
}

/**
 * Writes a store from the items that can be read from that source. The existing files are set aside (NAME.damaged-TIME)
 * and listed in the result. Throws StoreError: `locked` (a service uses the folder), `corrupt` (nothing can be read).
 */
export async function restoreStore(
  dir: string,
  source: Recoverable['source'],
  now: Date = new Date(),
): Promise<{ readonly restored: Recoverable; readonly setAside: readonly string[] }> {
  return locked(dir, async () => {
    const reading = ranked(await readAll(dir)).find((r) => r.source === source);
    if (!reading) throw new StoreError('corrupt', `nothing can be read from the ${source} files of ${dir}`);
    const { content, isNewer: _, ...restored } = reading;
    const target = join(dir, 'store.recovered');
    // The new files are complete and durable before anything is moved: a full disk leaves everything as it is.
    await writeSnapshot(target, content, restored.revision);
    await prepareFile(logFile(dir), [HEADER, encodeFrame(encodeBase(restored.revision))]);
    const names = await filesOf(dir);
    const setAside = await Promise.all(names.map((name) => secondName(dir, name, now)));
    // After a crash from here on, the log does not continue the snapshot (which the start refuses), or all is done.
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
  // The log is last: without the snapshot that it continues, it does not open.
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
  const faults = [...faultsOf(snapshot), ...logFaults(logFile(dir), log)];
  if (!snapshot.value) return reading('current', { items: new Map(), revision: 0 }, [], faults);
  if (log.value?.isNew && snapshot.value.revision > 0) faults.push(missingLog(dir));
  return reading('current', snapshot.value, [log.value], faults);
}

async function readPrevious(dir: string): Promise<Reading | undefined> {
  const [snapshotPath, previousLog] = [previousOf(snapshotFile(dir)), previousOf(logFile(dir))];
  const snapshot = await attempt(() => readSnapshot(snapshotPath));
  const log = await attempt(() => scanLog(previousLog));
  const currentLog = await attempt(() => scanLog(logFile(dir)));
  if (!snapshot.value || log.value?.isNew) return undefined;
  const faults = [
    ...faultsOf(snapshot),
    ...logFaults(previousLog, log),
    ...logFaults(logFile(dir), currentLog),
  ];
  if (currentLog.value?.isNew) faults.push(missingLog(dir));
  return reading('previous', snapshot.value, [log.value, currentLog.value], faults);
}

/** Applies one log after the other, as long as each continues the revision that was reached. */
function reading(
  source: Reading['source'],
  { items, revision: base }: Snapshot,
  logs: readonly (ScannedLog | undefined)[],
  faults: readonly Fault[],
): Reading {
  let content: Map<string, Stored> = items;
  const missing = faults.map(({ text }) => text);
  let revision = base;
  for (const log of logs) {
    if (!log) continue;
    if (log.base > revision) {
      missing.push(`records between revision ${revision} and ${log.base} are in no readable file`);
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
  const isNewer = faults.some((fault) => fault.isNewer);
  const identity = identityIn(content);
  return { source, identity, revision, items: content.size, isComplete, missing, content, isNewer };
}

/** Why a file, or a part of it, cannot be read. */
interface Fault {
  readonly text: string;
  readonly isNewer: boolean;
}

interface Attempt<T> {
  readonly value?: T;
  readonly fault?: Fault;
}

const missingLog = (dir: string): Fault => ({
  text: `${logFile(dir)} is missing or empty`,
  isNewer: false,
});

async function attempt<T>(read: () => Promise<T>): Promise<Attempt<T>> {
  try {
    return { value: await read() };
  } catch (e) {
    if (!(e instanceof StoreError) && errorCode(e) === undefined) throw e;
    return { fault: { text: errorText(e), isNewer: e instanceof StoreError && e.code === 'newer' } };
  }
}

const faultsOf = ({ fault }: Attempt<unknown>): Fault[] => (fault === undefined ? [] : [fault]);

function logFaults(path: string, log: Attempt<ScannedLog>): Fault[] {
  const { value } = log;
  if (!value?.damaged) return faultsOf(log);
  const text = `${path} is damaged at byte ${value.goodLength}: changes after revision ${lastOf(value)} were not read`;
  return [{ text, isNewer: false }];
}

const lastOf = (log: ScannedLog): number => log.changes.at(-1)?.revision ?? log.base;
