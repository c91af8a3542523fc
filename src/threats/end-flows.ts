import type { FlowTable } from '../kernel/delete-flows.js';
import { parseAddress, parseCidr, type Range, rangeHas } from '../lib/ip.js';
import type { DirectedColumns, FlowEnd } from '../policy/threat.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { Flow } from '../ruleset/flow.js';
import { type Addition, holderOf, judging, octetsTest } from './set-columns.js';

/** What decides which flows end. */
export interface DeletionContext {
  readonly state: AppliedState;
  readonly members: DirectedColumns;
  readonly identityMask: number;
  /** Keeps what the other side sends from making a flow anew that ended. */
  readonly bar: (flows: readonly Flow[]) => Promise<void>;
}
/** What is bad now and was not, as a destination and as a source. */
export type Added = Readonly<Record<FlowEnd, Addition>>;

/** Addresses of managed networks: containers', and those of build steps. */
function isOurs({ vethMap: ports }: AppliedState): (address: string) => boolean {
  const ranges: Range[] = [...ports.bridges.values()].flatMap((b) =>
    b.network.subnets.flatMap((s) => parseCidr(s) ?? []),
  );
  return (text) => {
    const address = parseAddress(text);
    return address !== undefined && ranges.some((range) => rangeHas(range, address));
  };
}

interface Found {
  readonly flow: Flow;
  /** The threat's address. */
  readonly end: string;
  /** Of a sender in the host's network, who has no address of its own: its first packet marked the flow. */
  readonly isHosted: boolean;
}

/** Flows that a container opened to a threat, and those that a threat opened to a container. */
function doomed(flows: readonly Flow[], { state, members, identityMask }: DeletionContext): Found[] {
  const ours = isOurs(state);
  const isBad = (end: FlowEnd, family: 4 | 6, address: string): boolean =>
    judging(members, end, family).some((columns) => holderOf(columns, address) !== undefined);
  return flows.flatMap((flow) => {
    const { family, orig, reply, mark } = flow;
    const isHosted = (mark & identityMask) !== 0;
    if (isBad('dst', family, reply.src) && (isHosted || ours(orig.src)))
      return [{ flow, end: reply.src, isHosted }];
    if (isBad('src', family, orig.src) && ours(reply.src)) return [{ flow, end: orig.src, isHosted: false }];
    return [];
  });
}

const FILTERS = {
  dst: (src: string) => ({ reply: { src } }),
  src: (src: string) => ({ orig: { src } }),
} as const;
const ENDS = ['dst', 'src'] as const;

/** Flows of a family to or from what was added; the kernel finds those of a few addresses itself. */
async function flowsOf(
  table: FlowTable,
  family: 4 | 6,
  added: Added,
  all: DirectedColumns,
): Promise<readonly Flow[]> {
  if (ENDS.some((end) => added[end] === 'many')) {
    const tests = ENDS.filter((end) => added[end] !== 'none').flatMap((end) =>
      judging(all, end, family).map(octetsTest),
    );
    return table.flows(family, {}, (octets, at) => tests.some((test) => test(octets, at)));
  }
  const found: Flow[] = [];
  for (const end of ENDS)
    for (const address of typeof added[end] === 'string' ? [] : added[end])
      found.push(...(await table.flows(family, FILTERS[end](address))));
  return found;
}

/**
 * Ends them, and once more what was on its way when the rules changed. On bridges nothing re-creates them: each side's
 * next packet opens a flow, and is judged. What comes to the host itself is the host's, so that is barred. Gives the ends.
 */
export async function endThreatFlows(
  table: FlowTable,
  doom: DeletionContext,
  family: 4 | 6,
  added: Added,
): Promise<readonly string[]> {
  const ended: string[] = [];
  for (let round = 0; round < 2; round++) {
    const found = doomed(await flowsOf(table, family, added, doom.members), doom);
    if (found.length === 0) break;
    await doom.bar(found.filter((f) => f.isHosted).map((f) => f.flow));
    for (const { flow, end } of found) if (table.delete(flow)) ended.push(end);
  }
  return ended;
}
