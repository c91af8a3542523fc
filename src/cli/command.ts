import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import { ApiClient, UnreachableError } from '../api/client.js';
import type { Config } from '../config/config.js';
import { localSocketOf, quickSocket } from '../config/service-socket.js';
import { parseDuration, parseMoment } from '../lib/units.js';
import { CommandFailure, failureOf, problemText, wrongUsage } from './failure.js';
import type { AloneRecord, Host } from './host.js';
import { loadWidths, Output } from './output.js';

/**
 * The options of a command, the configuration and the service. The modules that read the configuration are imported when
 * they are needed, because `--version` and `--help` need none of them.
 */
export class Session {
  readonly host: Host;
  readonly out: Output;
  /** `--config`. */
  readonly file: string | undefined;

  constructor(host: Host, options: { readonly json?: boolean; readonly config?: string }) {
    this.host = host;
    this.out = new Output(host, options.json ?? false);
    this.file = options.config;
  }

  /** `flags` by key path, as in { "dns.grace": "1h" }. Throws CommandFailure with every problem. */
  async config(flags: Readonly<Record<string, string>> = {}, former?: Config): Promise<Config> {
    const { loadConfig } = await import('../config/load.js');
    const loaded = await loadConfig({ file: this.file, env: this.host.env, flags, former });
    if (loaded.ok) return loaded.value.config;
    throw new CommandFailure(loaded.problems);
  }

  /** What can be read of a configuration that is refused. */
  async lenientConfig(flags: Readonly<Record<string, string>> = {}): Promise<Config> {
    const { lenientConfig } = await import('../config/load.js');
    return lenientConfig({ file: this.file, env: this.host.env, flags });
  }

  /** A fault in it must neither leave the host open at boot nor keep it closed: it is reported, and `user` goes on. */
  async soundConfig(user: string): Promise<Sound> {
    try {
      return { config: await this.config(), isRefused: false };
    } catch (e) {
      if (!(e instanceof CommandFailure)) throw e;
      for (const problem of e.problems) this.out.note(problemText(problem));
      this.out.note(`the configuration is refused: ${user} uses the keys of it that are valid`);
      return { config: await this.lenientConfig(), isRefused: true };
    }
  }

  /** The service. It was found without a check of the whole configuration where that decides nothing about it. */
  async client(timeoutMs?: number): Promise<ApiClient> {
    const quick = await quickSocket({ file: this.file, env: this.host.env });
    return this.clientAt(quick ?? localSocketOf(await this.config()), timeoutMs);
  }

  clientAt(socket: string, timeoutMs?: number): ApiClient {
    const patience = timeoutMs === undefined ? {} : { timeoutMs };
    return new ApiClient({ socket, user: this.host.user, ...patience });
  }
}

/** A configuration; when it was refused, keys that are not valid have their defaults. */
export interface Sound {
  readonly config: Config;
  readonly isRefused: boolean;
}

interface Definition<Args extends readonly unknown[], Options> {
  /** As commander writes it: "allow <container> <entry...>". */
  readonly usage: string;
  readonly summary: string;
  readonly examples: readonly string[];
  readonly options?: readonly (readonly [flags: string, description: string])[];
  /** When it ends with another exit code than 0 for something that is no failure and no wrong usage, or for a verdict. */
  readonly exits?: string;
  /** Resolves with the exit code; undefined: 0. */
  run(session: Session, args: Args, options: Options): Promise<number | undefined>;
}

/** What commander does not keep of a command, for its reference. */
interface Texts {
  readonly examples: readonly string[];
  readonly exits: string | undefined;
}

/** Registers commands at a parent. */
export class Registry {
  static readonly texts = new WeakMap<Command, Texts>();
  readonly #host: Host;
  readonly #onExit: (code: number) => void;

  /** `onExit` gets the exit code of the command that ran. */
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
    const { exits, examples } = definition;
    command.addHelpText('after', `\nExamples:\n${examples.map((e) => `  $ drawbridge ${e}`).join('\n')}`);
    if (exits !== undefined) command.addHelpText('after', `\nExit code: ${exits}`);
    Registry.texts.set(command, { examples, exits });
    return command.action(async (...given: unknown[]) => {
      // Commander gives options that a parent (`lists`) also has to the parent, wherever they are written.
      const options = command.optsWithGlobals<Options & { json?: boolean; config?: string }>();
      const args = given.slice(0, -2) as unknown as Args;
      if (this.#host.isTerminal) await loadWidths();
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
    if (e instanceof UnreachableError)
      for (const fault of (await session.config()).faults) session.out.note(problemText(fault));
    throw e;
  }
}

/** The value of an option that is a time before now, in ms since the epoch. Fails with wrong usage. */
export function timeBefore(option: string, text: string, now = Date.now()): number {
  const parsed = parseMoment(text, now, -1);
  if (parsed.ok) return parsed.value;
  const [problem] = parsed.problems;
  return wrongUsage(`${option}: ${problem?.detail}`, problem?.remedy ?? '');
}

/** The value of an option that is a duration or a time after now, as a duration. Fails with wrong usage. */
export function timeFromNow(option: string, text: string, now = Date.now()): string {
  if (parseDuration(text).ok) return text;
  const parsed = parseMoment(text, now, 1);
  if (parsed.ok) return `${Math.max(1, Math.ceil((parsed.value - now) / 1000))}s`;
  const [problem] = parsed.problems;
  return wrongUsage(`${option}: ${problem?.detail}`, problem?.remedy ?? '');
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
export async function agrees(session: Session, question: string, readMs = 0): Promise<boolean> {
  const answer = await answerTo(session, `${question} [y/N]`, { readMs });
  if (/^y(es)?$/i.test(answer)) return true;
  session.out.note('nothing was changed');
  return false;
}

/** One line; `atEnd` where the input ends without one. `readMs`: what comes earlier was typed before a person has read the question. */
export async function answerTo(
  { host, out }: Session,
  question: string,
  { atEnd = '', readMs = 0 }: { readonly atEnd?: string; readonly readMs?: number } = {},
): Promise<string> {
  const { createInterface } = await import('node:readline/promises');
  const lines = createInterface({ input: host.stdin, terminal: false });
  try {
    out.note(question);
    const asked = performance.now();
    for await (const line of lines) {
      if (performance.now() - asked >= readMs) return line.trim();
      out.note(`that was typed before it could be read. ${question}`);
    }
    return atEnd;
  } finally {
    lines.close();
  }
}

/** Record a change that is made without the service. The change is made even if it cannot be recorded, and stderr shows that. */
export async function recordAlone(session: Session, config: Config, record: AloneRecord): Promise<void> {
  const why = await session.host.recordAlone(config, record);
  if (why !== undefined) session.out.note(`the audit has no record of ${record.action}: ${why}`);
}

/** A view that is drawn again on these events (all of GET /v1/events that a table shows), and otherwise this often. */
const WATCHED = 'container,coverage,list,feed,repair,canary,first-contact';
const REDRAW_MS = 5_000;
/** The shortest time between two frames. */
const FRAME_MS = 1_000;
const WATCH_ENDS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
/** Of the terminal: another screen and no cursor; to the first line; the rest of a line; what is below; back. */
const SCREEN = {
  open: '\u001b[?1049h\u001b[?25l',
  home: '\u001b[H',
  restOfLine: '\u001b[K',
  below: '\u001b[J',
  close: '\u001b[?25h\u001b[?1049l',
} as const;

export const WATCH_OPTION: readonly [string, string] = [
  '--watch',
  'draw it again as it changes, until Ctrl-C (on a terminal only)',
];

/**
 * Draws on a screen of its own until a signal ends it. A service that does not answer is shown in place of the table, and asked again: it may
 * be starting.
 */
export async function watch(session: Session, draw: (out: Output) => Promise<void>): Promise<number> {
  const { host, out } = session;
  if (out.isJson || !host.isTerminal) {
    const what = out.isJson
      ? '--watch and --json do not go together'
      : '--watch draws on a terminal, and there is none';
    wrongUsage(what, 'leave --watch out; GET /v1/events of the API has what happens as it happens');
  }
  const end = new AbortController();
  let wake = (): void => undefined;
  using _end = host.onSignal(WATCH_ENDS, () => end.abort());
  using _size = host.onSignal(['SIGWINCH'], () => wake());
  end.signal.addEventListener('abort', () => wake());
  host.stdout.write(SCREEN.open);
  try {
    void follow(session, end.signal, () => wake());
    for (let changed = false; !end.signal.aborted; changed = false) {
      const woken = new Promise<void>((resolve) => {
        wake = () => {
          changed = true;
          resolve();
        };
      });
      host.stdout.write(frame(await drawn(host, draw), host.rows));
      await Promise.race([woken, pause(FRAME_MS, end.signal)]);
      if (changed) await pause(FRAME_MS, end.signal);
      else await Promise.race([woken, pause(REDRAW_MS - FRAME_MS, end.signal)]);
    }
  } finally {
    host.stdout.write(SCREEN.close);
  }
  return 0;
}

/** Resolves early when the signal aborts. */
const pause = (ms: number, signal: AbortSignal): Promise<void> =>
  sleep(ms, undefined, { signal }).catch(() => undefined);

/** Calls back on events until the signal aborts. Without a connection the frames come by time alone. */
async function follow(session: Session, signal: AbortSignal, onEvent: () => void): Promise<void> {
  while (!signal.aborted) {
    try {
      const client = await session.client();
      for await (const _ of client.events({ kind: WATCHED }, signal)) onEvent();
    } catch {
      // The next frame shows why.
    }
    await pause(REDRAW_MS, signal);
  }
}

/** What it printed, as lines: or why it could not. */
async function drawn(host: Host, draw: (out: Output) => Promise<void>): Promise<readonly string[]> {
  const texts: string[] = [];
  const into = { write: (text: string) => texts.push(text) };
  const { isTerminal, columns, colours } = host;
  const out = new Output(
    { stdout: into, stderr: into, isTerminal, columns, ...(colours && { colours }) },
    false,
  );
  try {
    await draw(out);
  } catch (e) {
    for (const problem of failureOf(e).problems) out.line(problemText(problem));
  }
  return texts.join('').trimEnd().split('\n');
}

function frame(lines: readonly string[], rows = Number.POSITIVE_INFINITY): string {
  const room = Math.max(1, rows - 1);
  const hidden = lines.length - room;
  const shown = hidden > 0 ? [...lines.slice(0, room - 1), `… ${hidden + 1} more lines`] : lines;
  return SCREEN.home + shown.map((line) => `${line}${SCREEN.restOfLine}\n`).join('') + SCREEN.below;
}
