import type { TracePacket } from '../ruleset/trace.js';

/** A flow of conntrack as this room needs it. */
export interface FlowFacts {
  readonly family: 4 | 6;
  readonly proto: number;
  /** The connection's mark. */
  readonly mark: number;
  readonly status?: { readonly assured: boolean };
  /** Of TCP: its handshake is under way; its middle was seen first. */
  readonly tcp?: { readonly handshake: boolean; readonly pickedUp: boolean };
  readonly orig: {
    readonly src: string;
    readonly dst: string;
    readonly sport?: number;
    readonly dport?: number;
  };
  readonly reply: {
    readonly src: string;
    readonly dst: string;
    readonly sport?: number;
    readonly dport?: number;
  };
}
export interface FlowTable<F extends FlowFacts> {
  flows(
    family: 4 | 6,
    filter: {
      readonly orig?: { readonly src?: string };
      readonly reply?: { readonly src?: string };
      readonly mark?: { readonly value: number; readonly mask: number };
    },
    /** Only flows of which who opened it or who answers fits: octets in network order, from `at`. */
    among?: (octets: Buffer, at: number) => boolean,
  ): Promise<readonly F[]>;
  /** Flows of both families that one of these addresses opened or answers, by one walk of the table. */
  flowsAmong(addresses: ReadonlySet<string>): Promise<readonly F[]>;
  count?(): number | undefined;
  delete(flow: F): boolean;
  /** Writes these bits of the connection's mark; false: the flow is gone. */
  mark(flow: F, value: number, mask: number): boolean;
}

const PROTO: Readonly<Record<number, 'tcp' | 'udp' | 'icmp'>> = {
  1: 'icmp',
  6: 'tcp',
  17: 'udp',
  58: 'icmp',
};
const DNS_PORT = 53;

/** The packet that would open this flow now: its true destination is where answers come from. */
export function opening(flow: FlowFacts): Omit<TracePacket, 'mark'> {
  const proto = PROTO[flow.proto] ?? flow.proto;
  return {
    family: flow.family,
    proto,
    src: flow.orig.src,
    dst: flow.reply.src,
    states: flow.orig.dst === flow.reply.src ? ['NEW'] : ['NEW', 'DNAT'],
    syn: true,
    ...(flow.orig.dst === flow.reply.src || flow.orig.dport === undefined ? {} : { sentTo: flow.orig.dport }),
    ...(proto === 'icmp' ? { echo: true } : {}),
    ...(flow.reply.sport === undefined ? {} : { dport: flow.reply.sport }),
  };
}

/** The same as if who answers had opened it. */
export const turned = <F extends FlowFacts>(flow: F): F => ({ ...flow, orig: flow.reply, reply: flow.orig });

const TCP = 6;
/** Where an answer makes a flow, who answers seems to have opened it; a handshake shows who did. */
export const mayBeTurned = (flow: FlowFacts): boolean => flow.proto !== TCP || flow.tcp?.pickedUp === true;

export const isDns = (flow: FlowFacts): boolean => flow.orig.dport === DNS_PORT;

/** Above this many addresses one walk of the table is cheaper than a filtered dump for each. */
const FEW = 3;

/** Flows that were opened from, or are answered by, one of these addresses. */
async function flowsOf<F extends FlowFacts>(
  table: FlowTable<F>,
  way: 'orig' | 'reply',
  addresses: ReadonlySet<string>,
): Promise<F[]> {
  const one = (src: string): Promise<readonly F[]> =>
    table.flows(src.includes(':') ? 6 : 4, { [way]: { src } });
  const found =
    addresses.size > FEW
      ? await table.flowsAmong(addresses)
      : (await Promise.all([...addresses].map(one))).flat();
  return found.filter((f) => addresses.has(f[way].src));
}

/** A flow that ended, and whose it was. */
export interface Ended<F> {
  readonly flow: F;
  readonly owner: string;
}
interface Cut<F> {
  /** Flows that may go on. */
  readonly keep: (flow: F) => boolean;
  /** Before they end: bars what is on its way, which would make each anew from the other side. */
  readonly bar: (flows: readonly F[]) => Promise<void>;
}

/**
 * Ends the flows that were opened from these addresses (orig), or that others have opened to them, DNATed ones too (reply),
 * and that `keep` does not want; once more for packets that were on their way. Resolves with what was ended in the first round.
 */
export function cutFlows<F extends FlowFacts>(
  table: FlowTable<F>,
  way: 'orig' | 'reply',
  addresses: ReadonlySet<string>,
  how: Cut<F>,
): Promise<readonly F[]> {
  return addresses.size === 0 ? Promise.resolve([]) : cut(table, () => flowsOf(table, way, addresses), how);
}

/** Up to this many flows one walk of the table without a filter is faster than four with one. */
const FEW_FLOWS = 10_000;

/**
 * Delete the flows that were opened from these addresses and, unless `keep` wants them, those that others have opened to
 * them. The first packet of a new container waits for this: a walk of an empty table takes milliseconds.
 */
export async function cutBoth<F extends FlowFacts>(
  table: FlowTable<F>,
  addresses: ReadonlySet<string>,
  keep: (flow: F) => boolean,
): Promise<void> {
  if (addresses.size === 0) return;
  const isSmall = (table.count?.() ?? Number.POSITIVE_INFINITY) <= FEW_FLOWS;
  const both = async (): Promise<F[]> => {
    if (isSmall || addresses.size > FEW) return [...(await table.flowsAmong(addresses))];
    return [...(await flowsOf(table, 'orig', addresses)), ...(await flowsOf(table, 'reply', addresses))];
  };
  await cut(table, both, { keep: (f) => !addresses.has(f.orig.src) && keep(f), bar: async () => undefined });
}

/** The same for flows that bear one of these marks: those of containers in the host's network. */
export function cutMarked<F extends FlowFacts>(
  table: FlowTable<F>,
  marks: readonly number[],
  mask: number,
  how: Cut<F>,
): Promise<readonly F[]> {
  const marked = async (): Promise<F[]> => {
    const filter = marks.length === 1 ? { mark: { value: marks[0] as number, mask } } : {};
    const found = await Promise.all(([4, 6] as const).map((family) => table.flows(family, filter)));
    return found.flat().filter((f) => marks.includes((f.mark & mask) >>> 0));
  };
  return marks.length === 0 ? Promise.resolve([]) : cut(table, marked, how);
}

async function cut<F extends FlowFacts>(
  table: FlowTable<F>,
  find: () => Promise<F[]>,
  { keep, bar }: Cut<F>,
): Promise<readonly F[]> {
  const round = async (): Promise<F[]> => {
    const doomed = (await find()).filter((f) => !keep(f));
    try {
      if (doomed.length > 0) await bar(doomed);
    } finally {
      for (const flow of doomed) table.delete(flow);
    }
    return doomed;
  };
  const ended = await round();
  if (ended.length > 0) await round();
  return ended;
}
