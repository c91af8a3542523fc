/** Lines of dnsmasq.conf(5) and unbound.conf(5) that answer names with nothing. */
import type { Collector } from '../collect.js';
import { ALLOW, BELOW, SELF } from '../names.js';
import { uncomment } from './domains.js';
import { type BodyParser, textLines } from './lines.js';
import { addName } from './value.js';

const DNSMASQ = /^(?:address|server|local)=\/(.+)\/(?:#|0\.0\.0\.0|127\.0\.0\.1|::1?)?$/;
const ZONE = /^local-zone:\s*"?([^"\s]+)"?\s+"?([a-z_]+)"?$/;
const DATA =
  /^local-data:\s*["']([^"'\s]+)\s+(?:\d+\s+)?(?:IN\s+)?(?:A|AAAA)\s+(?:0\.0\.0\.0|127\.0\.0\.1|::1?)["']$/i;
/** Zone types that deny (unbound.conf(5), local-zone). */
const DENIES = new Set([
  'always_null',
  'always_nxdomain',
  'always_nodata',
  'always_refuse',
  'always_deny',
  'static',
  'redirect',
  'refuse',
  'deny',
  'inform_deny',
  'inform_redirect',
]);
const ALLOWS = new Set(['transparent', 'always_transparent', 'typetransparent', 'inform']);

interface Statement {
  readonly names: readonly string[];
  readonly flags: number;
}

function zone(name: string, type: string): Statement | undefined {
  if (DENIES.has(type)) return { names: [name], flags: SELF | BELOW };
  return ALLOWS.has(type) ? { names: [name], flags: ALLOW } : undefined;
}

function statement(text: string): Statement | undefined {
  const dnsmasq = DNSMASQ.exec(text);
  if (dnsmasq) return { names: (dnsmasq[1] ?? '').split('/'), flags: SELF | BELOW };
  const local = ZONE.exec(text);
  if (local) return zone(local[1] ?? '', local[2] ?? '');
  const data = DATA.exec(text);
  return data ? { names: [data[1] ?? ''], flags: SELF } : undefined;
}

function line(text: string, into: Collector): void {
  const content = uncomment(text);
  if (content === '' || content === 'server:') return;
  const said = statement(content);
  if (!said) {
    into.cannot(text, 'no line that denies names');
    return;
  }
  for (const name of said.names) {
    const fault = addName(name, said.flags, into);
    if (fault === '') into.entries += 1;
    else into.refuse(name, fault);
  }
}

export const resolverConf = (into: Collector): BodyParser => textLines(line, into);
