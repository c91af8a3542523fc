import type { Config } from '../config/config.js';
import { layoutMarks } from '../desired/marks.js';
import type { Shape } from '../desired/state.js';

/** Link-local and unique-local: reachable from any container by its default route, from nowhere else. */
export const DNS_ADDRESSES = { v4: '169.254.53.53', v6: 'fd64:7262:7264::53', port: 5359 } as const;

/** The instance's constants from its configuration. Throws RangeError for a mask that is too small. */
export function shapeOf(config: Config): Shape {
  const [holdQueue = 53] = config.kernel.queues;
  return {
    prefix: config.kernel.prefix,
    marks: layoutMarks(config.kernel.markMask),
    holdQueue,
    logGroup: holdQueue,
    dns: DNS_ADDRESSES,
    deny: config.deny,
    failure: config.failure,
  };
}
