import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import { type ApiClient, UnreachableError } from '../api/client.js';
import type { Flow, FlowsBody } from '../api/schemas-traffic.js';
import { type Registry, type Session, timeBefore } from './command.js';
import { wrongUsage } from './failure.js';
import { withContainer } from './named-containers.js';
import { counted, destinationText, type Output } from './output.js';

interface Options {
  readonly follow?: boolean;
  readonly denied?: boolean;
  readonly verdict?: string;
  readonly since?: string;
  readonly name?: string;
  readonly limit?: string;
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
      "flows --name '*.example.com' --json",
      'flows web --mark-known telemetry.example.com',
    ],
    options: [
      ['-f, --follow', 'go on with flows as they come'],
      ['--denied', 'only what did not pass, or would not: deny, would-deny, threat'],
      ['--verdict <verdicts>', 'only these, with commas: allow, deny, would-deny, threat, ask'],
      ['--since <time>', 'how far back, as in 2h30m, or from when, as in 2030-12-31T00:00Z or "today 14:30"'],
      ['--name <glob>', 'only this name, or this address; * and ? match in it'],
      ['--limit <n>', `how many records, at most ${MOST} (default ${DEFAULT_LIMIT})`],
      ['--mark-known <destination>', 'its first contact with this destination raises no alert any more'],
      ['--unmark-known <destination>', 'take that mark away'],
    ],
    run: async (session, [container], options) => {
      const client = await session.client();
      const destination = options.markKnown ?? options.unmarkKnown;
      if (destination !== undefined)
        return mark(session, client, container, destination, options.markKnown !== undefined);
      const query = queryOf(options);
      const body = await (container === undefined
        ? client.flows(query)
        : withContainer(client, container, (name) => client.flows({ ...query, container: name })));
      if (!options.follow) {
        session.out.show(body, () => print(session.out, body));
        return 0;
      }
      if (!session.out.isJson) print(session.out, body);
      await follow(session, client, container, options);
      return 0;
    },
  });
}

function queryOf({
  denied,
  verdict,
  since,
  name,
  limit = String(DEFAULT_LIMIT),
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
  out.table(HEAD, rows, 'no flow fits');
  if (next !== null) out.note(`these are the newest ${items.length}: --limit shows more, up to ${MOST}`);
  const away = gaps.length === 0 ? '' : `, with ${counted(gaps.length, 'gap')} (--json lists them)`;
  out.note(`recording since ${out.time(recordingSince)}${away}`);
  if (dropped > 0) out.note(`${counted(dropped, 'flow')} could not be recorded`);
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
        if (kind === 'missed') out.note(`events were left out: ${JSON.stringify(data)}`);
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

async function filterOf({ denied, verdict, name }: Options): Promise<(event: FlowEvent) => boolean> {
  const verdicts = denied ? ['deny', 'would-deny', 'threat'] : verdict?.split(',');
  const { glob } = await import('../lib/glob.js');
  const fitsName = name === undefined ? () => true : glob(name.toLowerCase());
  return (event) => (!verdicts || verdicts.includes(event.verdict)) && fitsName(event.name ?? event.address);
}

function printEvent(out: Output, event: FlowEvent): void {
  if (out.isJson) out.line(JSON.stringify(event));
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
