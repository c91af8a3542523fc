/** Every figure about connections that a person sees, from wherever it is shown. */
import { type ClientRequest, request } from 'node:http';
import { expect } from 'vitest';
import type { Drawbridge } from '../lab/drawbridge.js';
import { waitFor } from '../lab/process.js';

interface Shown {
  readonly name: string;
  readonly allowed: number;
  readonly denied: number;
  readonly wouldDeny: number;
  readonly entries: readonly { readonly entry: string; readonly count: number; readonly bytes: number }[];
}
/** Of one container. `would-deny`: it passed because the container is observed. */
export interface Figures {
  readonly allow: number;
  readonly deny: number;
  readonly 'would-deny': number;
}
type Verdicts = Readonly<Record<string, number>>;
interface FlowLike {
  readonly container: string;
  readonly verdict: string;
  readonly proto: string;
  readonly count: number;
}

/** A client may ask for so much in a minute, and is told when it has. */
const json = <T>(drawbridge: Drawbridge, path: string): Promise<T> =>
  waitFor(path, async () => {
    const { status, body } = await drawbridge.get(path);
    if (status !== 429) expect({ path, status, body }).toMatchObject({ status: 200 });
    return status === 200 && JSON.parse(body);
  });

export async function shownOf(drawbridge: Drawbridge, name: string): Promise<Shown> {
  return json(drawbridge, `/v1/containers/${name}`);
}

export async function flowsOf(drawbridge: Drawbridge, name: string): Promise<readonly FlowLike[]> {
  const { items, next } = await json<{ items: FlowLike[]; next: string | null }>(
    drawbridge,
    `/v1/flows?container=${name}&limit=9999`,
  );
  expect(next).toBeNull();
  return items;
}

/** Flow events of all containers since it was made: connections by verdict. */
export class FlowEvents implements AsyncDisposable {
  readonly sums: Record<string, number> = {};
  readonly #request: ClientRequest;

  private constructor(drawbridge: Drawbridge, opened: () => void) {
    this.#request = request({ socketPath: drawbridge.apiSocket, path: '/v1/events?kind=flow' }, (answer) => {
      let rest = '';
      answer.setEncoding('utf8').on('data', (text: string) => {
        const blocks = (rest + text).split('\n\n');
        rest = blocks.pop() ?? '';
        for (const block of blocks) this.#read(block);
      });
      opened();
    });
    this.#request.on('error', () => undefined).end();
  }

  static async of(drawbridge: Drawbridge): Promise<FlowEvents> {
    let events: FlowEvents | undefined;
    await new Promise<void>((opened) => {
      events = new FlowEvents(drawbridge, opened);
    });
    if (!events) throw new Error('no events');
    return events;
  }

  #read(block: string): void {
    expect(block).not.toContain('event: missed');
    const [, data] = /^data: (.*)$/m.exec(block) ?? [];
    if (data === undefined) return;
    const { verdict, count = 1 }: { verdict: string; count?: number } = JSON.parse(data);
    this.sums[verdict] = (this.sums[verdict] ?? 0) + count;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#request.destroy();
  }
}

/** What an observed container is said to have used, by the suggestion and by the preview of mode enforce. */
export async function observedFigures(drawbridge: Drawbridge, name: string) {
  const sum = (of: readonly { readonly count: number }[]): number => of.reduce((all, o) => all + o.count, 0);
  type Counted = readonly { readonly count: number }[];
  const suggested = await json<{ entries: Counted; left: Counted }>(drawbridge, `/v1/suggestions/${name}`);
  const preview = await json<{ destinations: Counted; dropped: number }>(
    drawbridge,
    `/v1/containers/${name}/preview`,
  );
  return {
    suggested: sum(suggested.entries) + sum(suggested.left),
    previewed: sum(preview.destinations),
    previewDropped: preview.dropped,
  };
}

const sumOf = (flows: readonly FlowLike[], verdict: string): number =>
  flows.filter((f) => f.verdict === verdict).reduce((all, f) => all + f.count, 0);

export const verdictsOf = (of: readonly FlowLike[]): Figures => ({
  allow: sumOf(of, 'allow'),
  deny: sumOf(of, 'deny'),
  'would-deny': sumOf(of, 'would-deny'),
});

/** What GET /metrics has, by series. */
export async function metricsOf(drawbridge: Drawbridge): Promise<Verdicts> {
  const { body } = await drawbridge.get('/metrics');
  return Object.fromEntries(
    body
      .split('\n')
      .filter((line) => line.startsWith('drawbridge_'))
      .map((line) => line.split(/ (?=\S+$)/) as [string, string])
      .map(([series, value]) => [series, Number(value)]),
  );
}

const totalsOf = ({ allowed, denied, wouldDeny }: Omit<Shown, 'name' | 'entries'>) => ({
  ...{ allowed, denied, wouldDeny },
});

/** By each way in which the API shows figures of a container: what it shows. */
export async function apiFigures(drawbridge: Drawbridge, name: string): Promise<Record<string, unknown>> {
  const listed = await json<{ items: Shown[] }>(drawbridge, '/v1/containers');
  const page = (await drawbridge.get('/')).body;
  const [, allowed, denied, would] =
    new RegExp(`<tr><td>${name}${'<td>[^<]*'.repeat(3)}${'<td>(\\d+)'.repeat(3)}<td>`).exec(page) ?? [];
  return {
    'GET /v1/containers/NAME': totalsOf(await shownOf(drawbridge, name)),
    'GET /v1/containers': listed.items.filter((c) => c.name === name).map(totalsOf),
    'GET /': { allowed: Number(allowed), denied: Number(denied), wouldDeny: Number(would) },
    'GET /v1/flows': verdictsOf(await flowsOf(drawbridge, name)),
  };
}

/** By each way in which figures of a container are shown: what it shows. */
export async function everyFigure(drawbridge: Drawbridge, name: string): Promise<Record<string, unknown>> {
  const cli = async (...words: string[]): Promise<string> => {
    const { code, stdout, stderr } = await drawbridge.cli(words);
    expect({ words, code, stderr }).toMatchObject({ code: 0 });
    return stdout;
  };
  const inspected = await cli('inspect', name);
  const [, inAllowed, inDenied, inWould = 0] =
    /^ {2}connections: +(\d+) allowed, (\d+) denied(?:, (\d+) passed that would be denied)?$/m.exec(
      inspected,
    ) ?? [];
  // columns are separated by tabs where the output is no terminal
  const row = (await cli('ps', name)).split('\n').find((line) => line.startsWith(`${name}\t`)) ?? '';
  const [, , , , psAllowed, psText = ''] = row.split('\t');
  const [, psDenied, psWould = 0] = /^(\d+)(?: \(would: (\d+)\))?$/.exec(psText) ?? [];
  const told = JSON.parse(await cli('flows', name, '--json', '--limit', '9999')) as { items: FlowLike[] };
  return {
    ...(await apiFigures(drawbridge, name)),
    ps: { allowed: Number(psAllowed), denied: Number(psDenied), wouldDeny: Number(psWould) },
    'ps --json': (JSON.parse(await cli('ps', name, '--json')) as Shown[]).map(totalsOf),
    inspect: { allowed: Number(inAllowed), denied: Number(inDenied), wouldDeny: Number(inWould) },
    'flows --json': verdictsOf(told.items),
    'flows --format markdown': markdownOf(
      await cli('flows', name, '--format', 'markdown', '--limit', '9999'),
    ),
  };
}

/** What each of them must show. */
export function expectedOfApi({ allow, deny, 'would-deny': would }: Figures): Record<string, unknown> {
  const totals = { allowed: allow, denied: deny, wouldDeny: would };
  return {
    'GET /v1/containers/NAME': totals,
    'GET /v1/containers': [totals],
    'GET /': totals,
    'GET /v1/flows': { allow, deny, 'would-deny': would },
  };
}
export function expected(figures: Figures): Record<string, unknown> {
  const { allow, deny, 'would-deny': would } = figures;
  const totals = { allowed: allow, denied: deny, wouldDeny: would };
  const verdicts = { allow, deny, 'would-deny': would };
  return {
    ...expectedOfApi(figures),
    ps: totals,
    'ps --json': [totals],
    inspect: totals,
    'flows --json': verdicts,
    'flows --format markdown': { ...verdicts, missing: [] },
  };
}

/** The summary of a CI job: its column of connections, by verdict, and what it says is missing. */
function markdownOf(text: string): Figures & { readonly missing: readonly string[] } {
  const sums = { allow: 0, deny: 0, 'would-deny': 0 };
  for (const [, verdict, count] of text.matchAll(/^\| [^|]+ \| \**([a-z-]+)\** \| (\d+) \|/gm))
    if (verdict !== undefined && verdict in sums) sums[verdict as keyof typeof sums] += Number(count);
  const [, missing = ''] = /This record is not complete:\*\*\n\n((?:- .*\n)+)/.exec(text) ?? [];
  // a service that has just started says so
  return { ...sums, missing: missing.split('\n').filter((line) => line.includes('could not be recorded')) };
}
