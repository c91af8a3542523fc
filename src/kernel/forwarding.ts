import type { Logger } from '../lib/log.js';
import type { HeldVeth } from '../ruleset/forwarding.js';
import type { BridgePort, StickyEntry } from './netlink/bridge-codec.js';
import type { PortChange } from './netlink/bridge-ports.js';

/** The ports of the kernel's bridges. */
export interface PortTable {
  ports(): Promise<readonly BridgePort[]>;
  entries(): Promise<readonly StickyEntry[]>;
  change(changes: readonly PortChange[]): Promise<readonly PortChange[]>;
}
type Held = ReadonlyMap<number, HeldVeth>;

const RETRY_MS = 1_000;

/**
 * Keeps the forwarding tables of bridges as desired: next to the passes, because rtnetlink waits for a lock that Docker holds
 * while it starts containers, and no packet waits for these entries.
 */
export class Forwarding {
  readonly #table: PortTable;
  readonly #log: Pick<Logger, 'warn'>;
  #wanted: Held = new Map();
  /** What the kernel holds. */
  #held = new Map<number, HeldVeth>();
  /** The kernel must be read first. */
  #unknown = true;
  /** Veths that may have left their bridge and come back without settings. */
  readonly #moved = new Set<number>();
  #running: Promise<void> | undefined;
  #again = false;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(table: PortTable, log: Pick<Logger, 'warn'>) {
    this.#table = table;
    this.#log = log;
  }

  /** These veths, and no others, have settings of ours. */
  want(veths: Held): void {
    this.#wanted = veths;
    this.#wake();
  }
  /** Another process may have changed something: read the kernel before the next change. */
  invalidate(): void {
    this.#unknown = true;
  }
  /** A veth has got another master, or none. */
  moved(index: number): void {
    this.#moved.add(index);
  }
  /** Resolves when nothing is under way. */
  async settled(): Promise<void> {
    await this.#running;
  }
  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
  }

  #wake(): void {
    this.#again = true;
    if (this.#closed) return;
    this.#running ??= this.#run();
  }

  async #run(): Promise<void> {
    while (this.#again && !this.#closed) {
      this.#again = false;
      try {
        await this.#once(this.#wanted);
      } catch (e) {
        this.#unknown = true;
        this.#failed(e instanceof Error ? e.message : String(e));
      }
    }
    // here, and not behind the promise: what is wanted in between would be forgotten
    this.#running = undefined;
  }

  #failed(error: string): void {
    if (this.#closed) return;
    this.#log.warn({ err: error }, 'bridges may still learn MACs from frames of containers: will try again');
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#wake(), RETRY_MS);
    this.#timer.unref();
  }

  async #once(wanted: Held): Promise<void> {
    if (this.#unknown) {
      this.#unknown = false;
      this.#held = heldVeths(await this.#table.ports(), await this.#table.entries());
    }
    for (const index of this.#moved) this.#held.delete(index);
    this.#moved.clear();
    const changes = portChanges(wanted, this.#held);
    if (changes.length === 0) return;
    const left = new Set((await this.#table.change(changes)).map((c) => c.index));
    this.#held = new Map([...wanted].filter(([index]) => !left.has(index)));
  }
}

/** Veths with an entry like ours. */
function heldVeths(ports: readonly BridgePort[], entries: readonly StickyEntry[]): Map<number, HeldVeth> {
  const settings = new Map(ports.map((p) => [p.index, p]));
  return new Map(
    entries.flatMap(({ index, mac }) => {
      const port = settings.get(index);
      return port ? [[index, { master: port.master, mac, flood: port.flood, learning: port.learning }]] : [];
    }),
  );
}

/** Entries come before the end of learning, so that the bridge knows a veth at any time. */
function portChanges(wanted: Held, held: Held): PortChange[] {
  const changes: PortChange[] = [];
  for (const [index, now] of held) {
    const next = wanted.get(index);
    if (next?.mac !== now.mac || next.master !== now.master)
      changes.push({ kind: 'delete', index, mac: now.mac });
    if (!next) changes.push({ kind: 'set', index, settings: { learning: true, flood: true } });
  }
  for (const [index, next] of wanted) {
    const now = held.get(index);
    const isKnown = now?.mac === next.mac && now.master === next.master;
    if (isKnown && now.flood === next.flood && now.learning !== true) continue;
    if (!isKnown) changes.push({ kind: 'add', index, mac: next.mac });
    changes.push({ kind: 'set', index, settings: { learning: false, flood: next.flood } });
  }
  return changes;
}

/** Bridges learn again, and forget our entries. Resolves with the veths. */
export async function releaseVeths(table: PortTable): Promise<readonly number[]> {
  const held = heldVeths(await table.ports(), await table.entries());
  await table.change(portChanges(new Map(), held));
  return [...held.keys()];
}
