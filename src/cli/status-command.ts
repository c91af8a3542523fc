import type { Command } from 'commander';
import type { ApiClient } from '../api/client.js';
import type { Status } from '../api/schemas.js';
import type { ClosedStatus } from '../api/schemas-fleet.js';
import { counted } from '../lib/units.js';
import { type Registry, WATCH_OPTION, watch } from './command.js';
import type { KeptOwner } from './named-containers.js';
import type { Output } from './output.js';

export function statusCommand(program: Command, registry: Registry): void {
  registry.add<[], { readonly watch?: true }>(program, {
    usage: 'status',
    summary: 'how many containers are enforced and with which coverage; kernel, store, feeds',
    options: [WATCH_OPTION],
    exits: '1 also when the service runs closed',
    examples: ['status', 'status --json', 'status --watch'],
    run: async (session, _args, options) => {
      if (options.watch)
        return watch(session, async (out) => {
          const client = await session.client();
          await print(out, client, await client.anyStatus());
        });
      const client = await session.client();
      const status = await client.anyStatus();
      if (session.out.isJson) session.out.show(status, () => undefined);
      else await print(session.out, client, status);
      return 'closed' in status ? 1 : 0;
    },
  });
}

function printClosed(out: Output, { closed, node, version }: ClosedStatus): void {
  out.verdict(
    'CLOSED',
    ` since ${out.time(closed.since)}: nothing new passes; containers that have rules in the kernel keep them`,
  );
  out.line(`  ${closed.reason}`);
  out.line(`  → ${closed.remedy}`);
  out.line(`node: ${node}, drawbridge ${version}`);
}

async function print(out: Output, client: ApiClient, s: Status | ClosedStatus): Promise<void> {
  if ('closed' in s) return printClosed(out, s);
  out.line(opening(s));
  if (s.enforced > 0) out.line(coverage(s));
  if (s.lockdown)
    out.verdict('LOCKDOWN', ` since ${out.time(s.lockdown.since)} by ${s.lockdown.by}: nothing passes`);
  for (const warning of s.warnings) out.verdict('WARNING', `: ${warning}`);
  if (s.paused > 0)
    out.verdict(
      'PAUSED',
      `: ${counted(s.paused, 'container')} ${s.paused === 1 ? 'is' : 'are'} observed for a time, not enforced`,
    );
  temporary(out, s);
  await printKept(client, out, s);
  if (s.labelErrors > 0)
    out.verdict(
      'LABELS',
      `: ${counted(s.labelErrors, 'container')} with a label that does not parse (drawbridge scan)`,
    );
  if (s.missingLists > 0)
    out.verdict(
      'LISTS',
      `: ${counted(s.missingLists, 'container')} with a list that does not exist (drawbridge scan)`,
    );
  if (!s.kernel.ready) out.verdict('NOT READY', `: ${s.kernel.reason}`);
  const repaired =
    s.kernel.lastRepair === null ? 'never repaired' : `last repaired ${out.time(s.kernel.lastRepair)}`;
  out.line(`kernel: ${s.kernel.inSync ? 'in sync' : 'NOT in sync'}, ${repaired}`);
  if (s.canary) out.line(`canary: ${canaryText(out, s.canary)}`);
  out.line(`names of connections: ${checkedText(s.connections)}`);
  out.line(`store: ${s.store.kind}, ${s.store.ok ? 'ok' : 'FAILING'}: ${s.store.detail}`);
  for (const held of s.store.unwritten)
    out.verdict(
      'NOT STORED',
      `: ${held.action} (${held.target}), since ${out.time(held.since)}: ${held.note}`,
    );
  if (s.fleet.stale.length > 0)
    out.verdict('SILENT HOSTS', `: ${s.fleet.stale.join(', ')} (drawbridge nodes)`);
  out.line(
    `threats: ${counted(s.threats.entries, 'entry', 'entries')} of ${counted(s.threats.feeds, 'feed')}`,
  );
  for (const alert of s.threats.alerts) out.line(`  ALERT ${alert}`);
  const others = s.fleet.nodes > 1 ? `, one of ${s.fleet.nodes}` : '';
  out.line(`node: ${s.node}${others}, drawbridge ${s.version}`);
}

/** Modes that end, or that enforce nothing yet. */
function temporary(out: Output, { trials, trialUntil, evaluated }: Status): void {
  const first = trialUntil ? `, the first ${out.until(trialUntil)}` : '';
  const what = (n: number): string => `${counted(n, 'container')} ${n === 1 ? 'is' : 'are'}`;
  if (trials > 0)
    out.verdict('TRIAL', `: ${what(trials)} enforced on trial${first} (drawbridge mode NAME confirm)`);
  if (evaluated > 0) out.verdict('EVALUATED', `: ${what(evaluated)} observed against a list`);
}

function canaryText(out: Output, { ok, at, detail }: Status['canary']): string {
  const word = ok === null ? 'proves nothing' : ok ? 'ok' : 'FAILED';
  return `${word}: ${detail}${at === null ? '' : ` (${out.time(at)})`}`;
}

/** `connections` is missing in the answer of an older service. */
function checkedText(c: Status['connections'] | undefined): string {
  if (!c) return 'not checked';
  const lost = c.beyondBounds + c.queueFull + c.faults;
  const text = `checked, ${counted(c.refused, 'connection')} refused`;
  return lost === 0
    ? text
    : `${text}. DROPPED: ${counted(lost, 'packet')} (${c.beyondBounds} beyond the bounds of a container, ${c.queueFull} because the queue was full, ${c.faults} because of errors)`;
}

/** Counts containers by mode. A container in mode enforce counts as enforced whatever its coverage, which has a line of its own. */
const opening = ({ enforced, containers, observed, off }: Status): string =>
  `${enforced} of ${containers} enforced, ${observed} observed${off > 0 ? `, ${off} off` : ''}`;

function coverage({ coverage: { enforced, partial, unenforced } }: Status): string {
  const counts = `coverage of the enforced: ${enforced} full, ${partial} partial, ${unenforced} none`;
  return partial + unenforced > 0 ? `${counts} (drawbridge ps, drawbridge inspect NAME)` : counts;
}

const MOST_SHOWN = 5;

/** What is set for owners without a container, and how it is taken away. A service of an older version does not report it. */
async function printKept(client: ApiClient, out: Output, { kept, fleet }: Status): Promise<void> {
  if (!kept || kept.owners.length === 0) return;
  const gone = kept.owners.filter((o) => o.hasProject);
  const others = kept.owners.filter((o) => !o.hasProject);
  const here = fleet.nodes > 1 ? ' on this host' : '';
  if (gone.length > 0)
    out.verdict(
      'LEFT BEHIND',
      `: ${countsOf(gone)} for ${counted(gone.length, 'service')} without a container${here}, though others of the project have one: renamed, or removed${here === '' ? '' : ', or on another host'}`,
    );
  for (const one of gone.slice(0, MOST_SHOWN)) out.prose(await keptText(client, out, one), 2);
  if (gone.length > MOST_SHOWN) out.line(`  and ${gone.length - MOST_SHOWN} more (drawbridge status --json)`);
  if (others.length > 0)
    out.prose(
      `kept: ${countsOf(others)} for ${counted(others.length, 'stopped service or name', 'stopped services or names')}, without a container${here}: ${listed(others.map(({ owner }) => shortOf(owner)))}`,
    );
}

function countsOf(owners: readonly KeptOwner[]): string {
  const modes = owners.filter(({ mode }) => mode !== null).length;
  const grants = owners.reduce((sum, o) => sum + o.grants.length, 0);
  return [
    ...(modes > 0 ? [counted(modes, 'mode')] : []),
    ...(grants > 0 ? [counted(grants, 'grant')] : []),
  ].join(' and ');
}

async function keptText(client: ApiClient, out: Output, { owner, mode, grants }: KeptOwner): Promise<string> {
  const name = shortOf(owner);
  const record = await client.flows({ container: name, limit: '1' }).catch(() => undefined);
  const last = record?.items[0]?.last;
  return [
    `${name}${last === undefined ? '' : `, last seen in the record ${out.time(last)}`}`,
    ...(mode === null ? [] : [`mode ${mode}: drawbridge mode ${name} auto`]),
    ...grants.slice(0, MOST_SHOWN).map((g) => `grant: drawbridge revoke ${name} '${g.entry}'`),
    ...(grants.length > MOST_SHOWN ? [`and ${grants.length - MOST_SHOWN} more grants`] : []),
  ].join(' · ');
}
/** As a command takes it. */
const shortOf = (owner: string): string => owner.slice(owner.indexOf(':') + 1);
const listed = (names: readonly string[]): string =>
  `${names.slice(0, MOST_SHOWN).join(', ')}${names.length > MOST_SHOWN ? ` and ${names.length - MOST_SHOWN} more` : ''}`;
