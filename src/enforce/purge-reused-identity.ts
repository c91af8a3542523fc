import { deleteMarkedFlows } from '../kernel/delete-flows.js';
import type { Kernel } from '../kernel/kernel.js';
import type { KernelConfig, Subject } from '../ruleset/desired-state.js';
import type { Flow } from '../ruleset/flow.js';
import { identityMark } from '../ruleset/marks.js';

/**
 * Whoever gets a number in the host's network must not inherit the flows that bear it from somebody before: they end. What
 * is only forwarded bears none of ours: a mark there is somebody else's. `members`: whose number is new.
 */
export async function purgeReusedIdentities(
  kernel: Kernel,
  { marks }: KernelConfig,
  members: readonly Subject[],
): Promise<void> {
  const theirs = members.filter((m) => m.host).map((m) => identityMark(marks, m.identity));
  const hosts = kernel.hostAddresses();
  const keep = ({ orig: { src } }: Flow): boolean =>
    src !== '::1' && !src.startsWith('127.') && !hosts.has(src);
  await deleteMarkedFlows(kernel.flows, theirs, marks.identity, { keep, bar: async () => undefined });
}
