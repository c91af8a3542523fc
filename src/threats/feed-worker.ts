/** The thread in which feeds are parsed and merged, so that a million lines never delay a DNS answer. Messages are plain data. */
import { serveThread, type ThreadRequest, type ThreadResult } from '../lib/thread.js';
import { buffersOf, decodeSnapshot, encodeSnapshot, type FeedData } from './feed-data.js';
import { type LoadJob, type LoadOutcome, loadFeed } from './ingest.js';
import { type MergeJob, type MergeResult, mergeFeeds } from './merge.js';

/** The outcome of a load, and the snapshot to keep on disk when the body is accepted. */
export interface LoadReply {
  readonly outcome: LoadOutcome;
  readonly snapshot: Uint8Array | undefined;
}

/** The jobs by kind, with the types of input and output. */
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

/** Run one request; an exception becomes the error of the reply. */
async function runRequest({ kind, job }: ThreadRequest): Promise<ThreadResult> {
  switch (kind as keyof WorkerJobs) {
    case 'load':
      return load(job as LoadJob);
    case 'merge':
      return merge(job as MergeJob);
    case 'open':
      return open(job as Uint8Array);
  }
}

serveThread(runRequest);
