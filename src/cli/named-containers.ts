import { type ApiClient, ApiError } from '../api/client.js';
import type { ContainerBody, Status } from '../api/schemas.js';
import { glob } from '../lib/glob.js';
import { orNearest } from '../lib/problem.js';
import { fail, wrongUsage } from './failure.js';

/** The part of a container by which the command line finds it. */
type Known = Pick<ContainerBody, 'id' | 'name' | 'compose'>;

const isGlob = (text: string): boolean => /[*?]/.test(text);
const NOT_FOUND = 404;

/**
 * Run `use` with the container of this id, name or id prefix. If there is none, run it with the only container that matches the
 * text as a compose service ("web", "shop/web") or as a glob. Throws CommandFailure with their names if several match.
 */
export async function withContainer<T>(
  client: ApiClient,
  text: string,
  use: (idOrName: string) => Promise<T>,
): Promise<T> {
  try {
    return await use(text);
  } catch (e) {
    if (!isMissing(e)) throw e;
    const all = await client.containers();
    // The container is there: something else was not found.
    if (all.some((c) => c.name === text || c.id === text)) throw e;
    const [one, ...others] = matching(all, text);
    if (one === undefined)
      return fail(
        `there is no container, and no compose service, ${text}`,
        await remedyOf(client, text, all),
      );
    if (others.length > 0)
      return fail(
        `${text} fits ${1 + others.length} containers`,
        `name one of them: ${namesOf([one, ...others])}`,
      );
    return use(one.name);
  }
}

/** Returns the container of this name or id; if there is none, all that match the text as a compose service or a glob. */
export async function containersOf(client: ApiClient, text: string): Promise<readonly ContainerBody[]> {
  const one = isGlob(text) ? undefined : await client.container(text).catch(missing);
  if (one) return [one];
  const all = await client.containers();
  const found = matching(all, text);
  return found.length > 0
    ? found
    : fail(`there is no container, and no compose service, ${text}`, await remedyOf(client, text, all));
}

const isMissing = (e: unknown): boolean => e instanceof ApiError && e.problem.status === NOT_FOUND;

function missing(e: unknown): undefined {
  if (!isMissing(e)) throw e;
}

export const PROJECT_OPTION: readonly [string, string] = [
  '--project <name>',
  'the containers of this compose project',
];

/** Fails with wrong usage where both are given. */
export function oneOf(container: string | undefined, project: string | undefined) {
  if (container !== undefined && project !== undefined)
    wrongUsage('a container and --project exclude each other', 'write one of them');
  return { container, project };
}

/** The running containers of a compose project. */
export async function containersOfProject(
  client: ApiClient,
  project: string,
): Promise<readonly ContainerBody[]> {
  const all = await client.containers();
  const found = all.filter((c) => c.compose?.project === project);
  if (found.length > 0) return found;
  const projects = [...new Set(all.flatMap((c) => c.compose?.project ?? []))].sort();
  const others =
    projects.length > 0 ? `projects are: ${projects.join(', ')}` : 'no running container belongs to any';
  return fail(
    `no running container belongs to the compose project ${project}`,
    (await isRecorded(client, { project })) ? recordOf(`--project ${project}`) : others,
  );
}

/** Whether the service has a record of what does not run now. */
const isRecorded = (client: ApiClient, of: { container: string } | { project: string }): Promise<boolean> =>
  client.flows({ ...of, limit: '1' }).then(
    () => true,
    (e: unknown) => {
      if (e instanceof ApiError) return false;
      throw e;
    },
  );
const recordOf = (what: string): string =>
  `it does not run now: drawbridge flows ${what} and drawbridge suggest ${what} answer from the record`;

async function remedyOf(client: ApiClient, text: string, all: readonly Known[]): Promise<string> {
  const services = all.flatMap(({ compose }) => (compose?.project === text ? [compose.service] : []));
  if (services.length > 0)
    return `it is a compose project: write --project ${text} where a command takes it (ps, flows, suggest, mode), or one of its services: ${[...new Set(services)].sort().join(', ')}`;
  if (isGlob(text)) return known(text, all);
  if (await isRecorded(client, { project: text })) return recordOf(`--project ${text}`);
  return (await isRecorded(client, { container: text })) ? recordOf(text) : known(text, all);
}

/** The owner of this service or name for which something is set, while no container has this name; undefined: nothing is. */
export async function keptOwner(client: ApiClient, text: string): Promise<KeptOwner | undefined> {
  const keys = [text, `compose:${text}`, `name:${text}`];
  const kept = (await client.status()).kept?.owners.find(({ owner }) => keys.includes(owner));
  if (kept === undefined) return undefined;
  const all = await client.containers();
  const isNamed = isGlob(text) || all.some((c) => c.name === text || c.id.startsWith(text));
  return isNamed || matching(all, text).length > 0 ? undefined : kept;
}
export type KeptOwner = Status['kept']['owners'][number];

/** By a glob over names; else by the compose service, alone or with its project. */
function matching<T extends Known>(all: readonly T[], text: string): readonly T[] {
  if (isGlob(text)) return all.filter((c) => glob(text)(c.name));
  return all.filter(
    ({ compose }) =>
      compose && (compose.service === text || `${compose.project}/${compose.service}` === text),
  );
}

const SHOWN = 20;
function namesOf(all: readonly Known[]): string {
  const more = all.length > SHOWN ? ` and ${all.length - SHOWN} more` : '';
  return `${all
    .slice(0, SHOWN)
    .map((c) => c.name)
    .join(', ')}${more}`;
}
function known(text: string, all: readonly Known[]): string {
  if (all.length === 0) return 'no container runs: see docker ps -a';
  const names = all.flatMap(({ name, compose }) => [name, ...(compose ? [compose.service] : [])]);
  return orNearest(text, names, `running containers are: ${namesOf(all)}`);
}
