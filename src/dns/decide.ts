/** Decides what to do with a query, from its client and the policy. Pure. */
import { familyOf } from '../lib/ip.js';
import { denialText } from '../policy/deny-entries.js';
import { hitText } from '../policy/threat.js';
import { followChain } from './answer-filter.js';
import { denied, noData, type Query, type Reply } from './client-query.js';
import { classIn, extendedError, rcode, type } from './dns-constants.js';
import type { NameDecision, QueryPolicy } from './names-policy.js';
import {
  addressRecord,
  isPlainName,
  isWithin,
  nameToWire,
  type ResourceRecord,
  reverseAddress,
} from './wire.js';

/** Replies that are made here, and their size. */

export type Action =
  /** Answer without an upstream, with addresses of the requested family only; without one the answer is NODATA. */
  | { readonly kind: 'addresses'; readonly addresses: readonly string[] }
  | { readonly kind: 'pointer'; readonly name: string }
  | { readonly kind: 'forward'; readonly decision: NameDecision }
  /** NXDOMAIN. `counted`: false where a resolver's search list made the name up. */
  | {
      readonly kind: 'deny';
      readonly verdict: 'deny' | 'threat';
      readonly reason: string;
      readonly counted: boolean;
      /** Nothing denies it but that no entry permits it: a person may be asked. */
      readonly mayBeAsked?: true;
    }
  | { readonly kind: 'refuse'; readonly rcode: number; readonly reason: string };

/** Everything that is answered without an upstream. */
export type LocalAnswer = Exclude<Action, { readonly kind: 'forward' }>;

type Policy = Pick<
  QueryPolicy,
  'decide' | 'deniedName' | 'localName' | 'localAddress' | 'searchDomains' | 'threats'
>;

/** Names that would lead around this resolver: encrypted resolvers (RFC 9462), and Firefox's canary for them. */
const detours = ['resolver.arpa', 'use-application-dns.net'];
const loopback = ['127.0.0.1', '::1'];
/** Types that transfer zones or only exist within messages (RFC 6895 3.1): 128 to 254, but for ANY. */
const isMeta = (number: number): boolean => number === type.OPT || (number >= 128 && number <= 254);

function forFamily(addresses: readonly string[], asked: number): readonly string[] {
  if (asked === type.ANY) return addresses;
  const family = asked === type.A ? 4 : asked === type.AAAA ? 6 : undefined;
  return addresses.filter((a) => familyOf(a) === family);
}

/** Answers that need no upstream: loopback and neighbours (RFC 6761 6.3). */
export function decideLocal(policy: Policy, container: string, query: Query): LocalAnswer | undefined {
  if (query.class !== classIn) return undefined;
  if (isWithin(query.name, 'localhost'))
    return { kind: 'addresses', addresses: forFamily(loopback, query.type) };
  const addresses = policy.localName(container, query.name);
  if (addresses !== undefined) return { kind: 'addresses', addresses: forFamily(addresses, query.type) };
  const address = query.type === type.PTR ? reverseAddress(query.name) : undefined;
  const name = address && policy.localAddress(container, address);
  return name === undefined ? undefined : { kind: 'pointer', name };
}

/**
 * The name is an allowed or local name with one of the client's search suffixes: its resolver tries "api.github.com.lan"
 * before or after "api.github.com", which must not count as a denial.
 */
function isSearchAttempt(policy: Policy, container: string, name: string): boolean {
  return policy.searchDomains(container).some((suffix) => {
    if (name === suffix || !isWithin(name, suffix)) return false;
    const base = name.slice(0, -suffix.length - 1);
    return policy.localName(container, base) !== undefined || policy.decide(container, base).allow;
  });
}

function deny(policy: Policy, container: string, name: string, reason: string): Denial {
  return { kind: 'deny', verdict: 'deny', reason, counted: !isSearchAttempt(policy, container, name) };
}

/** A name that no container may reach, whatever its entries and its mode. */
export function decideThreat(
  { threats }: Pick<QueryPolicy, 'threats'>,
  name: string,
): LocalAnswer | undefined {
  const hit = threats.blockedName(name);
  return hit && { kind: 'deny', verdict: 'threat', reason: hitText(hit), counted: true };
}

/** A name of one label is a container's, which may be about to be recreated: no entry can have such a name. */
const withoutEntry = (name: string): string =>
  name.includes('.')
    ? 'no entry allows this name'
    : 'Docker has no container of this name on its networks now, and no entry can allow a name of one label';

/** Decide the query of an enforced container. */
export function decide(policy: Policy, container: string, query: Query): Action {
  if (query.class !== classIn) return { kind: 'refuse', rcode: rcode.REFUSED, reason: 'class is not IN' };
  if (isMeta(query.type)) return { kind: 'refuse', rcode: rcode.NOTIMP, reason: 'type is not for queries' };
  if (query.name !== '' && !isPlainName(query.name)) {
    return deny(policy, container, query.name, 'the name has bytes that no entry can match');
  }
  const denied = policy.deniedName(container, query.name);
  if (denied) return deny(policy, container, query.name, denialText(denied));
  const local = decideLocal(policy, container, query);
  if (local !== undefined) return local;
  if (detours.some((zone) => isWithin(query.name, zone))) {
    return deny(policy, container, query.name, 'the name leads to resolvers that bypass the policy');
  }
  const threat = decideThreat(policy, query.name);
  if (threat !== undefined) return threat;
  const decision = policy.decide(container, query.name);
  if (decision.allow) return { kind: 'forward', decision };
  const denial = deny(policy, container, query.name, decision.reason ?? withoutEntry(query.name));
  return decision.reason === undefined && query.name.includes('.') && denial.counted
    ? { ...denial, mayBeAsked: true }
    : denial;
}

type Denial = Extract<LocalAnswer, { readonly kind: 'deny' }>;

/** Why a name is reported that a feed with action observe lists; the name is answered all the same. */
export function observedThreat({ threats }: Pick<QueryPolicy, 'threats'>, name: string): string | undefined {
  const hit = threats.observedName(name);
  return hit && `${hitText(hit)}, action observe: it passed`;
}

/** The denial of an answer with a CNAME chain that leads to a name that a feed blocks. */
export function threatAlias(
  policy: Pick<QueryPolicy, 'threats'>,
  query: Query,
  records: readonly ResourceRecord[],
): Denial | undefined {
  for (const alias of followChain(query.name, query.type, records).names.slice(1)) {
    const denial = decideThreat(policy, alias);
    if (denial?.kind === 'deny') return { ...denial, reason: `it leads to ${alias}: ${denial.reason}` };
  }
  return undefined;
}

/** The denial of an answer with a CNAME chain that leads to a name that a deny entry of the container denies on every port. */
export function deniedAlias(
  policy: Pick<QueryPolicy, 'deniedName'>,
  container: string,
  query: Query,
  records: readonly ResourceRecord[],
): Denial | undefined {
  for (const alias of followChain(query.name, query.type, records).names.slice(1)) {
    const denied = policy.deniedName(container, alias);
    if (denied)
      return {
        kind: 'deny',
        verdict: 'deny',
        reason: `it leads to ${alias}: ${denialText(denied)}`,
        counted: true,
      };
  }
  return undefined;
}

/** Neighbours come and go: seconds. */
const localTtl = 5;

/** The reply for every action except asking upstream. */
export function replyFor(query: Query, action: LocalAnswer): Reply {
  switch (action.kind) {
    case 'deny':
      return denied(query, action.reason);
    case 'refuse':
      return { rcode: action.rcode, extendedError: { code: extendedError.PROHIBITED, text: action.reason } };
    case 'pointer': {
      const data = nameToWire(action.name);
      const record = { name: query.asked, type: type.PTR, class: classIn, ttl: localTtl, data };
      return { rcode: rcode.NOERROR, authoritative: true, answers: [record] };
    }
    case 'addresses': {
      const answers = action.addresses.flatMap((a) => addressRecord(query.asked, a, localTtl) ?? []);
      return answers.length === 0 ? noData(query) : { rcode: rcode.NOERROR, authoritative: true, answers };
    }
  }
}
