/** What the policy of one container permits by the name that a connection asks for. */

import type { KeyIds } from '../dns/published-keys.js';
import { nameMatches } from '../lib/dns-name.js';
import { memo } from '../lib/memo.js';
import { type DeniedNames, denialText } from '../policy/deny-entries.js';
import type { DestEntry } from '../policy/entry.js';
import { classHas } from '../policy/entry-ports.js';
import type { PolicyEntry } from '../policy/policy.js';
import { hitText, type ThreatHit } from '../policy/threat.js';
import type { ClassPlan } from '../ruleset/classes.js';
import type { AskedName } from './client-hello.js';
import type { Decision, NameJudge, Refusal, RefusalReason, Ruling } from './flow-check.js';

/** Where a connection goes. */
export interface Destination {
  readonly proto: 'tcp' | 'udp';
  readonly port: number;
  readonly address?: string;
}
/** What is known of names, at the moment of the decision. */
export interface NameFacts {
  /** Keys for encrypted hellos that the name publishes (dns/published-keys.ts). */
  readonly keysOf: (name: string) => KeyIds | undefined;
  readonly threatOf: (name: string) => ThreatHit | undefined;
}

const matches = ({ target }: DestEntry, name: string): boolean =>
  target.kind === 'name' && nameMatches(target, name);

const refuse = (refusal: Refusal): Decision => ({ allow: false, refusal });

/** By the classes of a policy, which never change, and by protocol and port. */
const known = memo((_classes: readonly ClassPlan[]) => new Map<string, readonly DestEntry[]>());
/** Name entries that cover a port: worked out once for the ports of a policy, because a decision may be due for each of many packets. */
function entriesOf(classes: readonly ClassPlan[], to: Destination): readonly DestEntry[] {
  const byPort = known(classes);
  const key = `${to.proto} ${to.port}`;
  const found =
    byPort.get(key) ??
    classes.filter((c) => classHas(c, to.proto, to.port)).flatMap((c) => c.names.map(({ entry }) => entry));
  byPort.set(key, found);
  return found;
}

/** A Host may be the address of the server itself, which no deny entry for names covers. */
const isAddress = (text: string, { address }: Destination): boolean =>
  address !== undefined && (text === address || text === `[${address}]`);

/** What deny entries for names change. */
export interface NameDenials {
  readonly names: DeniedNames;
  /**
   * The entries that permit the address to which the connection goes, whatever its name; a neighbour has none. Undefined: the address is
   * permitted because names resolved to it, so that the connection must ask for a permitted name.
   */
  byAddress(): readonly PolicyEntry[] | undefined;
}

/** Decides by the name entries of a container that cover the port of one connection, and by its deny entries. */
export function judgeFor(
  classes: readonly ClassPlan[],
  to: Destination,
  facts: NameFacts,
  denials?: NameDenials,
): NameJudge {
  const entries = entriesOf(classes, to);
  const byAddress = (): readonly PolicyEntry[] | undefined => denials?.byAddress();
  const free = (name: string): Decision | undefined => {
    const permitting = byAddress();
    return permitting && { allow: true, name, entry: permitting[0]?.entry.canonical ?? '' };
  };
  const byName = (asked: AskedName, reason: RefusalReason, where: string): Decision => {
    if (asked.kind === 'none') {
      const missing = reason === 'host' ? reason : 'no-server-name';
      return refuse({ reason: missing, name: '', detail: `it has no ${where}${unnamed(byAddress())}` });
    }
    const isSelf = asked.kind === 'invalid' && reason === 'host' && isAddress(asked.text, to);
    const passes = isSelf ? free(asked.text) : undefined;
    if (passes) return passes;
    if (asked.kind === 'invalid')
      return refuse({ reason, name: asked.text, detail: `its ${where} is ${asked.why}` });
    const { name } = asked;
    const hit = facts.threatOf(name);
    if (hit) return refuse({ reason, name, detail: hitText(hit), isThreat: true });
    const denial = denials?.names.on(name, to.proto, to.port);
    if (denial) return refuse({ reason, name, detail: denialText(denial) });
    const entry = entries.find((e) => matches(e, name));
    if (entry) return { allow: true, name, entry: entry.canonical };
    const permitted = free(name);
    if (permitted) return permitted;
    return refuse({ reason, name, detail: `no entry permits ${name} on ${to.proto}/${to.port}` });
  };
  return {
    hello: (hello) => {
      const ruling = byName(hello.name, 'server-name', 'server name');
      if (ruling.allow !== true || !hello.encrypted) return ruling;
      const mayHide =
        entries.some((e) => e.flags.includes('ech=allow') && matches(e, ruling.name)) ||
        byAddress()?.some(({ entry }) => entry.flags.includes('ech=allow'));
      if (mayHide) return ruling;
      // the container chooses a name that no entry permits: its record is never looked up, because the query itself would carry the name out
      const isPermitted = classes.some((c) => c.names.some(({ entry }) => matches(entry, ruling.name)));
      if (!isPermitted) return refuse({ reason: 'ech', name: ruling.name, detail: NOT_LOOKED_UP });
      return encryption(hello.encrypted.configId, ruling, facts.keysOf(ruling.name));
    },
    request: (host) => byName(host, 'host', 'Host'),
  };
}

/** A connection without a name may go to a denied one: say how to take the address out of the check. */
function unnamed(entries: readonly PolicyEntry[] | undefined): string {
  if (!entries) return '';
  const [pe] = entries;
  return `: deny entries for names cover this port${pe ? `, and ${pe.entry.canonical} has no flag tls=off` : ''}`;
}

const NOT_LOOKED_UP =
  'it may have an encrypted hello, and deny entries for names cover this port: no entry permits the name itself, so that the keys of its server are not looked up (ech=allow on the entry of the address permits it)';

/**
 * An encrypted hello has a second name, which only the server can read. Browsers send one of random bytes to servers for which they have no key
 * (GREASE, RFC 9849 6.2). It cannot be distinguished from a real one but by the number of the key: a real one has a number that the server has
 * published, a random one has it once in 256 times.
 */
function encryption(
  configId: number,
  ruling: Extract<Ruling, { allow: true }>,
  keys: KeyIds | undefined,
): Ruling {
  const { name } = ruling;
  if (keys === undefined) return { allow: 'later', record: name };
  const detail =
    keys === 'unknown'
      ? 'it may have an encrypted hello: the HTTPS record of the name, which shows the keys of the server, cannot be looked up'
      : 'it has an encrypted hello for a key of this server: the name in it cannot be read';
  if (keys !== 'unknown' && !keys.has(configId)) return ruling;
  return refuse({ reason: 'ech', name, detail: `${detail} (ech=allow permits it)` });
}
