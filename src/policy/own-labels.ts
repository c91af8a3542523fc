/**
 * Which labels of a container are its own, and which come with its image. Docker merges both. A label with a value that differs
 * from the image's was given to the container. A label with the same value is the image's, unless the container was created
 * by the tool that writes this label to every container. Pure.
 */
import { memo } from '../lib/memo.js';
import type { ContainerFacts, DockerView } from './container.js';

export type LabelOrigin = Pick<ContainerFacts, 'labels' | 'imageLabels' | 'imageId'>;

export const COMPOSE_PROJECT = 'com.docker.compose.project';
export const COMPOSE_SERVICE = 'com.docker.compose.service';
export const STACK_NAMESPACE = 'com.docker.stack.namespace';

const COMPOSE_IMAGE = 'com.docker.compose.image';
const COMPOSE_HASH = 'com.docker.compose.config-hash';
const SWARM_TASK = 'com.docker.swarm.task.id';
const SWARM_SERVICE = 'com.docker.swarm.service.name';

/** Compose writes these to every container that it creates, whatever the image has (pkg/compose, `CustomLabels`). */
const BY_COMPOSE: ReadonlySet<string> = new Set([
  COMPOSE_PROJECT,
  COMPOSE_SERVICE,
  COMPOSE_HASH,
  'com.docker.compose.container-number',
  'com.docker.compose.oneoff',
  'com.docker.compose.project.config_files',
  'com.docker.compose.project.working_dir',
  'com.docker.compose.version',
]);
/** The engine writes these to every task's container, over all others (daemon/cluster/executor/container, `labels`). */
const BY_SWARM: ReadonlySet<string> = new Set([
  'com.docker.swarm.node.id',
  'com.docker.swarm.service.id',
  SWARM_SERVICE,
  'com.docker.swarm.task',
  SWARM_TASK,
  'com.docker.swarm.task.name',
]);
/** An image's ID, or its manifest's digest in the containerd image store. */
const DIGEST = /^sha256:[0-9a-f]{64}$/;

/** Equal to the image's label; every label counts as such while the image's labels are unknown. */
function equalsImage({ labels, imageLabels }: LabelOrigin, key: string): boolean {
  if (!imageLabels) return true;
  return Object.hasOwn(imageLabels, key) && imageLabels[key] === labels[key];
}

/**
 * Compose records the image's ID in `com.docker.compose.image`. An image cannot contain its own ID, which is a hash of its
 * labels, too. Compose before 2.0 did not write it: then `config-hash` decides, which no build writes on an image.
 */
function isMadeByCompose(facts: LabelOrigin): boolean {
  const { labels, imageId } = facts;
  const image = labels[COMPOSE_IMAGE];
  if (image !== undefined && image === imageId && DIGEST.test(imageId)) return true;
  const isRecorded = image !== undefined && !equalsImage(facts, COMPOSE_IMAGE);
  return !isRecorded && labels[COMPOSE_HASH] !== undefined && !equalsImage(facts, COMPOSE_HASH);
}

/** The id of a task is random, and is generated after the image was built. */
const isTask = (facts: LabelOrigin): boolean =>
  facts.labels[SWARM_TASK] !== undefined && !equalsImage(facts, SWARM_TASK);

/** `docker stack deploy` names each service NAMESPACE_SERVICE, and the engine writes the service's name to each task. */
const isTaskOfStack = (facts: LabelOrigin): boolean =>
  isTask(facts) && (facts.labels[SWARM_SERVICE] ?? '').startsWith(`${facts.labels[STACK_NAMESPACE]}_`);

/** False if the container has no such label, or if the label comes with the image. */
export function isOwnLabel(facts: LabelOrigin, key: string): boolean {
  if (!Object.hasOwn(facts.labels, key)) return false;
  if (!equalsImage(facts, key)) return true;
  if (BY_COMPOSE.has(key)) return isMadeByCompose(facts);
  if (BY_SWARM.has(key)) return isTask(facts);
  return key === STACK_NAMESPACE && isTaskOfStack(facts);
}

/** The label's value if it is the container's own. */
export const ownLabel = (facts: LabelOrigin, key: string): string | undefined =>
  isOwnLabel(facts, key) ? facts.labels[key] : undefined;

/** Labels that define neighbours, names or an owner, and have no effect here because they come with the image. */
export const ignoredLabels = (facts: LabelOrigin): readonly string[] =>
  [COMPOSE_PROJECT, COMPOSE_SERVICE, STACK_NAMESPACE].filter(
    (key) => Object.hasOwn(facts.labels, key) && !isOwnLabel(facts, key),
  );

type OwnerFacts = Pick<ContainerFacts, 'labels' | 'imageLabels' | 'imageId' | 'name'>;

const keyOf = (project: string | undefined, service: string | undefined): string | undefined =>
  project && service ? `compose:${project}/${service}` : undefined;

/** The key that all compose labels name, the image's included. */
const composeKey = ({ labels }: OwnerFacts): string | undefined =>
  keyOf(labels[COMPOSE_PROJECT], labels[COMPOSE_SERVICE]);

const nameKey = ({ name }: OwnerFacts): string => `name:${name}`;

const ID = 'id:';
/** The key of one container, for what ends with it: "id:CONTAINER". */
export const idKey = (containerId: string): string => `${ID}${containerId}`;
/** The container that a key is of; undefined: the key is of a service or of a name, and survives recreation. */
export const containerOfKey = (key: string): string | undefined =>
  key.startsWith(ID) ? key.slice(ID.length) : undefined;

/**
 * The key that an API mode or an open-ended grant belongs to, so that it survives recreation: "compose:PROJECT/SERVICE", else
 * "name:NAME". Compose labels that the image brings do not count, or an image could take a service's grants.
 */
export function ownerKey(facts: OwnerFacts): string {
  const key = ownerIsCertain(facts)
    ? keyOf(ownLabel(facts, COMPOSE_PROJECT), ownLabel(facts, COMPOSE_SERVICE))
    : composeKey(facts);
  return key ?? nameKey(facts);
}

/** False while it cannot be known whether compose labels are the image's: then an owner's things may only tighten. */
export const ownerIsCertain = (facts: OwnerFacts): boolean =>
  facts.imageLabels !== undefined ||
  [COMPOSE_PROJECT, COMPOSE_SERVICE].every(
    (label) => facts.labels[label] === undefined || isOwnLabel(facts, label),
  );

/** Every key with a mode that may tighten the container's, `ownerKey` first. An image must not loosen a mode by its labels. */
export const ownerKeys = (facts: OwnerFacts): readonly string[] => [
  ...new Set([ownerKey(facts), composeKey(facts) ?? nameKey(facts), nameKey(facts)]),
];

/** Whether a container may have this key: "compose:PROJECT/SERVICE", or "name:" and a name that Docker takes. */
export const isOwnerKey = (text: string): boolean =>
  composeOf(text) !== undefined || /^name:[A-Za-z0-9][\w.-]*$/.test(text);

/** The project and the service of an owner key that names them. */
export function composeOf(owner: string): { readonly project: string; readonly service: string } | undefined {
  const [, project, service] = /^compose:([^/]+)\/(.+)$/s.exec(owner) ?? [];
  return project === undefined || service === undefined ? undefined : { project, service };
}

/** The owners of grants that count for a container: itself, and its owner when that is certain. */
export const grantOwners = (facts: ContainerFacts): readonly string[] => [
  idKey(facts.id),
  ...(ownerIsCertain(facts) ? [ownerKey(facts)] : []),
];

/** The owners of its grants, and the keys of its modes. */
export const keysOf = memo((facts: ContainerFacts) => ({
  owners: grantOwners(facts),
  keys: ownerKeys(facts),
}));

type OwnerIndex = ReadonlyMap<string, readonly string[]>;
/** The ids of the containers of each owner: the same index for the same view. */
export const idsByOwner = memo((view: DockerView): OwnerIndex => {
  const index = new Map<string, string[]>();
  for (const facts of view.containers.values())
    for (const owner of keysOf(facts).owners) {
      const found = index.get(owner);
      if (found) found.push(facts.id);
      else index.set(owner, [facts.id]);
    }
  return index;
});
