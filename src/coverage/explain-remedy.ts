import { type Family, parseAddress } from '../lib/ip.js';
import { carriedV4 } from '../lib/special-use.js';
import type { DestEntry } from '../policy/entry.js';
import { BROKEN_LABEL } from '../policy/policy.js';
import { addressOf, type ExplainInput, isDnsPort, wanted } from './explain-request.js';

/** Remedies for a denial. Each text is complete, also for destinations that cannot be permitted. */
export interface Remedy {
  readonly remedy: string;
  /** How to permit it for good, where that is possible. */
  readonly lasting: string | null;
  /** What permitting it would open beyond the destination. */
  readonly warning: string | null;
}
const FOR = '1h';

const only = (remedy: string, warning: string | null = null): Remedy => ({ remedy, lasting: null, warning });

/** @param address where the denied packet goes, as far as it is known */
export function remedyOf(input: ExplainInput, address = addressOf(input.dest)): Remedy {
  const { dest, member, name } = input;
  if (member.policy.notes.some((note) => note.code === BROKEN_LABEL))
    return only(
      `correct the label that does not parse (drawbridge inspect ${name}) and recreate the container: until then no entry and no grant counts`,
    );
  const metadata = metadataOf(dest, address);
  if (metadata !== undefined)
    return only(
      'leave it denied; give the container credentials of its own instead',
      `this is ${metadata}: a container that reaches it can take the credentials and the role of the host. No command is offered here on purpose; an entry for it must be written by hand`,
    );
  const isHost = address !== undefined && input.evaluator.isHost(address);
  if (isDnsPort(dest)) return dnsRemedy(input, isHost);
  return permit(name, isHost ? hostEntry(dest) : input.to);
}

function metadataOf({ target }: DestEntry, address: string | undefined): string | undefined {
  if (target.kind === 'name') {
    const named = metadataName(target.name);
    if (named !== undefined) return named;
  }
  if (target.kind === 'address') return metadataIn(target.range);
  const at = address === undefined ? undefined : parseAddress(address);
  return at && metadataIn({ family: at.family, lo: at.value, hi: at.value });
}

/** Port 53 reaches Drawbridge, unless an address entry with dns=direct covers it. */
function dnsRemedy({ dest, name, to }: ExplainInput, isHost: boolean): Remedy {
  if (dest.target.kind !== 'address' || isHost)
    return only(
      'this cannot be permitted: port 53 of an enforced container always reaches Drawbridge, which answers for the names of its policy. Only an entry with the address of a resolver outside this host leads past it, as in "192.0.2.53:53/udp dns=direct"',
    );
  const entry = dest.flags.includes('dns=direct') ? to : `${to} dns=direct`;
  return {
    ...permit(name, entry),
    warning:
      'Drawbridge does not see the queries that go there directly: names that the policy denies get an answer, and data can leave in queries. Without this entry the container has DNS through Drawbridge already',
  };
}

function hostEntry(dest: DestEntry): string {
  const { proto, port } = wanted(dest);
  if (proto === 'icmp') return 'host/icmp';
  return proto === 'tcp' ? `host:${port}` : `host:${port}/${proto}`;
}

const permit = (name: string, entry: string): Remedy => ({
  remedy: `drawbridge allow ${name} ${quoted(entry)} --for ${FOR}`,
  lasting: `label drawbridge.allow: ${quoted(entry)} on the container (compose: labels of the service), or an entry in one of its lists`,
  warning: null,
});

/** A shell would split at a blank, and a "*" may be replaced. */
const quoted = (entry: string): string => (/[\s*]/.test(entry) ? `"${entry}"` : entry);

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
function metadataIn(range: {
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

const metadataName = (name: string): string | undefined =>
  Object.hasOwn(NAMES, name) ? NAMES[name] : undefined;
