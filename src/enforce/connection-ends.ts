import { setTimeout as sleep } from 'node:timers/promises';
import type { Exec } from '../kernel/exec.js';
import type { Kernel } from '../kernel/kernel.js';
import { resetSockets } from '../kernel/sockets.js';
import { eachOf } from '../lib/async.js';
import type { Current } from '../lib/current.js';
import type { Logger } from '../lib/log.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { Flow, Tuple } from '../ruleset/flow.js';
import { holdersOf } from './bind-veths.js';

interface ConnectionResetsOptions {
  readonly applied: Pick<Current<AppliedState>, 'value'>;
  readonly kernel: Pick<Kernel, 'hostAddresses'>;
  /** The path of the network namespace of a container. */
  readonly namespaces: { pathOf(container: string): string | undefined };
  readonly run: Exec;
  readonly log: Pick<Logger, 'debug'>;
}

const TCP = 6;
/** The block and the deletion of the flows wait no longer than this (ms). A process takes 5 ms, and on a busy host 100. */
const BUDGET_MS = 250;
/** Processes that run next to each other. */
const AT_ONCE = 4;
/** Refused packets of this time (ms) share their processes: a container can send many. */
const GATHER_MS = 500;
const MOST_GATHERED = 500;

/**
 * Resets TCP connections at the socket of the container, while their packets still pass: then both sides know, also one that never sends.
 * Between containers it does so at both sockets: packets that stay on a bridge do not pass any longer, and the first one of a side may have
 * ended its socket already. Where there is no such socket (in a namespace inside of that of the container), the kernel cannot end one, or time is over, each side
 * gets a reset when it sends next.
 *
 * The kernel waits for the lock of a socket, which its program keeps while it sends from memory that is not there yet (of a file system that
 * does not answer). Such a wait cannot be interrupted, so that each namespace has a process of its own for it, and one at a time.
 */
export class ConnectionResets {
  readonly #o: ConnectionResetsOptions;
  /** Paths of the namespaces in which a process has not ended. */
  readonly #busy = new Set<string | undefined>();
  /** Sockets of neighbours, by their ends. */
  readonly #peers = new Map<string, Tuple>();
  #timer: NodeJS.Timeout | undefined;

  constructor(options: ConnectionResetsOptions) {
    this.#o = options;
  }

  /** `orig.src` of each flow is the endpoint of the container. Never rejects. */
  readonly reset = (flows: readonly Flow[]): Promise<void> =>
    this.#reset(flows.filter(isOpen).flatMap(({ orig, reply }) => [orig, reply]));

  /**
   * A packet from the middle of a connection to a neighbour was refused, which has ended the socket of its sender alone: that of the neighbour is
   * reset. A container can send such packets for connections with itself only.
   */
  readonly refused = ({ src, sport = 0, dst, dport = 0 }: Tuple): void => {
    if (this.#peers.size < MOST_GATHERED)
      this.#peers.set(`${dst} ${dport} ${src} ${sport}`, { src: dst, sport: dport, dst: src, dport: sport });
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      const peers = [...this.#peers.values()];
      this.#peers.clear();
      void this.#reset(peers);
    }, GATHER_MS).unref();
  };

  readonly #note = (e: unknown): void =>
    this.#o.log.debug({ err: String(e) }, 'connections end with the next packet of each side');

  #reset(ends: readonly Tuple[]): Promise<void> {
    return this.#resetWithin(ends).catch(this.#note);
  }

  async #resetWithin(ends: readonly Tuple[]): Promise<void> {
    if (ends.length === 0) return;
    let isOver = false;
    const resets = eachOf([...this.#byPlace(ends)], AT_ONCE, async ([path, ofPlace]) => {
      if (!isOver && !this.#busy.has(path)) await this.#resetIn(path, ofPlace);
    });
    await Promise.race([resets, sleep(BUDGET_MS, undefined, { ref: false })]);
    isOver = true;
  }

  /** By network namespace; without a path it is that of the host. */
  #byPlace(all: readonly Tuple[]): ReadonlyMap<string | undefined, readonly Tuple[]> {
    const { applied, kernel, namespaces } = this.#o;
    const owners =
      applied.value && holdersOf(applied.value.subjects.values(), applied.value.vethMap.bindings);
    const hosts = kernel.hostAddresses();
    const byPlace = new Map<string | undefined, Tuple[]>();
    for (const ends of all) {
      const owner = owners?.get(ends.src);
      const path = owner && namespaces.pathOf(owner.id);
      if (path === undefined && (owner || !hosts.has(ends.src))) continue;
      const same = byPlace.get(path);
      if (same) same.push(ends);
      else byPlace.set(path, [ends]);
    }
    return byPlace;
  }

  async #resetIn(path: string | undefined, connections: readonly Tuple[]): Promise<void> {
    this.#busy.add(path);
    await resetSockets(this.#o.run, path, connections).catch(this.#note);
    this.#busy.delete(path);
  }
}

/** No other flow has a socket of an open connection: a handshake that is not over is refused when it is repeated. */
const isOpen = ({ proto, tcp }: Flow): boolean =>
  proto === TCP && tcp?.handshake !== true && tcp?.closed !== true;
