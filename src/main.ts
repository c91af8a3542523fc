#!/usr/bin/env node
import { userInfo } from 'node:os';
import type { Host } from './cli/host.js';
import { runCli } from './cli/program.js';
import { VERSION } from './lib/version.js';

/** The terminal, the user and the parts that work without the service. Modules of the service are imported only on use. */
const host: Host = {
  version: VERSION,
  stdout: process.stdout,
  get stderr() {
    return process.stderr;
  },
  get stdin() {
    return process.stdin;
  },
  isTerminal: process.stdout.isTTY === true,
  get columns() {
    return process.stdout.columns;
  },
  get rows() {
    return process.stdout.rows;
  },
  get colours() {
    return { stdout: showsColours(process.stdout), stderr: showsColours(process.stderr) };
  },
  get canAsk() {
    return process.stdin.isTTY === true && process.stderr.isTTY === true;
  },
  env: process.env,
  user: process.env.SUDO_USER || userName(),
  start: async (config, log, former) => {
    // Before other modules are loaded: V8 lets the young generation grow to 32 MiB in the first second.
    const { START_YOUNG_BYTES, sizeYoungGeneration } = await import('./lib/thread.js');
    sizeYoungGeneration(START_YOUNG_BYTES);
    const { runService } = await import('./run-service.js');
    return runService({ config, log, former });
  },
  serviceManager: async () => {
    if (!process.env.NOTIFY_SOCKET) return undefined;
    return (await import('./ops/service-manager.js')).serviceManager(process.env, process.pid);
  },
  createLog: async (config) => (await import('./lib/log.js')).createLog(config),
  runDoctor: async (config) => (await import('./ops/doctor.js')).runDoctor(config),
  layGuard: async (config) => (await import('./ops/guard.js')).layGuard(config),
  layClosed: async (config, log) => (await import('./ops/guard.js')).stayClosed(config, log),
  inspectStore: async (state) => (await import('./store/store-recovery.js')).inspectStore(state),
  restoreStore: async (state, source) =>
    (await import('./store/store-recovery.js')).restoreStore(state, source),
  beginEmptyStore: async (state) => (await import('./store/store-recovery.js')).beginEmpty(state),
  recordAlone: async (config, record) =>
    (await import('./changes/service-records.js')).recordAlone(config, { ...record, who: localUser() }),
  teardownKernel: async (config, isRefused) =>
    (await import('./ops/teardown.js')).teardownKernel(config, isRefused),
  isServed: async (config) => (await import('./ops/teardown.js')).isServed(config),
  syncFeeds: async (config, { name, accept, onlyDue }) => {
    const { syncFeedsAlone } = await import('./ops/feeds-offline.js');
    const { createLog } = await import('./lib/log.js');
    const log = createLog({ level: 'warn', format: 'text' });
    return syncFeedsAlone({ config, name, how: { accept, onlyDue }, who: localUser(), log });
  },
  verifyAudit: async ({ state }, hash) =>
    (await import('./changes/audit-verify.js')).verifyAudit(state, hash),
  hostReport: async (config) => (await import('./cli/bugreport-command.js')).hostReport(config),
  catalogue: async () => (await import('./threats/feed-catalogue.js')).CATALOGUE,
  onSignal: (signals, handler) => {
    for (const signal of signals) process.on(signal, handler);
    return {
      [Symbol.dispose]: () => {
        for (const signal of signals) process.off(signal, handler);
      },
    };
  },
};

/** Of a terminal that shows colours: by NO_COLOR, FORCE_COLOR and TERM, as Node reads them. A pipe never has any. */
function showsColours(stream: NodeJS.WriteStream): boolean {
  return stream.isTTY === true && stream.hasColors();
}

/** The author of a change as the service writes it: the user, and for root the user that it acts for (see api/auth.ts). */
function localUser(): string {
  const own = userName();
  return process.getuid?.() === 0 && host.user !== own ? `local:${own} (says: ${host.user})` : `local:${own}`;
}

/** A user without an entry in /etc/passwd (in a container) has a number only. */
function userName(): string {
  try {
    return userInfo().username;
  } catch {
    return `uid-${process.getuid?.() ?? 'unknown'}`;
  }
}

// A pipe may be closed early (drawbridge ps | head). That is not a failure.
process.stdout.on('error', (e: NodeJS.ErrnoException) => {
  process.exit(e.code === 'EPIPE' ? 0 : 1);
});
// Not a top-level await, which CommonJS lacks (scripts/build.mjs). 13 is what Node exits with where one never ends.
process.exitCode = 13;
void runCli(process.argv.slice(2), host).then((code) => process.exit(code));
