import type { Logger } from '../lib/log.js';
import type { Audit } from './audit.js';

export interface FailedLogin {
  /** Where the request came from. */
  readonly address: string;
  readonly reason: string;
}
interface Count {
  requests: number;
  readonly reasons: Set<string>;
  readonly from: number;
}
const WINDOW_MS = 60_000;
/** So many records may come at once, and one more every three minutes: a flood must not fill the audit's budget. */
const BURST = 50;
const REFILL_MS = 180_000;
const MOST_ADDRESSES = 1_000;
const OTHERS = 'other addresses';

/** Records requests that were refused for their token, or the lack of one: one record for each address and minute. */
export class FailedLogins implements Disposable {
  readonly #audit: Pick<Audit, 'record'>;
  readonly #log: Logger;
  readonly #now: () => number;
  readonly #counts = new Map<string, Count>();
  #allowance = BURST;
  #filledAt: number;
  #timer: NodeJS.Timeout | undefined;

  constructor(audit: Pick<Audit, 'record'>, log: Logger, now: () => number) {
    this.#audit = audit;
    this.#log = log;
    this.#now = now;
    this.#filledAt = now();
  }

  readonly seen = ({ address, reason }: FailedLogin): void => {
    const key = this.#counts.has(address) || this.#counts.size < MOST_ADDRESSES ? address : OTHERS;
    const count = this.#counts.get(key) ?? { requests: 0, reasons: new Set<string>(), from: this.#now() };
    count.requests++;
    count.reasons.add(reason);
    this.#counts.set(key, count);
    this.#timer ??= setTimeout(() => this.flush(), WINDOW_MS).unref();
  };

  /** What was counted becomes records, as far as the allowance goes; the rest is one more, of many addresses. */
  flush(): void {
    this.#timer = undefined;
    const now = this.#now();
    const filled = Math.max(0, Math.floor((now - this.#filledAt) / REFILL_MS));
    this.#allowance = Math.min(BURST, this.#allowance + filled);
    this.#filledAt += filled * REFILL_MS;
    const all = [...this.#counts].sort(([, a], [, b]) => b.requests - a.requests);
    if (this.#allowance < 1) {
      this.#timer = setTimeout(() => this.flush(), WINDOW_MS).unref();
      return;
    }
    this.#counts.clear();
    const single = all.length <= this.#allowance ? all : all.slice(0, this.#allowance - 1);
    for (const [address, count] of single) this.#record(address, 1, count);
    const rest = all.slice(single.length);
    if (rest.length === 0) return;
    const reasons = new Set(rest.flatMap(([, c]) => [...c.reasons]));
    const requests = rest.reduce((sum, [, c]) => sum + c.requests, 0);
    this.#record(OTHERS, rest.length, { requests, reasons, from: Math.min(...rest.map(([, c]) => c.from)) });
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#allowance = Math.max(this.#allowance, 1);
    this.flush();
    clearTimeout(this.#timer);
  }

  #record(target: string, addresses: number, { requests, reasons, from }: Count): void {
    this.#allowance--;
    const since = new Date(from).toISOString();
    const after = { requests, reasons: [...reasons], since, ...(addresses > 1 && { addresses }) };
    this.#audit
      .record({ who: 'unknown', action: 'auth.fail', target, before: null, after, outcome: 'done' })
      .catch((err: unknown) => {
        this.#log.error({ err, target, ...after }, 'cannot record failed authentications in the audit');
      });
  }
}
