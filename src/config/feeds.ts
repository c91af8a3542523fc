/** Feeds of threats: what their schema cannot say, and their values in the units of the service. */

import type { Problem } from '../lib/problem.js';
import { feedProblems } from '../policy/feed.js';
import type { Direction } from '../policy/threat.js';
import type { RawConfig } from './schema.js';

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
