/** One receiver of events: how one message is delivered. */

import { isLoopback, type ReceiverConfig, readSecret } from '../config/endpoints.js';
import { runHook } from '../kernel/exec.js';
import { clipped, errorCode, errorText } from '../lib/problem.js';
import { jsonBody, type Message, plain, requestOf } from './formats.js';

/** How a delivery ended. `hopeless`: the same message is refused again. */
export type Delivery =
  | { readonly ok: true }
  | {
      readonly ok: false;
      readonly detail: string;
      /** Of an answer of HTTP. */
      readonly status: number | undefined;
      readonly hopeless: boolean;
      readonly afterMs: number | undefined;
    };

const failed = (
  detail: string,
  rest: { status?: number; hopeless?: boolean; afterMs?: number | undefined } = {},
): Delivery => ({
  ok: false,
  detail: plain(detail, 500),
  status: rest.status,
  hopeless: rest.hopeless ?? false,
  afterMs: rest.afterMs,
});

/** Statuses after which the same request may succeed: a secret is corrected, a proxy recovers. */
const PASSING = new Set([401, 403, 404, 407, 408, 410, 421, 425, 429]);
const isHopeless = (status: number): boolean => status >= 400 && status < 500 && !PASSING.has(status);
const LONGEST_PAUSE_MS = 3_600_000;
const MOST_ANSWER = 64 * 1024;

/** Retry-After (RFC 9110 10.2.3): seconds or a date, as milliseconds from `now`, an hour at most. */
export function retryAfter(header: unknown, now: number): number | undefined {
  const text = typeof header === 'string' ? header.trim() : '';
  const wait = /^\d{1,9}$/.test(text) ? Number(text) * 1000 : Date.parse(text) - now;
  return Number.isNaN(wait) ? undefined : Math.min(Math.max(wait, 0), LONGEST_PAUSE_MS);
}

export interface Post {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

/** One POST. Redirects are not followed, and certificates are verified. Never rejects; `answer` is the beginning of the body. */
export async function post({
  url,
  headers,
  body,
  timeoutMs,
  signal,
}: Post): Promise<Delivery & { answer?: string }> {
  const ending = AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]);
  try {
    const { request } = await import('undici'); // it takes megabytes: most hosts have no receivers
    const {
      statusCode,
      headers: got,
      body: answer,
    } = await request(url, {
      method: 'POST',
      headers: { ...headers },
      body,
      signal: ending,
    });
    const parts: Buffer[] = [];
    let size = 0;
    for await (const part of answer) {
      size += (part as Buffer).length;
      if (size > MOST_ANSWER) break; // leaving the loop closes the connection
      parts.push(part as Buffer);
    }
    const text = Buffer.concat(parts).toString();
    if (statusCode >= 200 && statusCode < 300) return { ok: true, answer: text };
    if (statusCode >= 300 && statusCode < 400)
      return failed(`status ${statusCode}: redirects are not followed: write the final address`);
    const detail = `status ${statusCode}: ${clipped(text, 200)}`;
    return failed(detail, {
      status: statusCode,
      hopeless: isHopeless(statusCode),
      afterMs: retryAfter(got['retry-after'], Date.now()),
    });
  } catch (e) {
    if (ending.aborted && !signal.aborted) return failed(`no answer within ${timeoutMs / 1000} s`);
    return failed(errorText(e) || (errorCode(e) ?? ''));
  }
}

/** Delivers one message. Never rejects. */
export async function deliver(
  config: ReceiverConfig,
  message: Message,
  signal: AbortSignal,
): Promise<Delivery> {
  const { kind, secretFile, timeoutMs, command } = config;
  if (kind === 'exec') {
    const [file = '', ...args] = command;
    const { code, output } = await runHook(file, args, {
      input: `${jsonBody(message)}\n`,
      timeoutMs,
      signal,
    });
    return code === 0 ? { ok: true } : failed(`exit code ${code ?? 'none'}: ${output}`);
  }
  let secret: string | undefined;
  try {
    secret = secretFile === undefined ? undefined : await readSecret(secretFile);
  } catch (e) {
    return failed(`${secretFile} cannot be used: ${errorText(e)}`);
  }
  const request = requestOf(config, message, secret, Math.floor(Date.now() / 1000));
  const isUrl = URL.canParse(request.url);
  if (config.url === '' && !(isUrl && (request.url.startsWith('https://') || isLoopback(request.url))))
    return failed(`${secretFile} has no https address`);
  return post({ ...request, timeoutMs, signal });
}
