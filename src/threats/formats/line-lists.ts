/** Lists with one entry a line: addresses, names, hosts files, AdBlock rules, resolver configurations. */

import { ALLOW, BELOW, SELF } from '../name-table.js';
import type { BodyParser, Collector, FormatOptions } from './collector.js';
import { addName, addRange, addValue, takeValue } from './listed-values.js';

/** Reads the line in `octets` from `start` to before `end`, without its line feed. */
type OctetLine = (octets: Buffer, start: number, end: number, into: Collector) => void;
export type TextLine = (text: string, into: Collector) => void;

/** No list has longer lines; a body without line feeds must not fill memory. */
const MAX_LINE = 65_536;
const LF = 10;
const BOM = Buffer.from([0xef, 0xbb, 0xbf]);

/** Splits a stream of octets into numbered lines, without a string for each. */
class Lines implements BodyParser {
  readonly #read: OctetLine;
  readonly #into: Collector;
  #carry = Buffer.alloc(0);
  /** Octets of an overlong line that were dropped. */
  #dropped = 0;

  constructor(read: OctetLine, into: Collector) {
    this.#read = read;
    this.#into = into;
  }

  push(chunk: Uint8Array): void {
    const view = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    const octets = this.#carry.length > 0 ? Buffer.concat([this.#carry, view]) : view;
    let start = 0;
    for (let end = octets.indexOf(LF); end >= 0; end = octets.indexOf(LF, start)) {
      this.#line(octets, start, end);
      start = end + 1;
    }
    this.#keep(octets, start);
  }

  end(): void {
    if (this.#carry.length > 0 || this.#dropped > 0) this.#line(this.#carry, 0, this.#carry.length);
    this.#carry = Buffer.alloc(0);
  }

  #keep(octets: Buffer, start: number): void {
    const rest = octets.length - start;
    if (rest + this.#dropped <= MAX_LINE) {
      this.#carry = Buffer.from(octets.subarray(start));
      return;
    }
    this.#dropped += rest;
    this.#carry = Buffer.alloc(0);
  }

  #line(octets: Buffer, start: number, end: number): void {
    const into = this.#into;
    into.line += 1;
    const length = end - start + this.#dropped;
    this.#dropped = 0;
    if (length > MAX_LINE) {
      into.refuse(
        octets.toString('latin1', start, Math.min(end, start + 80)),
        `longer than ${MAX_LINE} octets`,
      );
      return;
    }
    const skip = into.line === 1 && BOM.compare(octets, start, Math.min(end, start + 3)) === 0 ? 3 : 0;
    this.#read(octets, start + skip, end, into);
  }
}

const octetLines = (read: OctetLine, into: Collector): BodyParser => new Lines(read, into);

/** Lines as trimmed text; empty ones are left out. */
export const textLines = (read: TextLine, into: Collector): BodyParser =>
  octetLines((octets, start, end) => {
    const text = octets.toString('utf8', start, end).trim();
    if (text !== '') read(text, into);
  }, into);

const SPACE = 32;
const HASH = 35;
const SLASH = 47;
const SEMICOLON = 59;

const isBlank = (octet: number | undefined): boolean => octet === SPACE || octet === 9 || octet === 13;
const isMark = (octet: number | undefined): boolean => octet === HASH || octet === SEMICOLON;

/** "#…", ";…" or "//…" from `at` on. */
const isCommentAt = (octets: Uint8Array, at: number): boolean =>
  isMark(octets[at]) || (octets[at] === SLASH && octets[at + 1] === SLASH);

/** The end of the content in front of a comment (after a blank) and of blanks at the end. */
function contentEnd(octets: Uint8Array, start: number, end: number): number {
  let stop = end;
  for (let i = start + 1; i < end; i++)
    if (isBlank(octets[i - 1]) && isCommentAt(octets, i)) {
      stop = i;
      break;
    }
  while (stop > start && isBlank(octets[stop - 1])) stop -= 1;
  return stop;
}

/** Addresses, networks and ranges with comments: FireHOL netsets, Spamhaus DROP text, most lists. */
function netsetLine(octets: Buffer, start: number, end: number, into: Collector): void {
  let from = start;
  while (from < end && isBlank(octets[from])) from += 1;
  if (from === end || isCommentAt(octets, from)) return;
  const until = contentEnd(octets, from, end);
  const fault = addRange(octets, from, until, into);
  if (fault === '') into.entries += 1;
  else into.refuse(octets.toString('utf8', from, until), fault);
}

export const netset = (into: Collector): BodyParser => octetLines(netsetLine, into);

/** The text in front of a comment. "#", ";", "//" and "!" begin one at the start of the line, the first three also after a blank. */
function uncomment(text: string): string {
  if (/^(?:[#;!]|\/\/)/.test(text)) return '';
  // One blank, not a run of them: a long run would be walked once for each of its blanks.
  const comment = text.search(/\s(?:[#;]|\/\/)/);
  return comment < 0 ? text : text.slice(0, comment).trimEnd();
}

/**
 * Names: plain, `*.name` or `.name`; addresses among them are read as addresses. A listed name includes all names below
 * it, wildcard or not: the owner of evil.example controls its children, and tools that read wildcard lists
 * (dnscrypt-proxy, `*.name`) match the name itself as well.
 */
function domainLine(text: string, into: Collector, options: FormatOptions): void {
  const content = uncomment(text);
  if (content === '') return;
  const wildcard = /^(?:\*\.|\.)(.+)$/.exec(content);
  const flags = options.subdomains === false && !wildcard ? SELF : SELF | BELOW;
  takeValue(wildcard?.[1] ?? content, into, flags);
}

export const domains = (into: Collector, options: FormatOptions): BodyParser =>
  textLines((text) => domainLine(text, into, options), into);

const SINKS = /^(?:0\.0\.0\.0|127(?:\.\d{1,3}){3}|::|::1|0)$/;
/** Names that every hosts file contains. */
const BOILERPLATE =
  /^(?:localhost|localhost\.localdomain|localhost6?|local|broadcasthost|ip6-[a-z]+|0\.0\.0\.0)$/i;

/** hosts(5) files that resolve names to sinks. The address itself is not read. */
function hostsLine(text: string, into: Collector, flags: number): void {
  const [address = '', ...all] = uncomment(text).split(/\s+/);
  if (address === '') return;
  const names = all.filter((name) => !BOILERPLATE.test(name));
  if (all.length === 0) into.refuse(text, 'no name behind the address');
  else if (names.length > 0 && !SINKS.test(address)) into.refuse(text, 'sends names elsewhere, not nowhere');
  else for (const name of names) takeHost(name, into, flags);
}

function takeHost(name: string, into: Collector, flags: number): void {
  const fault = addName(name, flags, into);
  if (fault === '') into.entries += 1;
  else into.refuse(name, fault);
}

/** A hosts file lists exactly its names, as resolvers read it; `subdomains: true` includes the names below them. */
export const hosts = (into: Collector, options: FormatOptions): BodyParser => {
  const flags = options.subdomains === true ? SELF | BELOW : SELF;
  return textLines((text) => hostsLine(text, into, flags), into);
};

/** `important` and `all` do not narrow a rule: it is still about every request to the host. */
const HOST_RULE = /^(@@)?\|\|([^/^*$|]+)\^(?:\$(?:important|all))?$/;
const ADBLOCK_COMMENT = /^(?:!|\[Adblock|\[AdGuard|#(?:\s|$))/i;

/** AdBlock rules about whole hosts: `||host^` and its exception `@@||host^`. All others are counted, not read. */
function adblockLine(text: string, into: Collector): void {
  if (ADBLOCK_COMMENT.test(text)) return;
  const match = HOST_RULE.exec(text);
  const host = match?.[2];
  if (host === undefined) {
    into.cannot(text, 'no rule about a whole host');
    return;
  }
  const fault = match?.[1] ? addName(host, ALLOW, into) : addValue(host, SELF | BELOW, into);
  if (fault === '') into.entries += 1;
  else into.refuse(text, fault);
}

export const adblock = (into: Collector): BodyParser => textLines(adblockLine, into);

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

/** Lines of dnsmasq.conf(5) and unbound.conf(5) that deny names. */
function resolverLine(text: string, into: Collector): void {
  const content = uncomment(text);
  if (content === '' || content === 'server:') return;
  const found = statement(content);
  if (!found) {
    into.cannot(text, 'no line that denies names');
    return;
  }
  for (const name of found.names) {
    const fault = addName(name, found.flags, into);
    if (fault === '') into.entries += 1;
    else into.refuse(name, fault);
  }
}

export const resolverConf = (into: Collector): BodyParser => textLines(resolverLine, into);
