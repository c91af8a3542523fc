/** Ports and forwarding tables of bridges (if_bridge.h, if_link.h, neighbour.h): read, changed and kept over rtnetlink. */

import { Coalescer } from '../lib/async.js';
import type { Logger } from '../lib/log.js';
import { errorText } from '../lib/problem.js';
import type { HeldVeth } from '../ruleset/bridge-forwarding.js';
import {
  type Acknowledgement,
  attribute,
  FLAG,
  nested,
  parseAttributes,
  readMac,
  readU8,
  readU32le,
  u8,
} from './netlink/netlink-codec.js';
import { NetlinkError } from './netlink/netlink-error.js';
import { NetlinkSocket, type Outgoing } from './netlink/netlink-socket.js';

const BRIDGE_MESSAGE = {
  setLink: 19,
  getLink: 18,
  newEntry: 28,
  deleteEntry: 29,
  getEntry: 30,
} as const;
const AF_BRIDGE = 7;
const IFINFOMSG = 16;
const NDMSG = 12;
const LINK = { master: 10, portInfo: 12 } as const;
/** IFLA_BRPORT_STATE, IFLA_BRPORT_LEARNING, IFLA_BRPORT_UNICAST_FLOOD, IFLA_BRPORT_FLUSH. */
const PORT = { state: 1, learning: 8, flood: 9, flush: 24 } as const;
const ENTRY = { mac: 2, master: 9 } as const;
const LINK_DECODED = new Set(Object.values(LINK));
const PORT_DECODED = new Set([PORT.state, PORT.learning, PORT.flood]);
const ENTRY_DECODED = new Set(Object.values(ENTRY));
const NUD_NOARP = 0x40;
const NTF_MASTER = 0x04;
const NTF_STICKY = 0x40;

/** Settings of a veth on its bridge. */
interface PortSettings {
  /** The bridge learns from the Ethernet source of its frames. */
  readonly learning: boolean;
  /** It gets frames to MACs that the bridge does not know. */
  readonly flood: boolean;
}
interface BridgePort extends PortSettings {
  readonly index: number;
  readonly master: number;
  /** BR_STATE_*, of which 3 forwards. */
  readonly state: number;
}
/** A static entry of the forwarding table that no frame moves to another port (NTF_STICKY, Linux >= 4.20). */
interface StickyEntry {
  readonly index: number;
  readonly master: number;
  readonly mac: string;
}

function portDumpBody(): Buffer {
  const header = Buffer.alloc(IFINFOMSG);
  header.writeUInt8(AF_BRIDGE, 0);
  return header;
}
/** Returns undefined for the bridge itself, and for a message that is not about a port. */
export function decodePort(body: Buffer): BridgePort | undefined {
  const attributes = parseAttributes(body, IFINFOMSG, LINK_DECODED);
  const port = parseAttributes(attributes.get(LINK.portInfo), 0, PORT_DECODED);
  const index = body.length < IFINFOMSG ? 0 : body.readInt32LE(4);
  const master = readU32le(attributes.get(LINK.master));
  const learning = readU8(port.get(PORT.learning));
  if (body[0] !== AF_BRIDGE || !master || master === index || learning === undefined) return undefined;
  const state = readU8(port.get(PORT.state)) ?? 0;
  return { index, master, state, learning: learning !== 0, flood: readU8(port.get(PORT.flood)) !== 0 };
}
/** Also deletes what the bridge has learned from the port. */
function portBody(index: number, { learning, flood }: PortSettings): Buffer {
  const header = portDumpBody();
  header.writeInt32LE(index, 4);
  const settings = [attribute(PORT.learning, u8(learning ? 1 : 0)), attribute(PORT.flood, u8(flood ? 1 : 0))];
  return Buffer.concat([header, nested(LINK.portInfo, ...settings, attribute(PORT.flush, Buffer.alloc(0)))]);
}

function entryDumpBody(): Buffer {
  const header = Buffer.alloc(NDMSG);
  header.writeUInt8(AF_BRIDGE, 0);
  return header;
}
/** Returns undefined for an entry of another kind. */
function decodeEntry(body: Buffer): StickyEntry | undefined {
  if (body.length < NDMSG || body[0] !== AF_BRIDGE) return undefined;
  const isSticky = (body.readUInt8(10) & NTF_STICKY) !== 0 && body.readUInt16LE(8) === NUD_NOARP;
  const attributes = parseAttributes(body, NDMSG, ENTRY_DECODED);
  const mac = readMac(attributes.get(ENTRY.mac));
  const master = readU32le(attributes.get(ENTRY.master));
  if (!isSticky || mac === undefined || !master) return undefined;
  return { index: body.readInt32LE(4), master, mac };
}
function entryBody(index: number, mac: string): Buffer {
  const header = entryDumpBody();
  header.writeInt32LE(index, 4);
  header.writeUInt16LE(NUD_NOARP, 8);
  header.writeUInt8(NTF_MASTER | NTF_STICKY, 10);
  return Buffer.concat([header, attribute(ENTRY.mac, Buffer.from(mac.replaceAll(':', ''), 'hex'))]);
}

const REPLACE = 0x100;
/** Acknowledgements of so many fit any receive buffer. */
const BATCH = 64;
/** The veth, its attachment to the bridge (EOPNOTSUPP, which libuv calls ENOTSUP) or the entry no longer exists. */
const GONE = new Set(['ENODEV', 'ENOENT', 'ENOTSUP']);

export type PortChange =
  | { readonly kind: 'set'; readonly index: number; readonly settings: PortSettings }
  | { readonly kind: 'add' | 'delete'; readonly index: number; readonly mac: string };

export class BridgePorts implements Disposable {
  readonly #changes: NetlinkSocket;
  readonly #dumps: NetlinkSocket;

  constructor(options: { readonly namespace?: string | number } = {}) {
    this.#changes = new NetlinkSocket({ protocol: 'route', ...options });
    this.#dumps = new NetlinkSocket({ protocol: 'route', ...options });
  }

  /** Ports of all bridges. Rejects with NetlinkError. */
  ports(): Promise<readonly BridgePort[]> {
    const out = { type: BRIDGE_MESSAGE.getLink, body: portDumpBody() };
    return this.#dumps.dump('list ports of bridges', out, (m) => decodePort(m.body));
  }

  /** Static entries that no frame moves. Rejects with NetlinkError. */
  entries(): Promise<readonly StickyEntry[]> {
    const out = { type: BRIDGE_MESSAGE.getEntry, body: entryDumpBody() };
    return this.#dumps.dump('list forwarding tables', out, (m) => decodeEntry(m.body));
  }

  /**
   * Resolves with the changes that failed because the veth or the entry no longer exists. Rejects with the first other
   * refusal after all changes were tried (NetlinkError).
   */
  async change(changes: readonly PortChange[]): Promise<readonly PortChange[]> {
    const refused: { readonly change: PortChange; readonly error: NetlinkError }[] = [];
    for (let i = 0; i < changes.length; i += BATCH) {
      const some = changes.slice(i, i + BATCH);
      const acks = await this.#changes.requestLater('change ports of bridges', some.map(outgoing));
      some.forEach((change, n) => {
        const ack = acks[n];
        if (ack && ack.errno !== 0) refused.push({ change, error: refusal(change, ack) });
      });
    }
    const other = refused.find((r) => !GONE.has(r.error.code));
    if (other) throw other.error;
    return refused.map((r) => r.change);
  }

  close(): void {
    this.#changes.close();
    this.#dumps.close();
  }
  [Symbol.dispose](): void {
    this.close();
  }
}

const refusal = ({ kind, index }: PortChange, { errno, text }: Acknowledgement): NetlinkError =>
  new NetlinkError(
    `${kind} port ${index} of a bridge`,
    errno,
    text === undefined ? {} : { kernelText: text },
  );

function outgoing(change: PortChange): Outgoing {
  if (change.kind === 'set')
    return { type: BRIDGE_MESSAGE.setLink, body: portBody(change.index, change.settings) };
  const body = entryBody(change.index, change.mac);
  if (change.kind === 'delete') return { type: BRIDGE_MESSAGE.deleteEntry, body };
  return { type: BRIDGE_MESSAGE.newEntry, flags: FLAG.create | REPLACE, body };
}

type PortTable = Pick<BridgePorts, 'ports' | 'entries' | 'change'>;
type VethSettings = ReadonlyMap<number, HeldVeth>;

const RETRY_MS = 1_000;

/**
 * Keeps the forwarding tables of bridges in the desired state. It runs in parallel to the passes, because rtnetlink
 * waits for a lock that Docker keeps while it starts containers, and no packet waits for these entries.
 */
export class BridgeFdb {
  readonly #table: PortTable;
  readonly #log: Pick<Logger, 'warn'>;
  #wanted: VethSettings = new Map();
  /** The settings in the kernel, as far as they are known. */
  #installed = new Map<number, HeldVeth>();
  /** The kernel must be read first. */
  #unknown = true;
  /** Veths that may have left their bridge, in which case their settings were reset. */
  readonly #moved = new Set<number>();
  readonly #runs = new Coalescer(() => this.#run());
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(table: PortTable, log: Pick<Logger, 'warn'>) {
    this.#table = table;
    this.#log = log;
  }

  /** Apply these settings, and remove the settings of all other veths. */
  apply(veths: VethSettings): void {
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
  /** Resolves when no change is active or waiting. */
  settled(): Promise<void> {
    return this.#runs.settled();
  }
  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
  }

  #wake(): void {
    if (!this.#closed) void this.#runs.run();
  }

  /** Never rejects. */
  async #run(): Promise<void> {
    if (this.#closed) return;
    try {
      await this.#once(this.#wanted);
    } catch (e) {
      this.#unknown = true;
      this.#failed(errorText(e));
    }
  }

  #failed(error: string): void {
    if (this.#closed) return;
    this.#log.warn(
      { err: error },
      'cannot set static entries of bridges, which may still learn MACs from frames of containers: will try again',
    );
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#wake(), RETRY_MS);
    this.#timer.unref();
  }

  async #once(wanted: VethSettings): Promise<void> {
    if (this.#unknown) {
      this.#unknown = false;
      this.#installed = configuredVeths(await this.#table.ports(), await this.#table.entries());
    }
    for (const index of this.#moved) this.#installed.delete(index);
    this.#moved.clear();
    const changes = portChanges(wanted, this.#installed);
    if (changes.length === 0) return;
    const left = new Set((await this.#table.change(changes)).map((c) => c.index));
    this.#installed = new Map([...wanted].filter(([index]) => !left.has(index)));
  }
}

/** Veths with an entry of the kind that Drawbridge adds. */
function configuredVeths(
  ports: readonly BridgePort[],
  entries: readonly StickyEntry[],
): Map<number, HeldVeth> {
  const settings = new Map(ports.map((p) => [p.index, p]));
  return new Map(
    entries.flatMap(({ index, mac }) => {
      const port = settings.get(index);
      return port ? [[index, { master: port.master, mac, flood: port.flood, learning: port.learning }]] : [];
    }),
  );
}

/** An entry is added before learning is switched off, so that the bridge knows the MAC of a veth at any time. */
function portChanges(wanted: VethSettings, installed: VethSettings): PortChange[] {
  const changes: PortChange[] = [];
  for (const [index, now] of installed) {
    const next = wanted.get(index);
    if (next?.mac !== now.mac || next.master !== now.master)
      changes.push({ kind: 'delete', index, mac: now.mac });
    if (!next) changes.push({ kind: 'set', index, settings: { learning: true, flood: true } });
  }
  for (const [index, next] of wanted) {
    const now = installed.get(index);
    const isKnown = now?.mac === next.mac && now.master === next.master;
    if (isKnown && now.flood === next.flood && now.learning !== true) continue;
    if (!isKnown) changes.push({ kind: 'add', index, mac: next.mac });
    changes.push({ kind: 'set', index, settings: { learning: false, flood: next.flood } });
  }
  return changes;
}

/** Bridges learn again, and forget our entries. Resolves with the veths. */
export async function releaseVeths(table: PortTable): Promise<readonly number[]> {
  const installed = configuredVeths(await table.ports(), await table.entries());
  await table.change(portChanges(new Map(), installed));
  return [...installed.keys()];
}
