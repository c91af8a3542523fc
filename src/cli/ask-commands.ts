import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import type { AskBody, AskDecidedBody, AskDecisionBody } from '../api/ask-routes.js';
import { type ApiClient, ApiError } from '../api/client.js';
import { shownJson } from '../lib/foreign-text.js';
import { bracketed, counted, parseDuration } from '../lib/units.js';
import { inTurn, type Pressed, Prompt, READ_MS } from './ask-prompt.js';
import { agrees, answerTo, mustBeAskable, type Registry, type Session } from './command.js';
import { fail, problemText, wrongUsage } from './failure.js';
import { withContainer } from './named-containers.js';
import type { Output } from './output.js';

interface AllowOptions {
  readonly once?: true;
  readonly for?: string;
  readonly always?: string;
  readonly oldest?: true;
  readonly container?: string;
  readonly yes?: true;
}

export function askCommand(program: Command, registry: Registry): void {
  const ask = registry.add<[], { watch?: true; newest?: true }>(program, {
    usage: 'ask',
    summary:
      'what containers want to reach and a person may decide, the oldest of each container first; allow or deny it',
    options: [
      ['--watch', 'show requests as they come; on a terminal, decide about each with one key'],
      ['--newest', 'the newest first'],
    ],
    examples: ['ask', 'ask --watch', 'ask allow 3f9c21ab', 'ask deny 3f9c21ab'],
    run: async (session, _args, { watch, newest }) =>
      watch ? watching(session) : printAll(session, newest ?? false),
  });
  registry.add<[string | undefined], AllowOptions>(ask, {
    usage: 'allow [id]',
    summary: 'allow what a request shows, for 10 minutes or as the options say',
    options: [
      [
        '--oldest',
        'in place of an id: the oldest request for which a client waits now; it is printed before',
      ],
      ['--container <name>', 'with --oldest: of this container only'],
      ['--yes', 'with --oldest: do not ask on a terminal; needed with --json'],
      ['--once', 'for one minute: enough for what waits now'],
      ['--for <duration>', 'how long, as in 10m'],
      ['--always <list>', 'for good: into this list of the store, which the container uses'],
    ],
    examples: [
      'ask allow 3f9c21ab',
      'ask allow 3f9c21ab --for 1h',
      'ask allow 3f9c21ab --always ci',
      'ask allow --oldest --container agent',
    ],
    run: async (session, [id], options) => {
      const decision = allowed(options);
      const client = await session.client();
      if ((id === undefined) !== (options.oldest ?? false))
        wrongUsage('an id or --oldest is needed, and one of them only', 'see drawbridge ask for the ids');
      if (id !== undefined) return decide(session, id, decision);
      // What would be allowed is neither printed nor asked about.
      if (session.out.isJson)
        mustBeAskable(session, { yes: options.yes === true, command: 'ask allow --oldest' });
      const oldest = await oldestOf(client, options.container);
      if (!session.out.isJson) session.out.line(`${oldest.id}: ${plain(oldest.container)} ${wish(oldest)}`);
      const isAsked = session.host.canAsk && !options.yes;
      if (isAsked && !(await agrees(session, 'allow it?', READ_MS))) return 1;
      return decideAbout(session, oldest, decision);
    },
  });
  registry.add<[string]>(ask, {
    usage: 'deny <id>',
    summary: 'deny what a request shows; it is not asked again for 10 minutes',
    examples: ['ask deny 3f9c21ab'],
    run: async (session, [id]) => decide(session, id, { decision: 'deny' }),
  });
}

/** The request that waits for the longest time. */
async function oldestOf(client: ApiClient, container: string | undefined): Promise<AskBody> {
  const id =
    container && (await withContainer(client, container, async (name) => (await client.container(name)).id));
  const asks = (await client.asks()).filter((ask) => id === undefined || ask.containerId === id);
  const oldest = asks.find((ask) => ask.until !== null);
  const of = container === undefined ? '' : ` of ${container}`;
  return (
    oldest ??
    fail(
      `no client waits for a request${of} now`,
      asks.length === 0
        ? 'drawbridge ask lists requests'
        : `decide by id: drawbridge ask lists ${counted(asks.length, 'request')} of earlier attempts`,
    )
  );
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

async function printAll(session: Session, isNewestFirst: boolean): Promise<number> {
  const { out } = session;
  const oldestFirst = await (await session.client()).asks();
  const asks = inTurn(isNewestFirst ? [...oldestFirst].reverse() : oldestFirst);
  const none = 'no request waits: containers ask that have the label drawbridge.ask, or a list with "ask"';
  out.show(asks, () => out.table(HEAD, asks.map(rowOf(out)), none));
  return 0;
}

const HEAD = ['ID', 'CONTAINER', 'WANTS', 'IT GETS', 'WAITS', 'ATTEMPTS', 'LAST'];
const rowOf =
  (out: Output) =>
  (ask: AskBody): readonly string[] => [
    ask.id,
    plain(ask.container),
    wanted(ask),
    plain(ask.entry),
    ask.until === null ? '-' : out.until(ask.until),
    String(ask.attempts),
    out.time(ask.last),
  ];

/** Names are those of other people: what no name of a container, host or entry has does not reach the terminal. */
const plain = (text: string): string => text.replace(/[^!-~]/gu, '\ufffd');

/** The destination: a name, an address, or both. */
function wanted(ask: AskBody): string {
  const { name, proto, port } = ask;
  if (proto === 'dns') return plain(name ?? '');
  const places = hostsOf(ask).join(', ');
  return name === null ? `${places}:${port}/${proto}` : `${plain(name)}:${port}/${proto} (${places})`;
}
const hostsOf = ({ addresses }: AskBody): readonly string[] => addresses.map((a) => plain(bracketed(a)));

/** What a container wants, and what is granted if that is not the same. */
function wish(ask: AskBody): string {
  const { name, port, proto, entry } = ask;
  const [host = '', ...others] = name === null ? hostsOf(ask) : [name];
  const same = proto === 'dns' ? host : `${host}:${port}${proto === 'tcp' ? '' : `/${proto}`}`;
  const gets = entry === same && others.length === 0 ? '' : `, and would get ${plain(entry)}`;
  return `wants ${wanted(ask)}${gets}`;
}

/** The container and the entry of an id never change; what else is shown is read again for the token. */
async function decide(session: Session, id: string, decision: Decision): Promise<number> {
  const client = await session.client();
  const ask = (await client.asks()).find((one) => one.id === id);
  if (!ask)
    return fail(`there is no request ${id}`, 'see drawbridge ask: it was decided, or is older than an hour');
  return decideAbout(session, ask, decision);
}

async function decideAbout(session: Session, { id, token }: AskBody, decision: Decision): Promise<number> {
  const decided = await (await session.client()).decideAsk(id, { ...decision, token });
  session.out.show(decided, () => session.out.line(decidedText(session.out, decided)));
  return 0;
}

function decidedText(out: Output, decided: AskDecidedBody): string {
  const { decision, expires, list } = decided;
  const [container, entry] = [plain(decided.container), plain(decided.entry)];
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
    for (const ask of asks) {
      const key = `${ask.token} ${ask.attempts}`;
      now.add(key);
      if (shown.has(key)) continue;
      if (out.isJson) session.host.stdout.write(`${shownJson(ask)}\n`);
      else out.line(rowOf(out)(ask).join('\t'));
    }
    shown = now;
    await pause(signal);
  }
  return 0;
}

const pause = (signal: AbortSignal, ms = POLL_MS): Promise<void> =>
  sleep(ms, undefined, { signal }).catch(() => undefined);

interface Keyboard extends Readable {
  setRawMode(isRaw: boolean): unknown;
}
const isKeyboard = (stdin: Readable): stdin is Keyboard => 'setRawMode' in stdin;

/** Single keys with the time at which each came, without the line editor of the terminal. Disposing of it restores the terminal. */
class Keys implements Disposable {
  readonly #from: Keyboard;
  readonly #pressed: { readonly key: string; readonly at: number }[] = [];
  #wake: (() => void) | undefined;
  readonly #data = (bytes: Buffer | string): void => {
    const at = performance.now();
    for (const key of String(bytes)) this.#pressed.push({ key, at });
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

  /** The keys that have come; it waits for them, at most for `ms`. */
  async next(ms: number, signal: AbortSignal): Promise<readonly { key: string; at: number }[]> {
    if (this.#pressed.length === 0) {
      const pressed = new Promise<void>((resolve) => (this.#wake = resolve));
      await Promise.race([pressed, pause(signal, ms)]);
    }
    return this.#pressed.splice(0);
  }

  [Symbol.dispose](): void {
    this.release();
  }
}

const CTRL_C = '\u0003';
const BELL = '\u0007';
const HELP = 'a allow 10 minutes · o once · l always, into a list · d deny · s skip · q quit';
const DECISIONS: Readonly<Record<string, Decision>> = {
  a: { decision: 'allow' },
  o: { decision: 'allow', once: true },
  d: { decision: 'deny' },
};

/** One request at a time. It stays until it is decided or its wait has ended; its time goes on while it is shown. */
async function decideByKeys(session: Session, keyboard: Keyboard, signal: AbortSignal): Promise<number> {
  const { out } = session;
  const client = await session.client();
  const prompt = new Prompt();
  using keys = new Keys(keyboard);
  let readAt = Number.NEGATIVE_INFINITY;
  let line = '';
  for (;;) {
    if (performance.now() - readAt >= POLL_MS) {
      const before = prompt.shown;
      const asks = await client.asks();
      readAt = performance.now();
      if (prompt.update(asks, readAt)) {
        present(session, before, prompt.shown, asks);
        line = '';
      }
    }
    const now = performance.now();
    const text = statusText(out, prompt, now);
    if (text !== line) out.replaceLine(text);
    line = text;
    const wait = Math.min(prompt.nextIn(now), readAt + POLL_MS - now);
    const pressed = await keys.next(Math.max(0, wait), signal);
    for (const { key, at } of pressed) prompt.press(key, at);
    if (signal.aborted || pressed.some(({ key }) => key === 'q' || key === CTRL_C)) break;
    const taken = prompt.take(performance.now());
    if (!taken) continue;
    out.replaceLine('');
    line = '';
    await act(session, keys, prompt, taken);
    readAt = Number.NEGATIVE_INFINITY;
  }
  session.host.stdout.write('\n');
  return 0;
}

/** Another request is shown than before, with a bell. */
function present(
  { host, out }: Session,
  before: AskBody | undefined,
  shown: AskBody | undefined,
  asks: readonly AskBody[],
): void {
  out.replaceLine('');
  const now = asks.find((ask) => ask.id === before?.id);
  if (now && now.token !== before?.token) out.prompt('it has changed, and is shown again', { indent: 2 });
  else if (now?.until === null) out.prompt('its wait has ended: drawbridge ask lists it', { indent: 2 });
  if (!shown) return;
  host.stdout.write(BELL);
  out.prompt(plain(shown.container), { isTitle: true });
  out.prompt(wish(shown), { indent: 2 });
  out.prompt(HELP, { indent: 2 });
}

function statusText(out: Output, prompt: Prompt, now: number): string {
  const ask = prompt.shown;
  if (!ask) return 'no request waits';
  const { until, waiting, attempts, containerId } = ask;
  const elsewhere = prompt.others.filter((other) => other.containerId !== containerId).length;
  const others = prompt.others.length;
  const facts = [
    ...(prompt.readyAt(now) === undefined ? [] : ['read it first']),
    until === null
      ? `nothing waits now, ${counted(attempts, 'attempt')}: it counts for the next one`
      : `${counted(waiting, 'attempt')} waiting, ${out.until(until)}`,
    ...(others === 0 ? [] : [`${others} more waiting${elsewhere === 0 ? '' : `, ${elsewhere} of others`}`]),
  ];
  return facts.join(' · ');
}

async function act(session: Session, keys: Keys, prompt: Prompt, { key, ask }: Pressed): Promise<void> {
  const { out } = session;
  if (key === 's') {
    prompt.skip(ask);
    out.prompt('skipped', { indent: 2 });
  }
  const decision = key === 'l' ? await listed(session, keys) : DECISIONS[key];
  const text = decision ? await outcome(session, ask, decision) : '';
  if (text !== '') for (const line of text.split('\n')) out.prompt(line, { indent: 2 });
}

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
