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
/** The pid of a keeper, when the process began (in ticks since the boot), and the kernel settings of the service that started it. */
interface Identity {
  readonly pid: number;
  readonly began: string;
  readonly kernel: string;
}
/** The other end of the unix socket of an earlier service, or of an earlier start in this process (SIGHUP), and the keeper that has it open. */
let former: { readonly fd: number; readonly keeper: Identity } | undefined;

const FILE = 'keeper';
/** The descriptor of the unix socket in the keeper. */
const FD = 3;
/** In tenths of a second. systemd starts the service again after one second, and the start takes the sockets over at once. */
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

/** The process group and the beginning of a process: fields 5 and 22 of proc_pid_stat(5). Throws when it has ended. */
function statOf(pid: number | string): { readonly group: number; readonly began: string } {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const [state, ...fields] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  if (state === 'Z' || state === 'X') throw new Error('it has ended');
  return { group: Number(fields[1]), began: fields[18] ?? '' };
}
const beganAt = (pid: number): string => statOf(pid).began;

function identityIn(state: string): Identity | undefined {
  try {
    const { pid, began, kernel } = JSON.parse(readFileSync(join(state, FILE), 'utf8')) as Identity;
    return Number.isInteger(pid) && beganAt(pid) === began ? { pid, began, kernel } : undefined;
  } catch {
    return undefined; // no file, or its process is gone
  }
}

/**
 * Open the sockets that an earlier service has kept, if there are any: before the folder is locked. Nothing is taken out of them until then, since
 * another instance may be running. Packets in them carry marks of its layout: where the kernel settings differ, the sockets are closed.
 */
export async function findKeeper(
  { state, kernel }: Pick<Config, 'state' | 'kernel'>,
  log: Pick<Logger, 'warn'>,
): Promise<void> {
  if (former) {
    if (former.keeper.kernel !== settingsOf(kernel)) await endFormer();
    return;
  }
  const keeper = identityIn(state);
  if (keeper && keeper.kernel === settingsOf(kernel)) {
    try {
      former = { fd: descriptorOf(keeper.pid, FD, () => beganAs(keeper)), keeper };
      return;
    } catch (err) {
      log.warn(
        { err: String(err) },
        'the sockets of the process before cannot be taken over: what waits in them is lost',
      );
    }
  }
  for (const end = Date.now() + WAITS_MS; keeper && isAlive(keeper.pid) && Date.now() < end; await sleep(20))
    endWaiting(); // a keeper that does not wait belongs to another instance
  await ended(endWaiting());
}
const settingsOf = (kernel: Config['kernel']): string => JSON.stringify(kernel);

function beganAs({ pid, began }: Identity): void {
  if (beganAt(pid) !== began) throw new Error('it has ended');
}

/** End the keepers that wait in this network namespace for a service, with whatever state folder: they have the queues open. Returns their pids. */
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
/** When its service ends, a keeper starts three commands before it waits, which takes seconds where the processors are busy. */
const WAITS_MS = 10_000;
/** End the keeper of a state folder, and those that wait. With them the sockets are closed: no queue is bound but by a service that runs. */
export async function endKeeper(state: string): Promise<void> {
  await endFormer();
  const keeper = identityIn(state);
  if (keeper) kill(keeper);
  removeFile(state);
  await ended([...(keeper ? [keeper.pid] : []), ...endWaiting()]);
}
async function endFormer(): Promise<void> {
  if (!former) return;
  const { fd, keeper } = former;
  former = undefined;
  closeDescriptor(fd);
  kill(keeper);
  await ended([keeper.pid]);
}
/** A file that stays, in a folder that is read-only, names a process that has ended: `identityIn` does not accept it. */
function removeFile(state: string): void {
  try {
    rmSync(join(state, FILE), { force: true });
  } catch {
    // EROFS, EACCES
  }
}
/** Waits for the processes of these groups: the command that a keeper has started has its descriptors, too, and may end after the keeper. */
async function ended(groups: readonly number[]): Promise<void> {
  for (const end = Date.now() + ENDED_MS; hasMember(groups) && Date.now() < end; ) await sleep(5);
}

const hasMember = (groups: readonly number[]): boolean =>
  groups.length > 0 &&
  readdirSync('/proc').some((name) => {
    try {
      return /^[1-9]/.test(name) && groups.includes(statOf(name).group);
    } catch {
      return false; // it has ended
    }
  });

function isAlive(pid: number): boolean {
  try {
    beganAt(pid);
    return true;
  } catch {
    return false;
  }
}

function kill(keeper: Identity): void {
  try {
    beganAs(keeper);
    process.kill(-keeper.pid, 'SIGKILL'); // with the command that it waits for
  } catch {
    // It has ended.
  }
}

/** Sets whose elements mean that the service is there. With `failure: open` they also keep new containers closed, for the seconds of a restart. */
const beatsOf = ({ failure, kernel }: KeeperOptions['config']): readonly string[] =>
  failure === 'open' ? [] : ([4, 6] as const).map((family) => sharedSet(kernel.prefix, 'alive', family));

export class Keeper implements AsyncDisposable {
  readonly #o: KeeperOptions;
  #child: Pick<ChildProcess, 'kill'> | undefined;
  #identity: Identity | undefined;
  #again: NodeJS.Timeout | undefined;
  #ended = false;

  /** Takes over what was kept before, and keeps for the next process. */
  constructor(options: KeeperOptions) {
    this.#o = options;
    const { log } = options;
    const before = former;
    former = undefined;
    const report = (err: Error): void =>
      log.warn(
        { err: String(err) },
        'a socket cannot be kept: with the next restart, what waits in it is lost',
      );
    void this.#start(keptSockets.begin(before?.fd, report));
    if (before) kill(before.keeper);
  }

  async #start(fd: number): Promise<void> {
    const { config, log } = this.#o;
    const { state, kernel } = config;
    let why: string;
    try {
      const args = ['-c', SCRIPT, 'drawbridge-keeper', state, WAIT, ...beatsOf(config)];
      const { child } = await startKeeper('/bin/sh', args, fd);
      this.#child = child;
      const { pid } = child;
      if (pid !== undefined) {
        this.#identity = { pid, began: beganAt(pid), kernel: settingsOf(kernel) };
        writeFileSync(join(state, FILE), JSON.stringify(this.#identity));
      }
      if (this.#isOver) this.#kill();
      why = (await child).shortMessage ?? 'it ended';
    } catch (e) {
      why = String(e);
      this.#child?.kill('SIGKILL');
    }
    if (this.#isOver) return;
    log.warn({ why }, 'the process that keeps sockets over a restart has ended: it is started again');
    this.#again = setTimeout(() => {
      if (!this.#isOver) void this.#start(fd);
    }, RESTART_MS).unref();
  }

  /** A teardown closes the sockets some time before it disposes of this object. */
  get #isOver(): boolean {
    return this.#ended || !keptSockets.isKeeping;
  }

  #kill(): void {
    this.#child?.kill('SIGKILL');
    removeFile(this.#o.config.state);
  }

  /** When the service is followed, the next start in this process takes over without a system call that it may not be permitted. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true;
    clearTimeout(this.#again);
    const fd = keptSockets.end();
    if (fd !== undefined && this.#identity) {
      former = { fd, keeper: this.#identity };
      return;
    }
    if (fd !== undefined) closeDescriptor(fd);
    this.#kill();
  }
}
