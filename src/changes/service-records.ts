import { type Config, nodeName } from '../config/config.js';
import { isRecord } from '../lib/json.js';
import type { Logger } from '../lib/log.js';
import { errorText } from '../lib/problem.js';
import { VERSION } from '../lib/version.js';
import type { DockerView } from '../policy/container.js';
import { tame } from '../policy/labels.js';
import { ignoredLabels } from '../policy/own-labels.js';
import { lockFolder } from '../store/folder-lock.js';
import { StoreError } from '../store/store-error.js';
import type { FeedSync, SyncHow } from '../threats/feed-view.js';
import type { Audit } from './audit.js';
import { AuditFile } from './audit-file.js';

/** Records about the service itself. None of them keeps it from starting, ending or being torn down. */
type Sink = Pick<Audit, 'recordOrWait'>;

/**
 * `ended`: how the run before has ended, if it was not stopped. `changed`: the keys of the configuration that differ, where it starts because of
 * SIGHUP.
 */
export async function recordStart(
  audit: Sink,
  node: string,
  ended: string | null,
  changed?: readonly string[],
): Promise<void> {
  const action = changed ? 'config.reload' : 'service.start';
  const after = { version: VERSION, ...(ended !== null && { ended }), ...(changed && { changed }) };
  await audit.recordOrWait({ who: 'drawbridge', action, target: node, before: null, after, outcome: 'done' });
}

export async function recordStop(audit: Sink, node: string): Promise<void> {
  const record = { who: 'drawbridge', action: 'service.stop', target: node, before: null, after: null };
  await audit.recordOrWait({ ...record, outcome: 'done' });
}

/** Before it is done: afterwards there may be nothing to record it in. */
export async function recordTeardown(audit: Sink, node: string, who: string): Promise<void> {
  const record = { who, action: 'teardown', target: node, before: null, after: null };
  await audit.recordOrWait({ ...record, outcome: 'done' });
}

/** Paths of the keys that differ, without their values: some are secrets. */
export function changedKeys(before: unknown, after: unknown, path = ''): readonly string[] {
  if (JSON.stringify(before) === JSON.stringify(after)) return [];
  if (!isRecord(before) || !isRecord(after)) return [path];
  return [...new Set([...Object.keys(before), ...Object.keys(after)])].flatMap((key) =>
    changedKeys(before[key], after[key], path === '' ? key : `${path}.${key}`),
  );
}

/** A change that is made while the service does not have the audit open. */
export interface AloneRecord {
  readonly who: string;
  readonly action: 'teardown' | 'store.restore' | 'store.start-empty';
  readonly after: unknown;
  readonly outcome: 'done' | 'refused';
}

/**
 * Append a record to the audit's files of this host, under the lock of the state folder: the chain has one writer. The copies
 * for other hosts in Redis are not written. Resolves with the reason if the record was not written, and never rejects,
 * because the change (a teardown, a repair of the store) must be possible on a full disk as well.
 */
export async function recordAlone(
  config: Pick<Config, 'state' | 'node'>,
  { who, action, after, outcome }: AloneRecord,
  now: () => number = Date.now,
): Promise<string | undefined> {
  const node = nodeName(config);
  const target = action === 'teardown' ? node : 'store';
  const time = new Date(now()).toISOString();
  try {
    const lock = await lockFolder(config.state);
    try {
      const file = await AuditFile.open({ dir: config.state, now });
      try {
        await file.append({ time, node, who, action, target, before: null, after, outcome });
      } finally {
        await file.close();
      }
    } finally {
      await lock.release();
    }
    return undefined;
  } catch (e) {
    return reasonOf(e, config.state);
  }
}

/** Return the cause alone: the message of the audit claims that nothing was changed, which is not true here. */
function reasonOf(e: unknown, state: string): string {
  if (e instanceof StoreError && e.code === 'locked') return `another process uses ${state}`;
  const cause = e instanceof Error && e.cause instanceof Error ? e.cause : e;
  return `the audit in ${state} cannot be written: ${errorText(cause)}`;
}

/** A person's attempt at a feed, and the record of it: what it brought, and whether the guards were set aside. */
export async function syncAudited(
  audit: Audit,
  feed: string,
  { accept }: SyncHow,
  who: string,
  sync: () => Promise<FeedSync>,
): Promise<FeedSync> {
  const done = await sync();
  if (done.outcome !== 'attempted') return done;
  const { status, reason, entries, loaded } = done.feed;
  const after = { status, reason, entries, loaded };
  const action = accept ? 'feed.accept' : 'feed.sync';
  await audit.record({ who, action, target: feed, before: null, after, outcome: 'done' });
  return done;
}

/** The record of a destination that a person has marked as known, or no longer. */
export async function knownAudited(
  audit: Audit,
  { owner, target, port }: { readonly owner: string; readonly target: string; readonly port: number | null },
  isKnown: boolean,
  who: string,
): Promise<void> {
  const mark = { destination: target, port };
  const [before, after] = isKnown ? [null, mark] : [mark, null];
  const action = isKnown ? 'known.add' : 'known.remove';
  await audit.record({ who, action, target: owner, before, after, outcome: 'done' });
}

/** Labels of images are untrusted: they must not displace the records of changes. */
const MOST = 100;

/** Writes an audit record for compose and stack labels of images that have no effect, once for each set of values. */
export class IgnoredLabels {
  readonly #audit: Pick<Audit, 'record'>;
  readonly #log: Logger;
  readonly #recorded = new Set<string>();

  constructor(audit: Pick<Audit, 'record'>, log: Logger) {
    this.#audit = audit;
    this.#log = log;
  }

  check(view: DockerView): void {
    for (const c of view.containers.values()) {
      if (this.#recorded.size >= MOST) return;
      const keys = c.imageLabels ? ignoredLabels(c) : [];
      if (keys.length === 0) continue;
      const labels = Object.fromEntries(keys.map((key) => [key, tame(c.labels[key] ?? '')]));
      const id = JSON.stringify(labels);
      if (this.#recorded.has(id)) continue;
      this.#recorded.add(id);
      this.#record(c.name, c.image, labels);
    }
  }

  #record(target: string, image: string, labels: Readonly<Record<string, string>>): void {
    const after = { image: tame(image), labels };
    this.#log.warn({ container: target, ...after }, 'labels that come with the image are ignored');
    this.#audit
      .record({ who: 'drawbridge', action: 'labels.ignore', target, before: null, after, outcome: 'done' })
      .catch((err: unknown) => {
        this.#log.error({ err, container: target }, 'cannot record in the audit which labels are ignored');
      });
  }
}

interface FailedLogin {
  /** Where the request came from. */
  readonly address: string;
  readonly reason: string;
}
interface Count {
  requests: number;
  readonly reasons: Set<string>;
  readonly from: number;
}
const WINDOW_MS = 60_000;
/** So many records may come at once, and one more every three minutes: a flood must not fill the audit's budget. */
const BURST = 50;
const REFILL_MS = 180_000;
const MOST_ADDRESSES = 1_000;
const OTHERS = 'other addresses';

/** Records requests that were refused for their token, or the lack of one: one record for each address and minute. */
export class FailedLogins implements Disposable {
  readonly #audit: Pick<Audit, 'record'>;
  readonly #log: Logger;
  readonly #now: () => number;
  readonly #counts = new Map<string, Count>();
  #allowance = BURST;
  #filledAt: number;
  #timer: NodeJS.Timeout | undefined;

  /** `now`: ms, by a clock that nothing sets. */
  constructor(audit: Pick<Audit, 'record'>, log: Logger, now: () => number) {
    this.#audit = audit;
    this.#log = log;
    this.#now = now;
    this.#filledAt = now();
  }

  readonly seen = ({ address, reason }: FailedLogin): void => {
    const key = this.#counts.has(address) || this.#counts.size < MOST_ADDRESSES ? address : OTHERS;
    const count = this.#counts.get(key) ?? { requests: 0, reasons: new Set<string>(), from: this.#now() };
    count.requests++;
    count.reasons.add(reason);
    this.#counts.set(key, count);
    this.#timer ??= setTimeout(() => this.flush(), WINDOW_MS).unref();
  };

  /** What was counted becomes records, as far as the allowance goes; the rest is one more, of many addresses. */
  flush(): void {
    this.#timer = undefined;
    const now = this.#now();
    const filled = Math.max(0, Math.floor((now - this.#filledAt) / REFILL_MS));
    this.#allowance = Math.min(BURST, this.#allowance + filled);
    this.#filledAt += filled * REFILL_MS;
    const all = [...this.#counts].sort(([, a], [, b]) => b.requests - a.requests);
    if (this.#allowance < 1) {
      this.#timer = setTimeout(() => this.flush(), WINDOW_MS).unref();
      return;
    }
    this.#counts.clear();
    const single = all.length <= this.#allowance ? all : all.slice(0, this.#allowance - 1);
    for (const [address, count] of single) this.#record(address, 1, count);
    const rest = all.slice(single.length);
    if (rest.length === 0) return;
    const reasons = new Set(rest.flatMap(([, c]) => [...c.reasons]));
    const requests = rest.reduce((sum, [, c]) => sum + c.requests, 0);
    this.#record(OTHERS, rest.length, { requests, reasons, from: Math.min(...rest.map(([, c]) => c.from)) });
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#allowance = Math.max(this.#allowance, 1);
    this.flush();
    clearTimeout(this.#timer);
  }

  #record(target: string, addresses: number, { requests, reasons, from }: Count): void {
    this.#allowance--;
    const since = new Date(Date.now() - (this.#now() - from)).toISOString();
    const after = { requests, reasons: [...reasons], since, ...(addresses > 1 && { addresses }) };
    this.#audit
      .record({ who: 'unknown', action: 'auth.fail', target, before: null, after, outcome: 'done' })
      .catch((err: unknown) => {
        this.#log.error({ err, target, ...after }, 'cannot record failed authentications in the audit');
      });
  }
}
