import { parseAddress, splitHostPort } from './ip.js';

/** A DNS server that queries are sent to. */
export interface Server {
  /** Canonical text; a link-local one keeps its zone ("fe80::1%eth0"). */
  readonly address: string;
  readonly port: number;
  /** "address#port", identifies it. */
  readonly key: string;
}

const DNS_PORT = 53;
const ZONE = /^[\w.-]{1,15}$/;

/**
 * Reads "10.0.0.53", "10.0.0.53:5353", "2001:db8::53" or "[2001:db8::53]:53"; an IPv6 address may have a zone, as in
 * resolv.conf. Returns undefined for anything else.
 */
export function parseServer(text: string): Server | undefined {
  const { host, port, isBracketed } = splitHostPort(text) ?? {
    host: text,
    port: undefined,
    isBracketed: true,
  };
  const [bare = '', zone] = host.split('%', 2);
  const parsed = parseAddress(bare);
  if (parsed?.family !== (isBracketed ? 6 : 4)) return undefined;
  if (zone !== undefined && (parsed.family === 4 || !ZONE.test(zone))) return undefined;
  if (port !== undefined && !(/^[1-9]/.test(port) && Number(port) <= 65_535)) return undefined;
  const address = zone === undefined ? parsed.text : `${parsed.text}%${zone}`;
  const at = port === undefined ? DNS_PORT : Number(port);
  return { address, port: at, key: `${address}#${at}` };
}

/** The nameserver lines of a resolv.conf (resolv.conf(5)); a value that is no address is left out. */
export function parseResolvConf(text: string): readonly Server[] {
  const servers = text.split('\n').map((line) => /^\s*nameserver\s+(\S+)/.exec(line)?.[1]);
  return servers.flatMap((s) => (s === undefined ? [] : (parseServer(s) ?? [])));
}
