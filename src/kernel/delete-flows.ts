import { familyOf } from '../lib/ip.js';
import type { Flow } from '../ruleset/flow.js';
import { sharedSet } from '../ruleset/naming.js';
import type { Kernel } from './kernel.js';
import type { Conntrack } from './netlink/conntrack.js';

/** The conntrack table of one network namespace. */
export type FlowTable = Pick<Conntrack, 'flows' | 'flowsAmong' | 'delete' | 'mark'> &
  Partial<Pick<Conntrack, 'count'>>;

/** For more addresses than this, one walk of the table is cheaper than a filtered dump for each address. */
const FEW = 3;

/** Flows that were opened from, or are answered by, one of these addresses. */
async function flowsOf(
  table: FlowTable,
  way: 'orig' | 'reply',
  addresses: ReadonlySet<string>,
): Promise<Flow[]> {
  const one = (src: string): Promise<readonly Flow[]> => table.flows(familyOf(src), { [way]: { src } });
  const found =
    addresses.size > FEW
      ? await table.flowsAmong(addresses)
      : (await Promise.all([...addresses].map(one))).flat();
  return found.filter((f) => addresses.has(f[way].src));
}

/** A deleted flow, and the container that it belonged to. */
export interface DeletedFlow {
  readonly flow: Flow;
  readonly owner: string;
}
interface DeletionRules {
  /** Flows that may go on. */
  readonly keep: (flow: Flow) => boolean;
  /** Called before flows are deleted: blocks packets in flight, which would re-create a flow from the other side. */
  readonly block: (flows: readonly Flow[]) => Promise<void>;
}

/**
 * Deletes the flows that these addresses opened (orig), or that other endpoints opened to them, with and without DNAT
 * (reply), except those that `keep` permits. A second round deletes what packets in flight have re-created. Resolves
 * with the flows of the first round.
 */
export function deleteFlows(
  table: FlowTable,
  way: 'orig' | 'reply',
  addresses: ReadonlySet<string>,
  how: DeletionRules,
): Promise<readonly Flow[]> {
  return addresses.size === 0
    ? Promise.resolve([])
    : deleteInTwoRounds(table, () => flowsOf(table, way, addresses), how);
}

/** For up to this many flows, one walk of the table without a filter is faster than four with a filter. */
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
  await deleteInTwoRounds(table, both, {
    keep: (f) => !addresses.has(f.orig.src) && keep(f),
    block: async () => undefined,
  });
}

/** Deletes the flows that carry one of these marks: those of containers in the host's network. */
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
  return marks.length === 0 ? Promise.resolve([]) : deleteInTwoRounds(table, marked, how);
}

async function deleteInTwoRounds(
  table: FlowTable,
  find: () => Promise<Flow[]>,
  { keep, block }: DeletionRules,
): Promise<readonly Flow[]> {
  const round = async (): Promise<Flow[]> => {
    const unwanted = (await find()).filter((f) => !keep(f));
    try {
      if (unwanted.length > 0) await block(unwanted);
    } finally {
      for (const flow of unwanted) table.delete(flow);
    }
    return unwanted;
  };
  const ended = await round();
  if (ended.length > 0) await round();
  return ended;
}

/** How long (s) packets of a deleted flow may still arrive from the other side. */
interface BlockTimes {
  readonly tcp: number;
  /** For protocols other than TCP, a reply cannot be distinguished from a request. */
  readonly others: number;
}
const TCP = 6;
/** ipset does not accept port 0 for these protocols: hop-by-hop options, and ICMP. Replies to ICMP create no flow. */
const NOT_BLOCKABLE: readonly number[] = [0, 1, 58];
/** Of the other protocols, ipset uses 0 as the port (ip_set_getport.c, get_port). */
const WITH_PORTS: readonly number[] = [TCP, 17, 132, 136];

interface Block {
  readonly set: string;
  readonly member: string;
  /** Addresses of both endpoints. */
  readonly ends: readonly string[];
  readonly until: number;
}

/** A timed ipset of pairs of endpoints that must not open a flow to each other. */
export class FlowBlocklist {
  readonly #kernel: Pick<Kernel, 'addToBlocklist' | 'removeFromBlocklist'>;
  readonly #prefix: string;
  readonly #now: () => number;
  /**
   * Blocks of protocols other than TCP. The next owner of an address may use the same ports; new TCP connections are
   * not blocked.
   */
  #others: readonly Block[] = [];

  /** `now`: ms. */
  constructor(
    kernel: Pick<Kernel, 'addToBlocklist' | 'removeFromBlocklist'>,
    prefix: string,
    now: () => number,
  ) {
    this.#kernel = kernel;
    this.#prefix = prefix;
    this.#now = now;
  }

  /** Keeps packets of the other side from re-creating these flows for this long. */
  async block(flows: readonly Flow[], { tcp, others }: BlockTimes): Promise<void> {
    const now = this.#now();
    this.#others = this.#others.filter((b) => b.until > now);
    for (const family of [4, 6] as const) {
      const fit = flows.filter((f) => f.family === family && !NOT_BLOCKABLE.includes(f.proto));
      const set = sharedSet(this.#prefix, 'cut', family);
      const blocksOf = (part: readonly Flow[], seconds: number): Block[] =>
        part.flatMap((f) =>
          membersOf(f).map((member) => ({ set, member, ends: endsOf(f), until: now + seconds * 1000 })),
        );
      const connections = blocksOf(
        fit.filter((f) => f.proto === TCP),
        tcp,
      );
      const rest = blocksOf(
        fit.filter((f) => f.proto !== TCP),
        others,
      );
      this.#others = [...this.#others, ...rest];
      if (connections.length > 0) await this.#kernel.addToBlocklist(set, connections.map(textOf), tcp);
      if (rest.length > 0) await this.#kernel.addToBlocklist(set, rest.map(textOf), others);
    }
  }

  /** Lifts the blocks of these addresses, which have a new owner. */
  async lift(addresses: ReadonlySet<string>): Promise<void> {
    const over = this.#others.filter((b) => b.ends.some((end) => addresses.has(end)));
    this.#others = this.#others.filter((b) => !over.includes(b));
    for (const set of new Set(over.map((b) => b.set)))
      await this.#kernel.removeFromBlocklist(
        set,
        over.filter((b) => b.set === set).map((b) => b.member),
      );
  }
}

const textOf = (b: Block): string => b.member;
/**
 * Members in the form of the set's hash:ip,port,ip: destination, protocol and destination port, source. In the host's
 * network, the other side may see the flow with a source port that NAT has assigned. The sender may bind that port as
 * well, so that it gets a member of its own.
 */
function membersOf({ proto, orig, reply }: Flow): string[] {
  const known = reply.dst === orig.src ? (reply.dport ?? orig.sport) : orig.sport;
  const ports = WITH_PORTS.includes(proto) ? [orig.sport ?? 0, known ?? 0] : [0];
  return [...new Set(ports)].map((port) => `${orig.src},${proto}:${port},${reply.src}`);
}
const endsOf = (f: Flow): string[] => [f.orig.src, f.reply.src];
