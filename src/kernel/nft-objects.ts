import { BRIDGE_TABLE } from '../ruleset/bridge.js';
import type { Allowance, BridgeDesired } from '../ruleset/state.js';

type Objects = Pick<BridgeDesired, 'limits' | 'allowances'>;

/** As an element of a map names an object. */
export const quoted = (name: string): string => `"${name}"`;

/**
 * Named limits and quotas: those that come must stand before elements lead to them, and elements must be gone before
 * those that go. A quota keeps what it has counted when its size changes.
 */
export function diffObjects(want: Objects, have: Objects): { added: string[]; gone: string[] } {
  const limits = [...want.limits].filter(([name]) => !have.limits.has(name));
  const quotas = [...want.allowances].filter(([name, q]) => have.allowances.get(name)?.bytes !== q.bytes);
  return {
    added: [
      ...limits.map(([name, rate]) => `add limit ${place(name)} { ${rateText(rate)} }`),
      ...quotas.map(([name, q]) => `add quota ${place(name)} { over ${q.bytes} bytes used ${q.used} bytes }`),
    ],
    gone: [
      ...absent(have.limits, want.limits).map((name) => `delete limit ${place(name)}`),
      ...absent(have.allowances, want.allowances).map((name) => `delete quota ${place(name)}`),
    ],
  };
}

const place = (name: string): string => `bridge ${BRIDGE_TABLE} ${name}`;
const absent = (from: ReadonlyMap<string, unknown>, of: ReadonlyMap<string, unknown>): string[] =>
  [...from.keys()].filter((name) => !of.has(name));

/** The kernel lets a second's worth gather, and `burst` beside it: room for the largest segments (GSO). */
const rateText = (bytesPerSecond: number): string =>
  `rate over ${bytesPerSecond} bytes/second burst 65536 bytes`;

interface NftObject {
  readonly name?: unknown;
  readonly bytes?: unknown;
  readonly used?: unknown;
}
/** Objects of `nft -j list`: a limit's rate is in its name. */
export function parseObjects(items: readonly { readonly [kind: string]: unknown }[]): Objects {
  const named = (kind: 'limit' | 'quota'): NftObject[] =>
    items.flatMap((i) => (typeof i[kind] === 'object' && i[kind] !== null ? [i[kind] as NftObject] : []));
  return {
    limits: new Map(
      named('limit').map((l) => [String(l.name), Number(String(l.name).split('-').at(-1))] as const),
    ),
    allowances: new Map(
      named('quota').map((q): readonly [string, Allowance] => [
        String(q.name),
        { bytes: Number(q.bytes), used: Number(q.used ?? 0) },
      ]),
    ),
  };
}
