/** The service manager's socket (sd_notify(3), sd_watchdog_enabled(3)). */
import type { Config } from '../config/config.js';
import { sendToUnix } from '../kernel/netlink/libc.js';
import type { Logger } from '../lib/log.js';
import type { SharedStore } from '../store/store-interface.js';

/** @param env NOTIFY_SOCKET and the watchdog's variables are taken out of it: programs that are run must not have them. */
export function serviceManager(env: NodeJS.ProcessEnv, pid: number): ServiceManager {
  const { NOTIFY_SOCKET: path = '', WATCHDOG_USEC: period, WATCHDOG_PID: watched } = env;
  for (const name of ['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID']) delete env[name];
  const isWatched = period !== undefined && /^[1-9]\d*$/.test(period) && (watched ?? `${pid}`) === `${pid}`;
  return {
    watchdogMs: isWatched ? Number(period) / 1000 : undefined,
    notify: (state) => sendToUnix(path, state),
  };
}

/** Where systemd started this process (Type=notify). */
export interface ServiceManager {
  /** It ends the process when it hears nothing for so long; undefined: never. */
  readonly watchdogMs: number | undefined;
  /** VARIABLE=VALUE lines of sd_notify(3). Throws when they cannot be sent. */
  notify(state: string): void;
}

export interface Service {
  stop(): Promise<void>;
  /** Ends when the service has: after `stop`, or after a teardown through the API. */
  readonly done: Promise<void>;
  /** What has not moved for so long that only a new process helps; undefined while all is well. */
  stuck(): string | undefined;
}
export interface ClosedServiceOptions {
  readonly config: Config;
  readonly log: Logger;
  readonly open: () => Promise<SharedStore>;
  /** Starts the whole service on this store, which it closes when it fails. */
  readonly begin: (store: SharedStore) => Promise<Service>;
  readonly teardown: (who: string) => Promise<void>;
  /** How often (ms) the state folder is looked at. */
  readonly everyMs?: number;
}
