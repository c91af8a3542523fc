/** DNS questions of an attacker, and the public resolvers of the lab that it asks. */
import { type Attempt, program } from './technique.js';

export interface Query {
  readonly server?: string;
  readonly port?: number;
  readonly localPort?: number;
  readonly proto?: 'udp' | 'tcp';
  readonly name?: string;
  /** The labels as bytes (latin1), where a name's text could not say them. */
  readonly labels?: readonly string[];
  /** RFC 1035 number; default A. */
  readonly type?: number;
  readonly class?: number;
  readonly flags?: number;
  /** Data of an EDNS option. */
  readonly edns?: string;
  /** Further questions in the same message. */
  readonly questions?: readonly { readonly name: string; readonly type?: number }[];
  /** Records in the answer section of the question. */
  readonly records?: readonly { readonly name: string; readonly data: string }[];
  /** Bytes behind the end of the message. */
  readonly tail?: string;
  /** The whole payload, no DNS. */
  readonly raw?: string;
  /** Timeout for an answer (ms); default 1,500. */
  readonly wait?: number;
  /** Takes the first datagram that comes for the answer. */
  readonly naive?: boolean;
}
export interface Told {
  readonly replies: readonly { readonly rcode: number; readonly addresses: readonly string[] }[];
}

const RESOLVER = { v4: '8.8.8.8', v6: '2001:4860:4860::8888' } as const;
/** Asks a public resolver of the attempt's family, unless the query names another. */
export const ask = (a: Attempt, query: Query): Promise<Told> =>
  program<Told>(a, 'dns.mjs', JSON.stringify({ server: RESOLVER[a.family], ...query }));
