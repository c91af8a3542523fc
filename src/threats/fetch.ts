/** Fetches the body of a feed from a file, over HTTP, or from all pages of a TAXII collection. */

import { open } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { errors } from 'undici';
import { isRecord } from '../lib/json.js';
import { errorCode } from '../lib/problem.js';
import type { FetchSpec } from './feed-spec.js';
import { FetchFault, type FetchOutcome, type HttpRequest, httpGet, type Validators } from './fetch-http.js';

async function readLocal(spec: FetchSpec, validators: Validators): Promise<FetchOutcome> {
  await using file = await open(fileURLToPath(spec.url));
  const stat = await file.stat();
  if (!stat.isFile()) throw new FetchFault(`${spec.url} is not a regular file`, 'name a file');
  if (stat.size > spec.maxSize)
    throw new FetchFault(
      `${spec.url} is bigger than ${spec.maxSize} octets`,
      'raise maxSize for this feed if it is meant',
    );
  const etag = `${stat.ino}-${stat.size}-${stat.mtimeMs}`;
  if (etag === validators.etag) return { kind: 'unchanged' };
  return { kind: 'body', body: await file.readFile(), validators: { etag } };
}

const TAXII_TYPE = 'application/taxii+json;version=2.1';
const MAX_PAGES = 1000;

interface Envelope {
  readonly objects: readonly unknown[];
  /** The parameter of the next page; undefined for the last page. */
  readonly next: string | undefined;
}

function readEnvelope(body: Uint8Array, page: number): Envelope {
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(body).toString('utf8'));
  } catch {
    value = undefined;
  }
  if (!isRecord(value))
    throw new FetchFault(
      `page ${page} of the collection is not a JSON object`,
      'the address ends in /objects/',
    );
  const objects = Array.isArray(value.objects) ? value.objects : [];
  if (value.more === true && typeof value.next !== 'string')
    throw new FetchFault(
      `page ${page} announces more pages without naming the next one`,
      'report this to the operators of the server',
    );
  return { objects, next: value.more === true ? String(value.next) : undefined };
}

function pageUrl(start: URL, next: string | undefined): URL {
  const url = new URL(start);
  if (next !== undefined) url.searchParams.set('next', next);
  return url;
}

/** All pages of the objects of a TAXII 2.1 collection (OASIS TAXII 2.1, 3.7 and 5.4) as one envelope. */
async function taxiiGet(request: Omit<HttpRequest, 'accept'>): Promise<FetchOutcome> {
  const objects: unknown[] = [];
  let size = 0;
  let next: string | undefined;
  for (let page = 1; page <= MAX_PAGES; page++) {
    // Validators are of one page only: the first page may stay the same while the last one grows.
    const url = pageUrl(request.url, next);
    const outcome = await httpGet({ ...request, url, validators: {}, accept: TAXII_TYPE });
    if (outcome.kind !== 'body') return outcome;
    size += outcome.body.length;
    if (size > request.spec.maxSize)
      throw new FetchFault(
        `the pages together are bigger than ${request.spec.maxSize} octets`,
        'raise maxSize',
      );
    const envelope = readEnvelope(outcome.body, page);
    for (const object of envelope.objects) objects.push(object);
    if (envelope.next === undefined)
      return { kind: 'body', body: Buffer.from(JSON.stringify({ objects })), validators: {} };
    next = envelope.next;
  }
  throw new FetchFault(`the collection has more than ${MAX_PAGES} pages`, 'ask for a smaller collection');
}

function byScheme(spec: FetchSpec, validators: Validators, signal: AbortSignal): Promise<FetchOutcome> {
  const url = new URL(spec.url);
  if (url.protocol === 'file:') return readLocal(spec, validators);
  if (url.protocol !== 'http:' && url.protocol !== 'https:')
    throw new FetchFault(`${url.protocol}// is not known`, 'write file://, http:// or https://');
  const request = { spec, url, validators, signal };
  return spec.format === 'taxii' ? taxiiGet(request) : httpGet({ ...request, accept: '*/*' });
}

function failure(error: unknown, spec: FetchSpec, signal: AbortSignal): FetchOutcome {
  if (signal.aborted)
    return {
      kind: 'failed',
      reason: `no whole answer within ${spec.timeoutMs / 1000} s`,
      remedy: 'the server is slow or out of reach; it will be tried again',
    };
  if (error instanceof FetchFault) return { kind: 'failed', reason: error.message, remedy: error.remedy };
  const remedy = 'check the address and the way to it; it will be tried again';
  return { kind: 'failed', reason: reasonOf(error), remedy };
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if (error instanceof errors.HTTPParserError) return `Parse Error: ${error.message}`;
  // An AggregateError, for a name with several addresses, has only a code.
  return error.message || (errorCode(error) ?? '');
}

/**
 * Never rejects: every error becomes an outcome.
 * @param validators of the version in use; without any, the server sends the body in any case.
 */
export async function fetchFeed(spec: FetchSpec, validators: Validators): Promise<FetchOutcome> {
  const signal = AbortSignal.timeout(spec.timeoutMs);
  try {
    return await byScheme(spec, validators, signal);
  } catch (error) {
    return failure(error, spec, signal);
  }
}
