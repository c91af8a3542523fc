import type { Command } from 'commander';
import type { ClosedStatus, ContainerBody, Explain, ScanBody, Status } from '../api/schemas.js';
import type { Flow } from '../api/schemas-traffic.js';
import { type Registry, WATCH_OPTION, watch } from './command.js';
import { containersOf, withContainer } from './named-containers.js';
import { counted, destinationText, modeReason, type Output } from './output.js';

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
          const status = await (await session.client()).anyStatus();
          if ('closed' in status) printClosed(out, status);
          else print(out, status);
        });
      const status = await (await session.client()).anyStatus();
      if ('closed' in status) {
        session.out.show(status, () => printClosed(session.out, status));
        return 1;
      }
      session.out.show(status, () => print(session.out, status));
      return 0;
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

function print(out: Output, s: Status): void {
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

const HEAD = ['NAME', 'MODE', 'PROTECTION', 'LISTS', 'ALLOWED', 'DENIED', 'GRANTS', 'NOTES'];
const SHOWN = 2;
/** Findings that weaken nothing, and that an operator must see all the same. */
const TOLD = ['broken-label', 'missing-list'];

export function psCommand(program: Command, registry: Registry): void {
  registry.add<[string | undefined], { readonly watch?: true }>(program, {
    usage: 'ps [container]',
    summary: 'containers in a line each: mode, protection, lists, new connections allowed and denied, grants',
    options: [WATCH_OPTION],
    examples: ['ps', "ps 'shop-*'", 'ps --watch', "ps --json | jq '.[] | select(.denied > 0).name'"],
    run: async (session, [container], options) => {
      const read = async () => {
        const client = await session.client();
        return container === undefined ? client.containers() : containersOf(client, container);
      };
      if (options.watch) return watch(session, async (out) => psTable(out, await read()));
      const containers = await read();
      session.out.show(containers, () => psTable(session.out, containers));
      return 0;
    },
  });
}

const psTable = (out: Output, containers: readonly ContainerBody[]): void =>
  out.table(
    HEAD,
    containers.map((c) => row(out, c)),
    'no container runs: see docker ps -a',
  );

function row(out: Output, c: ContainerBody): readonly string[] {
  const grants = c.grants.map((g) => (g.expires === null ? g.entry : `${g.entry} ${out.until(g.expires)}`));
  return [
    c.name,
    modeText(out, c),
    protection(c),
    c.lists.join(',') || '-',
    String(c.allowed),
    String(c.denied),
    grants.join(', ') || '-',
    [...limitWords(out, c), ...hints(c)].join('; ') || '-',
  ];
}

export const modeText = (out: Output, { mode, pausedUntil, trialUntil, against }: ContainerBody): string => {
  const facts = [
    ...(pausedUntil === null ? [] : [`paused ${out.until(pausedUntil)}`]),
    // Fields that an older service does not have.
    ...(trialUntil ? [`on trial ${out.until(trialUntil)}`] : []),
    ...(against ? [`against ${against.list}`] : []),
  ];
  return facts.length === 0 ? mode : `${mode} (${facts.join(', ')})`;
};

const STATES = { enforced: 'full', partial: 'partial', unenforced: 'none' } as const;

/** The coverage and the number of findings that weaken it. Whether the container is enforced depends on its mode. */
export function protection({ coverage, findings }: ContainerBody): string {
  const weak = findings.filter((f) => f.state !== 'enforced').length;
  return coverage.state === 'enforced' ? STATES.enforced : `${STATES[coverage.state]} (${weak})`;
}

/** The codes of findings that weaken the coverage and of wrong labels. drawbridge inspect shows their text. */
function hints({ findings }: ContainerBody): readonly string[] {
  const codes = findings.filter((f) => f.state !== 'enforced' || TOLD.includes(f.code)).map((f) => f.code);
  const all = [...new Set(codes)];
  if (all.length === 0) return [];
  const more = all.length > SHOWN ? ` +${all.length - SHOWN}` : '';
  return [`${all.slice(0, SHOWN).join(', ')}${more}`];
}

/** Its limits, and what is used of its quota. */
export function limitWords(out: Output, { limits, quota }: ContainerBody): readonly string[] {
  if (limits === null) return [];
  if (!quota) return [`limit ${limits}`];
  const state = quota.reached
    ? `quota reached, ${out.until(quota.until)}`
    : `${out.size(quota.used)} of ${out.size(quota.bytes)} used`;
  return [`limit ${limits} (${state})`];
}

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
      const wanted = { container: container.id, verdict: 'denied', limit: String(LAST_DENIALS) };
      const denials = (await client.flows(wanted)).items;
      session.out.show({ ...container, denials }, () => inspectPrint(session.out, container, denials));
      return 0;
    },
  });
}

function inspectPrint(out: Output, c: ContainerBody, denials: readonly Flow[]): void {
  out.line(`${c.name} (${c.id.slice(0, 12)})`);
  const facts: readonly (readonly [string, string])[] = [
    ['image', c.image],
    ['compose', c.compose ? `${c.compose.project}/${c.compose.service}` : '-'],
    ['mode', `${modeText(out, c)} (${modeReason(c.modeFrom)})`],
    ...(c.against
      ? [
          [
            'evaluated',
            `${c.against.list} since ${out.time(c.against.since)}, in place of its policy`,
          ] as const,
        ]
      : []),
    ['protection', protection(c)],
    ['addresses', c.addresses.join(', ') || '-'],
    ['lists', c.lists.join(', ') || '-'],
    ['limits', limitWords(out, c).join('; ') || '-'],
    ['connections', `${c.allowed} allowed, ${c.denied} denied`],
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
    denials.length === 0 ? 'none recorded (drawbridge flows shows since when)' : undefined,
    ['TIME', 'VERDICT', 'TO', 'REASON'],
    denials.map((f) => [out.time(f.time), f.verdict, destinationText(f), f.reason]),
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
    ['ENTRY', 'FROM', 'ADDRESSES NOW', 'COUNT'],
    c.entries.map((e) => [e.entry, e.from, e.addresses.join(' ') || '-', String(e.count)]),
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

interface Options {
  readonly exitCode?: boolean;
  readonly trace?: boolean;
}

export function explainCommand(program: Command, registry: Registry): void {
  registry.add<[string, string], Options>(program, {
    usage: 'explain <container> <destination>',
    summary: 'whether a connection is allowed, what decides it, and the remedy',
    exits: '0 whatever the verdict; with --exit-code 1 if it is denied',
    options: [
      ['--exit-code', 'exit 1 if it is denied'],
      ['--trace', 'print the rules that the packet passes'],
    ],
    examples: [
      'explain web api.github.com:443',
      'explain web 192.0.2.7:25 --exit-code',
      "explain web '[2001:db8::1]:443' --trace",
    ],
    run: async (session, [container, to], options) => {
      const client = await session.client();
      const answer = await withContainer(client, container, (name) => client.explain(name, to));
      session.out.show(answer, () => explainPrint(session.out, answer, options.trace ?? false));
      return options.exitCode && answer.verdict !== 'allow' ? 1 : 0;
    },
  });
}

function explainPrint(out: Output, e: Explain, withTrace: boolean): void {
  out.verdict(e.verdict, `: ${e.container} to ${e.to}`);
  out.line(`  because ${e.reason}`);
  const facts = [
    ['entry', e.entry],
    ['list', e.list],
    ['feed', e.feed],
    ['warning', e.warning],
    ['remedy', e.remedy],
    ['for good', e.lasting],
    ['but', e.coverage],
  ] as const;
  for (const [name, value] of facts) if (value !== null) out.line(`  ${name}: ${value}`);
  if (withTrace) for (const rule of e.trace) out.line(`  | ${rule}`);
}

const SCAN_HEAD = ['CONTAINER', 'KIND', 'COVERAGE', 'FOUND', 'DETAIL', 'REMEDY'];

export function scanCommand(program: Command, registry: Registry): void {
  registry.add<[string | undefined], { readonly exitCode?: true }>(program, {
    usage: 'scan [container]',
    summary: 'security findings: gaps in enforcement and risky settings of containers and this host',
    exits: '0 whatever is found; with --exit-code 1 if anything is',
    examples: ['scan', 'scan web', 'scan --exit-code'],
    options: [['--exit-code', 'exit 1 if anything was found']],
    run: async (session, [container], options) => {
      const client = await session.client();
      const items =
        container === undefined
          ? await client.scan(undefined)
          : await withContainer(client, container, (name) => client.scan(name));
      const rows = items.flatMap(rowsOf);
      session.out.show(items, () => {
        session.out.table(SCAN_HEAD, rows, 'nothing was found');
      });
      return options.exitCode && rows.length > 0 ? 1 : 0;
    },
  });
}

const rowsOf = ({ container, findings }: ScanBody): string[][] =>
  findings.map((f) => [
    container ?? '(host)',
    f.kind,
    f.kind === 'practice' ? '-' : f.state,
    f.code,
    f.detail,
    f.remedy,
  ]);

export function planCommand(program: Command, registry: Registry): void {
  registry.add<[], { exitCode?: boolean }>(program, {
    usage: 'plan',
    summary: 'differences between the kernel and the desired rules (normally none)',
    exits: '0 whatever differs; with --exit-code 1 if anything does',
    options: [['--exit-code', 'exit 1 if there is something to change']],
    examples: ['plan', 'plan --exit-code'],
    run: async (session, _args, options) => {
      const changes = await (await session.client()).plan();
      session.out.show(changes, () => {
        for (const change of changes) session.out.line(change);
        if (changes.length === 0) session.out.note('nothing to change: the kernel is in sync');
      });
      return options.exitCode && changes.length > 0 ? 1 : 0;
    },
  });
}

export function versionCommand(program: Command, registry: Registry): void {
  registry.add(program, {
    usage: 'version',
    summary: 'the version of this command (drawbridge status shows that of the service)',
    examples: ['version', 'version --json'],
    run: async ({ host, out }) => {
      out.show({ version: host.version }, () => out.line(host.version));
      return 0;
    },
  });
}
