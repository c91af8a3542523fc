/** What the policy of one container permits by the name that a connection asks for. */
import { nameMatches } from '../lib/dns-name.js';
import type { DestEntry } from '../policy/entry.js';
import type { PolicyEntry } from '../policy/policy.js';
import type { ClassPlan } from '../ruleset/classes.js';
import type { AskedName, ClientHello } from './client-hello.js';
import type { NameJudge, Refusal, RefusalReason, Ruling } from './flow-check.js';

/** Where a connection goes. */
export interface Destination {
  readonly proto: 'tcp' | 'udp';
  readonly port: number;
  /** Numbers of the keys for encrypted hellos that the DNS records of this address's names have shown. */
  readonly echConfigs: ReadonlySet<number>;
}

const hasPort = (c: ClassPlan, { proto, port }: Destination): boolean =>
  c.proto === proto && c.ports.some((p) => port >= p.lo && port <= p.hi);

const matches = ({ target }: DestEntry, name: string): boolean =>
  target.kind === 'name' && nameMatches(target, name);

const quoted = (name: string): string => (name === '' ? 'no name' : `the name ${name}`);

/** Decides by the name entries of a container that cover the port of one connection. */
export function judgeFor(classes: readonly ClassPlan[], to: Destination): NameJudge {
  const entries = (): readonly PolicyEntry[] => classes.filter((c) => hasPort(c, to)).flatMap((c) => c.names);
  const byName = (asked: AskedName, reason: RefusalReason, where: string): Ruling => {
    if (asked.kind === 'none')
      return refuse({
        reason: reason === 'host' ? 'host' : 'no-server-name',
        name: '',
        detail: `it has no ${where}`,
      });
    if (asked.kind === 'invalid')
      return refuse({ reason, name: asked.text, detail: `its ${where} is ${asked.why}` });
    const [entry] = entries().filter((e) => matches(e.entry, asked.name));
    if (entry) return { allow: true, name: asked.name, entry: entry.entry.canonical };
    return refuse({
      reason,
      name: asked.name,
      detail: `no entry permits ${quoted(asked.name)} on ${to.proto}/${to.port}`,
    });
  };
  return {
    hello: (hello) => encryption(hello, to, entries(), byName(hello.name, 'server-name', 'server name')),
    request: (host) => byName(host, 'host', 'Host'),
  };
}

const refuse = (refusal: Refusal): Ruling => ({ allow: false, refusal });

/**
 * An encrypted hello has a second name, which only the server can read. Browsers send one of random bytes to servers for which they have no key
 * (GREASE, RFC 9849 6.2), which cannot be distinguished from a real one but by the number of the key: a real one has a number that the server has
 * published.
 */
function encryption(
  hello: ClientHello,
  to: Destination,
  entries: readonly PolicyEntry[],
  ruling: Ruling,
): Ruling {
  if (!ruling.allow || !hello.encrypted) return ruling;
  const isPublished = to.echConfigs.has(hello.encrypted.configId);
  const mayHide = entries.some((e) => matches(e.entry, ruling.name) && e.entry.flags.includes('ech=allow'));
  if (!isPublished || mayHide) return ruling;
  return refuse({
    reason: 'ech',
    name: ruling.name,
    detail: 'it has an encrypted hello for a key of this server: the name in it cannot be read',
  });
}
