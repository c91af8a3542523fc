/** The service manager's socket (sd_notify(3), sd_watchdog_enabled(3)). */
import { sendToUnix } from '../kernel/netlink/libc.js';

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
