import { once } from 'node:events';
import type { Command } from 'commander';
import { ApiClient, UnreachableError } from '../api/client.js';
import type { Config } from '../config/config.js';
import { localSocketOf, quickSocket } from '../config/service-socket.js';
import { CommandFailure, wrongUsage } from './failure.js';
import type { AloneRecord, Host } from './host.js';
import { Output } from './output.js';

/**
 * The options of a command, the configuration and the service. The modules that read the configuration are imported when
 * they are needed, because `--version` and `--help` need none of them.
 */
export class Session {
  readonly host: Host;
  readonly out: Output;
  readonly #file: string | undefined;

  constructor(host: Host, options: { readonly json?: boolean; readonly config?: string }) {
    this.host = host;
    this.out = new Output(host, options.json ?? false);
    this.#file = options.config;
  }

  /** `flags` by key path, as in { "dns.grace": "1h" }. Throws CommandFailure with every problem. */
  async config(flags: Readonly<Record<string, string>> = {}): Promise<Config> {
    const { loadConfig } = await import('../config/load.js');
    const loaded = await loadConfig({ file: this.#file, env: this.host.env, flags });
    if (loaded.ok) return loaded.value.config;
    throw new CommandFailure(loaded.problems);
  }

  /** What can be read of a configuration that is refused. */
  async lenientConfig(flags: Readonly<Record<string, string>> = {}): Promise<Config> {
    const { lenientConfig } = await import('../config/load.js');
    return lenientConfig({ file: this.#file, env: this.host.env, flags });
  }

  /** The service. It was found without a check of the whole configuration where that decides nothing about it. */
  async client(): Promise<ApiClient> {
    const quick = await quickSocket({ file: this.#file, env: this.host.env });
    const socket = quick ?? localSocketOf(await this.config());
    return new ApiClient({ socket, user: this.host.user });
  }
}

interface Definition<Args extends readonly unknown[], Options> {
  /** As commander writes it: "allow <container> <entry...>". */
  readonly usage: string;
  readonly summary: string;
  readonly examples: readonly string[];
  readonly options?: readonly (readonly [flags: string, description: string])[];
  /** Resolves with the exit code; undefined: 0. */
  run(session: Session, args: Args, options: Options): Promise<number | undefined>;
}

/** Registers commands at a parent. `onExit` gets the exit code of the command that ran. */
export class Registry {
  readonly #host: Host;
  readonly #onExit: (code: number) => void;

  constructor(host: Host, onExit: (code: number) => void) {
    this.#host = host;
    this.#onExit = onExit;
  }

  add<Args extends readonly unknown[], Options = Record<string, never>>(
    parent: Command,
    definition: Definition<Args, Options>,
  ): Command {
    const command = parent.command(definition.usage).description(definition.summary);
    for (const [flags, description] of definition.options ?? []) command.option(flags, description);
    command.option('--json', 'print JSON').option('--config <file>', 'the configuration file');
    command.addHelpText(
      'after',
      `\nExamples:\n${definition.examples.map((e) => `  $ drawbridge ${e}`).join('\n')}`,
    );
    return command.action(async (...given: unknown[]) => {
      // Commander gives options that a parent (`lists`) also has to the parent, wherever they are written.
      const options = command.optsWithGlobals<Options & { json?: boolean; config?: string }>();
      const args = given.slice(0, -2) as unknown as Args;
      const session = new Session(this.#host, options);
      this.#onExit((await ran(session, () => definition.run(session, args, options))) ?? 0);
    });
  }
}

/** If the service cannot be reached, an error in the configuration is the more useful answer: it may be the reason. */
async function ran<T>(session: Session, run: () => Promise<T>): Promise<T> {
  try {
    return await run();
  } catch (e) {
    if (e instanceof UnreachableError) await session.config();
    throw e;
  }
}

interface Consent {
  /** `--yes`. */
  readonly yes: boolean;
  /** What is asked about, as a command: "mode web enforce". */
  readonly command: string;
  readonly question: string;
}

/** Fails with wrong usage where the question could not be asked: before anything is printed or changed. */
export function mustBeAskable({ host, out }: Session, { yes, command }: Omit<Consent, 'question'>): void {
  if (yes || (host.canAsk && !out.isJson)) return;
  const why = out.isJson ? 'with --json it cannot ask' : 'there is no terminal to ask on';
  wrongUsage(`drawbridge ${command} asks before it changes anything, and ${why}`, 'add --yes');
}

/** The answer of the terminal; true at once with `--yes`. Only y or yes is consent. */
export async function consents(session: Session, consent: Consent): Promise<boolean> {
  mustBeAskable(session, consent);
  return consent.yes || agrees(session, consent.question);
}

/** Asks; without consent nothing is changed, and the terminal shows that. */
export async function agrees(session: Session, question: string): Promise<boolean> {
  const answer = await answerTo(session, `${question} [y/N]`);
  if (/^y(es)?$/i.test(answer)) return true;
  session.out.note('nothing was changed');
  return false;
}

/** One line; `atEnd` where the input ends without one. */
export async function answerTo({ host, out }: Session, question: string, atEnd = ''): Promise<string> {
  const { createInterface } = await import('node:readline/promises');
  const lines = createInterface({ input: host.stdin, terminal: false });
  try {
    out.note(question);
    const [answer] = await Promise.race([once(lines, 'line'), once(lines, 'close').then(() => [atEnd])]);
    return String(answer).trim();
  } finally {
    lines.close();
  }
}

/** Record a change that is made without the service. The change is made even if it cannot be recorded, and stderr shows that. */
export async function recordAlone(session: Session, config: Config, record: AloneRecord): Promise<void> {
  const why = await session.host.recordAlone(config, record);
  if (why !== undefined) session.out.note(`the audit has no record of ${record.action}: ${why}`);
}
