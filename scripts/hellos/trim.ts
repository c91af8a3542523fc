/** Keeps of a recording what the readers see: the first packets of each flow. */
import { PcapFrames } from '../../test/lab/pcap.js';

const MAX_FLOWS = 4;
/** Of a flow: packets with content, and bytes of the server's. */
const MAX_PACKETS = 40;
const MAX_SERVER = 4_000;
const ETHERNET = 14;
const [TCP, UDP] = [6, 17];
const HTTP_PORT = 80;

interface Kept {
  packets: number;
  server: number;
}

interface Ends {
  readonly proto: number;
  /** Of the client. */
  readonly port: number;
  readonly serverPort: number;
  readonly fromServer: boolean;
  readonly payload: Buffer;
}

function endsOf(frame: Buffer, server: Buffer): Ends | undefined {
  if (frame.readUInt16BE(12) !== 0x0800) return undefined;
  const ip = frame.subarray(ETHERNET);
  const proto = ip.readUInt8(9);
  const fromServer = ip.subarray(12, 16).equals(server);
  if ((proto !== TCP && proto !== UDP) || (!fromServer && !ip.subarray(16, 20).equals(server)))
    return undefined;
  const at = (ip.readUInt8(0) & 15) * 4;
  const [from, to] = [ip.readUInt16BE(at), ip.readUInt16BE(at + 2)];
  const header = proto === UDP ? 8 : (ip.readUInt8(at + 12) >> 4) * 4;
  return {
    proto,
    fromServer,
    port: fromServer ? to : from,
    serverPort: fromServer ? from : to,
    payload: ip.subarray(at + header, ip.readUInt16BE(2)),
  };
}

function isWanted({ proto, fromServer, serverPort, payload }: Ends, kept: Kept): boolean {
  if (payload.length === 0) return kept.packets < 3; // the handshake, so that both ends are known
  if (kept.packets >= MAX_PACKETS) return false;
  if (proto === UDP && ((payload[0] as number) & 0x80) === 0) return false;
  if (serverPort === HTTP_PORT) return true;
  // of TLS: until the server has answered, and what the client sends right after it
  return fromServer ? kept.server < MAX_SERVER : proto === UDP || kept.server < MAX_SERVER;
}

/** A pcap file with the same header and fewer packets. */
export function trimmed(pcap: Buffer, serverAddress: string): Buffer {
  const server = Buffer.from(serverAddress.split('.').map(Number));
  const flows = new Map<string, Kept>();
  const out = [pcap.subarray(0, 24)];
  for (const { frame, time } of new PcapFrames().push(pcap)) {
    const ends = endsOf(frame, server);
    if (!ends) continue;
    const key = `${ends.proto} ${ends.port}`;
    const kept = flows.get(key) ?? { packets: 0, server: 0 };
    if (!flows.has(key) && flows.size >= MAX_FLOWS) continue;
    flows.set(key, kept);
    if (!isWanted(ends, kept)) continue;
    kept.packets += 1;
    if (ends.fromServer) kept.server += ends.payload.length;
    const header = Buffer.alloc(16);
    header.writeUInt32LE(Math.floor(time / 1_000), 0);
    header.writeUInt32LE(Math.floor((time % 1_000) * 1_000), 4);
    header.writeUInt32LE(frame.length, 8);
    header.writeUInt32LE(frame.length, 12);
    out.push(header, Buffer.from(frame));
  }
  return Buffer.concat(out);
}
