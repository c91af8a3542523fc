/** Threat feeds of the configuration: checks that a schema cannot express, and values in the units of the service. */

import { canonicalName } from '../lib/dns-name.js';
import type { Problem } from '../lib/problem.js';
import type { Direction } from '../policy/threat.js';
import type { RawConfig } from './schema.js';

/** Checks of a threat feed that need no fetch. */

/** Values of `format`: "auto" detects the format; the others are formats and their aliases. */
export const FEED_FORMATS = [
  'auto',
  'netset',
  'csv',
  'dshield',
  'ipsum',
  'ndjson',
  'spamhaus',
  'hosts',
  'domains',
  'adblock',
  'resolver',
  'misp',
  'stix',
  'crowdsec',
  'cidr',
  'drop',
  'ipset',
  'plain',
  'wildcard',
  'dnsmasq',
  'unbound',
  'taxii',
] as const;

interface FeedFault {
  /** Which key is at fault. */
  readonly key: 'url' | 'format' | 'proxy';
  readonly detail: string;
  readonly remedy: string;
}

/** Releases of Node differ in the names that they accept in a URL. */
function hasBrokenHost(url: string): boolean {
  const host = new URL(url).hostname;
  return /(^|\.)xn--/.test(host) && !canonicalName(host, 1).ok;
}

/** Problems of a feed that a schema cannot express, each with its remedy. */
export function feedProblems(feed: {
  readonly name: string;
  readonly url: string;
  readonly format: string;
  readonly proxy?: string | undefined;
}): readonly FeedFault[] {
  const faults: FeedFault[] = [];
  if (!FEED_FORMATS.some((format) => format === feed.format))
    faults.push({
      key: 'format',
      detail: `feed ${feed.name}: the format "${feed.format}" is not known`,
      remedy: `write one of ${FEED_FORMATS.join(', ')}`,
    });
  if (!URL.canParse(feed.url) || !/^(?:file|https?):/.test(feed.url) || hasBrokenHost(feed.url))
    faults.push({
      key: 'url',
      detail: `feed ${feed.name}: ${feed.url} cannot be fetched`,
      remedy: 'write a file://, http:// or https:// address',
    });
  else if (feed.format === 'crowdsec' && !/[?&]startup=true(?:&|$)/.test(feed.url))
    faults.push({
      key: 'url',
      detail: `feed ${feed.name}: without startup=true the LAPI sends only changes, not the whole list`,
      remedy: 'write …/v1/decisions/stream?startup=true',
    });
  if (feed.proxy !== undefined && !/^http:\/\/[^/]+\/?$/.test(feed.proxy))
    faults.push({
      key: 'proxy',
      detail: `feed ${feed.name}: the proxy is not written as http://HOST:PORT`,
      remedy: 'write it like http://proxy.example:3128',
    });
  return faults;
}

type RawFeed = RawConfig['threats']['feeds'][number];

/** Every problem of the feeds, each with its pointer. */
export const feedFaults = (feeds: readonly RawFeed[]): readonly Problem[] =>
  feeds.flatMap((feed, index) =>
    feedProblems(feed).map(({ key, ...problem }) => ({
      ...problem,
      pointer: `/threats/feeds/${index}/${key}`,
    })),
  );

/** Durations in milliseconds, sizes in bytes; keys that were left out are not there. */
export interface FeedConfig {
  readonly name: string;
  readonly url: string;
  readonly format: string;
  readonly action: 'block' | 'observe';
  readonly direction: Direction;
  /** Globs of the hosts where it counts; undefined: all. */
  readonly hosts?: readonly string[];
  readonly everyMs: number;
  readonly minIntervalMs?: number;
  readonly options: Pick<RawFeed, 'column' | 'delimiter' | 'minScore' | 'subdomains' | 'member'>;
  readonly auth?: { readonly header: string; readonly file: string; readonly prefix?: string };
  readonly proxy?: string;
  readonly allowPrivate: boolean;
  readonly timeoutMs: number;
  readonly maxSize: number;
  readonly maxUnpacked: number;
  readonly guards?: NonNullable<RawFeed['guards']>;
}

export interface Units {
  readonly duration: (text: string) => number;
  readonly size: (text: string) => number;
}

export function resolveFeed(feed: RawFeed, units: Units): FeedConfig {
  const { every, minInterval, timeout, maxSize, maxUnpacked, header, ...rest } = feed;
  const { column, delimiter, minScore, subdomains, member, ...plain } = rest;
  return {
    ...plain,
    everyMs: units.duration(every),
    ...(minInterval === undefined ? {} : { minIntervalMs: units.duration(minInterval) }),
    options: present({ column, delimiter, minScore, subdomains, member }),
    ...(header ? { auth: { ...withoutName(header), header: header.name } } : {}),
    timeoutMs: units.duration(timeout),
    maxSize: units.size(maxSize),
    maxUnpacked: units.size(maxUnpacked),
  };
}

const withoutName = ({ name: _, ...rest }: NonNullable<RawFeed['header']>) => rest;

function present(
  options: {
    [K in keyof FeedConfig['options']]-?: RawFeed[K] | undefined;
  },
): FeedConfig['options'] {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
}
