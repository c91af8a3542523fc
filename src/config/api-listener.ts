/** `api.listen`: a unix socket ("unix:/path"), or an address and port. */
import { splitHostPort } from '../lib/ip.js';
import { UNIX } from './service-socket.js';

export interface TcpListener {
  /** An address, or "localhost". */
  readonly host: string;
  readonly port: number;
}

/** Returns undefined for a unix socket. */
export function tcpListener(listen: string): TcpListener | undefined {
  const at = listen.startsWith(UNIX) ? undefined : splitHostPort(listen);
  return at?.port === undefined ? undefined : { host: at.host, port: Number(at.port) };
}

/** The problem of a TCP listener that other hosts reach; undefined when it is a unix socket or on loopback. */
export function openListener(listen: string): { detail: string; remedy: string } | undefined {
  const host = tcpListener(listen)?.host;
  if (host === undefined || /^(127\.|localhost$|::1$|::ffff:127\.)/.test(host)) return undefined;
  return {
    detail: `api.listen: ${listen} is reached from other hosts, and tokens cross the network as they are`,
    remedy: 'listen on 127.0.0.1 behind a proxy that ends TLS, or reach it through a VPN or SSH tunnel only',
  };
}
