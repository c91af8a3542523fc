import { join } from 'node:path';
import type { Config } from './config.js';

const UNIX = 'unix:';

/** The unix socket of the service at this host: `api.listen` itself, or beside the state when that is TCP. */
export function localSocketOf({ api, state }: Pick<Config, 'api' | 'state'>): string {
  return api.listen.startsWith(UNIX) ? api.listen.slice(UNIX.length) : join(state, 'api.sock');
}
