import type { ApiClient } from '../api/client.js';
import type { Flow } from '../api/schemas.js';
import type { Output } from './output.js';
import { counted } from './text.js';

/** A destination that was let through only because the container is not enforced. */
export interface Cut {
  /** As an entry that would permit it. */
  readonly to: string;
  readonly count: number;
  /** RFC 3339 UTC */
  readonly last: string;
}
export interface Preview {
  readonly container: string;
  readonly wouldCut: readonly Cut[];
}

/** What enforcing would block, by what was recorded of this container, the most frequent first. */
export async function previewOf(client: ApiClient, container: string): Promise<Preview> {
  const flows = await client.denials(container, new Date(0).toISOString());
  const passed = flows.filter((flow) => flow.verdict === 'would-deny');
  // A name is first asked of DNS and then connected to: one destination.
  const connected = new Set(passed.flatMap((f) => (f.proto === 'dns' ? [] : (f.name ?? []))));
  const cuts = new Map<string, Cut>();
  for (const flow of passed) {
    if (flow.proto === 'dns' && connected.has(flow.name ?? '')) continue;
    const to = entryText(flow);
    const before = cuts.get(to);
    const last = before && before.last > flow.time ? before.last : flow.time;
    cuts.set(to, { to, count: (before?.count ?? 0) + 1, last });
  }
  return { container, wouldCut: [...cuts.values()].sort((a, b) => b.count - a.count) };
}

/** Ports that an entry by name has without saying so. */
const NAME_PORTS = [80, 443];

function entryText({ name, address, port, proto }: Flow): string {
  const host = name ?? (address.includes(':') ? `[${address}]` : address);
  if (proto === 'dns' || (name !== null && proto === 'tcp' && NAME_PORTS.includes(port))) return host;
  const at = port > 0 ? `${host}:${port}` : host;
  return proto === 'tcp' && port > 0 ? at : `${at}/${proto}`;
}

/** How far back the record goes: it is kept in memory, and bounded. */
const WINDOW = 'recorded since the service or the container started, its last 200 events at most';

export function printPreview(out: Output, { container, wouldCut }: Preview): void {
  if (wouldCut.length === 0) {
    out.prose(`${container}: nothing was recorded that enforcing would block (${WINDOW})`);
    return;
  }
  out.prose(
    `${container}: enforcing blocks ${counted(wouldCut.length, 'destination')} that it reaches now (${WINDOW}):`,
  );
  out.table(
    ['DESTINATION', 'TIMES', 'LAST'],
    wouldCut.map((c) => [c.to, String(c.count), out.time(c.last)]),
  );
}
