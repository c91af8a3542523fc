import type { Config } from '../config/config.js';
import { nodeName } from '../config/node.js';
import { matchesAny } from '../lib/glob.js';
import { CATALOGUE, settingsFor } from './feed-catalogue.js';
import { type FeedSpec, feedSpec } from './feed-spec.js';

type Told = Pick<Config, 'threats' | 'node'>;

/** The feeds that count on this host, in the order of the configuration; the catalogue's come last. */
export function feedSpecs(config: Told): readonly FeedSpec[] {
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
