import type { Config } from '../config/config.js';
import { CommandFailure } from './failure.js';

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
    ...(config.api.tokens.length > 0
      ? ['api.tokens: bearer tokens are not checked in this version; the socket’s rights guard it']
      : []),
  ];
}

/** Keys without which the service would not be what was asked for. Throws CommandFailure. */
export function refuseUnbuilt(config: Config): void {
  if (config.store.redis === '') return;
  const detail = 'store.redis: this version has the embedded store only';
  throw new CommandFailure([
    {
      detail,
      remedy: 'leave store.redis out; state is the folder of the embedded store',
      pointer: '/store/redis',
    },
  ]);
}
