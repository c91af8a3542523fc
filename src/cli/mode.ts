import { Argument, type Command } from 'commander';
import type { PreviewBody } from '../api/schemas.js';
import type { Registry } from './command.js';
import type { Output } from './output.js';

export function modeCommand(program: Command, registry: Registry): void {
  const command = registry.add<[string, string]>(program, {
    usage: 'mode <container>',
    summary:
      'set the mode; enforce first prints what it denies, as far as it was recorded; auto: labels and lists decide',
    examples: ['mode web enforce', 'mode web auto'],
    run: async (session, [container, mode]) => {
      const client = await session.client();
      const preview = mode === 'enforce' ? await client.preview(container) : undefined;
      if (preview && !session.out.isJson) showPreview(session.out, preview);
      const now = await client.setMode(container, mode);
      const wouldCut = preview?.destinations ?? [];
      session.out.show(
        { container: now.name, mode: now.mode, modeFrom: now.modeFrom, wouldCut, preview },
        () => session.out.line(`${now.name}: ${now.mode} (set by ${now.modeFrom})`),
      );
      return 0;
    },
  });
  command.addArgument(new Argument('<mode>').choices(['enforce', 'observe', 'off', 'auto']));
}

function showPreview(out: Output, preview: PreviewBody): void {
  const { destinations, flows, dropped, notRecorded, gaps } = preview;
  out.line(recorded(preview));
  for (const g of gaps) out.line(`not recorded from ${g.from} to ${g.to}: ${g.reason}`);
  if (dropped > 0) out.line(`${dropped} connections were not recorded: there were too many at once`);
  for (const sentence of notRecorded) out.line(sentence);
  if (destinations.length > 0) {
    out.line('enforce denies these destinations, by the entry that would permit them:');
    out.table(
      ['ENTRY', 'DESTINATION', 'TIMES', 'LAST'],
      destinations.map((d) => [d.entry ?? '-', destination(d), String(d.count), d.last]),
    );
  }
  if (flows.length > 0) out.line(`enforce ends ${flows.length} open connections`);
}

function recorded({ recordingSince, destinations }: PreviewBody): string {
  if (recordingSince === null) return 'its traffic is not recorded now';
  const since = `recorded without interruption since ${recordingSince}`;
  return destinations.length > 0 ? since : `${since}: nothing that enforce denies`;
}

function destination({ name, address, port, proto }: PreviewBody['destinations'][number]): string {
  if (proto === 'dns') return 'resolved only';
  const host = address.includes(':') ? `[${address}]` : address;
  const place = port > 0 ? `${host}:${port}/${proto}` : `${host}/${proto}`;
  return name === null ? place : `${name} (${place})`;
}
