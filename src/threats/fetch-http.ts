/** GET over HTTP with redirects, validators, secrets and proxies. Each address that is connected to is checked (SSRF). */

import { lookup as resolve } from 'node:dns';
import { addAbortListener } from 'node:events';
import { readFile } from 'node:fs/promises';
import { isIP, type LookupFunction, type Socket } from 'node:net';
import { networkInterfaces } from 'node:os';
import { pipeline, type Readable } from 'node:stream';
import { createBrotliDecompress, createGunzip, createInflate } from 'node:zlib';
import { buildConnector, Client, type Dispatcher, errors } from 'undici';
import { type Address, parseAddress, parseCidr, type Range, rangeHas } from '../lib/ip.js';
import { errorCode, errorText } from '../lib/problem.js';
import { privateRangeOf } from '../lib/special-use.js';
import { type FetchSpec, MAX_WAIT_MS, shownUrl } from './feed-spec.js';

/** Headers that the server sent with the version in use, for a conditional request. */
export interface Validators {
  readonly etag?: string;
  readonly lastModified?: string;
}

export type FetchOutcome =
  | { readonly kind: 'body'; readonly body: Uint8Array; readonly validators: Validators }
  | { readonly kind: 'unchanged' }
  /** The server asks for no request for a while (429 or 503 with Retry-After). */
  | { readonly kind: 'later'; readonly afterMs: number; readonly reason: string }
  | { readonly kind: 'failed'; readonly reason: string; readonly remedy: string };

/** Ends a fetch; becomes the outcome `failed`. */
export class FetchFault extends Error {
  readonly remedy: string;
  constructor(reason: string, remedy: string) {
    super(reason);
    this.remedy = remedy;
  }
}

export interface HttpRequest {
  readonly spec: FetchSpec;
  readonly url: URL;
  readonly validators: Validators;
  readonly accept: string;
  readonly signal: AbortSignal;
}

/** Addresses that no feed is fetched from, allowPrivate or not: link-local, and where clouds hand out credentials. */
const NEVER: readonly Range[] = [
  '169.254.0.0/16',
  'fe80::/10',
  'fd00:ec2::254/128',
  '168.63.129.16/32',
].flatMap((text) => parseCidr(text) ?? []);

/** Also a public address may be one of this host, whose own services trust it: read at each connection, because addresses come and go. */
const isOwn = ({ family, value }: Address): boolean =>
  Object.values(networkInterfaces()).some((all) =>
    all?.map(({ address }) => parseAddress(address)).some((a) => a?.family === family && a.value === value),
  );

const isPrivate = (text: string): boolean => {
  const address = parseAddress(text);
  return !address || privateRangeOf(address) !== undefined || isOwn(address);
};

const isNever = (text: string): boolean => {
  const address = parseAddress(text);
  return !address || NEVER.some((range) => rangeHas(range, address));
};

const notFrom = (address: string, host: string, allowPrivate: boolean): FetchFault =>
  new FetchFault(
    `${host} is ${address}, which is private, loopback, link-local or metadata space, or an address of this host`,
    allowPrivate
      ? 'no feed is fetched from there'
      : 'if this feed is meant to come from there, allow private addresses for it',
  );

/** Throws FetchFault. */
function checkAddress(address: string, host: string, allowPrivate: boolean): void {
  if (allowPrivate ? isNever(address) : isPrivate(address)) throw notFrom(address, host, allowPrivate);
}

/** The source of what the kernel delivers to the host itself is the destination, whichever route makes that local: nothing is asked there. */
function endsHere(socket: Socket, host: string): FetchFault | undefined {
  const { localAddress, remoteAddress = '' } = socket;
  if (localAddress !== remoteAddress) return undefined;
  socket.destroy();
  return notFrom(remoteAddress, host, false);
}

/** The host of a URL without the brackets of v6. */
const hostOf = (url: URL): string => url.hostname.replace(/^\[|\]$/g, '');

/** Check a URL whose host is an address: a connection to an address never calls `guardedLookup`. Throws FetchFault. */
export function checkLiteral(url: URL, allowPrivate: boolean): void {
  const host = hostOf(url);
  if (isIP(host) !== 0) checkAddress(host, host, allowPrivate);
}

/** For `net.connect`, which connects to the very addresses that were checked here. Every address of the name must pass. */
function guardedLookup(allowPrivate: boolean): LookupFunction {
  return (hostname, options, callback) => {
    resolve(hostname, { ...options, all: true }, (error, addresses) => {
      if (error) return callback(error, []);
      try {
        for (const { address } of addresses) checkAddress(address, hostname, allowPrivate);
      } catch (fault) {
        return callback(fault as Error, []);
      }
      const [first] = addresses;
      if (options.all === true || !first) callback(null, addresses);
      else callback(null, first.address, first.family);
    });
  };
}

/** A proxy resolves the name itself; the addresses that this host resolves must pass all the same. */
async function checkBehindProxy(url: URL, allowPrivate: boolean): Promise<void> {
  const host = hostOf(url);
  const addresses = await new Promise<readonly string[]>((done) => {
    // A host behind a proxy often resolves no name at all: then only the proxy decides.
    resolve(host, { all: true }, (error, found) => done(error ? [] : found.map(({ address }) => address)));
  });
  for (const address of addresses) checkAddress(address, host, allowPrivate);
}

interface Hop {
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  readonly proxy: URL | undefined;
  readonly allowPrivate: boolean;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

/** The head of an answer. Disposing of it closes the connection. */
interface Answer extends AsyncDisposable {
  readonly status: number;
  readonly header: (name: string) => string | undefined;
  readonly body: Dispatcher.ResponseData['body'];
  /** The error of the connection after its head was read; undefined while there is none. */
  readonly broken: () => Error | undefined;
}

const isTls = (url: URL): boolean => url.protocol === 'https:';
const portOf = (url: URL): number => Number(url.port) || (isTls(url) ? 443 : 80);

function proxyAuth(proxy: URL): Record<string, string> {
  if (proxy.username === '') return {};
  const pair = `${decodeURIComponent(proxy.username)}:${decodeURIComponent(proxy.password)}`;
  return { 'proxy-authorization': `Basic ${Buffer.from(pair).toString('base64')}` };
}

/** One connection, which ends with `signal`. It has no time limit of its own: `timeoutMs` of the feed bounds the whole fetch. */
class Connection implements AsyncDisposable {
  readonly client: Client;
  readonly #aborted: Disposable;

  constructor(origin: string, connect: buildConnector.connector, signal: AbortSignal) {
    this.client = new Client(origin, { pipelining: 0, headersTimeout: 0, bodyTimeout: 0, connect });
    // A request whose connection is not open yet does not end with its own signal.
    this.#aborted = addAbortListener(
      signal,
      () => void this.client.destroy(new Error('the fetch timed out')),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#aborted[Symbol.dispose]();
    await this.client.destroy();
  }
}

/** CONNECT (RFC 9110 9.3.6): a socket to the target through the proxy. */
async function tunnel(proxy: URL, { url, timeoutMs, signal }: Hop): Promise<Socket> {
  const authority = `${url.hostname}:${portOf(url)}`;
  const headers = { ...proxyAuth(proxy), host: authority };
  await using connection = new Connection(proxy.origin, buildConnector({ timeout: timeoutMs }), signal);
  const { statusCode, socket } = await connection.client.connect({ path: authority, headers, signal });
  if (statusCode === 200) return socket as Socket;
  socket.on('error', () => undefined).destroy();
  throw new FetchFault(`the proxy ${proxy.host} refused with status ${statusCode}`, 'check the proxy');
}

function connectorFor(hop: Hop): buildConnector.connector {
  const { proxy, url, allowPrivate, timeoutMs: timeout } = hop;
  if (!proxy) return buildConnector({ lookup: guardedLookup(allowPrivate), timeout });
  const connect = buildConnector({ timeout });
  if (!isTls(url)) return connect;
  return (options, callback) => {
    tunnel(proxy, hop).then(
      (httpSocket) => connect({ ...options, httpSocket }, callback),
      (error: Error) => callback(error, null),
    );
  };
}

/** Rejects with FetchFault or the error of the connection. */
async function send(hop: Hop): Promise<Answer> {
  const { url, proxy, signal } = hop;
  checkLiteral(url, hop.allowPrivate);
  if (proxy) await checkBehindProxy(url, hop.allowPrivate);
  const isForwarded = proxy !== undefined && !isTls(url);
  let broken: Error | undefined;
  const connect = connectorFor(hop);
  const watched: buildConnector.connector = (options, callback) =>
    connect(options, (...opened: Parameters<typeof callback>) => {
      const [, socket] = opened;
      socket?.once('error', (error: Error) => (broken = error));
      const fault = socket && !proxy && !hop.allowPrivate ? endsHere(socket, hostOf(url)) : undefined;
      if (fault) callback(fault, null);
      else callback(...opened);
    });
  const connection = new Connection(isForwarded ? proxy.origin : url.origin, watched, signal);
  const headers = { ...hop.headers, ...(isForwarded && proxyAuth(proxy)), host: url.host };
  const path = isForwarded ? url.href : `${url.pathname}${url.search}`;
  try {
    const answer = await connection.client.request({ method: 'GET', path, headers, signal });
    // A body that is destroyed before it is read reports that as an error.
    const body = answer.body.on('error', () => undefined);
    const header = (name: string): string | undefined => {
      const value = answer.headers[name];
      return Array.isArray(value) ? value[0] : value;
    };
    return {
      status: answer.statusCode,
      header,
      body,
      broken: () => broken,
      [Symbol.asyncDispose]: () => connection[Symbol.asyncDispose](),
    };
  } catch (error) {
    await connection[Symbol.asyncDispose]();
    throw error;
  }
}

const MAX_REDIRECTS = 5;
const REDIRECTS = new Set([301, 302, 303, 307, 308]);

/** The header with the feed's secret. Throws FetchFault when its file cannot be read. */
async function secretHeader(spec: FetchSpec): Promise<Record<string, string>> {
  if (!spec.auth) return {};
  const { header, file, prefix = '' } = spec.auth;
  try {
    const secret = (await readFile(file, 'utf8')).trim();
    if (secret === '' || /[\r\n]/.test(secret)) throw new Error('it is empty or has several lines');
    return { [header.toLowerCase()]: prefix + secret };
  } catch (error) {
    throw new FetchFault(
      `the secret in ${file} cannot be read: ${errorText(error)}`,
      'write the secret to that file, readable by root',
    );
  }
}

function conditional({ etag, lastModified }: Validators): Record<string, string> {
  return {
    ...(etag !== undefined && { 'if-none-match': etag }),
    ...(lastModified !== undefined && { 'if-modified-since': lastModified }),
  };
}

function redirectTarget(location: string, from: URL): URL {
  const to = URL.canParse(location, from.href) ? new URL(location, from) : undefined;
  if (!to || location === '')
    throw new FetchFault(`${shownUrl(from)} redirects to nowhere`, 'check the address of the feed');
  if (to.protocol !== 'http:' && to.protocol !== 'https:')
    throw new FetchFault(
      `${shownUrl(from)} redirects to ${to.protocol}//`,
      'only http and https are followed',
    );
  if (from.protocol === 'https:' && to.protocol === 'http:')
    throw new FetchFault(
      `${shownUrl(from)} redirects to ${shownUrl(to)}, without TLS`,
      'use the https address',
    );
  return to;
}

/** Follow redirects to an answer that is not one. */
async function follow({ spec, url, validators, accept, signal }: HttpRequest): Promise<Answer> {
  const proxy = spec.proxy === undefined ? undefined : new URL(spec.proxy);
  const home = new URL(spec.url);
  const secret = await secretHeader(spec);
  const plain = { accept, 'accept-encoding': 'gzip', 'user-agent': 'drawbridge', ...conditional(validators) };
  let at = url;
  for (let step = 0; step <= MAX_REDIRECTS; step++) {
    // The secret is sent to the origin of the feed only; allowPrivate applies to the host of the feed only.
    const headers = at.origin === home.origin ? { ...plain, ...secret } : plain;
    const allowPrivate = spec.allowPrivate && at.hostname === home.hostname;
    const answer = await send({ url: at, headers, proxy, allowPrivate, timeoutMs: spec.timeoutMs, signal });
    if (!REDIRECTS.has(answer.status)) return answer;
    await answer[Symbol.asyncDispose]();
    at = redirectTarget(answer.header('location') ?? '', at);
  }
  throw new FetchFault(
    `${shownUrl(home)} redirects more than ${MAX_REDIRECTS} times`,
    'check the address of the feed',
  );
}

const DECODERS: Readonly<Record<string, () => NodeJS.ReadWriteStream>> = {
  gzip: createGunzip,
  'x-gzip': createGunzip,
  deflate: createInflate,
  br: createBrotliDecompress,
};

/** Undo Content-Encoding; an error of either stream ends the reading. */
function decoded({ header, body }: Answer): Readable {
  const encoding = (header('content-encoding') ?? 'identity').trim().toLowerCase();
  if (encoding === 'identity' || encoding === '') return body;
  const make = Object.hasOwn(DECODERS, encoding) ? DECODERS[encoding] : undefined;
  if (!make)
    throw new FetchFault(`the server encodes as "${encoding}"`, 'only gzip, deflate and br are read');
  // The error reaches the reader of the result; the callback only keeps it from being thrown twice.
  return pipeline(body, make(), () => undefined) as unknown as Readable;
}

const tooBig = (maxSize: number): FetchFault =>
  new FetchFault(`the body is bigger than ${maxSize} octets`, 'raise maxSize for this feed if it is meant');

const CUT_CODES = ['ECONNRESET', 'EPIPE', 'UND_ERR_SOCKET', 'UND_ERR_RES_CONTENT_LENGTH_MISMATCH'];

/** Whether the connection ended before the body was complete. The parser reports that with an error about no data. */
function isCut(error: unknown): boolean {
  if (error instanceof errors.HTTPParserError) return 'data' in error && error.data === '';
  return CUT_CODES.includes(errorCode(error) ?? '');
}

const cut = (): FetchFault =>
  new FetchFault(
    'the body was cut: the connection ended before it was complete',
    'check the address and the way to it; it will be tried again',
  );

/** Throws FetchFault above `maxSize` and when the connection ends early, and what the decoder throws. */
async function readBody(answer: Answer, maxSize: number): Promise<Uint8Array> {
  if (Number(answer.header('content-length') ?? 0) > maxSize) throw tooBig(maxSize);
  const parts: Uint8Array[] = [];
  let size = 0;
  try {
    for await (const part of decoded(answer)) {
      size += (part as Uint8Array).length;
      if (size > maxSize) throw tooBig(maxSize);
      parts.push(part as Uint8Array);
    }
  } catch (error) {
    throw isCut(error) ? cut() : error;
  }
  // The end of such a body is the end of the connection: undici takes a reset (ECONNRESET) for the end, too.
  const isDelimited =
    answer.header('content-length') !== undefined || answer.header('transfer-encoding') !== undefined;
  if (!isDelimited && answer.broken()) throw cut();
  return Buffer.concat(parts);
}

/** Retry-After (RFC 9110 10.2.3), seconds or a date, as milliseconds from `now`; undefined when it cannot be read. */
export function retryAfterMs(header: string | undefined, now: number): number | undefined {
  const text = header?.trim() ?? '';
  const wait = /^\d{1,9}$/.test(text) ? Number(text) * 1000 : Date.parse(text) - now;
  return Number.isNaN(wait) ? undefined : Math.min(Math.max(wait, 0), MAX_WAIT_MS);
}

function validatorsOf({ header }: Answer): Validators {
  const [etag, lastModified] = [header('etag'), header('last-modified')];
  return { ...(etag !== undefined && { etag }), ...(lastModified !== undefined && { lastModified }) };
}

const REMEDIES: Readonly<Record<number, string>> = {
  401: 'the secret is missing or wrong: set auth for this feed',
  403: 'the server refuses this request: check the secret, or the terms of the feed',
  404: 'the feed has moved: find its new address',
  407: 'the proxy wants credentials: write them into its URL',
  410: 'the feed is gone: remove it',
};

function refusal({ status, header }: Answer): FetchOutcome {
  const wait = retryAfterMs(header('retry-after'), Date.now());
  if (wait !== undefined && (status === 429 || status === 503))
    return {
      kind: 'later',
      afterMs: wait,
      reason: `status ${status}: not before ${Math.ceil(wait / 1000)} s`,
    };
  const remedy =
    REMEDIES[status] ?? 'the server has a fault, or the address is wrong; it will be tried again';
  return { kind: 'failed', reason: `the server answers with status ${status}`, remedy };
}

/** Rejects with FetchFault or the error of a connection. */
export async function httpGet(request: HttpRequest): Promise<FetchOutcome> {
  await using answer = await follow(request);
  const isConditional = Object.keys(request.validators).length > 0;
  if (answer.status === 304 && isConditional) return { kind: 'unchanged' };
  if (answer.status !== 200) return refusal(answer);
  const body = await readBody(answer, request.spec.maxSize);
  return { kind: 'body', body, validators: validatorsOf(answer) };
}
