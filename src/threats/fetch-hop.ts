/** One HTTP request, directly or through a proxy, to its answer's head. */
import { request as httpRequest, type IncomingMessage, type RequestOptions } from 'node:http';
import { request as httpsRequest } from 'node:https';
import type { Socket } from 'node:net';
import { connect as tlsConnect } from 'node:tls';
import { checkBehindProxy, checkLiteral, guardedLookup, hostOf } from './fetch-guard.js';
import { FetchFault } from './fetch-types.js';

export interface HopRequest {
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  readonly proxy: URL | undefined;
  readonly allowPrivate: boolean;
  readonly signal: AbortSignal;
}

const isTls = (url: URL): boolean => url.protocol === 'https:';
const portOf = (url: URL): number => Number(url.port) || (isTls(url) ? 443 : 80);

function send(options: RequestOptions, tls: boolean): Promise<IncomingMessage> {
  return new Promise((answer, reject) => {
    const request = (tls ? httpsRequest : httpRequest)(options, answer);
    request.on('error', reject);
    request.end();
  });
}

function target({ url, headers, signal }: HopRequest): RequestOptions {
  return {
    method: 'GET',
    host: hostOf(url),
    port: portOf(url),
    path: `${url.pathname}${url.search}`,
    headers: { ...headers, host: url.host },
    signal,
    agent: false,
  };
}

function proxyAuth(proxy: URL): Record<string, string> {
  if (proxy.username === '') return {};
  const pair = `${decodeURIComponent(proxy.username)}:${decodeURIComponent(proxy.password)}`;
  return { 'proxy-authorization': `Basic ${Buffer.from(pair).toString('base64')}` };
}

/** CONNECT (RFC 9110 9.3.6): a socket to the target through the proxy. */
function tunnel(proxy: URL, { url, signal }: HopRequest): Promise<Socket> {
  const authority = `${url.hostname}:${portOf(url)}`;
  const headers = { ...proxyAuth(proxy), host: authority };
  const options = { method: 'CONNECT', host: hostOf(proxy), port: portOf(proxy), path: authority, headers };
  return new Promise((done, reject) => {
    const request = httpRequest({ ...options, signal, agent: false });
    request.on('error', reject);
    request.on('connect', (answer, socket: Socket) => {
      if (answer.statusCode === 200) return done(socket);
      socket.destroy();
      reject(
        new FetchFault(
          `the proxy ${proxy.host} refused with status ${answer.statusCode}`,
          'look at the proxy',
        ),
      );
    });
    request.end();
  });
}

async function throughProxy(proxy: URL, hop: HopRequest): Promise<IncomingMessage> {
  await checkBehindProxy(hop.url, hop.allowPrivate);
  if (!isTls(hop.url)) {
    const options = target(hop);
    const headers = { ...hop.headers, ...proxyAuth(proxy), host: hop.url.host };
    const whole = { ...options, host: hostOf(proxy), port: portOf(proxy), path: hop.url.href, headers };
    return send(whole, false);
  }
  const socket = await tunnel(proxy, hop);
  const servername = hostOf(hop.url);
  return send({ ...target(hop), createConnection: () => tlsConnect({ socket, servername }) }, true);
}

/** The answer's head; its body is still to be read. Rejects with FetchFault or the socket's error. */
export async function sendHop(hop: HopRequest): Promise<IncomingMessage> {
  checkLiteral(hop.url, hop.allowPrivate);
  if (hop.proxy) return throughProxy(hop.proxy, hop);
  return send({ ...target(hop), lookup: guardedLookup(hop.allowPrivate) }, isTls(hop.url));
}
