/** Entries from text: `[ entry { sep entry } ]`, the grammar of docs/lists.md. */

import { canonicalName, type NameMatch } from '../lib/dns-name.js';
import { atMost, type Parsed, type Problem } from '../lib/problem.js';
import {
  attempt,
  type DestEntry,
  type Entry,
  type Flag,
  type ListRef,
  type PortRange,
  type Proto,
  refuse,
  type Target,
} from './entry.js';
import { type Head, parseBare6, parseBracketed, parseHost4 } from './entry-address.js';
import { DENY, formatTarget, sealEntry } from './entry-canonical.js';
import { parseFlag, parsePorts, parseProto } from './entry-ports.js';

/** One entry's text, trimmed, with its place (1-based). */
interface Piece {
  readonly text: string;
  readonly line: number;
  readonly column: number;
}

/** What follows a comma that belongs to ports: digits[-digits], then "," "/" blank or the end. */
const PORTS_GO_ON = /^\d+(-\d+)?(?=[,/ \t]|$)/;

/** Offsets of the commas that separate entries in one line. */
function separators(line: string): number[] {
  const found: number[] = [];
  for (let at = line.indexOf(','); at >= 0; at = line.indexOf(',', at + 1))
    if (!PORTS_GO_ON.test(line.slice(at + 1))) found.push(at);
  return found;
}

function piecesOf(line: string, number: number): Piece[] {
  const cuts = [-1, ...separators(line), line.length];
  return cuts.slice(1).map((end, index) => {
    const start = (cuts[index] ?? -1) + 1;
    const raw = line.slice(start, end);
    return { text: raw.trim(), line: number, column: start + 1 + raw.length - raw.trimStart().length };
  });
}

/** Splits at newlines and separating commas. Blank lines and a comma at a line's end are fine, ",," is not. */
function splitEntries(text: string): { pieces: readonly Piece[]; problems: readonly Problem[] } {
  const pieces: Piece[] = [];
  const problems: Problem[] = [];
  for (const [index, line] of text.split(/\r\n|\n|\r/).entries()) {
    const found = piecesOf(line, index + 1);
    const last = found.at(-1)?.text === '' ? found.pop() : undefined;
    if (last && found.length === 0) continue;
    for (const piece of found) {
      if (piece.text !== '') pieces.push(piece);
      else
        problems.push({
          detail: 'there is nothing before the comma',
          remedy: 'remove the comma',
          line: piece.line,
          column: piece.column,
        });
    }
  }
  return { pieces, problems };
}

const LIST_NAME = /^[a-z0-9][a-z0-9_.-]{0,62}$/i;
/** Docker: [a-zA-Z0-9][a-zA-Z0-9_.-]+ (daemon/names); a compose service may have one character. */
const CONTAINER_NAME = /^[a-z0-9][a-z0-9_.-]{0,254}$/i;
const TAIL = /^(?::([^/]*))?(?:\/(.*))?$/;

export const isListName = (text: string): boolean => LIST_NAME.test(text);

interface Dest {
  readonly target: Target;
  readonly ports: readonly PortRange[];
  readonly proto?: Proto;
}

const address = (head: Head): { target: Target; tail: string } => ({
  target: { kind: 'address', range: head.range },
  tail: head.tail,
});

function refuseUrl(text: string): never {
  const [scheme = '', rest = ''] = text.split('://');
  const host = rest.replace(/[/?#].*$/, '');
  const port = scheme === 'http' ? '80' : '443';
  return refuse(
    `"${text}" is a URL`,
    `write the host alone: ${/:\d+$/.test(host) ? host : `${host}:${port}`}`,
  );
}

function namePattern(text: string): { match: NameMatch; name: string; at: number } {
  if (text.startsWith('*.')) return { match: 'below', name: text.slice(2), at: 2 };
  if (text.startsWith('.')) return { match: 'both', name: text.slice(1), at: 1 };
  return { match: 'exact', name: text, at: 0 };
}

function refuseShort(head: string, tail: string): never {
  const named = head.toLowerCase();
  const word = named === 'localhost' ? 'host' : named;
  if (word === 'host' || word === 'any')
    return refuse(`"${head}" is not a domain name`, `write ${word}${tail}`);
  const container = CONTAINER_NAME.test(head) ? `container:${head}${tail} for a container, or ` : '';
  return refuse(`"${head}" has only one label`, `write ${container}the full domain name`);
}

function parseName(head: string, tail: string): Target {
  if (head === '*') return refuse('"*" is not a destination', `write any${tail} for every public address`);
  const { match, name, at } = namePattern(head);
  if (name.includes(','))
    refuse(`"${head}" has ports after a comma`, `write ${head.replace(',', ':')}${tail}`, head.indexOf(','));
  if (name.includes('*'))
    return refuse(
      `"${head}" has a * that is not at the beginning`,
      'write a * only at the beginning, as in *.example.com',
      at + name.indexOf('*'),
    );
  if (match === 'exact' && /^[^.]+$/.test(name)) refuseShort(head, tail);
  const parsed = canonicalName(name);
  if (parsed.ok) return { kind: 'name', match, name: parsed.value };
  const problem = parsed.problems[0];
  const isSuffix = match !== 'exact' && /^[^.]+$/.test(name);
  // "*.com" has one label by the grammar of names, and is allowed with `broad`.
  const single = isSuffix ? canonicalName(name, 1) : undefined;
  if (single?.ok) return { kind: 'name', match, name: single.value };
  return refuse(problem?.detail ?? `"${head}" is not a name`, problem?.remedy ?? 'write a domain name', at);
}

function parseContainer(text: string): { target: Target; tail: string } {
  const rest = text.slice('container:'.length);
  const name = /^[^:/]*/.exec(rest)?.[0] ?? '';
  if (!CONTAINER_NAME.test(name))
    refuse(
      `"${name}" is not a container name`,
      'write container:NAME or container:NAME:PORT',
      'container:'.length,
    );
  return { target: { kind: 'container', name }, tail: rest.slice(name.length) };
}

function parseTarget(text: string): { target: Target; tail: string } {
  if (text.includes('://')) return refuseUrl(text);
  if (text.startsWith('[')) return address(parseBracketed(text));
  if (text.startsWith('container:')) return parseContainer(text);
  const numeric = parseBare6(text) ?? parseHost4(text);
  if (numeric) return address(numeric);
  const head = /^[^:/]*/.exec(text)?.[0] ?? '';
  const tail = text.slice(head.length);
  if (head === 'host' || head === 'any') return { target: { kind: head }, tail };
  return { target: parseName(head, tail), tail };
}

/** `dest`: a target with its ports and protocol, `offset` characters from where the entry begins. Throws EntryFault. */
export function parseDest(text: string, offset = 0): Dest {
  const { target, tail } = parseTarget(text);
  const match = TAIL.exec(tail);
  const at = offset + text.length - tail.length;
  if (!match)
    return refuse(
      `"${tail}" is not valid after ${formatTarget(target)}`,
      'write :PORTS and then /PROTOCOL',
      at,
    );
  const [, portText, protoText] = match;
  if (portText === '')
    refuse(
      'the port after ":" is missing',
      `write ports directly after it, as in ${text.slice(0, at - offset)}:443, or remove the ":"`,
      at,
    );
  const ports = portText === undefined ? [] : parsePorts(portText, at + 1);
  if (protoText === undefined) return { target, ports };
  return { target, ports, proto: parseProto(protoText, offset + text.length - protoText.length) };
}

/** `"!" dest`. `whole`: the text of the entry, for a remedy. Throws EntryFault. */
export function parseDenied(text: string, whole = text): Dest {
  const dest = text.slice(DENY.length);
  if (dest === '' || dest.startsWith(DENY))
    return refuse(
      `"${text}" is not a deny entry`,
      `write one ! directly before a destination: !${whole.replace(/^[!\s]+/, '') || 'gist.github.com'}`,
    );
  if (dest.startsWith('list:'))
    return refuse('a list cannot be denied', 'write ! before each entry that is to be denied', DENY.length);
  return parseDest(dest, DENY.length);
}

/** `"list:" lname`. Throws EntryFault. */
export function parseListRef(text: string): ListRef {
  const name = text.slice('list:'.length);
  const bare = /^[^:/]*/.exec(name)?.[0] ?? '';
  if (bare !== name && isListName(bare))
    refuse(
      'a list: entry has no ports of its own',
      `write list:${bare}, and set ports in the entries of the list`,
      5 + bare.length,
    );
  if (!isListName(name))
    refuse(
      `"${name}" is not a list name`,
      'a list name has letters, digits, "-", "_" and "."; write list:NAME',
      5,
    );
  return { kind: 'list', canonical: `list:${name}`, list: name };
}

/** Entries of labels repeat from one container to the next: each text is read once. Nothing but the text counts, and nothing changes an entry. */
const recent = new Map<string, Entry>();
const MAX_RECENT = 4096;
const MAX_KEPT_LENGTH = 256;

/** Throws what `attempt` catches when the text is no entry. */
function entryOf(text: string): Entry {
  const known = recent.get(text);
  if (known) return known;
  const entry = readEntry(text);
  if (recent.size >= MAX_RECENT) recent.clear();
  if (text.length <= MAX_KEPT_LENGTH) recent.set(text, entry);
  return entry;
}

function readEntry(text: string): Entry {
  const words = [...text.matchAll(/[^ \t]+/g)];
  const [dest, ...rest] = words;
  if (!dest) return refuse('the entry is empty', 'write a destination, such as api.example.com:443');
  if (dest[0].startsWith(DENY)) {
    const denied = parseDenied(dest[0], text);
    return sealEntry({ ...denied, flags: rest.map((word) => parseFlag(word[0], word.index)), deny: true });
  }
  if (dest[0].startsWith('list:')) {
    if (rest[0]) refuse('a list takes no flags', `write ${dest[0]} alone`, rest[0].index);
    return parseListRef(dest[0]);
  }
  const parts = parseDest(dest[0]);
  const flags: Flag[] = rest.map((word) => parseFlag(word[0], word.index));
  return sealEntry({ ...parts, flags });
}

/** One entry. Its problem carries the column (1-based) in the text. Never throws. */
export function parseEntry(text: string): Parsed<Entry> {
  const trimmed = text.trim();
  if (/[\r\n]/.test(trimmed))
    return {
      ok: false,
      problems: [{ detail: 'the entry has more than one line', remedy: 'write one entry', column: 1 }],
    };
  return attempt(() => entryOf(trimmed), text.length - text.trimStart().length);
}

export const isDest = (entry: Entry): entry is DestEntry => entry.kind === 'dest';

export function duplicateProblem(entry: Entry): Problem {
  return { detail: `${entry.canonical} is written twice`, remedy: 'remove one of the two' };
}

/** More than a person mends in one go: what follows so many is not read. */
const MAX_PROBLEMS = 200;

/** All entries of a text, commas and newlines between them; its problems (200 at most) with line and column (1-based). */
export function parseEntries(text: string): Parsed<readonly Entry[]> {
  const { pieces, problems } = splitEntries(text);
  const entries: Entry[] = [];
  const known = new Set<string>();
  const [bad, twice]: [Problem[], Problem[]] = [[], []];
  for (const { text: piece, line, column } of pieces) {
    const read = attempt(() => entryOf(piece), column - 1);
    if (!read.ok) bad.push(...read.problems.map((problem) => ({ ...problem, line })));
    else if (known.has(read.value.canonical)) twice.push({ ...duplicateProblem(read.value), line, column });
    else {
      known.add(read.value.canonical);
      entries.push(read.value);
    }
    if (bad.length + twice.length >= MAX_PROBLEMS) break;
  }
  const all = atMost([...problems, ...bad, ...twice], MAX_PROBLEMS);
  return all.length === 0 ? { ok: true, value: entries } : { ok: false, problems: all };
}
