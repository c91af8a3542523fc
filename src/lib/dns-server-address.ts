import { parseAddress } from './ip.js';

export interface Server {
  /** Canonical text; a link-local one keeps its zone ("fe80::1%eth0"). */
  readonly address: string;
  readonly port: number;
  /** "address#port", identifies it. */
  readonly key: string;
}

/** Reads one server. Undefined: neither "ip", "ip:port" nor "[v6]:port". */
export function parseServer(text: string): Server | undefined {
  const match = /^\[(.+)\](?::(\d{1,5}))?$/.exec(text) ??
    /^([\d.]+):(\d{1,5})$/.exec(text) ?? [text, text, undefined];
  const [bare = '', zone] = (match[1] ?? '').split('%', 2);
  const parsed = parseAddress(bare);
  const port = Number(match[2] ?? 53);
  if (parsed === undefined || port < 1 || port > 65_535) return undefined;
  if (zone !== undefined && !/^[\w.-]{1,15}$/.test(zone)) return undefined;
  const address = zone === undefined ? parsed.text : `${parsed.text}%${zone}`;
  return { address, port, key: `${address}#${port}` };
}

/** The nameserver lines of a resolv.conf (resolv.conf(5)); what is no address is left out. */
export function parseResolvConf(text: string): readonly Server[] {
  const servers = text.split('\n').map((line) => /^\s*nameserver\s+(\S+)/.exec(line)?.[1]);
  return servers.flatMap((s) => (s === undefined ? [] : (parseServer(s) ?? [])));
}
