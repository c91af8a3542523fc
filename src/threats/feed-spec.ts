/** A feed as it is configured, with every default filled in. */
import { createHash } from 'node:crypto';
import type { Direction } from '../policy/threat.js';
import type { FetchSpec } from './fetch-types.js';
import type { FormatOptions } from './formats/collector.js';
import { DEFAULT_GUARDS, type Guards } from './update-guards.js';

export interface FeedSpec extends FetchSpec {
  readonly name: string;
  readonly action: 'block' | 'observe';
  readonly direction: Direction;
  /** From one fetch to the next. */
  readonly everyMs: number;
  /** No two fetches are closer, failed ones and a person's own included. */
  readonly minIntervalMs: number;
  readonly options: Omit<FormatOptions, 'now'>;
  readonly guards: Guards;
  /** Octets after unpacking. */
  readonly maxUnpacked: number;
}

/** What must be said of a feed; the rest has defaults. */
export type FeedSettings = Pick<FeedSpec, 'name' | 'url'> &
  Partial<Omit<FeedSpec, 'guards'>> & { readonly guards?: Partial<Guards> };

const MINUTE = 60_000;
const MIB = 2 ** 20;

const DEFAULTS = {
  format: 'auto',
  action: 'block',
  direction: 'both',
  everyMs: 60 * MINUTE,
  options: {},
  maxSize: 64 * MIB,
  maxUnpacked: 256 * MIB,
  timeoutMs: MINUTE,
  allowPrivate: false,
} as const;

export function feedSpec(settings: FeedSettings): FeedSpec {
  const spec = { ...DEFAULTS, ...settings };
  return {
    ...spec,
    minIntervalMs: settings.minIntervalMs ?? Math.min(spec.everyMs, 5 * MINUTE),
    guards: { ...DEFAULT_GUARDS, ...settings.guards },
  };
}

/**
 * Of where it comes from and how it is read: feeds that differ in this share no state, whatever their name. (Validators
 * of one address say nothing of another.)
 */
export function sourceOf({ url, format, options }: Pick<FeedSpec, 'url' | 'format' | 'options'>): string {
  const sorted = Object.entries(options).sort(([a], [b]) => (a < b ? -1 : 1));
  return createHash('sha256')
    .update(JSON.stringify([url, format, sorted]))
    .digest('hex')
    .slice(0, 16);
}

/** A URL as a message or the API may show it: credentials may be in front of its host, or in its query. */
export function shownUrl(url: URL): string {
  return `${url.protocol}//${url.host}${url.pathname}${url.search === '' ? '' : '?…'}`;
}
