import type { Config } from '../config/config.js';

/** Keys that are read and have no effect in this version, in words: never silently. */
export function notInForce(config: Config): readonly string[] {
  const { feeds, exceptions } = config.threats;
  return [
    ...(feeds.length > 0
      ? ['threats.feeds: feeds are not fetched in this version; no threat is blocked']
      : []),
    ...(exceptions.length > 0
      ? ['threats.exceptions: there are no threats in this version that they could except']
      : []),
  ];
}
