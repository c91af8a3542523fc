import { parseAddress, parseCidr, type Range, rangeHas } from '../model/ip.js';
import type { ThreatMembers } from '../model/threat.js';
import type { FlowFacts, FlowTable } from './cut.js';
import type { InForce } from './enforcer.js';
import { type Addition, holderOf } from './threat-columns.js';

/** What decides which flows end. */
export interface Doom {
  readonly state: InForce;
  readonly members: ThreatMembers['block'];
  readonly identityMask: number;
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

/** The bad end of a flow between a container and a threat; undefined: it may go on. */
function badEnd({ state, members, identityMask }: Doom): (flow: FlowFacts) => string | undefined {
  const ours = isOurs(state);
  const isBad = (family: 4 | 6, address: string): boolean =>
    holderOf(members[family === 4 ? 'v4' : 'v6'], address) !== undefined;
  // Senders in the host's network have no address of their own: their first packet marked the flow.
  const isSent = (f: FlowFacts): boolean => ours(f.orig.src) || (f.mark & identityMask) !== 0;
  return (f) => {
    if (isBad(f.family, f.reply.src) && isSent(f)) return f.reply.src;
    return isBad(f.family, f.orig.src) && ours(f.reply.src) ? f.orig.src : undefined;
  };
}

/** Flows of a family to or from what was added; the kernel finds those of a few addresses itself. */
async function flowsTo<F extends FlowFacts>(
  table: FlowTable<F>,
  family: 4 | 6,
  added: Addition,
): Promise<F[]> {
  if (added === 'none') return [];
  if (added === 'many') return [...(await table.flows(family, {}))];
  const found: F[] = [];
  for (const src of added)
    found.push(
      ...(await table.flows(family, { reply: { src } })),
      ...(await table.flows(family, { orig: { src } })),
    );
  return found;
}

/**
 * Ends them, and once more what was on its way when the rules changed. Nothing re-creates them: each side's next packet
 * opens a flow, and is judged. Gives the bad ends.
 */
export async function endThreatFlows<F extends FlowFacts>(
  table: FlowTable<F>,
  doom: Doom,
  family: 4 | 6,
  added: Addition,
): Promise<readonly string[]> {
  const endOf = badEnd(doom);
  const ended: string[] = [];
  for (let round = 0, found = 1; round < 2 && found > 0; round++) {
    found = 0;
    for (const flow of await flowsTo(table, family, added)) {
      const end = endOf(flow);
      if (end === undefined || !table.delete(flow)) continue;
      ended.push(end);
      found += 1;
    }
  }
  return ended;
}
