/** Recordings of real clients, made by scripts/record-hellos, with what tshark and nDPI read in each. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ReadFlow } from '../../../scripts/hellos/oracles.js';
import { type PacketHeader, parsePacket } from '../../../src/kernel/netlink/packet-header.js';
import { PcapFrames } from '../../lab/pcap.js';

const FOLDER = join(import.meta.dirname, '..', '..', 'fixtures', 'hellos');
const SERVER = '192.0.2.1';
const ETHERNET = 14;

export interface Recording {
  readonly name: string;
  /** The version of the program. */
  readonly client: string;
  /** As tshark reads them. */
  readonly flows: readonly ReadFlow[];
  /** The names that nDPI shows. */
  readonly ndpi: readonly string[];
}
export interface RecordedPacket {
  readonly from: 'client' | 'server';
  /** From the IP header on. */
  readonly bytes: Buffer;
  readonly header: PacketHeader;
}
/** One flow, in the order in which its packets arrived at the server. */
export interface RecordedFlow {
  readonly proto: 'tcp' | 'udp';
  readonly port: number;
  readonly serverPort: number;
  readonly packets: readonly RecordedPacket[];
}

export const { recordings } = JSON.parse(readFileSync(join(FOLDER, 'oracle.json'), 'utf8')) as {
  readonly recordings: readonly Recording[];
};

export function recordedFlows(name: string): readonly RecordedFlow[] {
  const flows = new Map<string, RecordedFlow & { readonly packets: RecordedPacket[] }>();
  for (const { frame } of new PcapFrames().push(readFileSync(join(FOLDER, `${name}.pcap`)))) {
    const bytes = Buffer.from(frame.subarray(ETHERNET));
    const read = parsePacket(bytes);
    if (!read.ok) throw new Error(`${name}: ${read.error}`);
    const { src, sport = 0, dport = 0, protocol } = read.value;
    const from = src === SERVER ? 'server' : 'client';
    const [port, serverPort] = from === 'client' ? [sport, dport] : [dport, sport];
    const proto = protocol === 6 ? 'tcp' : 'udp';
    const key = `${proto} ${port}`;
    const flow = flows.get(key) ?? { proto, port, serverPort, packets: [] };
    flow.packets.push({ from, bytes, header: read.value });
    flows.set(key, flow);
  }
  return [...flows.values()];
}
