import { readdir, rm, rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import type { ApiClient } from '../api/client.js';
import { agrees } from './ask.js';
import type { Registry, Session } from './command.js';
import { fail, isNotRunning } from './failure.js';
import { recordAlone } from './record-alone.js';

const END_MS = 15_000;
const LOOK_MS = 50;
const OURS =
  /^(store\.|lock$|lock\.|kernel-(found\.json|prefix$)|sandbox-folders\.json|cgroup-parents\.json|quotas\.json|names\.journal|audit-\d{12}\.log$)/;

export function teardownCommand(program: Command, registry: Registry): void {
  registry.add<[], { purge?: boolean; yes?: true }>(program, {
    usage: 'teardown',
    summary: 'stop enforcing: remove every rule from the kernel, and end the service if it runs',
    options: [
      ['--purge', 'remove the state folder, too: API lists, grants, modes, the audit'],
      ['--yes', 'do not ask (without a terminal it never asks)'],
    ],
    examples: ['teardown', 'teardown --yes', 'teardown --purge'],
    run: async (session, _args, options) => {
      if (session.host.canAsk && options.yes !== true && !(await agrees(session, question(options))))
        return 1;
      const removed = await teardown(session);
      const purged = options.purge ? await purge((await session.config()).state) : null;
      session.out.show({ removed, purged }, () => {
        for (const what of removed) session.out.line(`removed ${what}`);
        if (purged !== null) session.out.line(`removed ${purged}`);
        session.out.line('nothing is enforced now');
      });
      return 0;
    },
  });
}

const question = ({ purge }: { readonly purge?: boolean }): string =>
  purge
    ? 'Stop enforcing, remove every rule and delete the state (lists, grants, modes, audit)?'
    : 'Stop enforcing and remove every rule? Containers then reach everything.';

/** Through the service when it is up, so that it does not repair what goes; else by ourselves. */
async function teardown(session: Session): Promise<readonly string[]> {
  const client = await session.client();
  try {
    await client.teardown();
  } catch (e) {
    if (!isNotRunning(e)) throw e;
    return alone(session);
  }
  await awaitEnd(client);
  return ["the service's rules, sets and tables"];
}

async function alone(session: Session): Promise<readonly string[]> {
  const { host } = session;
  const settings = await session.config();
  await recordAlone(session, settings, { action: 'teardown', after: null, outcome: 'done' });
  try {
    return await host.teardownKernel(settings);
  } finally {
    // whether it succeeded or not: a repair in between adds rules that use the sets
    if (await host.isServed(settings))
      fail(
        'a Drawbridge runs here by another configuration: it installs again what was removed',
        'give its configuration (drawbridge teardown --config FILE), or stop it first: sudo systemctl stop drawbridge',
      );
  }
}

async function awaitEnd(client: ApiClient): Promise<void> {
  for (const until = Date.now() + END_MS; Date.now() < until; await sleep(LOOK_MS)) {
    try {
      await client.status();
    } catch (e) {
      if (isNotRunning(e)) return;
    }
  }
  fail('the kernel is clean, but the service still answers', 'stop it: sudo systemctl stop drawbridge');
}

/** Only what we made goes: a mistaken `state: /var/lib` must not cost the host. */
async function purge(state: string): Promise<string> {
  const names = await readdir(state).catch((e: unknown) =>
    fail(`cannot read ${state}: ${String(e)}`, 'nothing of it was removed'),
  );
  for (const name of names.filter((n) => OURS.test(n))) await rm(join(state, name));
  const others = names.filter((n) => !OURS.test(n));
  if (others.length > 0) return `what was ours in ${state} (left there: ${others.join(', ')})`;
  await rmdir(state);
  return state;
}
