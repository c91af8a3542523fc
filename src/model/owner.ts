import type { ContainerFacts } from './container.js';
import { isImageLabel } from './labels.js';

const PROJECT = 'com.docker.compose.project';
const SERVICE = 'com.docker.compose.service';

type OwnerFacts = Pick<ContainerFacts, 'labels' | 'imageLabels' | 'image' | 'name'>;

/**
 * To whom an API mode or an open-ended grant belongs, so that it survives recreation: "compose:PROJECT/SERVICE", else
 * "name:NAME". Compose labels that the image brings do not count, or an image could take a service's grants.
 */
export function ownerKey(facts: OwnerFacts): string {
  const project = facts.labels[PROJECT];
  const service = facts.labels[SERVICE];
  const borrowed = facts.imageLabels && isImageLabel(facts, PROJECT) && isImageLabel(facts, SERVICE);
  return project && service && !borrowed ? `compose:${project}/${service}` : `name:${facts.name}`;
}

/** False while it cannot be told whether compose labels are the image's: then an owner's things may only tighten. */
export const ownerIsCertain = (facts: OwnerFacts): boolean =>
  facts.imageLabels !== undefined || facts.labels[PROJECT] === undefined;
