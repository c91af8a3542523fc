/** One attempt at a feed: fetch, judge, keep. The version in force changes only when all of it succeeded. */
import type { FeedData } from './feed-data.js';
import type { FeedSpec } from './feed-spec.js';
import type { LoadReply } from './feed-worker-jobs.js';
import type { FetchOutcome, FetchSpec, Validators } from './fetch-types.js';
import type { LoadJob } from './ingest.js';
import type { FeedState } from './schedule.js';
import type { SharedRange } from './shared-ranges.js';

export interface UpdateTools {
  readonly fetch: (spec: FetchSpec, validators: Validators) => Promise<FetchOutcome>;
  readonly load: (job: LoadJob) => Promise<LoadReply>;
  readonly known: () => readonly SharedRange[];
  readonly now: () => number;
}

export interface UpdateInput {
  readonly spec: FeedSpec;
  readonly state: FeedState;
  /** The version in force here. */
  readonly before: FeedData | undefined;
  /** The state's version is in hand: the server may say that it is unchanged. */
  readonly isWhole: boolean;
  /** A person takes the next version as it is, whatever its size and bad lines. */
  readonly accept: boolean;
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

function jobFor({ spec, before, accept }: UpdateInput, body: Uint8Array, tools: UpdateTools): LoadJob {
  const { format, options, guards, maxUnpacked } = spec;
  return {
    feed: spec.name,
    body,
    parse: { ...options, format, maxSize: maxUnpacked, now: tools.now() },
    guards,
    ...(before && { before }),
    known: tools.known(),
    accept,
  };
}

async function loadBody(
  input: UpdateInput,
  attempted: number,
  fetched: Extract<FetchOutcome, { kind: 'body' }>,
  tools: UpdateTools,
): Promise<UpdateResult> {
  const { outcome, snapshot } = await tools.load(jobFor(input, fetched.body, tools));
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
  const state = { ...fine(attempted, tools.now()), validators: fetched.validators, version, report };
  return { state, next: { data, snapshot } };
}

/** Rejects only when the thread fails: then nothing has changed. */
export async function updateFeed(input: UpdateInput, tools: UpdateTools): Promise<UpdateResult> {
  const { spec, state, isWhole, accept } = input;
  const attempted = tools.now();
  // Without the version in hand, "unchanged" would be no answer; to accept, the body is needed.
  const fetched = await tools.fetch(spec, isWhole && !accept ? state.validators : {});
  switch (fetched.kind) {
    case 'body':
      return loadBody(input, attempted, fetched, tools);
    case 'unchanged':
      return { state: { ...state, ...fine(attempted, tools.now()) } };
    case 'later': {
      const notBefore = tools.now() + fetched.afterMs;
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
