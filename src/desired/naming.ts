import { createHash } from 'node:crypto';
import type { Family } from '../model/ip.js';

/** Names of what we own in the kernel. Chains have at most 28 characters, sets 31 (uapi xt_entry, IPSET_MAXNAMELEN). */
export interface Names {
  readonly prefix: string;
  readonly forward: string;
  readonly input: string;
  readonly output: string;
  readonly ok: string;
  readonly no: string;
  readonly threat: string;
  readonly hold: string;
  readonly toManaged: string;
  readonly from: string;
  readonly unmarked: string;
  readonly dispatch: string;
  readonly observe: string;
  readonly dnsOk: string;
  readonly prerouting: string;
  readonly backstop: string;
  readonly backstopInput: string;
  /** Of containers in the host's network, in the order of the tables: mangle, nat, filter, security. */
  readonly hostMark: string;
  readonly hostWho: string;
  readonly hostHold: string;
  readonly hostDns: string;
  readonly hostDnsFor: string;
  readonly hostOut: string;
  readonly hostLo: string;
  readonly hostLost: string;
  readonly backstopOutput: string;
  readonly backstopHost: string;
}

export function namesFor(prefix: string): Names {
  const n = (s: string): string => `${prefix}-${s}`;
  return {
    prefix,
    forward: n('FORWARD'),
    input: n('INPUT'),
    output: n('OUTPUT'),
    ok: n('OK'),
    no: n('NO'),
    threat: n('THREAT'),
    hold: n('HOLD'),
    toManaged: n('TO'),
    from: n('FROM'),
    unmarked: n('UNMARKED'),
    dispatch: n('D'),
    observe: n('OBSERVE'),
    dnsOk: n('DNS'),
    prerouting: n('PREROUTING'),
    backstop: n('BACKSTOP'),
    backstopInput: n('BACKSTOP-IN'),
    hostMark: n('HN-MARK'),
    hostWho: n('HN-WHO'),
    hostHold: n('HN-HOLD'),
    hostDns: n('HN-DNS'),
    hostDnsFor: n('HN-DNS-FOR'),
    hostOut: n('HN-OUT'),
    hostLo: n('HN-LO'),
    hostLost: n('HN-LOST'),
    backstopOutput: n('BACKSTOP-OUT'),
    backstopHost: n('BACKSTOP-HN'),
  };
}

const SHORT_ID = 12;
const shortId = (id: string): string => id.slice(0, SHORT_ID);
export const containerChain = (prefix: string, id: string): string => `${prefix}-c-${shortId(id)}`;
export const hostChain = (prefix: string, id: string): string => `${prefix}-h-${shortId(id)}`;

const CLASS_HASH = 6;
export type SetKind = 'static' | 'learned';
export function classSet(
  prefix: string,
  id: string,
  classKey: string,
  family: Family,
  kind: SetKind,
): string {
  const hash = createHash('sha256').update(classKey).digest('hex').slice(0, CLASS_HASH);
  return `${prefix}-${shortId(id)}-${hash}${family}${kind === 'static' ? 'n' : 'l'}`;
}
/** Sets that are not a container's. */
export const sharedSet = (
  prefix: string,
  what: 'enf' | 'pub' | 'alive' | 'any' | 'cut',
  family: Family,
): string => `${prefix}-${what}${family}`;
