/** Fetching a feed: what is asked for, and how it ends. */
interface FeedAuth {
  /** Header's name, such as "Authorization", "Auth-Key" or "X-Api-Key". */
  readonly header: string;
  /** File that holds the secret (one line); read anew for each fetch. */
  readonly file: string;
  /** What stands before the secret, such as "Bearer ". */
  readonly prefix?: string;
}

export interface FetchSpec {
  /** file://, http:// or https://. */
  readonly url: string;
  /** "taxii" follows the pages of a collection. */
  readonly format: string;
  /** Octets, of the body as sent and once its Content-Encoding is undone. */
  readonly maxSize: number;
  /** For the whole of it, redirects and pages included. */
  readonly timeoutMs: number;
  readonly auth?: FeedAuth;
  /** http://[user:password@]host:port; asked to CONNECT for https. */
  readonly proxy?: string;
  /** The host in `url` may be private or loopback. Redirects elsewhere still may not; link-local and metadata never. */
  readonly allowPrivate: boolean;
}

/** What the server said of the version in force, to ask "only if newer". */
export interface Validators {
  readonly etag?: string;
  readonly lastModified?: string;
}

export type FetchOutcome =
  | { readonly kind: 'body'; readonly body: Uint8Array; readonly validators: Validators }
  | { readonly kind: 'unchanged' }
  /** The server asks to be left alone for a while (429 or 503 with Retry-After). */
  | { readonly kind: 'later'; readonly afterMs: number; readonly reason: string }
  | { readonly kind: 'failed'; readonly reason: string; readonly remedy: string };

/** Ends a fetch from within; becomes the outcome. */
export class FetchFault extends Error {
  readonly remedy: string;
  constructor(reason: string, remedy: string) {
    super(reason);
    this.remedy = remedy;
  }
}
