/** Keys for encrypted hellos (ECH, RFC 9849) that the HTTPS records of names publish (RFC 9460, RFC 9848). */

import { putNewest } from '../lib/fair-shares.js';
import { serviceParam } from './answer-filter.js';
import { rcode, type as recordType } from './dns-constants.js';
import type { Upstream } from './upstream.js';
import { NoAnswerError } from './upstream-servers.js';
import { type ResourceRecord, readName, WireError } from './wire.js';

export interface PublishedKeysParts {
  readonly upstream: Pick<Upstream, 'resolve'>;
  /** Names that are never sent upstream. */
  readonly isListed: (name: string) => boolean;
  /** Whether a query of this container for the record of this name would be sent upstream. */
  readonly mayQuery: (container: string, name: string) => boolean;
  /** ms, monotonic. */
  readonly now: () => number;
}

/** `unknown`: no resolver has answered. */
export type KeyIds = ReadonlySet<number> | 'unknown';

interface Known {
  /** config_id of a key → until when a server may still accept it (ms). */
  readonly ids: Map<number, number>;
  readonly isAnswered: boolean;
  readonly freshUntil: number;
}

const MAX_NAMES = 4_096;
const MAX_IDS = 16;
/** A server accepts a key for some time after its record has another one: hours, at the usual rotation of each hour. */
const ACCEPTED_MS = 6 * 3_600_000;
/** Until the record is looked up again. */
const FRESH_MS = 5 * 60_000;
const RETRY_MS = 5_000;
/** Of an AliasMode record (RFC 9460 2.4.2). */
const MAX_ALIASES = 4;
const ECH = 5;

/** Looks up the records of names when a connection needs them, and keeps what they have published. */
export class PublishedKeys {
  readonly #o: PublishedKeysParts;
  readonly #known = new Map<string, Known>();

  constructor(parts: PublishedKeysParts) {
    this.#o = parts;
  }

  /** The config_id of each key of a name, one byte each. Undefined: `lookUp` has to be called first. */
  of(name: string): KeyIds | undefined {
    const now = this.#o.now();
    const known = this.#known.get(name);
    if (!known || now >= known.freshUntil) return undefined;
    if (!known.isAnswered) return 'unknown';
    return new Set([...known.ids].filter(([, until]) => now < until).map(([id]) => id));
  }

  /** Query the HTTPS record of a name on behalf of a container that may query it itself, within its share of the upstream resolvers. */
  async lookUp(name: string, container: string): Promise<void> {
    const mayQuery = this.#o.mayQuery(container, name);
    if (!mayQuery && this.of(name) !== undefined) return;
    const found = mayQuery ? await this.#idsOf(name, container) : undefined;
    const now = this.#o.now();
    const ids = new Map(this.#known.get(name)?.ids);
    for (const id of found ?? []) {
      ids.delete(id);
      ids.set(id, now + ACCEPTED_MS);
    }
    for (const [id, until] of ids) if (until <= now || ids.size > MAX_IDS) ids.delete(id);
    const isAnswered = found !== undefined;
    const freshUntil = now + (isAnswered ? FRESH_MS : RETRY_MS);
    putNewest(this.#known, name, { ids, isAnswered, freshUntil }, MAX_NAMES);
  }

  /** Undefined: no resolver has answered. */
  async #idsOf(first: string, container: string): Promise<readonly number[] | undefined> {
    let name = first;
    for (let hop = 0; hop <= MAX_ALIASES; hop++) {
      const records = this.#o.isListed(name) ? [] : await this.#records(name, { container, first });
      if (records === undefined) return undefined;
      const target = records.map(aliasOf).find((t) => t !== undefined);
      if (target === undefined) return records.flatMap((r) => configIds(serviceParam(r.data, ECH)));
      name = target;
    }
    return undefined;
  }

  async #records(
    name: string,
    { container, first }: { readonly container: string; readonly first: string },
  ): Promise<readonly ResourceRecord[] | undefined> {
    const type = recordType.HTTPS;
    const question = { name, type, dnssecOk: false, checkingDisabled: false, authenticData: false };
    try {
      const answer = await this.#o.upstream.resolve(question, container, first);
      if (answer.rcode !== rcode.NOERROR && answer.rcode !== rcode.NXDOMAIN) return undefined;
      return answer.records.filter((r) => r.type === type);
    } catch (error) {
      if (error instanceof NoAnswerError) return undefined;
      throw error;
    }
  }
}

/** The target of an AliasMode record (RFC 9460 2.4.2), which has the priority 0; undefined for others. */
function aliasOf({ data }: ResourceRecord): string | undefined {
  if (data.length < 3 || data.readUInt16BE(0) !== 0) return undefined;
  try {
    return readName(data, 2).name.toLowerCase() || undefined;
  } catch (error) {
    if (error instanceof WireError) return undefined;
    throw error;
  }
}

/** ECHConfig of RFC 9849 4. Clients ignore configurations of other versions. */
const VERSION = 0xfe0d;

/** The config_id of each key in an ECHConfigList; of a list that is cut short, those before its end. */
function configIds(list: Buffer | undefined): number[] {
  const ids: number[] = [];
  if (list === undefined || list.length < 2) return ids;
  const end = Math.min(list.length, 2 + list.readUInt16BE(0));
  for (let at = 2; at + 5 <= end; at += 4 + list.readUInt16BE(at + 2))
    if (list.readUInt16BE(at) === VERSION) ids.push(list[at + 4] as number);
  return ids;
}
