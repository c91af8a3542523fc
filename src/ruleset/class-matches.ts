/** What rules and sets of a class of entries have in common, whether it permits or denies. */
import { type Family, type Range, rangeToCidrs } from '../lib/ip.js';
import type { PortRange } from '../policy/entry.js';
import type { StaticDest } from './classes.js';
import { type Match, multiportParts } from './rules.js';

/** `all`: every protocol. */
interface Matched {
  readonly proto: 'tcp' | 'udp' | 'icmp' | 'all' | number;
  readonly ports: readonly PortRange[];
}

/** Protocol and ports of a class; several when its ports do not fit one multiport. */
export function classMatches(c: Matched): Match[][] {
  if (c.proto === 'all') return [[]];
  const proto: Match = { k: 'proto', proto: c.proto };
  if (c.proto === 'icmp') return [[proto, { k: 'icmpType', type: 'echo-request' }]];
  if (c.ports.length === 0) return [[proto]];
  return multiportParts(c.ports).map((ports) => [proto, { k: 'dports', ports }]);
}

export const EVERY_PORT = [{ lo: 1, hi: 65_535 }];

/** Canonical texts, each once. */
export const entriesOf = (
  entries: readonly { readonly entry: { readonly canonical: string } }[],
): string[] => {
  const [first] = entries;
  if (first && entries.length === 1) return [first.entry.canonical];
  return [...new Set(entries.map((e) => e.entry.canonical))];
};

export const cidrsOf = (statics: readonly StaticDest[], family: Family): string[] => [
  ...new Set(statics.flatMap((s) => (s.range.family === family ? setCidrs(s.range) : []))),
];

const cidrsByRange = new WeakMap<Range, readonly string[]>();
/** CIDRs of a range; hash:net has no /0, so everything is two halves. */
function setCidrs(range: Range): readonly string[] {
  const known = cidrsByRange.get(range);
  if (known) return known;
  const cidrs = rangeToCidrs(range).flatMap((c) => {
    if (c.prefix > 0) return [c.text];
    return c.family === 4 ? ['0.0.0.0/1', '128.0.0.0/1'] : ['::/1', '8000::/1'];
  });
  cidrsByRange.set(range, cidrs);
  return cidrs;
}
