import { type ApiClient, ApiError } from '../api/client.js';
import type { ContainerBody } from '../api/schemas.js';
import { glob } from '../lib/glob.js';
import { orNearest } from '../lib/problem.js';
import { fail } from './failure.js';

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
      return fail(`there is no container, and no compose service, ${text}`, known(text, all));
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
    : fail(`there is no container, and no compose service, ${text}`, known(text, all));
}

const isMissing = (e: unknown): boolean => e instanceof ApiError && e.problem.status === NOT_FOUND;

function missing(e: unknown): undefined {
  if (!isMissing(e)) throw e;
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
  return fail(
    `no running container belongs to the compose project ${project}`,
    projects.length > 0 ? `projects are: ${projects.join(', ')}` : 'no running container belongs to any',
  );
}

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
