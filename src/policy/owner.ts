import type { ContainerFacts } from './container.js';
import { COMPOSE_PROJECT, COMPOSE_SERVICE, isOwnLabel, ownLabel } from './own-labels.js';

type OwnerFacts = Pick<ContainerFacts, 'labels' | 'imageLabels' | 'imageId' | 'name'>;

const keyOf = (project: string | undefined, service: string | undefined): string | undefined =>
  project && service ? `compose:${project}/${service}` : undefined;

/** The key that all compose labels name, the image's included. */
const composeKey = ({ labels }: OwnerFacts): string | undefined =>
  keyOf(labels[COMPOSE_PROJECT], labels[COMPOSE_SERVICE]);

const nameKey = ({ name }: OwnerFacts): string => `name:${name}`;

/**
 * To whom an API mode or an open-ended grant belongs, so that it survives recreation: "compose:PROJECT/SERVICE", else
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

/** Every key whose mode may tighten the container's, `ownerKey` first. An image must not loosen a mode by its labels. */
export const ownerKeys = (facts: OwnerFacts): readonly string[] => [
  ...new Set([ownerKey(facts), composeKey(facts) ?? nameKey(facts), nameKey(facts)]),
];

/** Whether a container may have this key: "compose:PROJECT/SERVICE", or "name:" and a name that Docker takes. */
export const isOwnerKey = (text: string): boolean =>
  /^compose:[^/]+\/.+$/s.test(text) || /^name:[A-Za-z0-9][\w.-]*$/.test(text);
