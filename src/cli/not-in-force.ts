import type { Config } from '../config/config.js';

/** Keys that are read and have no effect in this version, in words: never silently. */
export function notInForce({ threats }: Config): readonly string[] {
  return threats.feeds
    .filter(({ direction }) => direction === 'inbound')
    .map(
      ({ name }) =>
        `threats.feeds: ${name} is of direction inbound: it is fetched and shown, and judges nothing in this version`,
    );
}
