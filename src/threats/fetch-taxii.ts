/** All pages of a TAXII 2.1 collection's objects (OASIS TAXII 2.1, 3.7 and 5.4) as one envelope. */
import { isRecord } from '../lib/json.js';
import { type HttpRequest, httpGet } from './fetch-http.js';
import { FetchFault, type FetchOutcome } from './fetch-types.js';

const MEDIA_TYPE = 'application/taxii+json;version=2.1';
const MAX_PAGES = 1000;

interface Envelope {
  readonly objects: readonly unknown[];
  /** Where the next page is; undefined: this was the last. */
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
    throw new FetchFault(`page ${page} says that there is more, and not where`, 'tell the server’s people');
  return { objects, next: value.more === true ? String(value.next) : undefined };
}

function pageUrl(start: URL, next: string | undefined): URL {
  const url = new URL(start);
  if (next !== undefined) url.searchParams.set('next', next);
  return url;
}

/** Rejects with FetchFault or a socket's error. */
export async function taxiiGet(request: Omit<HttpRequest, 'accept'>): Promise<FetchOutcome> {
  const objects: unknown[] = [];
  let size = 0;
  let next: string | undefined;
  for (let page = 1; page <= MAX_PAGES; page++) {
    // Validators speak of one page only, and the first may stay while the last grows.
    const ask = { ...request, url: pageUrl(request.url, next), validators: {}, accept: MEDIA_TYPE };
    const outcome = await httpGet(ask);
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
