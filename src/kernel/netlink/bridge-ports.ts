/** Ports and static entries of bridges, over rtnetlink. */
import {
  BRIDGE_MESSAGE,
  type BridgePort,
  decodeEntry,
  decodePort,
  entryBody,
  entryDumpBody,
  type PortSettings,
  portBody,
  portDumpBody,
  type StickyEntry,
} from './bridge-codec.js';
import { type Acknowledgement, FLAG } from './codec.js';
import { NetlinkError } from './errors.js';
import { NetlinkSocket, type Outgoing } from './socket.js';

const REPLACE = 0x100;
/** Acknowledgements of so many fit any receive buffer. */
const BATCH = 64;
/** The veth, its place on the bridge (EOPNOTSUPP, which libuv calls ENOTSUP) or the entry has gone meanwhile. */
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
   * Resolves with those that could not be made because their veth or entry has gone. Rejects with the first other refusal,
   * once all were tried (NetlinkError).
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
