/**
 * A small process that has the kept sockets open while the service is away: for some seconds, or until a process that does not know it
 * locks the state folder. It opens the way of observed containers to their own resolvers at once.
 */
import type { ChildProcess } from 'node:child_process';
import { readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Config } from '../config/config.js';
import type { Logger } from '../lib/log.js';
import { sharedSet } from '../ruleset/naming.js';
import { startKeeper } from './exec.js';
import { descriptorOf, keptSockets } from './netlink/kept-sockets.js';
import { closeDescriptor } from './netlink/libc.js';

export interface KeeperOptions {
  /** The state folder is locked. */
  readonly config: Pick<Config, 'state' | 'failure' | 'kernel'>;
  readonly log: Pick<Logger, 'warn' | 'debug'>;
}
/** A process that is meant: its pid, and when it began, in ticks since the boot. */
interface Identity {
  readonly pid: number;
  readonly began: string;
}
/** The sockets that the process before has kept, and the process that has them. */
let found: { readonly fd: number; readonly keeper: Identity } | undefined;

const FILE = 'keeper';
/** Of the unix socket in the keeper. */
const FD = 3;
/** Tenths of a second. A start has taken over long before: systemd begins it after one second. */
const TENTHS = 300;
/**
 * Standard input ends with the service. The lock is a file of its own for each process that has it. A process that takes the sockets over has
 * opened them before it locks the folder, and another one finds the queues free before it needs them.
 */
const WAITING = 'drawbridge-keeper-waiting';
const WAIT = `folder=$1; was=$2; i=0
while [ $i -lt ${TENTHS} ] && [ -d "$folder" ]; do
  now=$(stat -c %i.%Z "$folder/lock")
  [ -z "$now" ] || [ "$now" = "$was" ] || exit 0
  sleep 0.1; i=$((i+1))
done`;
const SCRIPT = `folder=$1; wait=$2; shift 2
was=$(stat -c %i.%Z "$folder/lock"); read -r _
for set; do ipset flush "$set"; done
exec /bin/sh -c "$wait" ${WAITING} "$folder" "$was"`;
const RESTART_MS = 1_000;

/** Field 22 of proc_pid_stat(5). Throws when the process has ended. */
function beganAt(pid: number): string {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const [state, ...fields] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  if (state === 'Z' || state === 'X') throw new Error('it has ended');
  return fields[18] ?? '';
}

function identityIn(state: string): Identity | undefined {
  try {
    const { pid, began } = JSON.parse(readFileSync(join(state, FILE), 'utf8')) as Identity;
    return Number.isInteger(pid) && beganAt(pid) === began ? { pid, began } : undefined;
  } catch {
    return undefined; // no file, or its process is gone
  }
}

/**
 * Open the sockets that the process before has kept, if there are any: before the folder is locked. Nothing is taken out of them until then, since
 * another instance may be running.
 */
export async function findKeeper(state: string, log: Pick<Logger, 'warn'>): Promise<void> {
  const keeper = identityIn(state);
  if (!keeper) return ended(endWaiting());
  const verify = (): void => {
    if (beganAt(keeper.pid) !== keeper.began) throw new Error('it has ended');
  };
  try {
    found = { fd: descriptorOf(keeper.pid, FD, verify), keeper };
  } catch (err) {
    log.warn(
      { err: String(err) },
      'the sockets of the process before cannot be taken over: what waits in them is lost',
    );
  }
}

/**
 * Those that wait in this network namespace for a service, with whatever state folder, have the queues. Returns their pids.
 */
function endWaiting(): readonly number[] {
  const own = readlinkSync('/proc/self/ns/net');
  return readdirSync('/proc').flatMap((name) => {
    if (!/^[1-9]/.test(name)) return [];
    try {
      const isWaiting = readFileSync(`/proc/${name}/cmdline`, 'latin1').split('\0').includes(WAITING);
      if (!isWaiting || readlinkSync(`/proc/${name}/ns/net`) !== own) return [];
      process.kill(-Number(name), 'SIGKILL');
      return [Number(name)];
    } catch {
      return []; // it has ended
    }
  });
}

const ENDED_MS = 1_000;
/** Ends the keeper of a state folder, and those that wait. With them the sockets are closed: no queue is bound but by a service that runs. */
export async function endKeeper(state: string): Promise<void> {
  if (found) closeDescriptor(found.fd);
  found = undefined;
  const keeper = identityIn(state);
  if (keeper) kill(keeper);
  forget(state);
  await ended([...(keeper ? [keeper.pid] : []), ...endWaiting()]);
}
/** A file that cannot be removed, as on a read-only disk, names a process that is over: its start would be compared. */
function forget(state: string): void {
  try {
    rmSync(join(state, FILE), { force: true });
  } catch {
    // the closed base and teardown go on
  }
}
async function ended(pids: readonly number[]): Promise<void> {
  for (const end = Date.now() + ENDED_MS; pids.some(isAlive) && Date.now() < end; ) await sleep(5);
}

function isAlive(pid: number): boolean {
  try {
    beganAt(pid);
    return true;
  } catch {
    return false;
  }
}

function kill({ pid, began }: Identity): void {
  try {
    if (beganAt(pid) === began) process.kill(-pid, 'SIGKILL'); // with the command that it waits for
  } catch {
    // ENOENT, ESRCH: it has ended.
  }
}

/** Sets whose elements mean that the service is there. With `failure: open` they also keep new containers closed, for the seconds of a restart. */
const beatsOf = ({ failure, kernel }: KeeperOptions['config']): readonly string[] =>
  failure === 'open' ? [] : ([4, 6] as const).map((family) => sharedSet(kernel.prefix, 'alive', family));

export class Keeper implements AsyncDisposable {
  readonly #o: KeeperOptions;
  #child: ChildProcess | undefined;
  #again: NodeJS.Timeout | undefined;
  #ended = false;

  /** Takes over what was kept before, and keeps for the next process. */
  constructor(options: KeeperOptions) {
    this.#o = options;
    const { log } = options;
    const former = found;
    found = undefined;
    const report = (err: Error): void =>
      log.warn(
        { err: String(err) },
        'a socket cannot be kept: with the next restart, what waits in it is lost',
      );
    void this.#start(keptSockets.begin(former?.fd, report));
    if (former) kill(former.keeper);
  }

  async #start(fd: number): Promise<void> {
    const { config, log } = this.#o;
    const { state } = config;
    let why: string;
    try {
      const args = ['-c', SCRIPT, 'drawbridge-keeper', state, WAIT, ...beatsOf(config)];
      const { child } = await startKeeper('/bin/sh', args, fd);
      this.#child = child;
      const { pid } = child;
      if (pid !== undefined) writeFileSync(join(state, FILE), JSON.stringify({ pid, began: beganAt(pid) }));
      if (this.#ended) this.#kill();
      why = (await child).shortMessage ?? 'it ended';
    } catch (e) {
      why = String(e);
    }
    if (this.#ended) return;
    log.warn({ why }, 'the process that keeps sockets over a restart has ended: it is started again');
    this.#again = setTimeout(() => void this.#start(fd), RESTART_MS).unref();
  }

  #kill(): void {
    this.#child?.kill('SIGKILL');
    rmSync(join(this.#o.config.state, FILE), { force: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true;
    clearTimeout(this.#again);
    const isFollowed = keptSockets.isSealed;
    keptSockets.end();
    if (!isFollowed) this.#kill();
  }
}
