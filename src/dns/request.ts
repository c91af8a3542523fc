/** One query as the server received it. */
export interface Ask {
  readonly message: Buffer;
  readonly transport: 'udp' | 'tcp';
  readonly client: { readonly address: string; readonly port: number };
  /** Our end. */
  readonly server: { readonly address: string; readonly port: number };
  /** The container in whose namespace the socket stands: then the socket says who asks. */
  readonly container?: string;
}

/** How long an asker, or its networks, may take to become known, ms (spec 8.1). */
export const awaitMs = 2000;
