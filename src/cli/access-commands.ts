import type { Command } from 'commander';
import type { ApiClient } from '../api/client.js';
import type { ContainerBody, GrantBody } from '../api/schemas.js';
import type { PreviewBody } from '../api/schemas-traffic.js';
import { missingTexts } from '../flows/missing.js';
import type { Problem } from '../lib/problem.js';
import { bracketed, counted } from '../lib/units.js';
import type { Entry } from '../policy/entry.js';
import { parseEntries } from '../policy/entry-parse.js';
import { consents, mustBeAskable, type Registry, type Session, timeFromNow } from './command.js';
import { CommandFailure, wrongUsage } from './failure.js';
import { containersOf, containersOfProject, keptOwner, withContainer } from './named-containers.js';
import { modeReason, type Output } from './output.js';

/** What `mode` sets; confirm: a trial becomes a mode without end. */
export const MODES = ['enforce', 'observe', 'off', 'auto', 'confirm'] as const;
type WantedMode = (typeof MODES)[number];

interface Options {
  readonly project?: string;
  readonly trial?: string;
  readonly against?: string;
  readonly dryRun?: true;
  readonly yes?: true;
}
interface Wanted {
  /** Undefined: the containers of the project. */
  readonly container: string | undefined;
  readonly mode: WantedMode;
}

export function modeCommand(program: Command, registry: Registry): void {
  const command = registry.add<[string[]], Options>(program, {
    usage: 'mode <container-and-mode...>',
    summary:
      'set the mode of a container, a compose service, a glob or a project: enforce, observe, off, or auto (labels and lists decide); confirm ends a trial',
    options: [
      ['--project <project>', 'all running containers of this compose project'],
      [
        '--trial <duration>',
        'with enforce: how long, as in 15m, or until when, as in "today 18:00"; what was set before counts again then',
      ],
      ['--against <list>', 'with observe: record what this list would deny, in place of the policy'],
      ['--dry-run', 'print what would be blocked, and change nothing'],
      ['--yes', 'do not ask before enforcing'],
    ],
    examples: [
      'mode web enforce',
      'mode web enforce --dry-run',
      'mode web enforce --trial 15m',
      'mode web confirm',
      'mode web observe --against ci',
      "mode 'shop-*' enforce --yes",
      'mode --project shop enforce',
      'mode web auto',
    ],
    run: async (session, [words], options) => setMode(session, wantedOf(words, options), options),
  });
  command.usage('[options] <container> <mode>');
}

function wantedOf(words: readonly string[], { project, trial, against, dryRun }: Options): Wanted {
  const [first, second, ...more] = words;
  const wanted =
    project === undefined ? { container: first, mode: second } : { container: undefined, mode: first };
  const isWhole = project === undefined ? second !== undefined && more.length === 0 : second === undefined;
  if (!isWhole || wanted.mode === undefined)
    return wrongUsage(
      'mode needs a container and a mode, or --project and a mode',
      'write drawbridge mode web enforce, or drawbridge mode --project shop enforce',
    );
  const mode = MODES.find((one) => one === wanted.mode);
  if (mode === undefined)
    return wrongUsage(`invalid mode "${wanted.mode}"`, `write one of ${MODES.join(', ')}`);
  if (trial !== undefined && mode !== 'enforce')
    return wrongUsage('--trial belongs to mode enforce', 'write drawbridge mode web enforce --trial 15m');
  if (against !== undefined && mode !== 'observe')
    return wrongUsage(
      '--against belongs to mode observe',
      'write drawbridge mode web observe --against LIST',
    );
  if (dryRun && mode === 'confirm')
    return wrongUsage('a confirmation has no dry run', 'see drawbridge ps for what is on trial');
  return { container: wanted.container, mode };
}

async function setMode(session: Session, { container, mode }: Wanted, options: Options): Promise<number> {
  const { trial, against } = options;
  const time = trial === undefined ? undefined : timeFromNow('--trial', trial);
  const how = trial === undefined ? '' : ` --trial ${trial}`;
  const command = `mode ${container ?? `--project ${options.project}`} ${mode}${how}`;
  const [dryRun, yes] = [options.dryRun === true, options.yes === true];
  if (mode === 'enforce' && !dryRun) mustBeAskable(session, { yes, command });
  const client = await session.client();
  const kept = mode === 'auto' && container !== undefined ? await keptOwner(client, container) : undefined;
  if (kept) return forget(session, client, kept.owner, options);
  const targets =
    container === undefined
      ? await containersOfProject(client, options.project ?? '')
      : await containersOf(client, container);
  const isShown = mode === 'enforce' || (dryRun && against !== undefined);
  const previews = isShown ? await previewsOf(session, client, targets, against) : [];
  if (dryRun) return showDryRun(session, targets, mode, previews);
  const isNew = mode === 'enforce' && targets.some((c) => c.mode !== 'enforce');
  const names = targets.length === 1 ? targets[0]?.name : counted(targets.length, 'container');
  const question = `Enforce ${names}${trial === undefined ? '' : ` on trial ${time === trial ? 'for' : 'until'} ${trial}`}?`;
  if (isNew && !(await consents(session, { yes, command, question }))) return 1;
  const done = await client.setModes(
    targets.map((c) => c.id),
    { mode, ...(time === undefined ? {} : { trial: time }), ...(against === undefined ? {} : { against }) },
  );
  const results = done.map((c) => result(c, previews));
  // A name gives one object, a glob or a project a list.
  session.out.show(isOne(container, results) ? results[0] : results, () => {
    for (const c of done) session.out.line(changedText(session.out, c));
  });
  return 0;
}

/** The mode of an owner that has no container on this host. */
async function forget(session: Session, client: ApiClient, owner: string, { dryRun, yes }: Options) {
  const { out } = session;
  const isShared = (await client.status()).fleet.nodes > 1;
  const command = `mode ${owner} auto`;
  const question = `Other hosts share this mode, and may run containers of ${owner}. Forget it for all?`;
  const consent = { yes: yes === true, command, question };
  if (isShared && !dryRun && !(await consents(session, consent))) return 1;
  if (!dryRun) await client.forgetMode(owner);
  out.show({ owner, mode: 'auto', dryRun: dryRun === true }, () =>
    out.line(dryRun ? `the mode of ${owner} would be forgotten` : `the mode of ${owner} is forgotten`),
  );
  return 0;
}

function changedText(out: Output, c: ContainerBody): string {
  const why = modeReason(c.modeSource);
  if (c.trialUntil)
    return `${c.name}: ${c.mode} (${why}) on trial ${out.until(c.trialUntil)}: what was set before counts again then, unless drawbridge mode ${c.name} confirm`;
  return c.against && c.mode === 'observe'
    ? `${c.name}: ${c.mode} (${why}), evaluated against the list ${c.against.list} since ${out.time(c.against.since)}: drawbridge mode ${c.name} observe --against ${c.against.list} --dry-run shows what it would block`
    : `${c.name}: ${c.mode} (${why})`;
}

const isOne = (container: string | undefined, results: readonly unknown[]): boolean =>
  container !== undefined && !/[*?]/.test(container) && results.length === 1;

/** One for the containers of an owner, which share the record and the mode. */
async function previewsOf(
  { out }: Session,
  client: ApiClient,
  targets: readonly ContainerBody[],
  against: string | undefined,
): Promise<readonly PreviewBody[]> {
  const previews: PreviewBody[] = [];
  for (const { id, name, mode } of targets) {
    if ((mode === 'enforce' && against === undefined) || previews.some((p) => p.containers.includes(name)))
      continue;
    previews.push(await client.preview(id, against));
  }
  if (!out.isJson) printPreviews(out, previews);
  return previews;
}

/** What is true of all of them comes once, after them. */
function printPreviews(out: Output, previews: readonly PreviewBody[]): void {
  for (const preview of previews) printPreview(out, preview);
  const of = new Map<string, string[]>();
  for (const { container, notRecorded, gaps, dropped } of previews)
    for (const note of [
      ...missingTexts({ gaps, dropped }, { time: (time) => out.time(time) }),
      ...notRecorded,
    ])
      of.set(note, [...(of.get(note) ?? []), container]);
  for (const [note, names] of of)
    out.prose(names.length === previews.length ? note : `${names.join(', ')}: ${note}`);
}

function showDryRun(
  { out }: Session,
  targets: readonly ContainerBody[],
  mode: string,
  previews: readonly PreviewBody[],
): number {
  const results = targets.map((c) => ({ ...result(c, previews), wanted: mode, dryRun: true }));
  out.show(results.length === 1 ? results[0] : results, () => {
    for (const c of targets) out.line(`${c.name}: ${c.mode} now, would be set to ${mode}`);
    out.note('nothing was changed');
  });
  return 0;
}

function result(
  { name, mode, modeFrom, modeSource, trialUntil, against }: ContainerBody,
  previews: readonly PreviewBody[],
) {
  const preview = previews.find((p) => p.containers.includes(name));
  const wouldCut = preview?.destinations ?? [];
  return { container: name, mode, modeFrom, modeSource, trialUntil, against, wouldCut, preview };
}

type Destination = PreviewBody['destinations'][number];

/** What enforcing the containers of an owner, or a list, blocks, since when that is recorded, and what is not known. */
function printPreview(out: Output, preview: PreviewBody): void {
  const { container, containers, destinations, flows } = preview;
  const others = containers.filter((name) => name !== container);
  const also = others.length === 0 ? '' : ` (and ${others.join(', ')}, for which the mode counts, too)`;
  out.prose(`${container}${also}: ${opening(out, preview)}`);
  if (destinations.length > 0)
    out.table(
      ['TO PERMIT IT', 'DESTINATION', 'TIMES', 'LAST'],
      destinations.map((d) => [d.entry ?? 'no entry can', destination(d), String(d.count), out.time(d.last)]),
    );
  const [again, ended] = [flows.filter((f) => f.passesAgain), flows.filter((f) => !f.passesAgain)];
  if (ended.length > 0) out.prose(`it closes ${openFlows(ended)}`, 2);
  if (again.length > 0)
    out.prose(`it closes ${openFlows(again)}; what it was opened for is not known, and a new one passes`, 2);
}

function opening(out: Output, { recordingSince, destinations, against }: PreviewBody): string {
  const what = against === null ? 'enforcing' : `the list ${against}`;
  const since =
    recordingSince === null
      ? 'its traffic is not recorded now'
      : `recorded without interruption since ${out.time(recordingSince)}`;
  if (destinations.length > 0)
    return `${what} blocks ${counted(destinations.length, 'destination')} that it used (${since}):`;
  return recordingSince === null
    ? `what ${what} blocks is not known: ${since}`
    : `nothing that ${what} blocks was recorded (${since})`;
}

const MOST_FLOWS = 5;

function openFlows(flows: PreviewBody['flows']): string {
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
  const host = bracketed(address);
  const place = port > 0 ? `${host}:${port}/${proto}` : `${host}/${proto}`;
  return name === null ? place : `${name} (${place})`;
}

export function allowCommand(program: Command, registry: Registry): void {
  registry.add<[string, string[]], { for?: string }>(program, {
    usage: 'allow <container> <entry...>',
    summary: 'allow a container more destinations, for a time or until revoked',
    options: [
      [
        '--for <duration>',
        'how long, as in 10m, or until when, as in "today 18:00"; such a grant also ends with the container',
      ],
    ],
    examples: [
      'allow web api.github.com',
      'allow web pypi.org files.pythonhosted.org --for 10m',
      "allow db '10.1.0.0/16:5432'",
    ],
    run: async (session, [container, texts], options) => {
      const entries = entriesOf(texts);
      const time = options.for === undefined ? undefined : timeFromNow('--for', options.for);
      const client = await session.client();
      const granted = await withContainer(client, container, async (name) => {
        const grants: GrantBody[] = [];
        for (const entry of entries) grants.push(await client.grant(name, entry.canonical, time));
        return { name, grants };
      });
      session.out.show(granted.grants, () => {
        for (const grant of granted.grants) session.out.line(line(session.out, granted.name, grant));
      });
      return 0;
    },
  });
}

function line(out: Output, container: string, grant: GrantBody): string {
  const until = grant.expires === null ? 'until it is revoked' : out.until(grant.expires);
  return `${container} may reach ${grant.entry} ${until} (grant ${grant.id})`;
}

export function revokeCommand(program: Command, registry: Registry): void {
  registry.add<[string, string[]]>(program, {
    usage: 'revoke <container> <entry...>',
    summary: 'take grants back; names the file or label to edit when it is not a grant',
    examples: ['revoke web api.github.com'],
    run: async (session, [name, texts]) => {
      const client = await session.client();
      const container =
        (await keptContainer(client, name)) ??
        (await withContainer(client, name, (found) => client.container(found)));
      const revoked: string[] = [];
      const problems: Problem[] = [];
      const notes: string[] = [];
      for (const { canonical } of entriesOf(texts)) {
        const grants = container.grants.filter((grant) => grant.entry === canonical);
        for (const grant of grants) {
          const { note } = await client.revokeGrant(container.id, grant.id);
          if (note !== null) notes.push(note);
        }
        if (grants.length > 0) revoked.push(canonical);
        problems.push(...(await remaining(client, container, canonical, grants.length > 0)));
      }
      session.out.show({ revoked, remaining: problems, notes }, () => {
        for (const entry of revoked) session.out.line(`${container.name}: grant of ${entry} revoked`);
        for (const note of new Set(notes)) session.out.line(`NOT STORED: ${note}`);
      });
      if (problems.length > 0) throw new CommandFailure(problems);
      return 0;
    },
  });
}

/** What `revoke` needs of a container. */
type Granted = Pick<ContainerBody, 'id' | 'name' | 'entries' | 'modeSource'> & {
  readonly grants: readonly Pick<GrantBody, 'id' | 'entry'>[];
};

/** An owner without a container has its grants alone. */
async function keptContainer(client: ApiClient, name: string): Promise<Granted | undefined> {
  const kept = await keptOwner(client, name);
  return (
    kept && {
      id: kept.owner,
      name,
      entries: [],
      modeSource: { kind: 'api', name: null },
      grants: kept.grants,
    }
  );
}

/** Where else the entry comes from, and what to edit to take it away. */
async function remaining(
  client: ApiClient,
  container: Granted,
  canonical: string,
  wasGranted: boolean,
): Promise<readonly Problem[]> {
  const others = container.entries.filter((e) => e.entry === canonical && e.source.kind !== 'grant');
  const problems = others.map(async ({ from, source: { kind, name } }): Promise<Problem> => {
    const isOfLabel = kind === 'label' || name === null;
    const remedy = isOfLabel ? labelRemedy(container, canonical) : await listRemedy(client, name, canonical);
    return {
      detail: `${container.name} may ${wasGranted ? 'still ' : ''}reach ${canonical} by ${from}`,
      remedy,
    };
  });
  if (others.length > 0 || wasGranted) return Promise.all(problems);
  if (container.modeSource.kind === 'lockdown')
    return [
      {
        detail: `a lockdown is on: no entry of ${container.name} is in force, and which it has is not shown meanwhile`,
        remedy:
          'nothing needs to be revoked to stop its traffic now; see drawbridge explain, or end the lockdown with drawbridge lockdown --off and try again',
      },
    ];
  const has = container.entries.map((e) => e.entry).join(', ');
  return [
    {
      detail: `${container.name} has no entry ${canonical}`,
      remedy: has === '' ? 'it has no entries: its policy permits nothing' : `it has: ${has}`,
    },
  ];
}

async function listRemedy(client: ApiClient, name: string, canonical: string): Promise<string> {
  const list = await client.list(name);
  if (list.source === 'store')
    return `drawbridge lists remove ${name} '${canonical}' (for all that have the list)`;
  return `edit ${list.file ?? `the file of ${name}`}, or take the list from the container`;
}

function labelRemedy(container: Pick<ContainerBody, 'name'>, canonical: string): string {
  return `take ${canonical} out of the label drawbridge.allow of ${container.name}, where it is run or in its compose file, and recreate it`;
}

/** The entries of the arguments, each of which may hold several. Throws CommandFailure with every problem. */
export function entriesOf(args: readonly string[]): readonly Entry[] {
  const parsed = args.map((text) => parseEntries(text));
  const problems: Problem[] = parsed.flatMap((p) =>
    p.ok ? [] : p.problems.map(({ line: _, column: __, ...rest }) => rest),
  );
  if (problems.length > 0) throw new CommandFailure(problems);
  return parsed.flatMap((p) => (p.ok ? p.value : []));
}
