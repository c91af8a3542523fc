/** A host that is gone for good leaves its things behind: after this anybody tidies them up. */
const ABANDONED_MS = 86_400_000;

/** What belongs to a container is its own host's to tidy up: only that knows whether the container is still there. */
export function isOurs(
  thing: { readonly node?: string; readonly expires?: string },
  node: string | undefined,
  now: number,
): boolean {
  if (thing.node === undefined || thing.node === node) return true;
  return thing.expires !== undefined && Date.parse(thing.expires) + ABANDONED_MS < now;
}
