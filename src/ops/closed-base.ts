import type { Config } from '../config/config.js';
import { exec } from '../kernel/exec.js';
import type { Logger } from '../lib/log.js';
import { lockHolder } from '../store/folder-lock.js';
import { hasBridgeTable, layGuard } from './guard.js';
import { isServed } from './teardown.js';

/** Docker may hang: the base must not wait for it any longer. */
const ASK_MS = 500;

/**
 * The first step of every start, before anything that can fail: with nothing of Drawbridge in the kernel (a boot) the
 * closed base is installed. Rules of an earlier run stay as they are. Another instance that holds the state folder is left
 * alone. Never rejects: what fails is logged, and the start goes on to its own, clearer error.
 */
export async function layClosedFirst(config: Config, log: Logger): Promise<void> {
  await attempt(config, log, async () => !(await hasBridgeTable(exec)));
}

/**
 * After a start that failed: every hook of the closed base is installed, or stays what it is. Nothing is touched while
 * another service is at work in this network namespace.
 */
export async function stayClosed(config: Config, log: Logger): Promise<void> {
  await attempt(config, log, async () => !isServed(config));
}

async function attempt(config: Config, log: Logger, isNeeded: () => Promise<boolean>): Promise<void> {
  try {
    if ((await holder(config)) !== undefined || !(await isNeeded())) return;
    const {
      outcome,
      exempt,
      notes = [],
    } = await layGuard(config, { askMs: ASK_MS, failure: config.failure });
    for (const note of notes) log.warn({}, note);
    if (outcome === 'laid')
      log.info(
        { exempt },
        'the closed base is installed: nothing new passes until the policies are in force',
      );
  } catch (e) {
    log.error(
      { err: e instanceof Error ? e.message : String(e) },
      'cannot install the closed base: what the message names must be mended, until then containers may be open',
    );
  }
}

/** A folder that cannot be looked into is held by no instance that we could respect. */
const holder = ({ state }: Config): Promise<string | undefined> => lockHolder(state).catch(() => undefined);
