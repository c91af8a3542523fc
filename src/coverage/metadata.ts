import { type Family, parseAddress } from '../lib/ip.js';
import { carriedV4 } from '../lib/special-use.js';

/** Instance metadata and credential services of clouds: whoever reaches them can act as the host, or as its role. */
const ADDRESSES: readonly (readonly [address: string, what: string])[] = [
  ['169.254.169.254', 'the instance metadata service of AWS, Azure, Google Cloud, OpenStack and others'],
  ['169.254.170.2', 'the task credentials of Amazon ECS'],
  ['169.254.170.23', 'the pod credentials of Amazon EKS'],
  ['168.63.129.16', "Azure's wire server"],
  ['100.100.100.200', 'the instance metadata service of Alibaba Cloud'],
  ['192.0.0.192', 'the instance metadata service of Oracle Cloud'],
  ['fd00:ec2::254', 'the instance metadata service of AWS'],
  ['fd00:ec2::23', 'the pod credentials of Amazon EKS'],
  ['fd20:ce::254', 'the instance metadata service of Google Cloud'],
];
const NAMES: Readonly<Record<string, string>> = {
  'metadata.google.internal': 'the instance metadata service of Google Cloud',
  'metadata.goog': 'the instance metadata service of Google Cloud',
};

const byValue = (family: Family): ReadonlyMap<bigint, string> =>
  new Map(
    ADDRESSES.flatMap(([address, what]) => {
      const parsed = parseAddress(address);
      return parsed?.family === family ? [[parsed.value, what] as const] : [];
    }),
  );
const V4 = byValue(4);
const V6 = byValue(6);

/** What is served at the first metadata address in the range; an IPv6 range is checked for the IPv4 address it carries. */
export function metadataIn(range: {
  readonly family: Family;
  readonly lo: bigint;
  readonly hi: bigint;
}): string | undefined {
  const known = range.family === 4 ? V4 : V6;
  for (const [value, what] of known) if (value >= range.lo && value <= range.hi) return what;
  if (range.family === 4) return undefined;
  return carriedV4(range.lo)
    .map((value) => V4.get(value))
    .find((what) => what !== undefined);
}

export const metadataName = (name: string): string | undefined =>
  Object.hasOwn(NAMES, name) ? NAMES[name] : undefined;
