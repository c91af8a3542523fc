import type { Command } from 'commander';
import type { Config } from '../config/config.js';
import { fromFlags } from '../config/overlay.js';
import type { Registry, Session } from './command.js';
import { CommandFailure, failureOf, problemText, wrongUsage } from './failure.js';
import type { Host, Log, RunningService } from './host.js';
import { Liveness } from './liveness.js';

type Flags = Readonly<Record<string, string>>;

export function runCommand(program: Command, registry: Registry): void {
  registry
    .add<[string[]]>(program, {
      usage: 'run [keys...]',
      summary: 'run the service in the foreground; --KEY VALUE sets a key of the configuration',
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
 * Ends at SIGTERM and SIGINT (the kernel keeps enforcing), or after a teardown. SIGHUP starts anew with the file's new
 * content; where that does not start, with the old one.
 */
async function runUntilEnd(session: Session, flags: Flags): Promise<number> {
  let config = await configOrClosed(session, flags);
  let proven: Config | undefined;
  using liveness = new Liveness(await session.host.serviceManager());
  using hangups = new Hangups(session.host);
  for (;;) {
    const log = session.host.createLog(config.log);
    const service = await started(session, config, log, proven);
    if (!service && (!proven || proven === config)) return 1;
    if (!service) {
      log.error({}, 'the new configuration does not start: the old one is taken up again');
      config = proven as Config;
      continue;
    }
    proven = config;
    liveness.ready(service, log);
    const reloaded = await untilReload(session, flags, service, log, hangups, liveness);
    if (reloaded === 'ended') return 0;
    if (reloaded === 'torn down') return TORN_DOWN;
    config = reloaded;
  }
}

/** A configuration that is refused ends the start; by what can be read of it nothing new passes until it is mended. */
async function configOrClosed(session: Session, flags: Flags): Promise<Config> {
  try {
    return await session.config(flags);
  } catch (e) {
    const lenient = await session.lenientConfig(flags);
    await session.host.layClosed(lenient, session.host.createLog(lenient.log));
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
  log: Log,
  former: Config | undefined,
): Promise<RunningService | undefined> {
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
  session: Session,
  flags: Flags,
  service: RunningService,
  log: Log,
  hangups: Hangups,
  liveness: Liveness,
): Promise<Config | 'ended' | 'torn down'> {
  let next: Config | undefined;
  let isEnding = false;
  const stop = () =>
    void service.stop().catch((e: unknown) => log.error({ err: e }, 'not everything ended cleanly'));
  const reload = async () => {
    try {
      const read = await session.config(flags);
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
