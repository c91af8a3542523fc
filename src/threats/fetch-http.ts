/** GET with redirects, validators and secrets, where each step is checked anew. */
import { readFile } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { shownUrl } from './feed-spec.js';
import { readBody, retryAfterMs } from './fetch-body.js';
import { sendHop } from './fetch-hop.js';
import { FetchFault, type FetchOutcome, type FetchSpec, type Validators } from './fetch-types.js';

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
    const why = error instanceof Error ? error.message : String(error);
    throw new FetchFault(
      `the secret in ${file} cannot be read: ${why}`,
      'put the secret there, readable by us',
    );
  }
}

function conditional({ etag, lastModified }: Validators): Record<string, string> {
  return {
    ...(etag !== undefined && { 'if-none-match': etag }),
    ...(lastModified !== undefined && { 'if-modified-since': lastModified }),
  };
}

function redirectTarget(answer: IncomingMessage, from: URL): URL {
  const location = answer.headers.location ?? '';
  answer.destroy();
  const to = URL.canParse(location, from.href) ? new URL(location, from) : undefined;
  if (!to || location === '')
    throw new FetchFault(`${shownUrl(from)} redirects to nowhere`, 'look at the feed’s address');
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

export interface HttpRequest {
  readonly spec: FetchSpec;
  readonly url: URL;
  readonly validators: Validators;
  readonly accept: string;
  readonly signal: AbortSignal;
}

/** Follows redirects to an answer that is none. */
async function follow({ spec, url, validators, accept, signal }: HttpRequest): Promise<IncomingMessage> {
  const proxy = spec.proxy === undefined ? undefined : new URL(spec.proxy);
  const home = new URL(spec.url);
  const secret = await secretHeader(spec);
  const plain = { accept, 'accept-encoding': 'gzip', 'user-agent': 'drawbridge', ...conditional(validators) };
  let at = url;
  for (let step = 0; step <= MAX_REDIRECTS; step++) {
    // A secret is for the server it was given for; so is leave to be private.
    const headers = at.origin === home.origin ? { ...plain, ...secret } : plain;
    const allowPrivate = spec.allowPrivate && at.hostname === home.hostname;
    const answer = await sendHop({ url: at, headers, proxy, allowPrivate, signal });
    if (!REDIRECTS.has(answer.statusCode ?? 0)) return answer;
    at = redirectTarget(answer, at);
  }
  throw new FetchFault(
    `${shownUrl(home)} redirects more than ${MAX_REDIRECTS} times`,
    'look at the feed’s address',
  );
}

function validatorsOf({ headers }: IncomingMessage): Validators {
  const { etag, 'last-modified': lastModified } = headers;
  return { ...(etag !== undefined && { etag }), ...(lastModified !== undefined && { lastModified }) };
}

const REMEDIES: Readonly<Record<number, string>> = {
  401: 'the secret is missing or wrong: set auth for this feed',
  403: 'the server refuses us: check the secret, or the terms of the feed',
  404: 'the feed has moved: look for its new address',
  407: 'the proxy wants credentials: write them into its URL',
  410: 'the feed is gone: remove it',
};

function refusal(answer: IncomingMessage): FetchOutcome {
  const status = answer.statusCode ?? 0;
  const wait = retryAfterMs(answer.headers['retry-after'], Date.now());
  answer.destroy();
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

/** Rejects with FetchFault or a socket's error. */
export async function httpGet(request: HttpRequest): Promise<FetchOutcome> {
  const answer = await follow(request);
  const asked = Object.keys(request.validators).length > 0;
  if (answer.statusCode === 304 && asked) {
    answer.destroy();
    return { kind: 'unchanged' };
  }
  if (answer.statusCode !== 200) return refusal(answer);
  const body = await readBody(answer, request.spec.maxSize);
  return { kind: 'body', body, validators: validatorsOf(answer) };
}
