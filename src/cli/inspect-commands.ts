import type { Command } from 'commander';
import type { ContainerBody, Explain, ScanBody } from '../api/schemas.js';
import type { Flow } from '../api/schemas-traffic.js';
import { type Registry, WATCH_OPTION, watch } from './command.js';
import {
  containersOf,
  containersOfProject,
  oneOf,
  PROJECT_OPTION,
  withContainer,
} from './named-containers.js';
import { destinationText, modeReason, type Output } from './output.js';

const HEAD = ['NAME', 'MODE', 'PROTECTION', 'LISTS', 'ALLOWED', 'DENIED', 'GRANTS', 'NOTES'];
const SHOWN = 2;
/** Findings that weaken nothing, and that an operator must see all the same. */
const TOLD = ['broken-label', 'missing-list'];

export function psCommand(program: Command, registry: Registry): void {
  registry.add<[string | undefined], { readonly watch?: true; readonly project?: string }>(program, {
    usage: 'ps [container]',
    summary: 'containers in a line each: mode, protection, lists, new connections allowed and denied, grants',
    options: [PROJECT_OPTION, WATCH_OPTION],
    examples: [
      'ps',
      "ps 'shop-*'",
      'ps --project shop',
      'ps --watch',
      "ps --json | jq '.[] | select(.denied > 0).name'",
    ],
    run: async (session, [container], options) => {
      const read = async () => {
        const client = await session.client();
        const { project } = oneOf(container, options.project);
        if (project !== undefined) return containersOfProject(client, project);
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
    deniedText(c),
    grants.join(', ') || '-',
    [...limitWords(out, c), ...hints(c)].join('; ') || '-',
  ];
}

/** What passed because the container is observed was not denied. */
const deniedText = ({ mode, denied, wouldDeny }: ContainerBody): string =>
  mode === 'observe' && wouldDeny > 0 ? `${denied} (would: ${wouldDeny})` : String(denied);

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

const wouldText = ({ wouldDeny }: ContainerBody): string =>
  wouldDeny > 0 ? `, ${wouldDeny} passed that would be denied` : '';

function inspectPrint(out: Output, c: ContainerBody, denials: readonly Flow[]): void {
  out.line(`${c.name} (${c.id.slice(0, 12)})`);
  const facts: readonly (readonly [string, string])[] = [
    ['image', c.image],
    ['compose', c.compose ? `${c.compose.project}/${c.compose.service}` : '-'],
    ['mode', `${modeText(out, c)} (${modeReason(c.modeSource)})`],
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
    ['connections', `${c.allowed} allowed, ${c.denied} denied${wouldText(c)}`],
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
