/**
 * The process that writes and reads the database of flows. SQLite waits for the disk, and its library aborts its process when it reads a text
 * that is not UTF-8 where it expects a number.
 */

import { renameSync, rmSync, statfsSync } from 'node:fs';
import { dirname } from 'node:path';
import { ignoreMissing } from '../lib/problem.js';
import { serveChild } from '../lib/thread.js';
import {
  type DatabaseOptions,
  FlowDatabase,
  type KnownMark,
  type StartedContainer,
  type Written,
} from './flow-database.js';
import { isDamage, UnusableFlowsError } from './flow-file.js';
import type {
  ContainerRun,
  FlowFacts,
  FlowGap,
  FlowPage,
  FlowQuery,
  OwnerRecord,
  SeenFlow,
} from './flow-record.js';
import type { TallyRow } from './tallies.js';

/** Kind of a job → what goes in, what comes out. */
export interface FlowJobs {
  /** The first job of a process. `setAside`: the file of before cannot be used, and is kept under another name. Returns what is counted. */
  readonly open: {
    readonly in: DatabaseOptions & { readonly setAside: boolean };
    readonly out: readonly TallyRow[];
  };
  readonly write: {
    readonly in: {
      readonly flows: readonly SeenFlow[];
      readonly lost: number;
      readonly now: number;
      readonly tallies: readonly TallyRow[];
    };
    readonly out: Written;
  };
  /** The time from which on what passes is read (ms since the epoch). */
  readonly begun: { readonly in: number; readonly out: null };
  readonly interrupted: { readonly in: FlowGap; readonly out: null };
  readonly started: {
    readonly in: {
      readonly containers: readonly StartedContainer[];
      readonly now: number;
      /** By the clock that is behind. */
      readonly earlier: number;
    };
    readonly out: null;
  };
  readonly page: { readonly in: FlowQuery; readonly out: FlowPage };
  readonly record: {
    readonly in: { readonly owner: string; readonly now: number };
    readonly out: OwnerRecord | undefined;
  };
  readonly run: { readonly in: string; readonly out: ContainerRun | undefined };
  readonly owners: { readonly in: null; readonly out: readonly string[] };
  readonly facts: { readonly in: { readonly now: number }; readonly out: FlowFacts };
  readonly mark: {
    readonly in: { readonly mark: KnownMark; readonly isKnown: boolean };
    readonly out: number;
  };
  readonly marks: { readonly in: null; readonly out: readonly KnownMark[] };
  /** `now`: by the clock that is behind. */
  readonly prune: { readonly in: { readonly now: number }; readonly out: boolean };
  readonly close: { readonly in: { readonly now: number }; readonly out: null };
}

/** The process of before has ended while no job waited. */
class NotOpenError extends Error {
  override readonly name = 'NotOpenError';
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
  throw new NotOpenError('the database of flows is not open');
}

/** One file that cannot be used is kept, the newest. No connection to it is open: SQLite would delete the log of the next one. */
function setAside(file: string): void {
  for (const end of ['', '-wal', '-shm']) {
    rmSync(`${file}.unusable${end}`, { force: true });
    try {
      renameSync(`${file}${end}`, `${file}.unusable${end}`);
    } catch (error) {
      ignoreMissing(error);
    }
  }
}

const RUN: { readonly [K in keyof FlowJobs]: (job: FlowJobs[K]['in']) => FlowJobs[K]['out'] } = {
  open: ({ setAside: isDamaged, ...options }) => {
    folder = dirname(options.file);
    leaveSpace();
    if (isDamaged) setAside(options.file);
    database = new FlowDatabase(options);
    return database.tallies();
  },
  write: ({ flows, lost, now, tallies }) => {
    const into = opened();
    leaveSpace();
    return into.write(flows, lost, now, tallies);
  },
  interrupted: (gap) => {
    opened().interrupted(gap);
    return null;
  },
  begun: (time) => {
    opened().begun(time);
    return null;
  },
  started: ({ containers, now, earlier }) => {
    opened().started(containers, now, earlier);
    return null;
  },
  page: (query) => opened().page(query),
  record: ({ owner, now }) => opened().record(owner, now),
  run: (idOrName) => opened().run(idOrName),
  owners: () => opened().owners(),
  facts: ({ now }) => opened().facts(now),
  mark: ({ mark, isKnown }) => opened().mark(mark, isKnown),
  marks: () => opened().marks(),
  prune: ({ now }) => opened().prune(now),
  close: ({ now }) => {
    database?.close(now);
    database = undefined;
    return null;
  },
};

serveChild(({ kind, job }) => {
  try {
    return RUN[kind as keyof FlowJobs](job as never);
  } catch (e) {
    throw isDamage(e) ? new UnusableFlowsError((e as Error).message) : e;
  }
});
