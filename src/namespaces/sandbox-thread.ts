/**
 * The thread that prepares sandboxes, the network namespaces of containers, as soon as Docker has made them: it drops
 * packets that would leave through macvlan and ipvlan links, and redirects queries for Docker's resolver to
 * Drawbridge's sockets. It has little other work, which takes turns: some 90 ms are left before a container's first instruction, and the main
 * thread may be busy for longer (with four test labs on two cores it took up to 340 ms to notice a new sandbox). It has
 * the highest priority of the host.
 */

import { existsSync, readdirSync } from 'node:fs';
import { setPriority } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { parentPort } from 'node:worker_threads';
import { exec, programs } from '../kernel/exec.js';
import { Links } from '../kernel/netlink/links.js';
import { execRoots } from '../kernel/sockets.js';
import { errorCode, errorText } from '../lib/problem.js';
import { collectGarbage, serveThread } from '../lib/thread.js';
import { lanClosedFramesProgram } from '../ruleset/netns-program.js';
import { FolderFollower } from './follow-folder.js';
import { applyLanProgram, closeLan, linksAt } from './netns-tables.js';
import {
  haveResolverRules,
  prepareResolver,
  type ResolverSockets,
  resumeResolver,
  wasQueriedBefore,
} from './resolver-rules.js';
import type { SandboxArms, SandboxJobs, SandboxOrders, SandboxReport, SurveyedSandbox } from './sandboxes.js';

const port = parentPort;
if (!port) throw new Error('namespaces/sandbox-thread runs in a worker thread only');

/** setpriority(2) without a pid is about the calling thread. Refused, it keeps the priority of the main thread. */
const URGENT = -20;
try {
  setPriority(URGENT);
} catch {
  // The service has logged at its start that it may not raise its priority.
}

/** As the main thread does (core-service.ts). The heap of this thread is small: it takes 10 ms. */
const REST_MS = 8_000;
setTimeout(() => void collectGarbage().catch(() => undefined), REST_MS).unref(); // a Node without an inspector keeps the memory

const POLL_MS = 1;
/** From a sandbox's file to the namespace that is mounted on it. */
const MADE_WITHIN_MS = 1_000;
/** From the namespace to its link. */
const LINKED_WITHIN_MS = 3_000;
const LINK_POLL_MS = { first: 4, growth: 1.1, most: 25 };
/** Reading links that change, or a command of nft, may fail once. */
const MOST_FAILURES = 5;
const watched = new Map<string, FolderFollower>();
let armed: SandboxArms = { close: false, prepare: false };
/** By path of the sandbox: the sockets in it, until the main thread has closed them. */
const prepared = new Map<string, Promise<ResolverSockets>>();

function prepare(path: string, how: typeof prepareResolver): Promise<ResolverSockets> {
  const begun = prepared.get(path);
  if (begun) return begun;
  const made = untilPrepared(path, how);
  prepared.set(path, made);
  made.catch(() => prepared.delete(path));
  return made;
}

/** A refusal of the kernel may be temporary. Without Drawbridge's rules, Docker's resolver replies to the container. */
async function untilPrepared(path: string, how: typeof prepareResolver): Promise<ResolverSockets> {
  const end = performance.now() + MADE_WITHIN_MS;
  for (let pause = POLL_MS; ; pause *= 2) {
    try {
      return await how(path);
    } catch (e) {
      if (performance.now() + pause > end || !existsSync(path)) throw e;
    }
    await delay(pause);
  }
}

const report = (what: SandboxReport): void => port.postMessage(what);

/**
 * The network namespace of a container or of a step of a build. Docker keeps others in the same folder: the host's own
 * ("default"), and those of overlay networks ("1-NETWORK", "lb_NETWORK", "ingress_sbox"; moby libnetwork/osl, GenerateKey).
 */
const isOfContainer = (path: string): boolean => /^[0-9a-f]{12}$/.test(basename(path));

function appeared(path: string): void {
  report({ kind: 'appeared', path });
  if (armed.close) void close(path);
  if (!existsSync(path)) prepared.delete(path);
  else if (armed.prepare && isOfContainer(path))
    prepare(path, prepareResolver).then(
      (sockets) => {
        report({ kind: 'prepared', path, sockets });
        void reportEarlierQuestions(path, sockets.port);
      },
      (e: unknown) => report({ kind: 'unprepared', path, error: errorText(e) }),
    );
}

async function reportEarlierQuestions(path: string, port: number): Promise<void> {
  try {
    if (await wasQueriedBefore(path, port)) report({ kind: 'queriedBefore', path });
  } catch (e) {
    // a query cannot be excluded, unless the namespace was removed
    if (existsSync(path)) report({ kind: 'queriedBefore', path, error: errorText(e) });
  }
}

async function close(path: string): Promise<void> {
  for (const end = performance.now() + MADE_WITHIN_MS; performance.now() < end; await delay(POLL_MS)) {
    try {
      closeLan(path);
      return closeFrames(path);
    } catch (e) {
      if (errorCode(e) === 'ENOENT') return; // the file was removed: the event was about its end
    }
  }
}

/**
 * Packets of packet sockets pass no IP hook, and a table at the device needs the name of a device. This fails for good
 * when the namespace was removed, was opened, or has rules of its own by now. Linux before 5.16 has no such hook, which
 * the table with the container's rules reports.
 */
async function closeFrames(path: string): Promise<void> {
  let pause = LINK_POLL_MS.first;
  let failures = 0;
  for (const end = performance.now() + LINKED_WITHIN_MS; performance.now() < end; await delay(pause)) {
    try {
      const devices = await linksAt(path);
      if (devices.length > 0) return await applyLanProgram(exec, path, lanClosedFramesProgram(devices));
    } catch {
      if (++failures === MOST_FAILURES) return;
    }
    pause = Math.min(pause * LINK_POLL_MS.growth, LINK_POLL_MS.most);
  }
}

/** So many sandboxes take 2 to 4 ms. In between, new sandboxes have their turn. */
const SURVEYED_AT_ONCE = 25;

async function survey(paths: readonly string[]): Promise<readonly SurveyedSandbox[]> {
  const found: SurveyedSandbox[] = [];
  using links = new Links();
  for (let i = 0; i < paths.length; i += SURVEYED_AT_ONCE) {
    if (i > 0) await new Promise((resume) => setImmediate(resume));
    const some = paths.slice(i, i + SURVEYED_AT_ONCE);
    const rules = haveResolverRules(some);
    for (const path of some) {
      const [netnsId, hasRules] = [links.namespaceId({ path }), rules.get(path)];
      found.push({
        path,
        ...(netnsId === undefined ? {} : { netnsId }),
        ...(hasRules === undefined ? {} : { hasRules }),
      });
    }
  }
  return found;
}

/**
 * Follow the folder or, until Docker makes it with its first container, the nearest one above it. The sandboxes in a folder that has just
 * appeared are as new as the folder, and so are those of which the thread before has not heard. An error ends the thread, which is started again.
 */
function follow({ folder, known }: SandboxOrders['follow']): void {
  if (watched.has(folder)) return;
  let at = folder;
  while (!existsSync(at)) at = dirname(at);
  const again = (): void => {
    if (watched.get(folder) !== follower) return;
    watched.delete(folder);
    follower[Symbol.dispose]();
    follow({ folder, known: [] });
  };
  const follower: FolderFollower = new FolderFollower(at, {
    onEntry: (name) => (at === folder ? appeared(join(folder, name)) : again()),
    onGone: again,
    onPolling: (isPolling) => report({ kind: 'polling', folder, isPolling }),
  });
  watched.set(folder, follower);
  if (at !== folder && existsSync(folder)) again();
  else if (at === folder && known)
    for (const name of readdirSync(folder)) if (!known.includes(name)) appeared(join(folder, name));
}

function arm(arms: SandboxArms): void {
  armed = arms;
  if (armed.close) void programs(); // closeFrames starts one: it does not wait for the package
}

const jobs: {
  readonly [K in keyof SandboxJobs]: (job: SandboxJobs[K]['in']) => Promise<SandboxJobs[K]['out']>;
} = { prepare: (path) => prepare(path, resumeResolver), survey, execRoots };
const orders: { readonly [K in keyof SandboxOrders]: (order: SandboxOrders[K]) => unknown } = {
  follow: (order) => setImmediate(follow, order),
  arm,
  forget: (path) => prepared.delete(path),
};
const run: Readonly<Record<string, (job: never) => unknown>> = { ...jobs, ...orders };

serveThread(async ({ kind, job }) => {
  const value = await run[kind]?.(job as never);
  return { value: kind in jobs ? value : undefined };
});
