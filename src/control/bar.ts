import { sharedSet } from '../desired/naming.js';
import type { FlowFacts } from './cut.js';
import type { KernelPort } from './kernel-port.js';

/** How long packets of a flow that was cut may still come from the other side (s): those with ports, TCP and UDP. */
interface BarTimes {
  readonly tcp: number;
  readonly udp: number;
}
const PROTO: Readonly<Record<number, keyof BarTimes>> = { 6: 'tcp', 17: 'udp' };
const PROTOS = ['tcp', 'udp'] as const;

interface Barred {
  readonly set: string;
  readonly member: string;
  /** Addresses of both ends. */
  readonly ends: readonly string[];
  readonly until: number;
}

/** Pairs of ends between which nothing opens a flow for a time. */
export class Bars {
  readonly #kernel: Pick<KernelPort, 'addCut' | 'removeCut'>;
  readonly #prefix: string;
  readonly #now: () => number;
  /** Of UDP: who comes to an address later may use the same ports. New TCP connections are not barred. */
  #udp: readonly Barred[] = [];

  /** `now`: ms. */
  constructor(kernel: Pick<KernelPort, 'addCut' | 'removeCut'>, prefix: string, now: () => number) {
    this.#kernel = kernel;
    this.#prefix = prefix;
    this.#now = now;
  }

  /** For so long the other side's packets cannot make these flows anew. */
  async bar(flows: readonly FlowFacts[], seconds: BarTimes): Promise<void> {
    const now = this.#now();
    this.#udp = this.#udp.filter((b) => b.until > now);
    for (const family of [4, 6] as const)
      for (const proto of PROTOS) {
        const fit = flows.filter((f) => f.family === family && PROTO[f.proto] === proto && f.orig.sport);
        if (fit.length === 0) continue;
        const set = sharedSet(this.#prefix, 'cut', family);
        const until = now + seconds[proto] * 1000;
        const barred = fit.map((f) => ({ set, member: memberOf(f, proto), ends: endsOf(f), until }));
        if (proto === 'udp') this.#udp = [...this.#udp, ...barred];
        await this.#kernel.addCut(
          set,
          barred.map((b) => b.member),
          seconds[proto],
        );
      }
  }

  /** These addresses are somebody else's now, and may speak with everybody anew. */
  async lift(addresses: ReadonlySet<string>): Promise<void> {
    const over = this.#udp.filter((b) => b.ends.some((end) => addresses.has(end)));
    this.#udp = this.#udp.filter((b) => !over.includes(b));
    for (const set of new Set(over.map((b) => b.set)))
      await this.#kernel.removeCut(
        set,
        over.filter((b) => b.set === set).map((b) => b.member),
      );
  }
}

/** As the set's hash:ip,port,ip has it: to whom, to which port, from whom. */
const memberOf = (f: FlowFacts, proto: keyof BarTimes): string =>
  `${f.orig.src},${proto}:${f.orig.sport},${f.reply.src}`;
const endsOf = (f: FlowFacts): string[] => [f.orig.src, f.reply.src];
