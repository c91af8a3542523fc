/** Pauses and the lockdown: what people do in an emergency, laid over every policy. Pure. */
import type { Policy } from './policy.js';

/** No enforcement for a time. */
export interface Pause {
  /** "all", or "id:CONTAINER": a pause dies with its container. */
  readonly owner: string;
  /** The host of the container. */
  readonly node?: string;
  /** RFC 3339 UTC */
  readonly created: string;
  readonly expires: string;
  readonly by: string;
}
/** Every container has an empty policy until it is ended. */
export interface Lockdown {
  /** RFC 3339 UTC */
  readonly since: string;
  readonly by: string;
}
export const PAUSE_ALL = 'all';

export interface Emergency {
  readonly lockdown: Lockdown | undefined;
  /** Those in force now. */
  readonly pauses: readonly Pause[];
}

/** The pause that ends last for a container, its own or that of all. */
export function pauseOf({ pauses }: Emergency, containerId: string): Pause | undefined {
  const holding = pauses.filter((p) => p.owner === PAUSE_ALL || p.owner === `id:${containerId}`);
  return holding.reduce<Pause | undefined>(
    (longest, p) => (longest && Date.parse(longest.expires) >= Date.parse(p.expires) ? longest : p),
    undefined,
  );
}

/** Lockdown beats everything; a pause makes an enforced container an observed one (threats hold in both). */
export function underEmergency(policy: Policy, emergency: Emergency, containerId: string): Policy {
  if (emergency.lockdown) return lockedDown(policy);
  if (policy.mode !== 'enforce' || !pauseOf(emergency, containerId)) return policy;
  return { ...policy, mode: 'observe', modeFrom: 'pause' };
}

export const lockedDown = (policy: Policy): Policy => ({
  mode: 'enforce',
  modeFrom: 'lockdown',
  entries: [],
  lists: [],
  ...(policy.limits ? { limits: policy.limits } : {}),
  notes: policy.notes,
});
