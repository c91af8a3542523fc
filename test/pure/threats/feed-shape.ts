/** Feed files for tests: real ones where they lie beside the project, made ones of the same shape elsewhere. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Collector } from '../../../src/threats/formats/collector.js';
import { parseBody } from '../../../src/threats/formats/parse-body.js';
import { type LoadJob, type LoadOutcome, loadFeed } from '../../../src/threats/ingest.js';
import { sharedRanges } from '../../../src/threats/shared-ranges.js';
import { DEFAULT_GUARDS, type Guards } from '../../../src/threats/update-guards.js';

const FOLDER = join(process.cwd(), '..', 'shared', 'feeds');
export const haveReal = existsSync(FOLDER);
export const realFeed = (name: string): Buffer => readFileSync(join(FOLDER, name));

export const NOW = Date.UTC(2026, 10, 25);

export interface LoadExtras {
  readonly format?: string;
  readonly options?: Partial<LoadJob['parse']>;
  readonly guards?: Partial<Guards>;
  readonly before?: LoadJob['before'];
  readonly accept?: boolean;
  readonly known?: LoadJob['known'];
}

const octets = (body: string | Uint8Array): Uint8Array =>
  typeof body === 'string' ? Buffer.from(body) : body;

export const load = (body: string | Uint8Array, extras: LoadExtras = {}): Promise<LoadOutcome> =>
  loadFeed({
    feed: 'test',
    body: octets(body),
    parse: { format: extras.format ?? 'auto', maxSize: 1 << 28, now: NOW, ...extras.options },
    guards: { ...DEFAULT_GUARDS, ...extras.guards },
    known: extras.known ?? sharedRanges(),
    accept: extras.accept ?? false,
    ...(extras.before && { before: extras.before }),
  });

/** The collector of a body that must parse. */
export async function parsed(
  body: string | Uint8Array,
  format = 'auto',
  options: Partial<LoadJob['parse']> = {},
): Promise<Collector> {
  const outcome = await parseBody(octets(body), {
    format,
    maxSize: 1 << 28,
    maxFound: 1e7,
    now: NOW,
    ...options,
  });
  if (!outcome.ok) throw new Error(outcome.reason);
  return outcome.found;
}

/** Ranges of a collector as "lo-hi" numbers or texts, for short assertions. */
export function ranges4(found: Collector): string[] {
  const { lo, hi } = found.v4.take();
  const text = (value: number): string => [24, 16, 8, 0].map((shift) => (value >>> shift) & 255).join('.');
  return Array.from(lo, (value, i) =>
    value === hi[i] ? text(value) : `${text(value)}-${text(hi[i] as number)}`,
  );
}

export function names(found: Collector): string[] {
  return Array.from({ length: found.names.size }, (_, i) => found.names.nameAt(i));
}
