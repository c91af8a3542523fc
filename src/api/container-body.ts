import type { Grant } from '../policy/policy.js';
import type { ContainerView } from './container-views.js';
import type { GrantBody } from './schemas.js';

export function grantBody(grant: Grant): GrantBody {
  return { ...grant, expires: grant.expires ?? null };
}

export function containerBody(view: ContainerView) {
  return { ...view, grants: view.grants.map(grantBody) };
}
