import type { Config } from '../config/config.js';
import type { Place } from '../desired/closed.js';
import type { Endpoint } from '../ports.js';

const EVERYWHERE = ['0.0.0.0', '::'];
const isLoopback = (address: string): boolean => address === '::1' || address.startsWith('127.');
/** A v4 address as a v6 socket shows it. */
const plain = (address: string): string => address.replace(/^::ffff:(?=\d+\.)/, '');

/**
 * What no container may reach at this host: the API's port where it listens on TCP, and Redis where that is on this host
 * (by any of its addresses, and as a published port of a container).
 * @param redis where Redis is, as it is known now
 */
export function closedPlaces(
  { api }: Pick<Config, 'api'>,
  redis: readonly Endpoint[],
  hostAddresses: ReadonlySet<string>,
): readonly Place[] {
  const local = redis.filter(
    ({ address }) => isLoopback(plain(address)) || hostAddresses.has(plain(address)),
  );
  const ports = [...new Set(local.map(({ port }) => port))].sort((a, b) => a - b);
  return [...listener(api.listen), ...ports.map((port) => ({ port }))];
}

function listener(listen: string): Place[] {
  if (listen.startsWith('unix:')) return [];
  const [, host = '', port = ''] = /^\[?(.*?)\]?:(\d+)$/.exec(listen) ?? [];
  const address = host === 'localhost' ? '127.0.0.1' : host;
  return [{ port: Number(port), ...(EVERYWHERE.includes(address) ? {} : { address }) }];
}
