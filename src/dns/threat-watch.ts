/** Names of threats where the question alone does not tell, and those that are only watched. */
import { hitText } from '../policy/threat.js';
import { followChain } from './cname-chain.js';
import type { Query } from './codec.js';
import { decideThreat, type OwnAnswer } from './decide.js';
import { type DnsPolicy, type NameEvent, typeName } from './types.js';
import type { ResourceRecord } from './wire.js';

type Denial = Extract<OwnAnswer, { readonly kind: 'deny' }>;

export interface ThreatWatchOptions {
  readonly policy: Pick<DnsPolicy, 'threats'>;
  onEvent(event: NameEvent): void;
}

export class ThreatWatch {
  readonly #o: ThreatWatchOptions;

  constructor(options: ThreatWatchOptions) {
    this.#o = options;
  }

  /** Counts a name that a feed with action observe lists; nothing else comes of it. */
  name(container: string, { name, type }: Query): void {
    const hit = this.#o.policy.threats.observedName(name);
    if (hit === undefined) return;
    const reason = `${hitText(hit)}, action observe: it passed`;
    this.#o.onEvent({ container, name, type: typeName(type), verdict: 'would-deny', reason });
  }

  /** The name leads to a bad one: it is answered like that. */
  badAlias(query: Query, records: readonly ResourceRecord[]): Denial | undefined {
    for (const alias of followChain(query.name, query.type, records).names.slice(1)) {
      const denial = decideThreat(this.#o.policy, alias);
      if (denial?.kind === 'deny') return { ...denial, reason: `it leads to ${alias}: ${denial.reason}` };
    }
    return undefined;
  }
}
