import { setTimeout as sleep } from 'node:timers/promises';
import { PROTOCOLS } from '../connections/verified-names.js';
import type { DnsService } from '../dns/dns-service.js';
import {
  type DeletedFlow,
  deleteFlows,
  deleteMarkedFlows,
  type FlowBlocklist,
} from '../kernel/delete-flows.js';
import type { Kernel } from '../kernel/kernel.js';
import type { SocketEnds } from '../kernel/sockets.js';
import type { Logger } from '../lib/log.js';
import { classHas } from '../policy/entry-ports.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { ClassPlan } from '../ruleset/classes.js';
import type { KernelConfig, Subject } from '../ruleset/desired-state.js';
import { type Flow, mayBeReversed, reversed } from '../ruleset/flow.js';
import { identityMark } from '../ruleset/marks.js';
import { holdersOf } from './bind-veths.js';

interface Options {
  readonly kernel: Kernel;
  /** Resets connections at the sockets of containers, as far as that is possible at once. */
  readonly reset: (flows: readonly Flow[]) => Promise<void>;
  readonly blocklist: FlowBlocklist;
  readonly log: Logger;
}

/** How long late packets of a deleted flow are blocked (s). New TCP connections are not blocked; new datagrams would be. */
const BLOCK_SECONDS = { tcp: 7 * 86_400, others: 2 };

/**
 * If rules were missing, conntrack may have created an entry from a reply packet, with original and reply direction
 * swapped: by it both sides could go on. Delete such entries unless policy allows the container to initiate them. A
 * legitimate sender creates its entry again: by its next datagram, or by its next TCP connection (only TCP entries that
 * conntrack picked up mid-stream are deleted).
 */
export async function deleteReversedFlows(
  o: Options,
  state: AppliedState,
  members: readonly Subject[],
): Promise<readonly DeletedFlow[]> {
  const block = async (flows: readonly Flow[]): Promise<void> => {
    const theirs = flows.map(reversed);
    await o.reset(theirs);
    await o.blocklist.block(theirs, BLOCK_SECONDS);
  };
  return [...(await ofPorts(o, state, members, block)), ...(await ofHosts(o, state, members, block))];
}

type Block = (flows: readonly Flow[]) => Promise<void>;

/** By the address they are for. The internet opens none to a container but what was DNATed, or comes to what is published. */
async function ofPorts(
  { kernel }: Options,
  state: AppliedState,
  members: readonly Subject[],
  block: Block,
): Promise<readonly DeletedFlow[]> {
  const { bindings } = state.vethMap;
  const owners = holdersOf(members, bindings);
  const everyone = holdersOf(state.subjects.values(), bindings);
  const hosts = kernel.hostAddresses();
  const keep = (f: Flow): boolean => {
    const owner = owners.get(f.reply.src);
    if (owner === undefined || f.orig.dst !== f.reply.src) return true;
    if (!everyone.has(f.orig.src) && !hosts.has(f.orig.src)) return state.evaluator.admits(f);
    return !mayBeReversed(f) || state.evaluator.keeps(owner, reversed(f));
  };
  const cut = await deleteFlows(kernel.flows, 'reply', new Set(owners.keys()), { keep, block });
  return cut.map((flow) => ({ flow, owner: owners.get(flow.reply.src)?.id ?? '' }));
}

/** In the host's network: by the sockets that they are for. */
async function ofHosts(
  { kernel, log }: Options,
  state: AppliedState,
  members: readonly Subject[],
  block: Block,
): Promise<readonly DeletedFlow[]> {
  const enforced = members.filter((m) => m.host?.cgroups.length && m.policy.mode === 'enforce');
  if (enforced.length === 0) return [];
  const flows = (await Promise.all(([4, 6] as const).map((f) => kernel.flows.flows(f, {})))).flat();
  const doubted = flows.filter(mayBeReversed);
  const ended: DeletedFlow[] = [];
  for (const m of enforced) {
    const sockets = await kernel.sockets(m.host?.cgroups.map((c) => c.path) ?? []).catch((e: unknown) => {
      log.warn(
        { container: m.id, err: String(e) },
        'cannot list the sockets of the container: flows created while rules were missing are not checked',
      );
      return [];
    });
    const forbidden = doubted.filter(
      (f) => sockets.some((s) => isFrom(reversed(f), s)) && !state.evaluator.keeps(m, reversed(f)),
    );
    await block(forbidden);
    for (const flow of forbidden) if (kernel.flows.delete(flow)) ended.push({ flow, owner: m.id });
  }
  return ended;
}

/** Flows of one container that began before its rules were installed, and therefore carry no mark. */
interface UnmarkedFlows {
  readonly kept: readonly Flow[];
  readonly forbidden: readonly Flow[];
}

/** By its sockets: what it opened to where it sends. What others opened to it is not its egress. */
export function sortUnmarkedFlows(
  state: AppliedState,
  member: Subject,
  sockets: readonly SocketEnds[],
  flows: readonly Flow[],
): UnmarkedFlows {
  const own = flows.filter((f) => sockets.some((s) => isFrom(f, s)));
  const keeps = (f: Flow): boolean => state.evaluator.keeps(member, f);
  return { kept: own.filter(keeps), forbidden: own.filter((f) => !keeps(f)) };
}

/** A UDP socket without a peer may have sent anywhere. */
export function isFrom(f: Flow, s: SocketEnds): boolean {
  if (f.proto !== s.proto || f.orig.sport !== s.port) return false;
  if (s.address !== undefined && s.address !== f.orig.src) return false;
  return s.peer === undefined || (s.peer.address === f.orig.dst && s.peer.port === f.orig.dport);
}

/**
 * When an identity mark is reassigned to a host-network container, delete the conntrack entries that carry it. Forwarded
 * flows are skipped: their connmark belongs to another program. `members`: the subjects with a new identity.
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
  await deleteMarkedFlows(kernel.flows, theirs, marks.identity, { keep, block: async () => undefined });
}

/** Names have an answer by then, or permit no flow (ms). */
const LEARN_MS = 1_000;

/**
 * Flows that began before any rule may go to what a name had resolved to. An entry for a name permits those on ports where connections are
 * not checked, as it permits new ones: to the addresses that the name has now. These are resolved and recorded here.
 */
export async function learnNames(
  { kernel, dns }: Pick<Options, 'kernel'> & { readonly dns: Pick<DnsService, 'learn'> },
  state: AppliedState,
  members: readonly Subject[],
): Promise<void> {
  const enforced = members.filter((m) => m.policy.mode === 'enforce');
  const owners = holdersOf(enforced, state.vethMap.bindings);
  const names = new Map<string, readonly [string, string]>();
  for (const flow of owners.size > 0 ? await kernel.flows.flowsAmong(new Set(owners.keys())) : []) {
    const owner = owners.get(flow.orig.src);
    if (!owner || state.evaluator.keeps(owner, flow)) continue;
    for (const name of uncheckedNames(owner, flow)) names.set(`${owner.id} ${name}`, [owner.id, name]);
  }
  if (names.size === 0) return;
  const learned = Promise.all([...names.values()].map(([id, name]) => dns.learn(id, name)));
  await Promise.race([learned, sleep(LEARN_MS, undefined, { ref: false })]);
}

/** Exact names whose entries permit the port and protocol of the flow, without a check of what the connection asks for. */
function uncheckedNames(
  { classes }: Subject,
  { proto, reply: { sport: port = 0 } }: Flow,
): readonly string[] {
  const fits = (c: ClassPlan): boolean => !c.isChecked && classHas(c, PROTOCOLS[proto] ?? '', port);
  return classes
    .filter(fits)
    .flatMap((c) => c.names)
    .flatMap(({ entry: { target } }) =>
      target.kind === 'name' && target.match === 'exact' ? target.name : [],
    );
}
