/** What a container talked to, as Markdown for the summary of a CI job. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type ApiClient, ApiError } from '../api/client.js';
import type { Flow, FlowsBody, SuggestionBody } from '../api/schemas-traffic.js';
import { missingTexts } from '../flows/missing.js';
import { suggestionText } from '../suggest/suggestion-text.js';
import { destinationText, sizeText } from './output.js';

export interface FlowSummary {
  /** As the command line has it. */
  readonly container: string;
  readonly flows: FlowsBody;
  /** Left out: nothing is recorded that a list could permit. */
  readonly suggestion?: SuggestionBody;
  /** Connections that passed before this time must be in the records (ms since the epoch). */
  readonly wanted: number;
  /** Only a part was asked for, by time, name or verdict. */
  readonly isPart: boolean;
}

/** Open connections are read every ten seconds (flows/passed-flows.ts), and reported a second later. */
const LONGEST_WAIT_MS = 20_000;
const POLL_MS = 500;

/** Read the flows until all connections before the call are recorded, or the time is over. */
export async function readSettled(read: () => Promise<FlowsBody>, wanted: number): Promise<FlowsBody> {
  for (let body = await read(); ; body = await read()) {
    const isOver = Date.now() - wanted > LONGEST_WAIT_MS;
    if (isOver || body.recordedUntil === null || Date.parse(body.recordedUntil) >= wanted) return body;
    await sleep(POLL_MS);
  }
}

/** The suggestion for the service, or the name, of these flows. */
export async function suggestionFor(
  client: ApiClient,
  { items }: FlowsBody,
): Promise<SuggestionBody | undefined> {
  const [newest] = items;
  if (!newest) return undefined;
  return client.suggestion(newest.owner, {}).catch((e: unknown) => {
    if (e instanceof ApiError && e.problem.status === NOT_FOUND) return undefined;
    throw e;
  });
}
const NOT_FOUND = 404;

export function summaryText(summary: FlowSummary): string {
  const { container, flows } = summary;
  const rows = rowsOf(flows.items);
  const missing = missingOf(summary);
  return [
    `### What ${code(container)} talked to`,
    rows.length === 0 ? 'Nothing is recorded.' : [...HEAD, ...rows.map(rowText)].join('\n'),
    sinceText(summary),
    ...(missing.length === 0
      ? []
      : [`**This record is not complete:**\n\n${missing.map((m) => `- ${m}`).join('\n')}`]),
    ...listText(summary),
  ]
    .join('\n\n')
    .concat('\n');
}

const HEAD = [
  '| destination | verdict | connections | bytes | decided by |',
  '| --- | --- | ---: | ---: | --- |',
] as const;

interface Row {
  readonly to: string;
  readonly verdict: Flow['verdict'];
  readonly by: string;
  readonly count: number;
  readonly bytes: number;
}
/** What needs a look comes first. */
const ORDER: readonly Flow['verdict'][] = ['threat', 'deny', 'would-deny', 'ask', 'allow'];

/** One row for each name or address with its port and what decided. */
function rowsOf(items: readonly Flow[]): readonly Row[] {
  const rows = new Map<string, Row>();
  const connected = new Set(items.flatMap(({ proto, name }) => (proto === 'dns' ? [] : [name])));
  for (const flow of items) {
    const { name, address, verdict, count, bytes } = flow;
    const isRefused = verdict === 'deny' || verdict === 'threat';
    if (flow.proto === 'dns' && !isRefused && connected.has(name)) continue;
    const to =
      flow.proto === 'dns'
        ? destinationText(flow)
        : destinationText({ ...flow, name: null, address: name ?? address });
    const by = decidedBy(flow);
    const key = JSON.stringify([to, verdict, by]);
    const same = rows.get(key);
    rows.set(key, { to, verdict, by, count: count + (same?.count ?? 0), bytes: bytes + (same?.bytes ?? 0) });
  }
  return [...rows.values()].sort(
    (a, b) => ORDER.indexOf(a.verdict) - ORDER.indexOf(b.verdict) || (a.to < b.to ? -1 : a.to > b.to ? 1 : 0),
  );
}

const rowText = ({ to, verdict, by, count, bytes }: Row): string => {
  const shown = verdict === 'allow' ? verdict : `**${verdict}**`;
  return `| ${code(to)} | ${shown} | ${count} | ${bytes === 0 ? '-' : sizeText(bytes)} | ${by} |`;
};

function decidedBy({ entry, list, feed, reason }: Flow): string {
  if (entry === null || feed !== null) return code(reason);
  return list === null ? code(entry) : `${code(entry)} (list ${code(list)})`;
}

const NEVER_RECORDED = 'Connections that pass on macvlan and ipvlan networks are never recorded.';

function sinceText({ flows: { container, items, recordingSince } }: FlowSummary): string {
  const times = items.flatMap(({ time, last }) => [time, last]).sort();
  const [first = '', last = ''] = [times[0], times.at(-1)];
  const span = items.length === 0 ? [] : [`First and last contact: ${first}, ${last}.`];
  const since = container?.since ?? recordingSince;
  const several =
    container && container.containers > 1
      ? [`${container.containers} containers had this name: this is what all of them did.`]
      : [];
  const whole = since < recordingSince ? recordingSince : since;
  return [...span, `Recorded since ${whole}.`, ...several, NEVER_RECORDED].join(' ');
}

/** Sentences about what may be missing. */
function missingOf({ flows, wanted, isPart }: FlowSummary): readonly string[] {
  const { container, gaps, dropped, recordedUntil, recordingSince, items, next } = flows;
  const since = container?.since ?? recordingSince;
  const during = gaps.filter(({ to }) => to > since);
  return [
    ...(isPart ? ['Only a part was asked for: other connections are not shown.'] : []),
    ...(next === null ? [] : [`Only the newest records are shown (${items.length}).`]),
    ...(container ? [] : ['It is not known when the container started.']),
    ...(since < recordingSince ? [`Records from before ${recordingSince} are no longer kept.`] : []),
    ...(recordedUntil === null
      ? ['Connections that pass are not recorded now: see `drawbridge status`.']
      : Date.parse(recordedUntil) < wanted
        ? [`Connections after ${recordedUntil} may be missing: the connection table was not read since.`]
        : []),
    ...missingTexts({ gaps: during, dropped }, { reason: code }).map(
      (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}.`,
    ),
  ];
}

function listText({ container, suggestion }: FlowSummary): readonly string[] {
  if (!suggestion) return [];
  const text = suggestionText(container, [suggestion], 'yaml').trimEnd();
  const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map(([run]) => run.length));
  const fence = '`'.repeat(longest + 1);
  return [
    '<details><summary>A list that covers it</summary>',
    `Of what ${code(suggestion.owner)} was seen to use in all its starts, as \`drawbridge suggest\` prints it.`,
    `${fence}yaml\n${text}\n${fence}`,
    '</details>',
  ];
}

/**
 * A code span of text that others have made: a container chooses the names that it resolves. In a span there are no links, mentions, HTML
 * or emphasis. What would end the span or the cell of a table, or is not printable ASCII, is shown by its code point.
 */
export function code(text: string): string {
  const safe = text.replace(/[^\x20-\x7e]|[`|\\]/gu, (c) => `\\u{${c.codePointAt(0)?.toString(16)}}`);
  return safe.trim() === '' ? '`(empty)`' : `\`${safe.trim()}\``;
}
