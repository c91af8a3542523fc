/** Messages about the ports and the forwarding table of bridges (if_bridge.h, if_link.h, neighbour.h), pure. */
import { attribute, nested, parseAttributes, readMac, readU8, readU32le, u8 } from './codec.js';

export const BRIDGE_MESSAGE = {
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
/** IFLA_BRPORT_LEARNING, IFLA_BRPORT_UNICAST_FLOOD, IFLA_BRPORT_FLUSH. */
const PORT = { learning: 8, flood: 9, flush: 24 } as const;
const ENTRY = { mac: 2, master: 9 } as const;
const NUD_NOARP = 0x40;
const NTF_MASTER = 0x04;
const NTF_STICKY = 0x40;

/** What a veth does on its bridge. */
export interface PortSettings {
  /** The bridge learns from the Ethernet source of its frames. */
  readonly learning: boolean;
  /** It gets frames to MACs that the bridge does not know. */
  readonly flood: boolean;
}
export interface BridgePort extends PortSettings {
  readonly index: number;
  readonly master: number;
}
/** A static entry of the forwarding table that no frame moves to another port (NTF_STICKY, Linux >= 4.20). */
export interface StickyEntry {
  readonly index: number;
  readonly master: number;
  readonly mac: string;
}

export function portDumpBody(): Buffer {
  const header = Buffer.alloc(IFINFOMSG);
  header.writeUInt8(AF_BRIDGE, 0);
  return header;
}
/** Undefined: the bridge itself, or no answer about a port. */
export function decodePort(body: Buffer): BridgePort | undefined {
  const attributes = parseAttributes(body, IFINFOMSG);
  const port = parseAttributes(attributes.get(LINK.portInfo));
  const index = body.length < IFINFOMSG ? 0 : body.readInt32LE(4);
  const master = readU32le(attributes.get(LINK.master));
  const learning = readU8(port.get(PORT.learning));
  if (body[0] !== AF_BRIDGE || !master || master === index || learning === undefined) return undefined;
  return { index, master, learning: learning !== 0, flood: readU8(port.get(PORT.flood)) !== 0 };
}
/** Also deletes what the bridge has learned from the port. */
export function portBody(index: number, { learning, flood }: PortSettings): Buffer {
  const header = portDumpBody();
  header.writeInt32LE(index, 4);
  const settings = [attribute(PORT.learning, u8(learning ? 1 : 0)), attribute(PORT.flood, u8(flood ? 1 : 0))];
  return Buffer.concat([header, nested(LINK.portInfo, ...settings, attribute(PORT.flush, Buffer.alloc(0)))]);
}

export function entryDumpBody(): Buffer {
  const header = Buffer.alloc(NDMSG);
  header.writeUInt8(AF_BRIDGE, 0);
  return header;
}
/** Undefined: an entry of another kind. */
export function decodeEntry(body: Buffer): StickyEntry | undefined {
  if (body.length < NDMSG || body[0] !== AF_BRIDGE) return undefined;
  const isSticky = (body.readUInt8(10) & NTF_STICKY) !== 0 && body.readUInt16LE(8) === NUD_NOARP;
  const attributes = parseAttributes(body, NDMSG);
  const mac = readMac(attributes.get(ENTRY.mac));
  const master = readU32le(attributes.get(ENTRY.master));
  if (!isSticky || mac === undefined || !master) return undefined;
  return { index: body.readInt32LE(4), master, mac };
}
export function entryBody(index: number, mac: string): Buffer {
  const header = entryDumpBody();
  header.writeInt32LE(index, 4);
  header.writeUInt16LE(NUD_NOARP, 8);
  header.writeUInt8(NTF_MASTER | NTF_STICKY, 10);
  return Buffer.concat([header, attribute(ENTRY.mac, Buffer.from(mac.replaceAll(':', ''), 'hex'))]);
}
