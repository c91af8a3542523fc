/** Fetches a feed's body from wherever it is. */
import { open } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { httpGet } from './fetch-http.js';
import { taxiiGet } from './fetch-taxii.js';
import { FetchFault, type FetchOutcome, type FetchSpec, type Validators } from './fetch-types.js';

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
  return { kind: 'failed', reason: inWords(error), remedy };
}

/** Node calls a connection that ended before its answer did just "aborted". */
function inWords(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  return message === 'aborted' ? 'the body was cut: the connection ended before it was whole' : message;
}

/**
 * Never rejects: whatever goes wrong is an outcome.
 * @param validators of the version in force; with none, the body comes in any case.
 */
export async function fetchFeed(spec: FetchSpec, validators: Validators): Promise<FetchOutcome> {
  const signal = AbortSignal.timeout(spec.timeoutMs);
  try {
    return await byScheme(spec, validators, signal);
  } catch (error) {
    return failure(error, spec, signal);
  }
}
