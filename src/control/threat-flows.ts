import { parseAddress, parseCidr, type Range, rangeHas } from '../model/ip.js';
import type { SetColumns, ThreatMembers } from '../model/threat.js';
import type { FlowFacts, FlowTable } from './cut.js';
import type { InForce } from './enforcer.js';
import { type Addition, holderOf, octetsTest } from './threat-columns.js';

/** What decides which flows end. */
export interface Doom {
  readonly state: InForce;
  readonly members: ThreatMembers['block'];
  readonly identityMask: number;
  /** Keeps what the other side sends from making a flow anew that ended. */
  readonly bar: (flows: readonly FlowFacts[]) => Promise<void>;
}

/** Addresses of managed networks: containers', and those of build steps. */
function isOurs({ ports }: InForce): (address: string) => boolean {
  const ranges: Range[] = [...ports.bridges.values()].flatMap((b) =>
    b.network.subnets.flatMap((s) => parseCidr(s) ?? []),
  );
  return (text) => {
    const address = parseAddress(text);
    return address !== undefined && ranges.some((range) => rangeHas(range, address));
  };
}

interface Found<F> {
  readonly flow: F;
  /** The threat's address. */
  readonly end: string;
  /** Of a sender in the host's network, who has no address of its own: its first packet marked the flow. */
  readonly isHosted: boolean;
}

/** Flows between a container and a threat. */
function doomed<F extends FlowFacts>(
  flows: readonly F[],
  { state, members, identityMask }: Doom,
): Found<F>[] {
  const ours = isOurs(state);
  const isBad = (family: 4 | 6, address: string): boolean =>
    holderOf(members[family === 4 ? 'v4' : 'v6'], address) !== undefined;
  return flows.flatMap((flow) => {
    const { family, orig, reply, mark } = flow;
    const end = isBad(family, reply.src) ? reply.src : isBad(family, orig.src) ? orig.src : undefined;
    if (end === undefined) return [];
    const isHosted = end === reply.src && (mark & identityMask) !== 0;
    return isHosted || ours(end === reply.src ? orig.src : reply.src) ? [{ flow, end, isHosted }] : [];
  });
}

/** Flows of a family to or from what was added; the kernel finds those of a few addresses itself. */
async function flowsTo<F extends FlowFacts>(
  table: FlowTable<F>,
  family: 4 | 6,
  added: Addition,
  all: SetColumns,
): Promise<readonly F[]> {
  if (added === 'none') return [];
  if (added === 'many') return table.flows(family, {}, octetsTest(all));
  const found: F[] = [];
  for (const src of added)
    found.push(
      ...(await table.flows(family, { reply: { src } })),
      ...(await table.flows(family, { orig: { src } })),
    );
  return found;
}

/**
 * Ends them, and once more what was on its way when the rules changed. On bridges nothing re-creates them: each side's
 * next packet opens a flow, and is judged. What comes to the host itself is the host's, so that is barred. Gives the ends.
 */
export async function endThreatFlows<F extends FlowFacts>(
  table: FlowTable<F>,
  doom: Doom,
  family: 4 | 6,
  added: Addition,
): Promise<readonly string[]> {
  const ended: string[] = [];
  for (let round = 0; round < 2; round++) {
    const found = doomed(await flowsTo(table, family, added, doom.members[family === 4 ? 'v4' : 'v6']), doom);
    if (found.length === 0) break;
    await doom.bar(found.filter((f) => f.isHosted).map((f) => f.flow));
    for (const { flow, end } of found) if (table.delete(flow)) ended.push(end);
  }
  return ended;
}
