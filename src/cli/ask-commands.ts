import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import type { AskBody, AskDecidedBody, AskDecisionBody } from '../api/ask-routes.js';
import { ApiError } from '../api/client.js';
import { parseDuration } from '../lib/units.js';
import { answerTo, type Registry, type Session } from './command.js';
import { fail, problemText, wrongUsage } from './failure.js';
import { counted, type Output, printable } from './output.js';

interface AllowOptions {
  readonly once?: true;
  readonly for?: string;
  readonly always?: string;
}

export function askCommand(program: Command, registry: Registry): void {
  const ask = registry.add<[], { watch?: true }>(program, {
    usage: 'ask',
    summary: 'what containers want to reach and a person may decide; allow or deny it',
    options: [['--watch', 'show requests as they come; on a terminal, decide about each with one key']],
    examples: ['ask', 'ask --watch', 'ask allow 3f9c21ab', 'ask deny 3f9c21ab'],
    run: async (session, _args, { watch }) => (watch ? watching(session) : printAll(session)),
  });
  registry.add<[string], AllowOptions>(ask, {
    usage: 'allow <id>',
    summary: 'allow what a request shows, for 10 minutes or as the options say',
    options: [
      ['--once', 'for one minute: enough for what waits now'],
      ['--for <duration>', 'how long, as in 10m'],
      ['--always <list>', 'for good: into this list of the store, which the container uses'],
    ],
    examples: ['ask allow 3f9c21ab', 'ask allow 3f9c21ab --for 1h', 'ask allow 3f9c21ab --always ci'],
    run: async (session, [id], options) => decide(session, id, allowed(options)),
  });
  registry.add<[string]>(ask, {
    usage: 'deny <id>',
    summary: 'deny what a request shows; it is not asked again for 10 minutes',
    examples: ['ask deny 3f9c21ab'],
    run: async (session, [id]) => decide(session, id, { decision: 'deny' }),
  });
}

type Decision = Omit<AskDecisionBody, 'token'>;

function allowed({ once, for: duration, always }: AllowOptions): Decision {
  if ([once, duration, always].filter((o) => o !== undefined).length > 1)
    return wrongUsage('only one of --once, --for and --always can be given', 'leave the others out');
  const parsed = duration === undefined ? undefined : parseDuration(duration);
  if (parsed && !parsed.ok) {
    const [problem = { detail: '', remedy: '' }] = parsed.problems;
    return wrongUsage(`--for: ${problem.detail}`, problem.remedy);
  }
  return {
    decision: 'allow',
    ...(once && { once }),
    ...(duration !== undefined && { for: duration }),
    ...(always !== undefined && { list: always }),
  };
}

async function printAll(session: Session): Promise<number> {
  const { out } = session;
  const asks = await (await session.client()).asks();
  const none = 'no request waits: containers ask that have the label drawbridge.ask, or a list with "ask"';
  out.show(asks, () => out.table(HEAD, asks.map(rowOf(out)), none));
  return 0;
}

const HEAD = ['ID', 'CONTAINER', 'WANTS', 'IT GETS', 'WAITS', 'ATTEMPTS', 'LAST'];
const rowOf =
  (out: Output) =>
  (ask: AskBody): readonly string[] => [
    ask.id,
    ask.container,
    wanted(ask),
    ask.entry,
    ask.until === null ? '-' : out.until(ask.until),
    String(ask.attempts),
    out.time(ask.last),
  ];

/** The destination: a name, an address, or both. */
function wanted({ name, addresses, port, proto }: AskBody): string {
  if (proto === 'dns') return name ?? '';
  const places = addresses.map((a) => (a.includes(':') ? `[${a}]` : a)).join(', ');
  return name === null ? `${places}:${port}/${proto}` : `${name}:${port}/${proto} (${places})`;
}

/** The container and the entry of an id never change; what else is shown is read again for the token. */
async function decide(session: Session, id: string, decision: Decision): Promise<number> {
  const client = await session.client();
  const ask = (await client.asks()).find((one) => one.id === id);
  if (!ask)
    return fail(`there is no request ${id}`, 'see drawbridge ask: it was decided, or is older than an hour');
  const decided = await client.decideAsk(id, { ...decision, token: ask.token });
  session.out.show(decided, () => session.out.line(decidedText(session.out, decided)));
  return 0;
}

function decidedText(out: Output, { container, entry, decision, expires, list }: AskDecidedBody): string {
  if (decision === 'deny')
    return `${container} may not reach ${entry}, and is not asked again for 10 minutes`;
  if (list !== null) return `${container} may reach ${entry}: it is in the list ${list}`;
  return `${container} may reach ${entry} ${expires === null ? 'until it is revoked' : out.until(expires)}`;
}

const POLL_MS = 500;

/** Until a signal, or q on a terminal. Without a terminal one line for each wait that begins. */
async function watching(session: Session): Promise<number> {
  const { host, out } = session;
  const ending = new AbortController();
  using _signals = host.onSignal(['SIGINT', 'SIGTERM'], () => ending.abort());
  const keys =
    host.canAsk && out.isTerminal && !out.isJson && isKeyboard(host.stdin) ? host.stdin : undefined;
  return keys ? decideByKeys(session, keys, ending.signal) : printAsTheyCome(session, ending.signal);
}

async function printAsTheyCome(session: Session, signal: AbortSignal): Promise<number> {
  const { out } = session;
  const client = await session.client();
  let shown = new Set<string>();
  while (!signal.aborted) {
    const asks = await client.asks();
    const now = new Set<string>();
    for (const ask of [...asks].reverse()) {
      const key = `${ask.token} ${ask.attempts}`;
      now.add(key);
      if (shown.has(key)) continue;
      if (out.isJson) session.host.stdout.write(`${JSON.stringify(ask)}\n`);
      else out.line(rowOf(out)(ask).join('\t'));
    }
    shown = now;
    await pause(signal);
  }
  return 0;
}

const pause = (signal: AbortSignal): Promise<void> =>
  sleep(POLL_MS, undefined, { signal }).catch(() => undefined);

interface Keyboard extends Readable {
  setRawMode(isRaw: boolean): unknown;
}
const isKeyboard = (stdin: Readable): stdin is Keyboard => 'setRawMode' in stdin;

/** Single keys, without the line editor of the terminal. Disposing of it restores the terminal. */
class Keys implements Disposable {
  readonly #from: Keyboard;
  readonly #pressed: string[] = [];
  #wake: (() => void) | undefined;
  readonly #data = (bytes: Buffer | string): void => {
    this.#pressed.push(...String(bytes));
    this.#wake?.();
  };
  readonly #end = (): void => this.#data('q');

  constructor(from: Keyboard) {
    this.#from = from;
    this.take();
  }

  take(): void {
    this.#from.setRawMode(true);
    this.#from.on('data', this.#data).once('end', this.#end).resume();
  }

  /** For a question that is answered by a line. */
  release(): void {
    this.#from.off('data', this.#data).off('end', this.#end).pause();
    this.#from.setRawMode(false);
  }

  /** The next key; undefined: none within `POLL_MS`. */
  async next(signal: AbortSignal): Promise<string | undefined> {
    if (this.#pressed.length === 0) {
      const pressed = new Promise<void>((resolve) => (this.#wake = resolve));
      await Promise.race([pressed, pause(signal)]);
    }
    return this.#pressed.shift();
  }

  [Symbol.dispose](): void {
    this.release();
  }
}

const CTRL_C = '\u0003';
const HELP = 'a allow for 10 minutes · o once · l always, into a list · d deny · s skip · q quit';
const DECISIONS: Readonly<Record<string, Decision>> = {
  a: { decision: 'allow' },
  o: { decision: 'allow', once: true },
  d: { decision: 'deny' },
};

/** One request at a time, those first for which a client waits. Its time goes on while it is shown. */
async function decideByKeys(session: Session, keyboard: Keyboard, signal: AbortSignal): Promise<number> {
  const { out } = session;
  const client = await session.client();
  const skipped = new Set<string>();
  let shown: string | undefined;
  using keys = new Keys(keyboard);
  out.line(HELP);
  for (;;) {
    const asks = (await client.asks()).filter((ask) => !skipped.has(ask.token));
    const ask = [...asks].sort(byWait)[0];
    if (ask?.token !== shown && ask) session.host.stdout.write('\r\u001b[K');
    if (ask && ask.token !== shown)
      out.line(`${ask.container} wants ${wanted(ask)} and would get ${ask.entry}`);
    shown = ask?.token;
    session.host.stdout.write(`\r\u001b[K${printable(ask ? waitText(out, ask) : 'no request waits')}`);
    const key = await keys.next(signal);
    if (signal.aborted || key === 'q' || key === CTRL_C) break;
    if (!ask || key === undefined) continue;
    session.host.stdout.write('\r\u001b[K');
    if (key === 's') skipped.add(ask.token);
    const decision = key === 'l' ? await listed(session, keys) : DECISIONS[key];
    if (decision) out.line(await outcome(session, ask, decision));
  }
  session.host.stdout.write('\n');
  return 0;
}

const byWait = (a: AskBody, b: AskBody): number =>
  (a.until ?? '~') < (b.until ?? '~') ? -1 : (a.until ?? '~') > (b.until ?? '~') ? 1 : 0;

const waitText = (out: Output, { until, waiting, attempts }: AskBody): string =>
  until === null
    ? `  nothing waits now, ${counted(attempts, 'attempt')}: it counts for the next one `
    : `  ${counted(waiting, 'attempt')} waiting, ${out.until(until)} `;

async function listed(session: Session, keys: Keys): Promise<Decision | undefined> {
  keys.release();
  const list = await answerTo(session, 'the list that gets the entry (empty: none):');
  keys.take();
  return list === '' ? undefined : { decision: 'allow', list };
}

/** A refusal is shown, and the next request follows. */
async function outcome(session: Session, { id, token }: AskBody, decision: Decision): Promise<string> {
  try {
    const client = await session.client();
    return decidedText(session.out, await client.decideAsk(id, { ...decision, token }));
  } catch (e) {
    if (!(e instanceof ApiError)) throw e;
    return e.problem.errors.map(problemText).join('\n');
  }
}
