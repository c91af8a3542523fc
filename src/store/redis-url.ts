import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import type { RedisOptions } from 'ioredis';
import type { Endpoint } from '../ports.js';
import { StoreError } from './errors.js';

/** ioredis' own types refuse its `replyMapping` where that is left open. */
export type Options = Omit<RedisOptions, 'replyMapping'>;

/** Where Redis is and how it is spoken to, from `store.redis`. */
export interface RedisTarget {
  readonly options: Options;
  /** Every key of ours begins with it, in braces: one slot of a cluster. */
  readonly prefix: string;
  /** Replicas that must have a write before it counts. */
  readonly replicas: number;
  readonly sentinel: boolean;
  /** Servers that the URL names by their address, Sentinels among them. */
  readonly named: readonly Endpoint[];
  /** For messages: without user and password. */
  readonly shown: string;
}

const SENTINEL_PORT = 26379;
const REDIS_PORT = 6379;
const FORM =
  'write redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss://… for TLS, or ' +
  'redis+sentinel://[USER:PASSWORD@]HOST[:26379],HOST…/MASTER[/DB]';
const PARAMETERS = ['prefix', 'replicas', 'tls', 'ca', 'sentinelUser', 'sentinelPassword'];

function wrong(what: string): never {
  throw new StoreError('value', `store.redis: ${what}; ${FORM}`);
}

/** Throws StoreError `value` with what is wrong. The file of `ca` is read here. */
export function parseRedisUrl(text: string): RedisTarget {
  const [, scheme = '', login, hosts = '', path = '', query = ''] =
    /^(redis|rediss|redis\+sentinel):\/\/(?:([^@/?]*)@)?([^/?]+)(\/[^?]*)?(?:\?(.*))?$/.exec(text) ??
    wrong('it is no Redis URL');
  const parameters = new URLSearchParams(query);
  for (const name of parameters.keys())
    if (!PARAMETERS.includes(name)) wrong(`"${name}" is no parameter; there are ${PARAMETERS.join(', ')}`);
  const sentinel = scheme === 'redis+sentinel';
  const segments = path.split('/').slice(1).map(decodeURIComponent);
  const tls =
    scheme === 'rediss' || parameters.get('tls') === 'true' ? tlsOf(parameters.get('ca')) : undefined;
  const addresses = hosts.split(',').map((host) => addressOf(host, sentinel ? SENTINEL_PORT : REDIS_PORT));
  const place = sentinel
    ? sentinelOptions(addresses, segments.shift(), parameters, tls)
    : { ...single(addresses), ...(tls && { tls }) };
  return {
    options: { ...place, ...loginOf(login), db: count(segments[0] ?? '', 'the database', 0) },
    prefix: `{${parameters.get('prefix') ?? 'drawbridge'}}:`,
    replicas: count(parameters.get('replicas') ?? '', 'replicas', sentinel ? 1 : 0),
    sentinel,
    named: addresses.flatMap(({ host, port }) =>
      isIP(host) || host === 'localhost'
        ? [{ address: host === 'localhost' ? '127.0.0.1' : host, port }]
        : [],
    ),
    shown: `${scheme}://${hosts}${path}`,
  };
}

interface Address {
  readonly host: string;
  readonly port: number;
}

function addressOf(text: string, defaultPort: number): Address {
  const [, v6, plain, port] = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]]+))(?::(\d{1,5}))?$/.exec(text) ?? [];
  const host = v6 ?? plain ?? wrong(`"${text}" is no host`);
  return { host, port: count(port ?? '', 'the port', defaultPort) };
}

function single(addresses: readonly Address[]): Address {
  const [first, second] = addresses;
  return first && !second ? first : wrong('several hosts need redis+sentinel://');
}

function sentinelOptions(
  sentinels: Address[],
  name: string | undefined,
  parameters: URLSearchParams,
  tls: { ca?: Buffer } | undefined,
): Options {
  if (!name) wrong("the master's name is missing");
  const [user, password] = [parameters.get('sentinelUser'), parameters.get('sentinelPassword')];
  return {
    sentinels,
    name,
    ...(user !== null && { sentinelUsername: user }),
    ...(password !== null && { sentinelPassword: password }),
    ...(tls && { tls, sentinelTLS: tls, enableTLSForSentinelMode: true }),
  };
}

function tlsOf(file: string | null): { ca?: Buffer } {
  if (file === null) return {};
  try {
    return { ca: readFileSync(file) };
  } catch (e) {
    return wrong(`the certificate of ca=${file} cannot be read (${e instanceof Error ? e.message : e})`);
  }
}

function loginOf(login: string | undefined): Pick<Options, 'username' | 'password'> {
  if (!login) return {};
  const [, user = '', password = ''] = /^([^:]*):(.+)$/.exec(login) ?? wrong('the password is missing');
  return {
    ...(user && { username: decodeURIComponent(user) }),
    password: decodeURIComponent(password),
  };
}

function count(text: string, what: string, none: number): number {
  if (text === '') return none;
  return /^\d{1,5}$/.test(text) && Number(text) <= 65_535
    ? Number(text)
    : wrong(`${what} "${text}" is no number`);
}
