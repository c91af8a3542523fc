/** The thread that writes and reads the database of flows: SQLite waits for the disk. */
import { renameSync, rmSync, statfsSync } from 'node:fs';
import { dirname } from 'node:path';
import { serveThread } from '../lib/thread.js';
import {
  type DatabaseOptions,
  FlowDatabase,
  type KnownMark,
  type StartedContainer,
  type Written,
} from './flow-database.js';
import { UnusableFlowsError } from './flow-file.js';
import type { ContainerRun, FlowFacts, FlowPage, FlowQuery, OwnerRecord, SeenFlow } from './flow-record.js';

/** Kind of a job → what goes in, what comes out. */
export interface FlowJobs {
  /** Gives the reason for which a file of before was set aside; null: it was not. */
  readonly open: { readonly in: DatabaseOptions; readonly out: { readonly setAside: string | null } };
  readonly write: {
    readonly in: { readonly flows: readonly SeenFlow[]; readonly lost: number; readonly now: number };
    readonly out: Written;
  };
  /** The time from which on what passes is read (ms since the epoch). */
  readonly begun: { readonly in: number; readonly out: null };
  readonly started: {
    readonly in: { readonly containers: readonly StartedContainer[]; readonly now: number };
    readonly out: null;
  };
  readonly page: { readonly in: FlowQuery; readonly out: FlowPage };
  readonly record: { readonly in: string; readonly out: OwnerRecord | undefined };
  readonly run: { readonly in: string; readonly out: ContainerRun | undefined };
  readonly owners: { readonly in: null; readonly out: readonly string[] };
  readonly facts: { readonly in: null; readonly out: FlowFacts };
  readonly mark: {
    readonly in: { readonly mark: KnownMark; readonly isKnown: boolean };
    readonly out: number;
  };
  readonly marks: { readonly in: null; readonly out: readonly KnownMark[] };
  readonly prune: { readonly in: { readonly now: number }; readonly out: boolean };
  readonly close: { readonly in: { readonly now: number }; readonly out: null };
}

let database: FlowDatabase | undefined;
let folder = '';

/** Of a disk that has less free, records take nothing more: changes of policies are stored there, too. */
const LEFT_FREE = { bytes: 64 * 1024 * 1024, share: 0.25 } as const;

function leaveSpace(): void {
  const { bavail, blocks, bsize } = statfsSync(folder);
  const least = Math.min(LEFT_FREE.bytes, blocks * bsize * LEFT_FREE.share);
  if (bavail * bsize < least)
    throw new Error(
      `the disk of ${folder} has less than ${Math.ceil(least / 1024)} KiB free, which are left for changes of policies`,
    );
}

function opened(): FlowDatabase {
  if (database) return database;
  throw new Error('the database of flows is not open');
}

/** A file that cannot be used is kept under another name, one of them at most. */
function open(options: DatabaseOptions): FlowJobs['open']['out'] {
  abandon();
  folder = dirname(options.file);
  leaveSpace();
  try {
    database = new FlowDatabase(options);
    return { setAside: null };
  } catch (e) {
    if (!isUnusable(e)) throw e;
    for (const end of ['', '-wal', '-shm']) {
      rmSync(`${options.file}.unusable${end}`, { force: true });
      try {
        renameSync(`${options.file}${end}`, `${options.file}.unusable${end}`);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
      }
    }
    database = new FlowDatabase(options);
    return { setAside: e instanceof Error ? e.message : String(e) };
  }
}

/** Close a database that could not be written; what fails of that has been reported. */
function abandon(): void {
  try {
    database?.close();
  } catch {
    // the error of the write was reported
  }
  database = undefined;
}

/** Of SQLite: SQLITE_CORRUPT and SQLITE_NOTADB. */
const isUnusable = (e: unknown): boolean =>
  e instanceof UnusableFlowsError || (e instanceof Error && /malformed|not a database/.test(e.message));

const RUN: { readonly [K in keyof FlowJobs]: (job: FlowJobs[K]['in']) => FlowJobs[K]['out'] } = {
  open,
  write: ({ flows, lost, now }) => {
    leaveSpace();
    return opened().write(flows, lost, now);
  },
  begun: (time) => {
    opened().begun(time);
    return null;
  },
  started: ({ containers, now }) => {
    opened().started(containers, now);
    return null;
  },
  page: (query) => opened().page(query),
  record: (owner) => opened().record(owner),
  run: (idOrName) => opened().run(idOrName),
  owners: () => opened().owners(),
  facts: () => opened().facts(),
  mark: ({ mark, isKnown }) => opened().mark(mark, isKnown),
  marks: () => opened().marks(),
  prune: ({ now }) => opened().prune(now),
  close: ({ now }) => {
    database?.close(now);
    database = undefined;
    return null;
  },
};

serveThread(({ kind, job }) => ({ value: RUN[kind as keyof FlowJobs](job as never) }));
