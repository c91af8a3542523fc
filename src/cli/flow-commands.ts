import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import { type ApiClient, UnreachableError } from '../api/client.js';
import type { Flow, FlowsBody, SuggestionBody } from '../api/schemas-traffic.js';
import { missingTexts } from '../flows/missing.js';
import { shownJson } from '../lib/foreign-text.js';
import { parseDuration } from '../lib/units.js';
import {
  notesText,
  nothingText,
  SUGGESTION_FORMATS,
  type SuggestionFormat,
  shownName,
  suggestionText,
  summaryLine,
} from '../suggest/suggestion-text.js';
import { type Registry, type Session, timeBefore } from './command.js';
import { wrongUsage } from './failure.js';
import { oneOf, PROJECT_OPTION, withContainer } from './named-containers.js';
import { destinationText, type Output } from './output.js';

interface Options {
  readonly project?: string;
  readonly follow?: boolean;
  readonly denied?: boolean;
  readonly verdict?: string;
  readonly since?: string;
  readonly name?: string;
  readonly limit?: string;
  readonly format?: string;
  readonly exitCode?: true;
  readonly markKnown?: string;
  readonly unmarkKnown?: string;
}
const DEFAULT_LIMIT = 50;
const MOST = 9999;
const HEAD = ['TIME', 'CONTAINER', 'VERDICT', 'TO', 'COUNT', 'PACKETS', 'BYTES', 'BY'];

export function flowsCommand(program: Command, registry: Registry): void {
  registry.add<[string | undefined], Options>(program, {
    usage: 'flows [container]',
    summary: 'what passed and what did not, with what decided it; the newest last',
    examples: [
      'flows web --denied --since 1h',
      'flows -f',
      'flows --project shop --denied',
      "flows --name '*.example.com' --json",
      'flows web --mark-known telemetry.example.com',
      'flows job-42 --format markdown --exit-code',
    ],
    exits: '0 whatever did not pass; with --exit-code 1 if something was denied',
    options: [
      PROJECT_OPTION,
      ['-f, --follow', 'go on with flows as they come'],
      ['--denied', 'only what did not pass, or would not: deny, would-deny, threat'],
      ['--verdict <verdicts>', 'only these, with commas: allow, deny, would-deny, threat, ask'],
      ['--since <time>', 'how far back, as in 2h30m, or from when, as in 2030-12-31T00:00Z or "today 14:30"'],
      ['--name <glob>', 'only this name, or this address; * and ? match in it'],
      ['--limit <n>', `how many records, at most ${MOST} (default ${DEFAULT_LIMIT})`],
      ['--format <format>', 'markdown: a summary of one container, also of one that is gone, for a CI job'],
      ['--exit-code', 'exit 1 if a record that fits is a deny or a threat, and not marked as known'],
      ['--mark-known <destination>', 'its first contact with this destination raises no alert any more'],
      ['--unmark-known <destination>', 'take that mark away'],
    ],
    run: async (session, [container], options) => {
      const client = await session.client();
      const { project } = oneOf(container, options.project);
      const destination = options.markKnown ?? options.unmarkKnown;
      if (destination !== undefined)
        return mark(session, client, container, destination, options.markKnown !== undefined);
      const isMarkdown = checkFormat(options, container);
      const query = queryOf(options);
      const read = (): Promise<FlowsBody> =>
        container === undefined
          ? client.flows({ ...query, ...(project === undefined ? {} : { project }) })
          : withContainer(client, container, (name) => client.flows({ ...query, container: name }));
      const body = isMarkdown ? await summarise(session, client, container, options, read) : await read();
      if (!options.follow) {
        if (!isMarkdown) session.out.show(body, () => print(session.out, body));
        return options.exitCode && (await isDenied(client, body)) ? 1 : 0;
      }
      if (!session.out.isJson) print(session.out, body);
      await follow(session, client, container, options);
      return 0;
    },
  });
}

/** Whether a summary is wanted. */
function checkFormat({ format, follow, exitCode }: Options, container: string | undefined): boolean {
  if (follow && (format !== undefined || exitCode))
    wrongUsage('--follow does not end by itself', 'leave out --format and --exit-code');
  if (format === undefined) return false;
  if (format !== 'markdown') wrongUsage(`invalid format "${format}"`, 'write --format markdown');
  if (container === undefined)
    wrongUsage('a summary is of one container', 'write drawbridge flows CONTAINER --format markdown');
  return true;
}

async function summarise(
  { out }: Session,
  client: ApiClient,
  container = '',
  { since, name, verdict, denied }: Options,
  read: () => Promise<FlowsBody>,
): Promise<FlowsBody> {
  const summary = await import('./flow-summary.js');
  const wanted = Date.now();
  const flows = await summary.readSettled(read, wanted);
  const suggestion = await summary.suggestionFor(client, flows);
  const isPart = [since, name, verdict, denied].some((option) => option !== undefined);
  const text = summary.summaryText({ container, flows, wanted, isPart, ...(suggestion && { suggestion }) });
  out.show(flows, () => {
    for (const line of text.trimEnd().split('\n')) out.line(line);
  });
  return flows;
}

/** Something did not pass, and no person has marked it as known. */
async function isDenied(client: ApiClient, { items }: FlowsBody): Promise<boolean> {
  const denied = items.filter(({ verdict }) => verdict === 'deny' || verdict === 'threat');
  if (denied.length === 0) return false;
  const [marks, { glob }] = await Promise.all([client.known(), import('../lib/glob.js')]);
  return denied.some(
    ({ owner, name, address, port }) =>
      !marks.some(
        (m) => m.owner === owner && (m.port === null || m.port === port) && glob(m.target)(name ?? address),
      ),
  );
}

function queryOf({
  denied,
  verdict,
  since,
  name,
  format,
  limit = String(format === undefined ? DEFAULT_LIMIT : MOST),
}: Options): Record<string, string> {
  if (denied && verdict !== undefined)
    wrongUsage('--denied and --verdict exclude each other', 'write one of them');
  if (!/^[1-9]\d{0,3}$/.test(limit)) wrongUsage(`--limit ${limit} is not a number`, `write 1 to ${MOST}`);
  const verdicts = denied ? 'denied' : verdict;
  return {
    limit,
    ...(verdicts === undefined ? {} : { verdict: verdicts }),
    ...(since === undefined ? {} : { since: new Date(timeBefore('--since', since)).toISOString() }),
    ...(name === undefined ? {} : { name }),
  };
}

function print(out: Output, { items, next, recordingSince, gaps, dropped }: FlowsBody): void {
  const rows = [...items].reverse().map((f) => row(out, f));
  out.table(HEAD, rows, 'no flow fits', ['PACKETS', 'BYTES']);
  if (next !== null) out.note(`these are the newest ${items.length}: --limit shows more, up to ${MOST}`);
  out.note(`recording since ${out.time(recordingSince)}`);
  for (const text of missingTexts({ gaps, dropped }, { time: (time) => out.time(time) })) out.note(text);
}

const row = (out: Output, f: Flow): readonly string[] => [
  out.time(f.last),
  f.container,
  f.verdict,
  destinationText(f),
  String(f.count),
  String(f.packets),
  f.bytes === 0 ? '-' : out.size(f.bytes),
  decidedBy(f),
];

const decidedBy = ({ entry, list, feed, reason }: Flow): string =>
  entry === null || feed !== null ? reason : list === null ? entry : `${entry} (list ${list})`;

/** An event of a flow as a record: one connection. */
type FlowEvent = Omit<Flow, 'last' | 'count'>;

/** Ends when the service is away for longer than it takes to start again. What happened meanwhile is reported as missed. */
async function follow(
  { out }: Session,
  client: ApiClient,
  container: string | undefined,
  options: Options,
): Promise<void> {
  const fits = await filterOf(options);
  let after: string | undefined;
  let wasOpen = false;
  for (let tries = 0; ; tries++) {
    const query = {
      kind: 'flow',
      ...(container === undefined ? {} : { container }),
      ...(after === undefined ? {} : { after }),
    };
    try {
      for await (const { id, kind, data } of client.events(query, new AbortController().signal)) {
        tries = 0;
        if (kind === 'missed') out.note(`events were left out: ${shownJson(data)}`);
        else after = id;
        if (kind === 'flow' && fits(data as FlowEvent)) printEvent(out, data as FlowEvent);
      }
      wasOpen = true;
      out.note('the service has ended the stream; waiting until it is there again');
    } catch (e) {
      if (!(e instanceof UnreachableError) || !wasOpen || tries > MOST_TRIES) throw e;
    }
    await sleep(RETRY_MS);
  }
}
const RETRY_MS = 1_000;
/** A restart takes a few seconds. */
const MOST_TRIES = 60;

async function filterOf({ denied, verdict, name, project }: Options): Promise<(event: FlowEvent) => boolean> {
  const verdicts = denied ? ['deny', 'would-deny', 'threat'] : verdict?.split(',');
  const [{ glob }, { composeOf }] = await Promise.all([
    import('../lib/glob.js'),
    import('../policy/own-labels.js'),
  ]);
  const fitsName = name === undefined ? () => true : glob(name.toLowerCase());
  return (event) =>
    (project === undefined || composeOf(event.owner)?.project === project) &&
    (!verdicts || verdicts.includes(event.verdict)) &&
    fitsName(event.name ?? event.address);
}

function printEvent(out: Output, event: FlowEvent): void {
  if (out.isJson) out.line(shownJson(event));
  else out.line(row(out, { ...event, last: event.time, count: 1 }).join('  '));
}

async function mark(
  { out }: Session,
  client: ApiClient,
  container: string | undefined,
  destination: string,
  isKnown: boolean,
): Promise<number> {
  if (container === undefined)
    return wrongUsage(
      'a destination is known of one container',
      `drawbridge flows CONTAINER --mark-known ${destination}`,
    );
  const known = await withContainer(client, container, (name) =>
    client.markKnown(name, destination, isKnown),
  );
  const at = known.port === null ? known.target : `${known.target}, port ${known.port},`;
  out.show(known, () =>
    out.line(
      isKnown
        ? `${at} of ${known.owner} is known: it raises no alert, and stays denied as before`
        : `${at} of ${known.owner} is no longer marked as known`,
    ),
  );
  return 0;
}

interface SuggestOptions {
  readonly project?: string | undefined;
  readonly compose?: true;
  readonly format?: string;
  readonly since?: string;
  readonly unused?: string;
  readonly includeDenied?: true;
}

export function suggestCommand(program: Command, registry: Registry): void {
  registry.add<[string | undefined], SuggestOptions>(program, {
    usage: 'suggest [container]',
    summary: 'the smallest list that permits what a container, or a project, was seen to use',
    options: [
      PROJECT_OPTION,
      ['--format <format>', `${SUGGESTION_FORMATS.join(', ')} (default in a pipe: yaml)`],
      ['--compose', 'the same as --format compose'],
      ['--since <duration>', 'only what was used within this time, as in 7d'],
      ['--unused <duration>', 'entries that were not used for this time are to be removed (default: 30d)'],
      ['--include-denied', 'suggest what is denied now as well'],
    ],
    examples: ['suggest web', 'suggest web > web.yaml', 'suggest --project shop --compose'],
    run: async (session, [container], options) => {
      const format = formatOf(options);
      const { out } = session;
      const { of, suggestions } = await suggestionsOf(session, { ...options, container });
      out.show(container === undefined ? suggestions : suggestions[0], () => {
        if (format === undefined && out.isTerminal) printSuggestions(out, suggestions);
        else
          for (const line of suggestionText(of, suggestions, format ?? 'yaml')
            .trimEnd()
            .split('\n'))
            out.line(line);
      });
      return 0;
    },
  });
}

function formatOf({ format, compose }: SuggestOptions): SuggestionFormat | undefined {
  if (compose) return 'compose';
  const found = SUGGESTION_FORMATS.find((known) => known === format);
  return format === undefined || found
    ? found
    : wrongUsage(`invalid format "${format}"`, `write one of ${SUGGESTION_FORMATS.join(', ')}`);
}

/** `of`: the container or the project, for people. */
export async function suggestionsOf(
  session: Session,
  { container, project, ...options }: SuggestOptions & { readonly container: string | undefined },
): Promise<{ readonly of: string; readonly suggestions: readonly SuggestionBody[] }> {
  if ((container === undefined) === (project === undefined))
    wrongUsage('a container or --project is needed, and one of them only', 'write drawbridge suggest web');
  const { since, unused, includeDenied } = options;
  const query = {
    ...(since === undefined ? {} : { since: durationIn('--since', since) }),
    ...(unused === undefined ? {} : { unused: durationIn('--unused', unused) }),
    ...(includeDenied ? { includeDenied: 'true' as const } : {}),
  };
  const client = await session.client();
  if (container === undefined)
    return { of: `project ${project}`, suggestions: await client.suggestions(project ?? '', query) };
  const one = await withContainer(client, container, (name) => client.suggestion(name, query));
  return { of: one.container, suggestions: [one] };
}

function durationIn(flag: string, text: string): string {
  const parsed = parseDuration(text);
  if (parsed.ok && parsed.value > 0) return text;
  const problem = parsed.ok ? undefined : parsed.problems[0];
  return wrongUsage(`${flag}: ${problem?.detail ?? 'the time is 0'}`, problem?.remedy ?? 'write it like 7d');
}

/** One line for each service, then what is to be read, then what is true of all of them once. */
function printSuggestions(out: Output, suggestions: readonly SuggestionBody[]): void {
  for (const text of suggestions.flatMap((s) => nothingText(s) ?? [])) out.prose(text);
  for (const s of suggestions) printSuggestion(out, s);
  for (const note of notesText(suggestions)) out.prose(withTimes(out, note));
  const from = suggestions.length === 1 ? `--from ${suggestions[0]?.container}` : '--project PROJECT';
  out.line(`in force with: drawbridge lists create NAME ${from}, or its labels (--format compose)`);
}

/** Times in a text as people read them. */
const withTimes = (out: Output, text: string): string =>
  text.replace(/\d{4}-\d\d-\d\dT[\d:]+Z/g, (time) => out.time(time));

function printSuggestion(out: Output, s: SuggestionBody): void {
  out.prose(`${shownName(s)}: ${summaryLine(s)}`);
  const part = (title: string, head: readonly string[], rows: readonly (readonly string[])[]): void => {
    if (rows.length === 0) return;
    out.line(`${title}:`);
    out.table(
      head,
      rows.map((row) => row.map((cell) => withTimes(out, cell))),
    );
  };
  part(
    'lists',
    ['LIST', 'PERMITS', 'WHY'],
    [
      ...s.lists.map((l) => [l.list, l.covers.join(' ') || '-', l.comment]),
      ...s.offered.map((l) => [l.list, l.covers.join(' '), `not taken: it has ${l.size} entries`]),
    ],
  );
  part(
    'entries',
    ['ENTRY', 'USE', 'ANYONE CAN RECEIVE'],
    s.entries.map((e) => [e.entry, e.comment, e.risk ?? '-']),
  );
  part(
    'left out',
    ['DESTINATION', 'TIMES', 'WHY'],
    s.left.map((l) => [l.entry, String(l.count), l.action === 'decide' ? `${l.why}: decide` : l.why]),
  );
  part(
    'not used, to be removed',
    ['ENTRY', 'FROM', 'NOT USED SINCE'],
    s.remove.map((r) => [r.entry, r.from, r.unusedSince]),
  );
}
