import type { Controller } from './context.js';
import type { Durability } from './schemas.js';

/** Whether the change of a key is stored; of "pause/", every pause's. */
export function durabilityOf(controller: Controller, key: string): Durability {
  const held = controller
    .unwritten()
    .find((change) => change.key === key || (key.endsWith('/') && change.key.startsWith(key)));
  return { durable: held === undefined, note: held?.note ?? null };
}
