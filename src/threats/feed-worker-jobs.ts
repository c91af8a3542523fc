/** What the worker thread does, and its messages; all plain data. */
import type { ThreadRequest, ThreadResult } from '../lib/thread.js';
import { buffersOf, decodeSnapshot, encodeSnapshot, type FeedData } from './feed-data.js';
import { type LoadJob, type LoadOutcome, loadFeed } from './ingest.js';
import { type MergeJob, type MergeResult, mergeFeeds } from './merge.js';

/** A load's outcome, and what to keep on disk when it is accepted. */
export interface LoadReply {
  readonly outcome: LoadOutcome;
  readonly snapshot: Uint8Array | undefined;
}

/** kind → what goes in, what comes out. */
export interface WorkerJobs {
  load: { readonly in: LoadJob; readonly out: LoadReply };
  merge: { readonly in: MergeJob; readonly out: MergeResult };
  open: { readonly in: Uint8Array; readonly out: FeedData };
}

async function load(job: LoadJob): Promise<ThreadResult> {
  const outcome = await loadFeed(job);
  if (!outcome.ok) return { value: { outcome, snapshot: undefined }, transfer: [] };
  const snapshot = Uint8Array.from(encodeSnapshot(outcome.data));
  return { value: { outcome, snapshot }, transfer: [...buffersOf(outcome.data), snapshot.buffer] };
}

function merge(job: MergeJob): ThreadResult {
  const value = mergeFeeds(job);
  const columns = [value.v4, value.v6].flatMap(({ members, ranges }) => [
    members.singles,
    members.nets,
    members.prefixes,
    ranges.lo,
    ranges.hi,
  ]);
  return { value, transfer: columns.map((column) => column.buffer as ArrayBuffer) };
}

function open(octets: Uint8Array): ThreadResult {
  const value = decodeSnapshot(octets);
  return { value, transfer: buffersOf(value) };
}

/** Runs one request; what it throws becomes the error of the reply. */
export async function runRequest({ kind, job }: ThreadRequest): Promise<ThreadResult> {
  switch (kind as keyof WorkerJobs) {
    case 'load':
      return load(job as LoadJob);
    case 'merge':
      return merge(job as MergeJob);
    case 'open':
      return open(job as Uint8Array);
  }
}
