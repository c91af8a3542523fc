/** `store.redis`: the parts of the URL of a Redis. Pure; no name is resolved and no file read. */
import type { Parsed } from '../lib/problem.js';

interface RedisAddress {
  readonly host: string;
  readonly port: number;
}

export interface RedisUrl {
  /** One server, or the Sentinels; none where it is a unix socket. */
  readonly addresses: readonly RedisAddress[];
  /** The unix socket: no network reaches what listens there alone. */
  readonly socket?: string;
  /** Behind Sentinels: the name of their master. */
  readonly master?: string;
  readonly user?: string;
  readonly password?: string;
  readonly db: number;
  readonly tls: boolean;
  /** The file with the certificate to trust. */
  readonly ca?: string;
  readonly prefix: string;
  /** Replicas that must have a write before it counts. */
  readonly replicas: number;
  readonly sentinelUser?: string;
  readonly sentinelPassword?: string;
  /** For messages: without user and password. */
  readonly shown: string;
}

const SENTINEL_PORT = 26379;
const REDIS_PORT = 6379;
const FORM =
  'write redis://[USER:PASSWORD@]HOST[:PORT][/DB], rediss://… for TLS, ' +
  'redis+sentinel://[USER:PASSWORD@]HOST[:26379],HOST…/MASTER[/DB], or redis+unix://[USER:PASSWORD@]/SOCKET[?db=DB]';
const PARAMETERS = ['prefix', 'replicas', 'tls', 'ca', 'sentinelUser', 'sentinelPassword'];
const SOCKET_PARAMETERS = ['prefix', 'replicas', 'db'];

class Wrong extends Error {}

function wrong(what: string): never {
  throw new Wrong(what);
}

export function readRedisUrl(text: string): Parsed<RedisUrl> {
  try {
    return { ok: true, value: read(text) };
  } catch (e) {
    if (e instanceof Wrong) return { ok: false, problems: [{ detail: e.message, remedy: FORM }] };
    throw e;
  }
}

function read(text: string): RedisUrl {
  const socket = /^redis\+unix:\/\/(?:([^@/?]*)@)?(\/[^?]+)(?:\?(.*))?$/.exec(text);
  if (socket) return atSocket(socket[1], socket[2] ?? '', parametersOf(socket[3], SOCKET_PARAMETERS));
  const [, scheme = '', login, hosts = '', path = '', query = ''] =
    /^(redis|rediss|redis\+sentinel):\/\/(?:([^@/?]*)@)?([^/?]+)(\/[^?]*)?(?:\?(.*))?$/.exec(text) ??
    wrong('it is not a Redis URL');
  const parameters = parametersOf(query, PARAMETERS);
  const sentinel = scheme === 'redis+sentinel';
  const segments = path.split('/').slice(1).map(decoded);
  const addresses = hosts.split(',').map((host) => addressOf(host, sentinel ? SENTINEL_PORT : REDIS_PORT));
  if (!sentinel && addresses.length > 1) wrong('several hosts are valid only with redis+sentinel://');
  const master = sentinel ? segments.shift() || wrong('the name of the master is missing') : undefined;
  if (segments.length > 1) wrong(`"${path}" has more than the number of a database`);
  const optional = ['ca', 'sentinelUser', 'sentinelPassword'].flatMap((name) => {
    const value = parameters.get(name);
    return value === null ? [] : [[name, value] as const];
  });
  return {
    addresses,
    ...(master && { master }),
    ...loginOf(login),
    db: count(segments[0] ?? '', 'the database', 0),
    tls: scheme === 'rediss' || isTrue(parameters.get('tls')),
    ...Object.fromEntries(optional),
    ...sharing(parameters, sentinel ? 1 : 0),
    shown: `${scheme}://${hosts}${path}`,
  };
}

function atSocket(login: string | undefined, path: string, parameters: URLSearchParams): RedisUrl {
  return {
    addresses: [],
    socket: decoded(path),
    ...loginOf(login),
    db: count(parameters.get('db') ?? '', 'the database', 0),
    tls: false,
    ...sharing(parameters, 0),
    shown: `redis+unix://${path}`,
  };
}

const sharing = (parameters: URLSearchParams, replicas: number): Pick<RedisUrl, 'prefix' | 'replicas'> => ({
  prefix: parameters.get('prefix') ?? 'drawbridge',
  replicas: count(parameters.get('replicas') ?? '', 'replicas', replicas),
});

function parametersOf(query: string | undefined, known: readonly string[]): URLSearchParams {
  const parameters = new URLSearchParams(query);
  for (const name of parameters.keys())
    if (!known.includes(name)) wrong(`"${name}" is not a parameter; parameters are ${known.join(', ')}`);
  return parameters;
}

function isTrue(text: string | null): boolean {
  if (text !== null && text !== 'true' && text !== 'false') wrong(`tls=${text} is neither true nor false`);
  return text === 'true';
}

function addressOf(text: string, defaultPort: number): RedisAddress {
  const [, v6, plain, port] = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]]+))(?::(\d{1,5}))?$/.exec(text) ?? [];
  const host = v6 ?? plain ?? wrong(`"${text}" is not a host`);
  return { host, port: count(port ?? '', 'the port', defaultPort) };
}

function loginOf(login: string | undefined): Pick<RedisUrl, 'user' | 'password'> {
  if (!login) return {};
  const [, user = '', password = ''] = /^([^:]*):(.+)$/.exec(login) ?? wrong('the password is missing');
  return { ...(user && { user: decoded(user) }), password: decoded(password) };
}

/** Nothing of what is written there is shown: it may be the password. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return wrong('a % is not followed by two hex digits (write %25 for a % itself)');
  }
}

function count(text: string, what: string, none: number): number {
  if (text === '') return none;
  return /^\d{1,5}$/.test(text) && Number(text) <= 65_535
    ? Number(text)
    : wrong(`${what} "${text}" is not a number`);
}
