import type { NamesPolicy } from '../dns/names-policy.js';
import { askedName, type Destinations } from '../flows/destination.js';
import type { PacketHeader } from '../kernel/netlink/packet-header.js';
import type { Current } from '../lib/current.js';
import { PROTOCOL_NAMES, parseAddress, parseCidr, rangeHas } from '../lib/ip.js';
import { metadataIn, metadataName } from '../lib/special-use.js';
import { coversEntry } from '../policy/deny-entries.js';
import type { ResolverFacts } from '../policy/engine.js';
import { isDest, parseEntry } from '../policy/entry-parse.js';
import type { AppliedState } from '../ruleset/applied-state.js';
import type { Subject } from '../ruleset/desired-state.js';
import type { AskedPlace } from './ask-requests.js';

export interface PlacesParts {
  readonly applied: Pick<Current<AppliedState>, 'value'>;
  readonly names: Pick<NamesPolicy, 'decide' | 'searchDomains' | 'resolverOf'>;
  readonly destinations: Pick<Destinations, 'describe'>;
}

/** Link-local, multicast and broadcast: the network itself uses them, and no person can know what for. */
const NEVER = ['169.254.0.0/16', '224.0.0.0/4', '255.255.255.255/32', 'fe80::/10', 'ff00::/8'].flatMap(
  (text) => parseCidr(text) ?? [],
);
/** Names of addresses (RFC 3596, RFC 1035 3.5): diagnostic tools resolve them for everything that they show. */
const REVERSE = /(^|\.)arpa$/;
/** The ports of an entry for a name without ports. */
const WEB: readonly number[] = [80, 443];

/** What a person is asked about: the narrowest entry that would permit what a container has tried. */
export class AskedPlaces {
  readonly #o: PlacesParts;

  constructor(parts: PlacesParts) {
    this.#o = parts;
  }

  /** The subject, if it is enforced and a person is asked about it. */
  asking(container: string): (Subject & { readonly policy: { readonly askMs: number } }) | undefined {
    const subject = this.#o.applied.value?.subjects.get(container);
    return subject && isAsking(subject) ? subject : undefined;
  }

  /** A query for a name that no entry permits. Undefined: no person is asked about it. */
  ofName(subject: Subject, name: string): AskedPlace | undefined {
    const { entry } = askedName(name);
    if (entry === null || REVERSE.test(name) || metadataName(name) !== undefined) return undefined;
    return placeOf(subject, { name, address: null, port: 0, proto: 'dns' }, entry);
  }

  /** How long a client of this container waits for a name. */
  patience(container: string, isInside: boolean): NamePatience {
    return patienceOf(this.#o.names.resolverOf(container), isInside);
  }

  /**
   * What a name is without a search suffix of the container. A resolver tries a name with each of them, before it or when it has got
   * no answer.
   */
  withoutSuffix(container: string, name: string): readonly string[] {
    return this.#o.names
      .searchDomains(container)
      .flatMap((suffix) =>
        suffix !== '' && name.endsWith(`.${suffix}`) ? [name.slice(0, -suffix.length - 1)] : [],
      );
  }

  /** The first packet of a flow that no rule permits. Undefined: no person is asked about it. */
  ofPacket(subject: Subject, { protocol, dst, dport }: PacketHeader): AskedPlace | undefined {
    const facts = this.#o.applied.value?.view.containers.get(subject.id);
    const proto = PROTOCOL_NAMES[protocol];
    const to = parseAddress(dst);
    if (!facts || !to || dport === undefined || (proto !== 'tcp' && proto !== 'udp')) return undefined;
    const { family, value } = to;
    if (NEVER.some((range) => rangeHas(range, to)) || metadataIn({ family, lo: value, hi: value }))
      return undefined;
    const sent = { address: dst, port: dport, proto };
    const sighting = this.#o.destinations.describe(subject, facts, sent);
    const { entry, kind } = sighting;
    const name = kind === 'name' ? sighting.name : null;
    if (entry === null) return undefined;
    const isBroad = name !== null && proto === 'tcp' && WEB.includes(dport);
    const narrow = isBroad ? entry.replace(name, `${name}:${dport}`) : entry;
    return placeOf(subject, { name, ...sent }, narrow);
  }

  /** Whether the rules, or the policy, permit it now. */
  isPermitted(subject: Subject, { name, address, port, proto }: AskedPlace): boolean {
    if (address === null) return name !== null && this.#o.names.decide(subject.id, name).allow;
    const evaluator = this.#o.applied.value?.evaluator;
    const family = parseAddress(address)?.family;
    if (!evaluator || family === undefined || (proto !== 'tcp' && proto !== 'udp')) return false;
    const [own] = subject.veths;
    const src = (family === 4 ? own?.ip4 : own?.ip6) ?? '';
    const to = { family, proto, dst: address, dport: port } as const;
    const packet = { ...to, src, states: ['NEW'], syn: proto === 'tcp' } as const;
    return evaluator.permits(evaluator.sentBy(subject, packet));
  }
}

/** How long a client waits for a name. */
export interface NamePatience {
  readonly ms: number;
  /** How often the query can come again from another socket meanwhile. */
  readonly resends: number;
}
/**
 * A resolver library tries twice: glibc and Go for 5 s each, with each of the servers in resolv.conf. Docker's resolver ends a query after
 * 4 s for each of its servers (moby libnetwork/resolver.go, extIOTimeout), and the client has the failure before its own time is over. A
 * lookup that nothing answered took on Engine 26.1 and 28.5: behind Docker 8.0 s with one or two servers, 10.0 s with three; with our
 * resolver in the namespace 10.0 s; on the default bridge 10.0 s with one server, 20.0 s with two.
 */
const TRIES = 2;
const DOCKER_TRY_MS = 4_000;
const CLIENT_TRY_MS = 5_000;
/** Of these glibc uses no more (MAXNS). */
const MOST_SERVERS = 3;
/** A denial reaches the client before it has given up, so that it reads NXDOMAIN. */
const MARGIN_MS = 500;

export function patienceOf(facts: ResolverFacts | undefined, isInside: boolean): NamePatience {
  const servers = Math.min(Math.max(facts?.servers.length ?? 1, 1), MOST_SERVERS);
  const own = TRIES * CLIENT_TRY_MS;
  if (isInside) return { ms: own - MARGIN_MS, resends: 0 };
  const resends = TRIES * servers + 1;
  if (facts?.embedded === false) return { ms: own * servers - MARGIN_MS, resends };
  const ms = servers < MOST_SERVERS ? TRIES * DOCKER_TRY_MS : own;
  return { ms: ms - MARGIN_MS, resends };
}

const isAsking = (
  subject: Subject,
): subject is Subject & { readonly policy: Subject['policy'] & { readonly askMs: number } } =>
  subject.policy.mode === 'enforce' && subject.policy.askMs !== undefined;

/** Undefined: no entry can permit it, or a deny entry covers what would be granted. */
function placeOf(
  { id: container, policy }: Subject,
  place: Omit<AskedPlace, 'container' | 'entry'>,
  text: string,
): AskedPlace | undefined {
  const parsed = parseEntry(text);
  if (!parsed.ok || !isDest(parsed.value)) return undefined;
  const entry = parsed.value;
  if (policy.denied?.some((pe) => coversEntry(pe.entry, entry))) return undefined;
  return { ...place, container, entry: entry.canonical };
}
