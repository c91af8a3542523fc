/** A feed as it is configured, with every default filled in. */
import { createHash } from 'node:crypto';
import { type Config, nodeName } from '../config/config.js';
import { matchesAny } from '../lib/glob.js';
import type { Direction } from '../policy/threat.js';
import { CATALOGUE, type CatalogueFeed } from './feed-catalogue.js';
import type { FormatOptions } from './formats/collector.js';
import { DEFAULT_GUARDS, type Guards } from './update-guards.js';

/** The longest wait that one header of a server can cause. */
export const MAX_WAIT_MS = 7 * 24 * 3600 * 1000;

interface FeedAuth {
  /** Name of the header, such as "Authorization", "Auth-Key" or "X-Api-Key". */
  readonly header: string;
  /** File with the secret (one line); read again for each fetch. */
  readonly file: string;
  /** Text in front of the secret, such as "Bearer ". */
  readonly prefix?: string;
}

/** How the body of a feed is fetched. */
export interface FetchSpec {
  /** file://, http:// or https://. */
  readonly url: string;
  /** "taxii" follows the pages of a collection. */
  readonly format: string;
  /** Octets, of the body as sent and after its Content-Encoding is undone. */
  readonly maxSize: number;
  /** For the whole fetch, redirects and pages included. */
  readonly timeoutMs: number;
  readonly auth?: FeedAuth;
  /** http://[user:password@]host:port; CONNECT is used for https. */
  readonly proxy?: string;
  /** The host in `url` may be private or loopback. Redirects to other hosts may not; link-local and metadata addresses never. */
  readonly allowPrivate: boolean;
}

export interface FeedSpec extends FetchSpec {
  readonly name: string;
  readonly action: 'block' | 'observe';
  readonly direction: Direction;
  /** From one fetch to the next. */
  readonly everyMs: number;
  /** No two fetches are closer, failed ones and those that a user asks for included. */
  readonly minIntervalMs: number;
  readonly options: Omit<FormatOptions, 'now'>;
  readonly guards: Guards;
  /** Octets after unpacking. */
  readonly maxUnpacked: number;
}

/** The settings that a feed must have; the rest has defaults. */
export type FeedSettings = Pick<FeedSpec, 'name' | 'url'> &
  Partial<Omit<FeedSpec, 'guards'>> & { readonly guards?: Partial<Guards> };

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const MIB = 2 ** 20;

const DEFAULTS = {
  format: 'auto',
  action: 'block',
  direction: 'both',
  everyMs: HOUR,
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

/** An entry of the catalogue as the settings that a configuration would have. */
export const settingsFor = (entry: CatalogueFeed): FeedSettings => ({
  name: entry.name,
  url: entry.url,
  format: entry.format,
  direction: entry.direction,
  everyMs: entry.everyHours * HOUR,
  minIntervalMs: Math.min(entry.everyHours, 1) * HOUR,
  ...(entry.mayBeEmpty === true && { guards: { minEntries: 0 } }),
});

/** The feeds of this host in the order of the configuration, then those of the catalogue. */
export function feedSpecs(config: Pick<Config, 'threats' | 'node'>): readonly FeedSpec[] {
  const { feeds, catalogue, maxEntries } = config.threats;
  const node = nodeName(config);
  const own = feeds
    .filter(({ hosts }) => hosts === undefined || matchesAny(hosts, node))
    .map(({ hosts: _, guards, ...settings }) => feedSpec({ ...settings, ...(guards && { guards }) }));
  const named = new Set(feeds.map(({ name }) => name));
  const shipped = CATALOGUE.filter(({ enabled, name }) => catalogue && enabled && !named.has(name));
  return [...own, ...shipped.map((entry) => feedSpec(settingsFor(entry)))].map((spec) => ({
    ...spec,
    guards: { ...spec.guards, maxEntries: Math.min(spec.guards.maxEntries, maxEntries) },
  }));
}

/**
 * A hash of the address and the format of a feed. Feeds that differ in it share no state, whatever their name: validators
 * of one address are meaningless for another.
 */
export function sourceOf({ url, format, options }: Pick<FeedSpec, 'url' | 'format' | 'options'>): string {
  const sorted = Object.entries(options).sort(([a], [b]) => (a < b ? -1 : 1));
  return createHash('sha256')
    .update(JSON.stringify([url, format, sorted]))
    .digest('hex')
    .slice(0, 16);
}

/** A URL as messages and the API show it, without credentials, which may be in front of its host or in its query. */
export function shownUrl(url: URL): string {
  return `${url.protocol}//${url.host}${url.pathname}${url.search === '' ? '' : '?…'}`;
}
