import type { Logger } from '../lib/log.js';
import type { EngineConnection } from '../policy/engine.js';
import { DockerWatch } from './watch.js';

const SILENT: Logger = { debug() {}, info() {}, warn() {}, error() {} };

/** The engine that serves this socket. Nothing is requested before its first use. Without a log, failures are only thrown. */
export const openEngine = (socket: string, log = SILENT): EngineConnection =>
  new DockerWatch({ socket, log, now: () => performance.now() });
