/** The object form of an entry: `{ to, ports, proto, deny, private, broad, tls, quic, ech, dns, comment, expires }`. */

import { escapePointer, type Fields, isRecord, shown, shownKey } from '../lib/json.js';
import { clipped, type Parsed, type Problem } from '../lib/problem.js';
import { parseTime } from '../lib/units.js';
import { attempt, type Entry, type Flag, type PortRange, type Proto, refuse } from './entry.js';
import { DENY, sealEntry } from './entry-canonical.js';
import { parseDenied, parseDest, parseEntry, parseListRef } from './entry-parse.js';
import { parsePorts, parseProto } from './entry-ports.js';

function readPorts(value: unknown): readonly PortRange[] {
  const list = Array.isArray(value) ? value : [value];
  const texts = list.map((port) => {
    if (typeof port === 'number' || typeof port === 'string') return String(port).replace(/ /g, '');
    return refuse(`${shown(port)} is not a port`, 'write 443, "80,443" or "8000-8100"');
  });
  if (texts.length === 0) return refuse('ports is empty', 'remove it to use the default ports');
  return parsePorts(texts.join(','), 0);
}

function readText(value: unknown): string {
  if (typeof value === 'number') return String(value);
  return typeof value === 'string' ? value : refuse(`${shown(value)} is not a text`, 'put it in quotes');
}

function readTime(value: unknown): string {
  const text = readText(value);
  const parsed = parseTime(text);
  const problem = parsed.ok ? undefined : parsed.problems[0];
  return problem ? refuse(problem.detail, problem.remedy) : text;
}

const yes =
  (flag: Flag) =>
  (value: unknown): readonly Flag[] =>
    typeof value === 'boolean'
      ? value
        ? [flag]
        : []
      : refuse(`${shown(value)} is not true or false`, 'write true');

/** A flag with the text KEY=WORD. YAML 1.1 reads a bare "off" as false. */
const word =
  (flag: Flag, wanted: string) =>
  (value: unknown): readonly Flag[] =>
    value === wanted || (wanted === 'off' && value === false)
      ? [flag]
      : refuse(`${shown(value)} is not valid here`, `write ${wanted}, or leave it out`);

/** Such a flag with one of several words. */
const oneOf =
  (flags: Readonly<Record<string, Flag>>) =>
  (value: unknown): readonly Flag[] => {
    const text = value === false ? 'off' : value;
    const flag = Object.entries(flags).find(([key]) => key === text)?.[1];
    return flag
      ? [flag]
      : refuse(
          `${shown(value)} is not valid here`,
          `write ${Object.keys(flags).join(' or ')}, or leave it out`,
        );
  };

const FLAG_KEYS: Readonly<Record<string, (value: unknown) => readonly Flag[]>> = {
  private: yes('private'),
  broad: yes('broad'),
  tls: oneOf({ off: 'tls=off', verify: 'tls=verify' }),
  quic: word('quic=deny', 'deny'),
  ech: word('ech=allow', 'allow'),
  dns: word('dns=direct', 'direct'),
};
const KEYS: readonly string[] = [
  'to',
  'ports',
  'proto',
  'deny',
  'comment',
  'expires',
  ...Object.keys(FLAG_KEYS),
];

/** YAML reads `a.org: 443` as a map with one key; JSON-minded people write it, too. */
const looksLikeEntry = (key: string): boolean => /[.:*]|^(any|host|container|list)$/.test(key);

function unknownKeys(fields: Fields): readonly Problem[] {
  const unknown = Object.keys(fields).filter((key) => !KEYS.includes(key));
  const meant = 'to' in fields ? undefined : unknown.find(looksLikeEntry);
  if (meant === undefined) {
    const remedy = `keys of an entry are ${KEYS.join(', ')}`;
    return unknown.map((key) => ({
      detail: `unknown key "${shownKey(key)}"`,
      remedy,
      pointer: `/${escapePointer(key)}`,
      about: { kind: 'key' },
    }));
  }
  const value = fields[meant];
  const text = typeof value === 'number' || typeof value === 'string' ? `${meant}:${value}` : meant;
  const remedy = `write "${clipped(text)}" in quotes, without a space`;
  return [{ detail: `"${clipped(meant)}: …" is a map, not an entry`, remedy, pointer: '' }];
}

const refusal = (problems: readonly Problem[]): Parsed<never> => ({ ok: false, problems });

const NO_TARGET: Problem = {
  detail: 'the entry has no "to"',
  remedy: 'write { to: api.example.com, ports: 443 }',
  pointer: '',
};

class Reader {
  readonly #fields: Fields;
  readonly problems: Problem[] = [];

  constructor(fields: Fields) {
    this.#fields = fields;
  }

  /** The value at `key` through `parse`; undefined when it is absent or wrong (the problem is kept). */
  read<T>(key: string, parse: (value: unknown) => T): T | undefined {
    const value = this.#fields[key];
    if (value === undefined) return undefined;
    const result = attempt(() => parse(value));
    if (result.ok) return result.value;
    this.add(result.problems, `/${key}`);
    return undefined;
  }

  add(problems: readonly Problem[], pointer: string): void {
    this.problems.push(...problems.map((problem) => ({ ...problem, pointer })));
  }
}

function listRef(to: string, fields: Fields, reader: Reader): Entry {
  const others = Object.keys(fields).filter((key) => key !== 'to' && key !== 'comment');
  for (const key of others)
    reader.add([{ detail: `a list takes no ${key}`, remedy: 'set it in the list itself' }], `/${key}`);
  return parseListRef(to);
}

const denies = (value: unknown): boolean =>
  typeof value === 'boolean' ? value : refuse(`${shown(value)} is not true or false`, 'write true');

function destOf(to: string, ports: readonly PortRange[] | undefined, proto: Proto | undefined) {
  const dest = to.startsWith(DENY) ? parseDenied(to) : parseDest(to);
  if (ports && dest.ports.length > 0) refuse(`"${to}" has ports already`, 'write them in one place');
  if (proto && dest.proto) refuse(`"${to}" has a protocol already`, 'write it in one place');
  return { target: dest.target, ports: ports ?? dest.ports, proto: proto ?? dest.proto };
}

function readFields(fields: Fields, reader: Reader): Entry | undefined {
  const ports = reader.read('ports', readPorts);
  const proto = reader.read('proto', (value) => parseProto(readText(value), 0));
  const flags = Object.entries(FLAG_KEYS).flatMap(([key, parse]) => reader.read(key, parse) ?? []);
  const isDenied = reader.read('deny', denies) ?? false;
  const comment = reader.read('comment', readText);
  const expires = reader.read('expires', readTime);
  if (reader.problems.length > 0) return undefined;
  return reader.read('to', (value) => {
    const to = readText(value).trim();
    if (to.startsWith('list:')) return listRef(to, fields, reader);
    if (to.startsWith(DENY) && fields.deny === false)
      refuse(`"${to}" is a deny entry`, `remove the !, or "deny: false"`);
    return sealEntry({
      ...destOf(to, ports, proto),
      flags,
      ...((isDenied || to.startsWith(DENY)) && { deny: true as const }),
      ...(comment !== undefined && { comment }),
      ...(expires !== undefined && { expires }),
    });
  });
}

/**
 * One entry in either form: text, or an object. Problems point into the object (`pointer`) and, within a text, carry
 * the column. Never throws.
 */
export function entryFromObject(value: unknown): Parsed<Entry> {
  if (typeof value === 'string') return parseEntry(value);
  // What YAML took for a number, such as 127.1 or a port: no entry, but the text has the better remedy.
  if (typeof value === 'number') return parseEntry(String(value));
  if (!isRecord(value))
    return refusal([{ detail: `${shown(value)} is not an entry`, remedy: 'write it as text, in quotes' }]);
  const unknown = unknownKeys(value);
  if (unknown.some(({ pointer }) => pointer === '')) return refusal(unknown);
  const reader = new Reader(value);
  const entry = 'to' in value ? readFields(value, reader) : undefined;
  const problems = [...unknown, ...('to' in value ? [] : [NO_TARGET]), ...reader.problems];
  return entry && problems.length === 0 ? { ok: true, value: entry } : refusal(problems);
}
