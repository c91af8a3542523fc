import type { PreviewBody } from '../api/schemas-traffic.js';
import type { Output } from './output.js';
import { counted } from './text.js';

type Destination = PreviewBody['destinations'][number];

/** What enforcing one container blocks, since when that is recorded, and what is not known. */
export function printPreview(out: Output, preview: PreviewBody): void {
  const { container, destinations, flows, notRecorded, gaps, dropped } = preview;
  out.prose(`${container}: ${opening(out, preview)}`);
  if (destinations.length > 0)
    out.table(
      ['TO PERMIT IT', 'DESTINATION', 'TIMES', 'LAST'],
      destinations.map((d) => [d.entry ?? 'no entry can', destination(d), String(d.count), out.time(d.last)]),
    );
  if (flows.length > 0) out.prose(`  it closes ${openFlows(preview)}`);
  for (const g of gaps)
    out.prose(`  not recorded from ${out.time(g.from)} to ${out.time(g.to)}: ${g.reason}`);
  if (dropped > 0)
    out.prose(`  ${counted(dropped, 'connection was', 'connections were')} not recorded: too many at once`);
  for (const sentence of notRecorded) out.prose(`  ${sentence}`);
}

function opening(out: Output, { recordingSince, destinations }: PreviewBody): string {
  const since =
    recordingSince === null
      ? 'its traffic is not recorded now'
      : `recorded without interruption since ${out.time(recordingSince)}`;
  if (destinations.length > 0)
    return `enforcing blocks ${counted(destinations.length, 'destination')} that it used (${since}):`;
  return recordingSince === null
    ? `what enforcing blocks is not known: ${since}`
    : `nothing that enforcing blocks was recorded (${since})`;
}

const MOST_FLOWS = 5;

function openFlows({ flows }: PreviewBody): string {
  const shown = flows.slice(0, MOST_FLOWS).map((f) => f.entry ?? destination(f));
  const more = flows.length > MOST_FLOWS ? ` and ${flows.length - MOST_FLOWS} more` : '';
  return `${counted(flows.length, 'open connection')} (to ${shown.join(', ')}${more})`;
}

function destination({
  name,
  address,
  port,
  proto,
}: Pick<Destination, 'name' | 'address' | 'port' | 'proto'>): string {
  if (proto === 'dns') return `${name ?? ''} (only resolved)`.trim();
  const host = address.includes(':') ? `[${address}]` : address;
  const place = port > 0 ? `${host}:${port}/${proto}` : `${host}/${proto}`;
  return name === null ? place : `${name} (${place})`;
}
