import { cutFlows, type Ended } from '../kernel/delete-flows.js';
import type { Bars } from '../kernel/flow-blocklist.js';
import type { KernelPort } from '../kernel/kernel-port.js';
import type { Logger } from '../lib/logger.js';
import type { InForce } from '../ruleset/applied-state.js';
import { type Flow, mayBeTurned, turned } from '../ruleset/flow.js';
import type { Member } from '../ruleset/state.js';
import { addressesOf } from './bind-veths.js';
import { isFrom } from './unmarked-flows.js';

interface Options {
  readonly kernel: KernelPort;
  readonly bars: Bars;
  readonly log: Logger;
}

/** How long stragglers are barred (s): new TCP connections are not, new datagrams would be. */
const BAR_SECONDS = { tcp: 7 * 86_400, others: 2 };

/**
 * While no rule stood for them, an answer that found no flow has opened one, turned around: by it both sides would go on. Ends those
 * that their members may not have begun. Who opened one really opens it again: by its next datagram a little later, by its
 * next TCP connection (of those only the ones are doubted whose beginning nobody saw).
 */
export async function endTurned(
  o: Options,
  state: InForce,
  members: readonly Member[],
): Promise<readonly Ended[]> {
  const bar = (flows: readonly Flow[]): Promise<void> => o.bars.bar(flows.map(turned), BAR_SECONDS);
  return [...(await ofPorts(o, state, members, bar)), ...(await ofHosts(o, state, members, bar))];
}

type Bar = (flows: readonly Flow[]) => Promise<void>;

/** By the address they are for. The internet opens none to a container but what was DNATed, or comes to what is published. */
async function ofPorts(
  { kernel }: Options,
  state: InForce,
  members: readonly Member[],
  bar: Bar,
): Promise<readonly Ended[]> {
  const holders = (of: Iterable<Member>): ReadonlyMap<string, Member> =>
    new Map([...of].flatMap((m) => m.ports.flatMap(addressesOf).map((a) => [a, m] as const)));
  const owners = holders(members);
  const everyone = holders(state.members.values());
  const hosts = kernel.hostAddresses();
  const keep = (f: Flow): boolean => {
    const owner = owners.get(f.reply.src);
    if (owner === undefined || f.orig.dst !== f.reply.src) return true;
    if (!everyone.has(f.orig.src) && !hosts.has(f.orig.src)) return state.judge.admits(f);
    return !mayBeTurned(f) || state.judge.keeps(owner, turned(f));
  };
  const cut = await cutFlows(kernel.flows, 'reply', new Set(owners.keys()), { keep, bar });
  return cut.map((flow) => ({ flow, owner: owners.get(flow.reply.src)?.id ?? '' }));
}

/** In the host's network: by the sockets that they are for. */
async function ofHosts(
  { kernel, log }: Options,
  state: InForce,
  members: readonly Member[],
  bar: Bar,
): Promise<readonly Ended[]> {
  const enforced = members.filter((m) => m.host?.cgroups.length && m.policy.mode === 'enforce');
  if (enforced.length === 0) return [];
  const flows = (await Promise.all(([4, 6] as const).map((f) => kernel.flows.flows(f, {})))).flat();
  const doubted = flows.filter(mayBeTurned);
  const ended: Ended[] = [];
  for (const m of enforced) {
    const sockets = await kernel.sockets(m.host?.cgroups.map((c) => c.path) ?? []).catch((e: unknown) => {
      log.warn(
        { container: m.id, err: String(e) },
        'what answers opened to it while no rule stood cannot be told',
      );
      return [];
    });
    const doomed = doubted.filter(
      (f) => sockets.some((s) => isFrom(turned(f), s)) && !state.judge.keeps(m, turned(f)),
    );
    await bar(doomed);
    for (const flow of doomed) if (kernel.flows.delete(flow)) ended.push({ flow, owner: m.id });
  }
  return ended;
}
