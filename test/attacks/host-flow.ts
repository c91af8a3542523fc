/** ICMP errors that quote a flow of this host, sent by a raw socket of IP: conntrack calls each of them RELATED. */
import { join } from 'node:path';
import type { Container } from '../lab/container.js';
import type { Lab } from '../lab/lab.js';
import { trySending } from './raw.js';
import { ICMP, icmp, ip, u32, udp } from './wire.js';

const PROBE = join(import.meta.dirname, '..', 'lab', 'probe.cjs');
const PORT = 7300;
const UDP = 17;

export interface HostFlowError {
  readonly sender: Container;
  /** The sender's own address. */
  readonly from: string;
  /** Other end of the flow, and where the error goes. */
  readonly to: string;
  /** Of the flow, at this host. */
  readonly port: number;
  /** A container of the host's network that opens the flow; undefined: a process of the host does. */
  readonly opener?: Container;
}

/** Opens a flow of datagrams from the host's address and sends an error about its answer; how many of these errors left. */
export async function leftAboutHostFlow(lab: Lab, e: HostFlowError): Promise<number> {
  const isV4 = !e.to.includes(':');
  const probe = ['udp', e.to, PORT, 'hello', '--local-port', e.port, '--timeout', 3000] as const;
  if (e.opener) await e.opener.probe(...probe);
  else await lab.inHost([process.execPath, PROBE, ...probe.map(String)], { check: true });
  const tracked = (await lab.inHost(['cat', '/proc/net/nf_conntrack'], { check: true })).stdout;
  if (!tracked.includes(` sport=${e.port} dport=${PORT} `))
    throw new Error(`no flow from port ${e.port} in conntrack`);
  const tag = `about-${e.port}`;
  const host = isV4 ? lab.addresses.host4 : lab.addresses.host6;
  const quoted = { src: e.to, dst: host };
  const ends = { src: e.from, dst: e.to };
  const [type, code] = isV4 ? [3, 3] : [1, 4];
  const about = ip(quoted, UDP, udp(quoted, PORT, e.port, tag.padEnd(400, '.')));
  const proto = isV4 ? ICMP.v4 : ICMP.v6;
  // where OUTPUT drops it, the sender's kernel says so
  await trySending(e.sender, [ip(ends, proto, icmp(ends, type ?? 0, code ?? 0, u32(0), about))], {
    way: 'ip',
  });
  return lab.sniffer.count({ direction: 'out', dst: e.to, payloadIncludes: tag });
}
