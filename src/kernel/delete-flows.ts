import type { Flow } from '../ruleset/flow.js';
import { sharedSet } from '../ruleset/naming.js';
import type { Kernel } from './kernel.js';
import type { Conntrack } from './netlink/conntrack.js';

/** What reads and deletes the flows of one network namespace. */
export type FlowTable = Pick<Conntrack, 'flows' | 'flowsAmong' | 'delete' | 'mark'> &
  Partial<Pick<Conntrack, 'count'>>;

/** Above this many addresses one walk of the table is cheaper than a filtered dump for each. */
const FEW = 3;

/** Flows that were opened from, or are answered by, one of these addresses. */
async function flowsOf(
  table: FlowTable,
  way: 'orig' | 'reply',
  addresses: ReadonlySet<string>,
): Promise<Flow[]> {
  const one = (src: string): Promise<readonly Flow[]> =>
    table.flows(src.includes(':') ? 6 : 4, { [way]: { src } });
  const found =
    addresses.size > FEW
      ? await table.flowsAmong(addresses)
      : (await Promise.all([...addresses].map(one))).flat();
  return found.filter((f) => addresses.has(f[way].src));
}

/** A flow that ended, and whose it was. */
export interface DeletedFlow {
  readonly flow: Flow;
  readonly owner: string;
}
interface DeletionRules {
  /** Flows that may go on. */
  readonly keep: (flow: Flow) => boolean;
  /** Before they end: bars what is on its way, which would make each anew from the other side. */
  readonly bar: (flows: readonly Flow[]) => Promise<void>;
}

/**
 * Ends the flows that were opened from these addresses (orig), or that others have opened to them, DNATed ones too (reply),
 * and that `keep` does not want; once more for packets that were on their way. Resolves with what was ended in the first round.
 */
export function deleteFlows(
  table: FlowTable,
  way: 'orig' | 'reply',
  addresses: ReadonlySet<string>,
  how: DeletionRules,
): Promise<readonly Flow[]> {
  return addresses.size === 0 ? Promise.resolve([]) : cut(table, () => flowsOf(table, way, addresses), how);
}

/** Up to this many flows one walk of the table without a filter is faster than four with one. */
const FEW_FLOWS = 10_000;

/**
 * Delete the flows that were opened from these addresses and, unless `keep` wants them, those that others have opened to
 * them. The first packet of a new container waits for this: a walk of an empty table takes milliseconds.
 */
export async function deleteFlowsOfAddresses(
  table: FlowTable,
  addresses: ReadonlySet<string>,
  keep: (flow: Flow) => boolean,
): Promise<void> {
  if (addresses.size === 0) return;
  const isSmall = (table.count?.() ?? Number.POSITIVE_INFINITY) <= FEW_FLOWS;
  const both = async (): Promise<Flow[]> => {
    if (isSmall || addresses.size > FEW) return [...(await table.flowsAmong(addresses))];
    return [...(await flowsOf(table, 'orig', addresses)), ...(await flowsOf(table, 'reply', addresses))];
  };
  await cut(table, both, { keep: (f) => !addresses.has(f.orig.src) && keep(f), bar: async () => undefined });
}

/** The same for flows that bear one of these marks: those of containers in the host's network. */
export function deleteMarkedFlows(
  table: FlowTable,
  marks: readonly number[],
  mask: number,
  how: DeletionRules,
): Promise<readonly Flow[]> {
  const marked = async (): Promise<Flow[]> => {
    const filter = marks.length === 1 ? { mark: { value: marks[0] as number, mask } } : {};
    const found = await Promise.all(([4, 6] as const).map((family) => table.flows(family, filter)));
    return found.flat().filter((f) => marks.includes((f.mark & mask) >>> 0));
  };
  return marks.length === 0 ? Promise.resolve([]) : cut(table, marked, how);
}

async function cut(
  table: FlowTable,
  find: () => Promise<Flow[]>,
  { keep, bar }: DeletionRules,
): Promise<readonly Flow[]> {
  const round = async (): Promise<Flow[]> => {
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

/** How long packets of a flow that was cut may still come from the other side (s). */
interface BarTimes {
  readonly tcp: number;
  /** Of other protocols nothing tells a question from an answer. */
  readonly others: number;
}
const TCP = 6;
/** ipset takes none of these with a port of 0: hop-by-hop options, and ICMP, whose answers make no flow. */
const UNBARRED: readonly number[] = [0, 1, 58];
/** Of the other protocols ipset takes 0 for the port (ip_set_getport.c, get_port). */
const WITH_PORTS: readonly number[] = [TCP, 17, 132, 136];

interface Barred {
  readonly set: string;
  readonly member: string;
  /** Addresses of both ends. */
  readonly ends: readonly string[];
  readonly until: number;
}

/** Pairs of ends between which nothing opens a flow for a time. */
export class FlowBlocklist {
  readonly #kernel: Pick<Kernel, 'addCut' | 'removeCut'>;
  readonly #prefix: string;
  readonly #now: () => number;
  /** Who comes to an address later may use the same ports. New TCP connections are not barred. */
  #others: readonly Barred[] = [];

  /** `now`: ms. */
  constructor(kernel: Pick<Kernel, 'addCut' | 'removeCut'>, prefix: string, now: () => number) {
    this.#kernel = kernel;
    this.#prefix = prefix;
    this.#now = now;
  }

  /** For so long the other side's packets cannot make these flows anew. */
  async block(flows: readonly Flow[], { tcp, others }: BarTimes): Promise<void> {
    const now = this.#now();
    this.#others = this.#others.filter((b) => b.until > now);
    for (const family of [4, 6] as const) {
      const fit = flows.filter((f) => f.family === family && !UNBARRED.includes(f.proto));
      const set = sharedSet(this.#prefix, 'cut', family);
      const barred = (part: readonly Flow[], seconds: number): Barred[] =>
        part.flatMap((f) =>
          membersOf(f).map((member) => ({ set, member, ends: endsOf(f), until: now + seconds * 1000 })),
        );
      const connections = barred(
        fit.filter((f) => f.proto === TCP),
        tcp,
      );
      const rest = barred(
        fit.filter((f) => f.proto !== TCP),
        others,
      );
      this.#others = [...this.#others, ...rest];
      if (connections.length > 0) await this.#kernel.addCut(set, connections.map(textOf), tcp);
      if (rest.length > 0) await this.#kernel.addCut(set, rest.map(textOf), others);
    }
  }

  /** These addresses are somebody else's now, and may speak with everybody anew. */
  async lift(addresses: ReadonlySet<string>): Promise<void> {
    const over = this.#others.filter((b) => b.ends.some((end) => addresses.has(end)));
    this.#others = this.#others.filter((b) => !over.includes(b));
    for (const set of new Set(over.map((b) => b.set)))
      await this.#kernel.removeCut(
        set,
        over.filter((b) => b.set === set).map((b) => b.member),
      );
  }
}

const textOf = (b: Barred): string => b.member;
/**
 * As the set's hash:ip,port,ip has it: to whom, by which protocol and to which port, from whom. In the host's network the
 * other side may know the flow by a port that NAT gave it: whoever sent it can take that one, too.
 */
function membersOf({ proto, orig, reply }: Flow): string[] {
  const known = reply.dst === orig.src ? (reply.dport ?? orig.sport) : orig.sport;
  const ports = WITH_PORTS.includes(proto) ? [orig.sport ?? 0, known ?? 0] : [0];
  return [...new Set(ports)].map((port) => `${orig.src},${proto}:${port},${reply.src}`);
}
const endsOf = (f: Flow): string[] => [f.orig.src, f.reply.src];
