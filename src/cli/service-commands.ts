import { readdir, rm, rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import type { ApiClient } from '../api/client.js';
import type { Config } from '../config/config.js';
import { fromFlags } from '../config/overlay.js';
import { localSocketOf } from '../config/service-socket.js';
import type { Logger } from '../lib/log.js';
import type { Service, ServiceManager } from '../ops/service-manager.js';
import { agrees, type Registry, recordAlone, type Session, type Sound } from './command.js';
import { CommandFailure, fail, failureOf, isNotRunning, problemText, wrongUsage } from './failure.js';
import type { DoctorCheck, Host } from './host.js';
import type { Output } from './output.js';

type Flags = Readonly<Record<string, string>>;

export function runCommand(program: Command, registry: Registry): void {
  registry
    .add<[string[]]>(program, {
      usage: 'run [keys...]',
      summary: 'run the service in the foreground; --KEY VALUE sets a key of the configuration',
      exits: '4 when a teardown ended it',
      examples: ['run', 'run --config /etc/drawbridge/config.yaml', 'run --default enforce --dns.grace 30m'],
      run: async (session, [words]) => runUntilEnd(session, flagsOf(words)),
    })
    .allowUnknownOption();
}

/** "--dns.grace 1h" and "--dns.grace=1h" by key path. Throws CommandFailure (wrong usage). */
function flagsOf(words: readonly string[]): Flags {
  const flags: Record<string, string> = {};
  for (let i = 0; i < words.length; i++) {
    const [, key, inline] = /^--([A-Za-z.]+)(?:=(.*))?$/s.exec(words[i] ?? '') ?? [];
    const value = inline ?? words[++i];
    if (key === undefined)
      wrongUsage(`"${words[i - 1]}" is not a key`, 'write --KEY VALUE, as in --dns.grace 1h');
    if (value === undefined) wrongUsage(`--${key} has no value`, `write --${key} VALUE`);
    flags[key] = value;
  }
  const { problems } = fromFlags(flags);
  if (problems.length > 0) throw new CommandFailure(problems, 2);
  return flags;
}

/** Exit code by which systemd knows not to start the service again (RestartPreventExitStatus=). */
const TORN_DOWN = 4;

/**
 * Ends at SIGTERM and SIGINT (the kernel keeps enforcing), or after a teardown. SIGHUP starts again with the file's new
 * content; where that does not start, with the old one.
 */
async function runUntilEnd(session: Session, flags: Flags): Promise<number> {
  let config = await configOrClosed(session, flags);
  let proven: Config | undefined;
  using liveness = new Liveness(await session.host.serviceManager());
  using hangups = new Hangups(session.host);
  for (;;) {
    const log = await session.host.createLog(config.log);
    const service = await started(session, config, log, proven);
    if (!service && (!proven || proven === config)) return 1;
    if (!service) {
      log.error({}, 'the new configuration does not start: the old one is taken up again');
      config = proven as Config;
      continue;
    }
    proven = config;
    liveness.ready(service, log);
    const reloaded = await untilReload({ session, flags, config }, service, log, hangups, liveness);
    if (reloaded === 'ended') return 0;
    if (reloaded === 'torn down') return TORN_DOWN;
    config = reloaded;
  }
}

/** A refused configuration ends the start. The closed base uses its valid keys: nothing new passes until it is repaired. */
async function configOrClosed(session: Session, flags: Flags): Promise<Config> {
  try {
    return await session.config(flags);
  } catch (e) {
    const lenient = await session.lenientConfig(flags);
    await session.host.layClosed(lenient, await session.host.createLog(lenient.log));
    throw e;
  }
}

/** SIGHUP, which ends a process that does not listen: one that comes while the service starts waits until it has. */
class Hangups implements Disposable {
  readonly #signals: Disposable;
  #waits = false;
  #take: (() => void) | undefined;

  constructor(host: Host) {
    this.#signals = host.onSignal(['SIGHUP'], () => {
      if (this.#take) this.#take();
      else this.#waits = true;
    });
  }

  listen(take: () => void): Disposable {
    this.#take = take;
    if (this.#waits) take();
    this.#waits = false;
    return {
      [Symbol.dispose]: () => {
        this.#take = undefined;
      },
    };
  }

  [Symbol.dispose](): void {
    this.#signals[Symbol.dispose]();
  }
}

async function started(
  { host }: Session,
  config: Config,
  log: Logger,
  former: Config | undefined,
): Promise<Service | undefined> {
  try {
    return await host.start(config, log, former);
  } catch (e) {
    log.error({ err: e }, 'the service did not start');
    for (const problem of failureOf(e).problems) host.stderr.write(`${problemText(problem)}\n`);
    return undefined;
  }
}

/** The new configuration after a SIGHUP, or why the service has ended. A wrong file changes nothing. */
async function untilReload(
  { session, flags, config }: { readonly session: Session; readonly flags: Flags; readonly config: Config },
  service: Service,
  log: Logger,
  hangups: Hangups,
  liveness: Liveness,
): Promise<Config | 'ended' | 'torn down'> {
  let next: Config | undefined;
  let isEnding = false;
  const stop = () =>
    void service.stop().catch((e: unknown) => log.error({ err: e }, 'not everything ended cleanly'));
  const reload = async () => {
    try {
      const read = await session.config(flags, config);
      // SIGTERM, while the file was read, means the end.
      if (!isEnding) {
        next = read;
        liveness.reloading();
      }
      stop();
    } catch (e) {
      log.error(
        { problems: failureOf(e).problems },
        'the new configuration is refused; the old one stays in force',
      );
    }
  };
  using _end = session.host.onSignal(['SIGTERM', 'SIGINT'], (signal) => {
    log.info({ signal }, 'ending; the kernel keeps enforcing');
    isEnding = true;
    next = undefined;
    liveness.stopping();
    stop();
  });
  using _hangup = hangups.listen(() => {
    log.info({ signal: 'SIGHUP' }, 'reading the configuration again');
    void reload();
  });
  await service.done;
  return next ?? (isEnding ? 'ended' : 'torn down');
}

/** For so long the service may be starting again, after a SIGHUP. */
const RELOAD_MS = 120_000;
/** Words of a status line. */
const LINE = /[\r\n]+/g;

/**
 * Reports to the service manager: ready, reloading, stopping, and alive. Alive means that the event loop turns and that the
 * service reports that nothing is stuck; otherwise the watchdog ends the process, and systemd starts it again. The kernel
 * enforces meanwhile.
 */
export class Liveness implements Disposable {
  readonly #manager: ServiceManager | undefined;
  readonly #now: () => number;
  #log: Logger | undefined;
  #service: Service | undefined;
  #since: number;
  #timer: NodeJS.Timeout | undefined;
  #isBroken = false;
  #stuck: string | undefined;

  constructor(manager: ServiceManager | undefined, now: () => number = () => performance.now()) {
    this.#manager = manager;
    this.#now = now;
    this.#since = now();
    const period = manager?.watchdogMs;
    if (period !== undefined) this.#timer = setInterval(() => this.#beat(), period / 4);
  }

  ready(service: Service, log: Logger): void {
    this.#log = log;
    this.#service = service;
    this.#notify('READY=1\nSTATUS=running: see drawbridge status');
  }
  reloading(): void {
    this.#service = undefined;
    this.#since = this.#now();
    const usec = process.hrtime.bigint() / 1000n;
    this.#notify(`RELOADING=1\nMONOTONIC_USEC=${usec}\nSTATUS=starting again with the new configuration`);
  }
  stopping(): void {
    this.#notify('STOPPING=1\nSTATUS=ending; the kernel keeps enforcing');
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }

  #beat(): void {
    const stuck = this.#whatIsStuck();
    if (stuck === undefined) this.#notify('WATCHDOG=1');
    else if (this.#stuck === undefined) {
      this.#log?.error(
        { stuck },
        'not alive: the watchdog of the service manager is going to end this process',
      );
      this.#notify(`STATUS=stuck: ${stuck.replace(LINE, ' ')}`);
    }
    this.#stuck = stuck;
  }
  #whatIsStuck(): string | undefined {
    if (this.#service) return this.#service.stuck();
    const ms = this.#now() - this.#since;
    return ms > RELOAD_MS ? `it has been starting for ${Math.round(ms / 1000)} s` : undefined;
  }

  #notify(state: string): void {
    try {
      this.#manager?.notify(state);
      this.#isBroken = false;
    } catch (e) {
      if (!this.#isBroken) this.#log?.warn({ err: e }, 'the service manager cannot be reached');
      this.#isBroken = true;
    }
  }
}

export function guardCommand(program: Command, registry: Registry): void {
  registry.add(program, {
    usage: 'guard',
    summary: 'install the default-deny rules at boot, before Docker starts',
    examples: ['guard', 'guard --json'],
    run: async (session) => {
      const { config } = await session.soundConfig('the closed base');
      const done = await session.host.layGuard(config);
      for (const note of done.notes ?? []) session.out.note(note);
      session.out.show(done, () => {
        session.out.line(
          done.outcome === 'laid'
            ? 'the default-deny rules are installed: no container reaches anything until the service runs'
            : 'Drawbridge rules are already installed: nothing was changed',
        );
        if (done.exempt.length > 0) session.out.line(`left alone: ${done.exempt.join(', ')}`);
      });
      return 0;
    },
  });
}

export function doctorCommand(program: Command, registry: Registry): void {
  registry.add(program, {
    usage: 'doctor',
    summary: 'check whether this host can enforce, with the remedy of each failure',
    exits: '1 when it cannot',
    examples: ['doctor', 'doctor --json'],
    run: async (session) => {
      const checks = await session.host.runDoctor(await session.config());
      const canEnforce = checks.every((check) => check.ok || check.level === 'warn');
      session.out.show({ canEnforce, checks }, () => print(session.out, checks, canEnforce));
      return canEnforce ? 0 : 1;
    },
  });
}

function print(out: Output, checks: readonly DoctorCheck[], canEnforce: boolean): void {
  out.table(
    ['CHECK', 'RESULT', 'DETAIL', 'REMEDY'],
    checks.map((c) => [
      c.name,
      c.ok ? 'ok' : c.level === 'warn' ? 'warning' : 'FAILED',
      c.detail,
      c.ok ? '-' : (c.remedy ?? '-'),
    ]),
  );
  out.note(canEnforce ? 'this host can enforce' : 'this host CANNOT enforce: see the checks that failed');
}

const END_MS = 15_000;
const LOOK_MS = 50;
const OURS =
  /^(store\.|lock$|lock\.|keeper$|kernel-(found\.json|prefix$|rules(\.new)?$)|(host|sandbox-folders|cgroup-parents|quotas|running)\.json|small-state\.db|idempotency\.log|conntrack-accounting$|names\.journal|notify-[A-Za-z0-9_-]+\.outbox(\.damaged|\.tmp)?|audit-\d{12}\.log$)/;

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
      const sound = await session.soundConfig('teardown');
      const removed = await teardown(session, sound);
      const mayPurge = options.purge && !sound.isRefused;
      if (options.purge && !mayPurge)
        session.out.note('the state folder is left: a valid configuration must name it');
      const purged = mayPurge ? await purge(sound.config.state) : null;
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
async function teardown(session: Session, sound: Sound): Promise<readonly string[]> {
  const client = session.clientAt(localSocketOf(sound.config));
  try {
    await client.teardown();
  } catch (e) {
    if (!isNotRunning(e)) throw e;
    return alone(session, sound);
  }
  await awaitEnd(client);
  return ["the service's rules, sets and tables"];
}

async function alone(session: Session, { config: settings, isRefused }: Sound): Promise<readonly string[]> {
  const { host } = session;
  await recordAlone(session, settings, { action: 'teardown', after: null, outcome: 'done' });
  try {
    return await host.teardownKernel(settings, isRefused);
  } finally {
    // whether it succeeded or not: a repair in between adds rules that use the sets
    if (await host.isServed(settings))
      fail(
        'another Drawbridge with another configuration runs on this host: it installs again what was removed',
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
