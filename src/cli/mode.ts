import type { Command } from 'commander';
import type { ApiClient } from '../api/client.js';
import type { ContainerBody } from '../api/schemas.js';
import type { PreviewBody } from '../api/schemas-traffic.js';
import { consents, mustBeAskable } from './ask.js';
import type { Registry, Session } from './command.js';
import { containersOf, containersOfProject } from './containers.js';
import { CommandFailure, failureOf, wrongUsage } from './failure.js';
import { printPreview } from './preview.js';
import { counted } from './text.js';

const MODES = ['enforce', 'observe', 'off', 'auto'] as const;

interface Options {
  readonly project?: string;
  readonly dryRun?: true;
  readonly yes?: true;
}
interface Wanted {
  /** Undefined: those of the project. */
  readonly container: string | undefined;
  readonly mode: string;
}

export function modeCommand(program: Command, registry: Registry): void {
  const command = registry.add<[string[]], Options>(program, {
    usage: 'mode <container-and-mode...>',
    summary:
      'set the mode of a container, a compose service, a glob or a project: enforce, observe, off, or auto (labels and lists decide)',
    options: [
      ['--project <name>', 'all running containers of this compose project'],
      ['--dry-run', 'print what enforce would block, and change nothing'],
      ['--yes', 'do not ask before enforcing'],
    ],
    examples: [
      'mode web enforce',
      'mode web enforce --dry-run',
      "mode 'shop-*' enforce --yes",
      'mode --project shop enforce',
      'mode web auto',
    ],
    run: async (session, [words], options) => setMode(session, wantedOf(words, options), options),
  });
  command.usage('[options] <container> <mode>');
}

function wantedOf(words: readonly string[], { project }: Options): Wanted {
  const [first, second, ...more] = words;
  const wanted =
    project === undefined ? { container: first, mode: second } : { container: undefined, mode: first };
  const isWhole = project === undefined ? second !== undefined && more.length === 0 : second === undefined;
  if (!isWhole || wanted.mode === undefined)
    return wrongUsage(
      'mode needs a container and a mode, or --project and a mode',
      'write drawbridge mode web enforce, or drawbridge mode --project shop enforce',
    );
  if (!MODES.some((mode) => mode === wanted.mode))
    return wrongUsage(`invalid mode "${wanted.mode}"`, `write one of ${MODES.join(', ')}`);
  return { container: wanted.container, mode: wanted.mode };
}

async function setMode(session: Session, { container, mode }: Wanted, options: Options): Promise<number> {
  const command = `mode ${container ?? `--project ${options.project}`} ${mode}`;
  const [dryRun, yes] = [options.dryRun === true, options.yes === true];
  if (mode === 'enforce' && !dryRun) mustBeAskable(session, { yes, command });
  const client = await session.client();
  const targets =
    container === undefined
      ? await containersOfProject(client, options.project ?? '')
      : await containersOf(client, container);
  const previews = mode === 'enforce' ? await previewsOf(session, client, targets) : [];
  if (dryRun) return showDryRun(session, targets, mode, previews);
  const isNew = mode === 'enforce' && targets.some((c) => c.mode !== 'enforce');
  const names = targets.length === 1 ? targets[0]?.name : counted(targets.length, 'container');
  if (isNew && !(await consents(session, { yes, command, question: `Enforce ${names}?` }))) return 1;
  const done = await changed(session, client, targets, mode);
  const results = done.map((c) => result(c, previews));
  // A name gives one object, a glob or a project a list.
  session.out.show(isOne(container, results) ? results[0] : results, () => undefined);
  return 0;
}

const isOne = (container: string | undefined, results: readonly unknown[]): boolean =>
  container !== undefined && !/[*?]/.test(container) && results.length === 1;

async function previewsOf(
  { out }: Session,
  client: ApiClient,
  targets: readonly ContainerBody[],
): Promise<readonly PreviewBody[]> {
  const previews: PreviewBody[] = [];
  for (const { id, mode } of targets) if (mode !== 'enforce') previews.push(await client.preview(id));
  if (!out.isJson) for (const preview of previews) printPreview(out, preview);
  return previews;
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

function result({ name, mode, modeFrom }: ContainerBody, previews: readonly PreviewBody[]) {
  const preview = previews.find((p) => p.container === name);
  return { container: name, mode, modeFrom, wouldCut: preview?.destinations ?? [], preview };
}

/** One after the other: a failure says which were changed before it. */
async function changed(
  { out }: Session,
  client: ApiClient,
  targets: readonly ContainerBody[],
  mode: string,
): Promise<readonly ContainerBody[]> {
  const done: ContainerBody[] = [];
  for (const { id } of targets) {
    try {
      const now = await client.setMode(id, mode);
      done.push(now);
      if (!out.isJson) out.line(`${now.name}: ${now.mode} (${modeReason(now.modeFrom)})`);
    } catch (e) {
      if (done.length === 0) throw e;
      const before = {
        detail: `${done.map((c) => c.name).join(', ')} ${done.length === 1 ? 'was' : 'were'} changed before this failed`,
        remedy: 'give the command again when the fault is mended; what is changed already stays so',
      };
      throw new CommandFailure([...failureOf(e).problems, before]);
    }
  }
  return done;
}

const REASONS: Readonly<Record<string, string>> = {
  api: 'set by a person or the API',
  label: 'label drawbridge.mode',
  default: 'default of the configuration',
  pause: 'paused',
  lockdown: 'lockdown',
  'broken label': 'a drawbridge label does not parse',
  'has entries': 'it has a drawbridge.allow or drawbridge.lists label',
};

/** Why the mode is what it is, from `modeFrom` of the API. */
export function modeReason(modeFrom: string): string {
  const claim = /^claim:(.*)$/.exec(modeFrom)?.[1];
  return claim === undefined ? (REASONS[modeFrom] ?? modeFrom) : `list ${claim}, which claims it`;
}
