/** One attempt at a feed: fetch, parse in the worker, check. The state has a new version only when all of it succeeded. */
import type { FeedData } from './feed-data.js';
import type { FeedSpec } from './feed-spec.js';
import type { ThreatWorker } from './feed-worker-client.js';
import { fetchFeed } from './fetch.js';
import type { FetchOutcome } from './fetch-http.js';
import type { LoadJob } from './ingest.js';
import type { FeedState } from './schedule.js';
import { SHARED_RANGES } from './shared-ranges.js';

export interface UpdateInput {
  readonly spec: FeedSpec;
  readonly state: FeedState;
  /** The version in use on this host. */
  readonly before: FeedData | undefined;
  /** Whether this host has the data of the state's version, so that the server may answer that it is unchanged. */
  readonly isWhole: boolean;
  /** A user accepts the next version whatever its size and its malformed lines. */
  readonly accept: boolean;
  readonly worker: Pick<ThreatWorker, 'load'>;
  readonly now: () => number;
}

export interface UpdateResult {
  readonly state: FeedState;
  /** A new version, to be published. */
  readonly next?: { readonly data: FeedData; readonly snapshot: Uint8Array };
}

type Trouble = Pick<FeedState, 'status' | 'reason' | 'remedy'> &
  Partial<Pick<FeedState, 'notBefore' | 'report'>>;

function failed(state: FeedState, attempted: number, trouble: Trouble): UpdateResult {
  return { state: { ...state, notBefore: null, ...trouble, attempted, failures: state.failures + 1 } };
}

const fine = (attempted: number, confirmed: number) =>
  ({
    status: 'current',
    reason: null,
    remedy: null,
    attempted,
    confirmed,
    failures: 0,
    notBefore: null,
  }) as const;

function jobFor({ spec, before, accept, now }: UpdateInput, body: Uint8Array): LoadJob {
  const { format, options, guards, maxUnpacked } = spec;
  return {
    feed: spec.name,
    body,
    parse: { ...options, format, maxSize: maxUnpacked, now: now() },
    guards,
    ...(before && { before }),
    known: SHARED_RANGES,
    accept,
  };
}

async function loadBody(
  input: UpdateInput,
  attempted: number,
  fetched: Extract<FetchOutcome, { kind: 'body' }>,
): Promise<UpdateResult> {
  const { outcome, snapshot } = await input.worker.load(jobFor(input, fetched.body));
  const { report } = outcome;
  if (!outcome.ok || !snapshot) {
    const refusal = outcome.ok ? undefined : outcome.refusal;
    const where = refusal?.line === undefined ? '' : ` (at ${refusal.line})`;
    const reason = `${refusal?.reason ?? 'no snapshot came with it'}${where}`;
    const trouble = { status: 'refused', reason, remedy: refusal?.remedy ?? null, report } as const;
    return failed(input.state, attempted, trouble);
  }
  const { data } = outcome;
  const { bodySha256, loadedAt, counts } = data;
  const version = { bodySha256, loadedAt, counts };
  const state = { ...fine(attempted, input.now()), validators: fetched.validators, version, report };
  return { state, next: { data, snapshot } };
}

/** Rejects only when the worker thread fails; nothing has changed then. */
export async function updateFeed(input: UpdateInput): Promise<UpdateResult> {
  const { spec, state, isWhole, accept, now } = input;
  const attempted = now();
  // Without the data of the version, "unchanged" would be no answer; to accept a version, its body is needed.
  const fetched = await fetchFeed(spec, isWhole && !accept ? state.validators : {});
  switch (fetched.kind) {
    case 'body':
      return loadBody(input, attempted, fetched);
    case 'unchanged':
      return { state: { ...state, ...fine(attempted, now()) } };
    case 'later': {
      const notBefore = now() + fetched.afterMs;
      const remedy = 'the server asks for it; nothing is to be done';
      return failed(state, attempted, { status: 'later', reason: fetched.reason, remedy, notBefore });
    }
    case 'failed':
      return failed(state, attempted, {
        status: 'failed',
        reason: fetched.reason,
        remedy: fetched.remedy,
      });
  }
}
