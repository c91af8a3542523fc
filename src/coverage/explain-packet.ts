import { type Address, formatAddress, parseAddress } from '../lib/ip.js';
import type { DestEntry } from '../policy/entry.js';
import type { TracePacket } from '../ruleset/trace.js';
import type { ExplainInput } from './explain-types.js';

const DEFAULT_PORT = 443;
const DNS_PORT = 53;

export const addressOf = ({ target }: DestEntry): string | undefined =>
  target.kind === 'address' ? formatAddress(target.range.family, target.range.lo) : undefined;

/** The packet that would open a connection there; undefined: it is no address. */
export function packetTo(input: ExplainInput, address: string): TracePacket | undefined {
  const parsed: Address | undefined = parseAddress(address);
  if (!parsed) return undefined;
  const { proto, port } = wanted(input.dest);
  const own = input.member.veths[0];
  return input.judge.sentBy(input.member, {
    family: parsed.family,
    proto,
    src: (parsed.family === 4 ? own?.ip4 : own?.ip6) ?? '',
    dst: address,
    states: ['NEW'],
    syn: proto === 'tcp',
    ...(proto === 'icmp' ? { echo: true } : { dport: port }),
  });
}

/** Without port or protocol: tcp/443. */
export function wanted(dest: DestEntry): { proto: TracePacket['proto']; port: number } {
  const port = dest.ports[0]?.lo ?? DEFAULT_PORT;
  const p = dest.proto;
  if (p === undefined || p === 'tcp' || p === 'tcp+udp') return { proto: 'tcp', port };
  if (p === 'udp' || p === 'icmp') return { proto: p, port };
  const numbers: Record<string, number> = { sctp: 132, gre: 47, esp: 50 };
  return { proto: numbers[p] ?? Number(p.slice('ip-'.length)), port };
}

export function isDnsPort(dest: DestEntry): boolean {
  const { proto, port } = wanted(dest);
  return port === DNS_PORT && (proto === 'tcp' || proto === 'udp');
}
