/** The state, as everybody else sees it. Pure. */
import type { ContainerFacts, DockerView } from '../policy/container.js';
import { isFullId } from './json.js';
import type { DockerState } from './state.js';
import { isKnown, isUp, type Tracked } from './tracked.js';

export type ImageLabels = (imageId: string) => Readonly<Record<string, string>> | undefined;

/** Chains of `container:` modes end somewhere; more links than this are a loop. */
const MAX_LINKS = 16;

function referenced(t: Tracked): string | undefined {
  return /^container:(.+)$/.exec(t.fixed?.networkMode ?? '')?.[1];
}

/** Docker stores the full id; a name or a unique beginning of an id is resolved as Docker itself would. */
function resolve(reference: string, all: ReadonlyMap<string, Tracked>): string | undefined {
  if (isFullId(reference)) return reference;
  const list = [...all.values()];
  const named = list.find((t) => t.name === reference);
  if (named) return named.id;
  const starting = list.filter((t) => t.id.startsWith(reference));
  return starting.length === 1 ? starting[0]?.id : undefined;
}

/** The container that owns the namespace this one lives in; undefined: it has its own, or its owner cannot be found. */
export function namespaceOwner(t: Tracked, all: ReadonlyMap<string, Tracked>): string | undefined {
  let current: Tracked | undefined = t;
  let owner: string | undefined;
  for (let i = 0; i < MAX_LINKS && current; i += 1) {
    const reference = referenced(current);
    if (reference === undefined) return owner;
    owner = resolve(reference, all);
    current = owner === undefined ? undefined : all.get(owner);
  }
  return owner === t.id ? undefined : owner;
}

function factsOf(
  t: Tracked,
  all: ReadonlyMap<string, Tracked>,
  imageLabels: ImageLabels,
): ContainerFacts | undefined {
  if (!isKnown(t)) return undefined;
  const labels = imageLabels(t.fixed.imageId);
  const sharesWith = namespaceOwner(t, all);
  return {
    id: t.id,
    name: t.name,
    ...t.fixed,
    ...(labels && { imageLabels: labels }),
    state: t.state,
    ...(sharesWith !== undefined && { sharesWith }),
    endpoints: [...t.endpoints.values()].map((e) => ({ ...e, ...asked(t.askedAt.get(e.networkId)) })),
    ...(t.pending.size > 0 && { joining: [...t.pending] }),
    published: t.published,
    ...(t.privileges && { privileges: t.privileges }),
    ...(t.practices && { practices: t.practices }),
  };
}

const asked = (askedAt: number | undefined): { askedAt?: number } =>
  askedAt === undefined ? {} : { askedAt };

/**
 * After an event, until list and network have been answered, its place is not known: one that runs and joins a network has
 * its port before the event, and a late event may be of an earlier life. Nor is one known that has no name yet.
 */
const isOpen = (t: Tracked): boolean => !t.listed || t.pending.size > 0 || !isKnown(t);

/** A container that no list has told of yet is only in `starting`: its labels are unknown, which is not "none". */
export function viewOf(
  state: DockerState,
  imageLabels: ImageLabels,
  meta: Pick<DockerView, 'listings' | 'listBegan' | 'connected'>,
): DockerView {
  const containers = new Map<string, ContainerFacts>();
  const starting = new Set<string>();
  const attached = new Set<string>();
  for (const t of state.containers.values()) {
    const facts = factsOf(t, state.containers, imageLabels);
    if (facts) containers.set(t.id, facts);
    if (t.startingSince !== undefined || isOpen(t)) starting.add(t.id);
    if (isUp(t.state) && !isOpen(t)) attached.add(t.id);
  }
  const networks = new Map(
    [...state.networks].map(([id, n]) => [id, { ...n, ...asked(state.networksAskedAt.get(id)) }] as const),
  );
  return { containers, networks, starting, attached, ...meta };
}
