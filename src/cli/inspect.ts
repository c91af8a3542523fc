import type { Command } from 'commander';
import type { ContainerBody } from '../api/schemas.js';
import type { Flow } from '../api/schemas-traffic.js';
import type { Registry } from './command.js';
import { withContainer } from './containers.js';
import { modeReason } from './mode.js';
import type { Output } from './output.js';
import { limitWords, modeText, protection } from './ps.js';

const LAST_DENIALS = 10;

export function inspectCommand(program: Command, registry: Registry): void {
  registry.add<[string]>(program, {
    usage: 'inspect <container>',
    summary:
      'all that is known of a container: coverage with its reasons, entries, addresses, grants, last denials',
    examples: ['inspect web', 'inspect web --json'],
    run: async (session, [text]) => {
      const client = await session.client();
      const container = await withContainer(client, text, (name) => client.container(name));
      const denials = (await client.denials(container.id, new Date(0).toISOString())).slice(0, LAST_DENIALS);
      session.out.show({ ...container, denials }, () => print(session.out, container, denials));
      return 0;
    },
  });
}

function print(out: Output, c: ContainerBody, denials: readonly Flow[]): void {
  out.line(`${c.name} (${c.id.slice(0, 12)})`);
  const facts: readonly (readonly [string, string])[] = [
    ['image', c.image],
    ['compose', c.compose ? `${c.compose.project}/${c.compose.service}` : '-'],
    ['mode', `${modeText(out, c)} (${modeReason(c.modeFrom)})`],
    ['protection', protection(c)],
    ['addresses', c.addresses.join(', ') || '-'],
    ['lists', c.lists.join(', ') || '-'],
    ['limits', limitWords(out, c).join('; ') || '-'],
    ['connections', `${c.allowed} allowed, ${c.denied} denied since its rules were last laid`],
  ];
  for (const [name, value] of facts) out.line(`  ${`${name}:`.padEnd(13)}${value}`);
  findings(out, c);
  entries(out, c);
  section(
    out,
    'grants',
    c.grants.length === 0 ? 'none' : undefined,
    ['ENTRY', 'ENDS', 'ID'],
    c.grants.map((g) => [g.entry, g.expires === null ? 'when revoked' : out.time(g.expires), g.id]),
  );
  section(
    out,
    'last denials',
    denials.length === 0 ? 'none kept (the last 200 since the service started are)' : undefined,
    ['TIME', 'VERDICT', 'TO', 'REASON'],
    denials.map((f) => [out.time(f.time), f.verdict, destination(f), f.reason]),
  );
}

const WORDS = { enforced: 'note', partial: 'PARTIAL', unenforced: 'NONE' } as const;

function findings(out: Output, c: ContainerBody): void {
  out.line(`coverage: ${c.findings.length === 0 ? 'full, with nothing to add' : ''}`.trimEnd());
  for (const f of c.findings) {
    out.prose(`${WORDS[f.state]} ${f.code}: ${f.detail}`, INDENT);
    if (f.remedy !== '') out.prose(`→ ${f.remedy}`, 2 * INDENT);
  }
}
const INDENT = 2;

function entries(out: Output, c: ContainerBody): void {
  const none = c.mode === 'enforce' ? 'none: it reaches nothing' : 'none';
  section(
    out,
    'entries',
    c.entries.length === 0 ? none : undefined,
    ['ENTRY', 'FROM', 'ADDRESSES NOW', 'PACKETS'],
    c.entries.map((e) => [e.entry, e.from, e.addresses.join(' ') || '-', String(e.packets)]),
  );
}

/** Print a table under a title, or the text `none` if the table is empty. */
function section(
  out: Output,
  title: string,
  none: string | undefined,
  head: readonly string[],
  rows: readonly (readonly string[])[],
): void {
  out.line(none === undefined ? `${title}:` : `${title}: ${none}`);
  if (none === undefined) out.table(head, rows);
}

function destination({ name, address, port, proto }: Flow): string {
  if (proto === 'dns') return `${name ?? address} (DNS)`;
  const host = address.includes(':') ? `[${address}]` : address;
  const at = port > 0 ? `${host}:${port}/${proto}` : `${host}/${proto}`;
  return name === null ? at : `${name} ${at}`;
}
