import type { Flow } from '../ruleset/flow.js';
import { sharedSet } from '../ruleset/naming.js';
import type { KernelPort } from './kernel-port.js';

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
  readonly #kernel: Pick<KernelPort, 'addCut' | 'removeCut'>;
  readonly #prefix: string;
  readonly #now: () => number;
  /** Who comes to an address later may use the same ports. New TCP connections are not barred. */
  #others: readonly Barred[] = [];

  /** `now`: ms. */
  constructor(kernel: Pick<KernelPort, 'addCut' | 'removeCut'>, prefix: string, now: () => number) {
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
