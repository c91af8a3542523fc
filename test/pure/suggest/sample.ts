import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseListFile } from '../../../src/config/list-files.js';
import type { SeenDestination } from '../../../src/flows/flow-record.js';
import { isDest, parseEntries, parseEntry } from '../../../src/policy/entry-parse.js';
import type { List, PolicyEntry } from '../../../src/policy/policy.js';
import { namesOf, type Place, type Recorded } from '../../../src/suggest/needs.js';
import type { PresentPolicy, SuggestInput } from '../../../src/suggest/present.js';
import { type Suggestion, suggest } from '../../../src/suggest/suggest.js';

export const DAY = 86_400_000;
export const NOW = Date.UTC(2026, 10, 30, 12);

const ROOT = new URL('../../../allowlists', import.meta.url).pathname;
/** The lists that ship. */
export const SHIPPED: ReadonlyMap<string, List> = new Map(
  readdirSync(ROOT)
    .filter((file) => file.endsWith('.yaml'))
    .map((file) => {
      const parsed = parseListFile(file, readFileSync(join(ROOT, file), 'utf8'));
      if (!parsed.ok) throw new Error(JSON.stringify(parsed.problems));
      return [parsed.value.name, parsed.value];
    }),
);

/** "a.org:443", "10.0.0.1:22", "a.org/dns", "[2001:db8::1]:443/udp". */
export function seen(text: string, more: Partial<SeenDestination> = {}): SeenDestination {
  const [, six, host, port = '443', proto = 'tcp'] =
    /^(?:\[([^\]]+)\]|([^:/]+))(?::(\d+))?(?:\/(\w+))?$/.exec(text) ?? [];
  const to = six ?? host ?? '';
  const isAddress = /^[\d.]+$|:/.test(to);
  const hasPort = proto === 'tcp' || proto === 'udp';
  return {
    container: 'shop-web-1',
    owner: 'compose:shop/web',
    reason: 'no entry covers it',
    feed: null,
    verdict: 'would-deny',
    proto,
    address: isAddress ? to : proto === 'dns' ? '' : '203.0.113.1',
    port: hasPort ? Number(port) : 0,
    name: isAddress ? null : to,
    entry: null,
    list: null,
    first: NOW - 3 * DAY,
    last: NOW - 3_600_000,
    count: 41,
    starts: 12,
    known: false,
    ...more,
  };
}

/** As where the container has no neighbours. */
export function placeOf(one: SeenDestination, all: readonly SeenDestination[]): Place {
  const [name] = namesOf(one, all);
  const isWeb = one.proto === 'dns' || (one.proto === 'tcp' && [80, 443].includes(one.port));
  const proto = /^\d+$/.test(one.proto) ? `ip-${one.proto}` : one.proto;
  const address = one.address.includes(':') && one.port > 0 ? `[${one.address}]` : one.address;
  const port = one.port > 0 && !(isWeb && name !== undefined) ? `:${one.port}` : '';
  const suffix = one.proto === 'tcp' || one.proto === 'dns' ? '' : `/${proto}`;
  const parsed = parseEntry(`${name ?? address}${port}${suffix}`);
  const kind = name === undefined ? 'address' : 'name';
  const entry = parsed.ok ? parsed.value.canonical : null;
  return { entry, kind, name: name ?? null, free: false, warning: null };
}

export function policy(text: string, lists: readonly string[] = []): PresentPolicy {
  const parsed = parseEntries(text);
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.problems));
  const own = parsed.value.filter(isDest).map((entry): PolicyEntry => ({ entry, source: { kind: 'label' } }));
  const listed = lists.flatMap((list) =>
    (SHIPPED.get(list)?.allow ?? [])
      .filter(isDest)
      .map((entry): PolicyEntry => ({ entry, source: { kind: 'list', name: list } })),
  );
  const all = [...own, ...listed];
  return {
    entries: all.filter(({ entry }) => !entry.deny),
    denied: all.filter(({ entry }) => entry.deny),
    lists,
  };
}

export function inputOf(
  rows: readonly SeenDestination[],
  more: Partial<SuggestInput> & { readonly record?: Recorded } = {},
): SuggestInput {
  const record: Recorded = {
    owner: 'compose:shop/web',
    since: NOW - 10 * DAY,
    gaps: [],
    starts: 17,
    dropped: 0,
    seen: rows,
    ...more.record,
  };
  return {
    container: 'shop-web-1',
    places: rows.map((row) => placeOf(row, rows)),
    policy: policy(''),
    mode: 'observe',
    lists: SHIPPED,
    notRecorded: [],
    now: NOW,
    options: { includeDenied: false, unusedMs: 30 * DAY },
    ...more,
    record,
  };
}

export const suggested = (
  rows: readonly (string | SeenDestination)[],
  more: Parameters<typeof inputOf>[1] = {},
): Suggestion =>
  suggest(
    inputOf(
      rows.map((row) => (typeof row === 'string' ? seen(row) : row)),
      more,
    ),
  );
export const texts = (s: Suggestion): string[] => s.entries.map((e) => e.entry);
