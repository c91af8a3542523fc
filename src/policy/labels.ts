/** drawbridge.* labels: those of the container, and how far those of its image count (docs/concepts.md). */

import { shown } from '../lib/foreign-text.js';
import { matchesAny } from '../lib/glob.js';
import type { Parsed, Problem } from '../lib/problem.js';
import type { ContainerFacts } from './container.js';
import type { Entry } from './entry.js';
import { isListName, parseEntries } from './entry-parse.js';
import { type Limits, parseAsk, parseLimits } from './limits.js';
import { isOwnLabel } from './own-labels.js';
import { BROKEN_LABEL, type Mode, type PolicyNote } from './policy.js';

export type LabelFacts = Pick<ContainerFacts, 'labels' | 'imageLabels' | 'image' | 'imageId'>;

/** What the labels ask for. */
export interface LabelIntent {
  /** From the container's own labels alone. */
  readonly allow: readonly Entry[];
  readonly lists: readonly string[];
  /** From the image's labels: only the deny entries in them count. */
  readonly fromImage: Pick<LabelIntent, 'allow' | 'lists'>;
  /** The container's own mode; the image's only when it is `enforce`. */
  readonly mode?: Mode;
  readonly limits?: Limits;
  /** From the container's own labels: how long what is denied waits for a person. */
  readonly askMs?: number;
  /** The container has an allow or lists label, the image's included, so that it is enforced. */
  readonly hasEntries: boolean;
  /** Some drawbridge label is unknown or does not parse: enforced with an empty policy. */
  readonly broken: boolean;
  /** For coverage: what is broken or ignored, and what to do. */
  readonly notes: readonly PolicyNote[];
}

/** The content of one label that has parsed. */
type Said = Partial<Pick<LabelIntent, 'allow' | 'lists' | 'mode' | 'limits' | 'askMs'>>;

const PREFIX = 'drawbridge.';
const MODES: readonly string[] = ['enforce', 'observe', 'off'];

const refuse = (detail: string, remedy: string): Parsed<never> => ({
  ok: false,
  problems: [{ detail, remedy }],
});

function parseMode(text: string): Parsed<Mode> {
  const word = text.trim();
  return MODES.includes(word)
    ? { ok: true, value: word as Mode }
    : refuse(`"${text}" is not a mode`, 'write enforce, observe or off');
}

function parseListNames(text: string): Parsed<readonly string[]> {
  const names = text.split(/[\s,]+/).filter((name) => name !== '');
  const bad = names.filter((name) => !isListName(name));
  if (bad.length === 0) return { ok: true, value: names };
  const problems = bad.map((name) => ({
    detail: `"${name}" is not a list name`,
    remedy: name.startsWith('list:')
      ? `write ${name.slice('list:'.length)}`
      : 'write names of lists, separated by commas',
  }));
  return { ok: false, problems };
}

const said = <T>(parsed: Parsed<T>, make: (value: T) => Said): Parsed<Said> =>
  parsed.ok ? { ok: true, value: make(parsed.value) } : parsed;

/** No entry and no name of a list has a "#" at its beginning. */
const COMMENT = /(^|[\s,])#/;
/**
 * Returns the text without comments. YAML can fold lines into one (`>-`); then a comment also contains the entries of the lines behind it.
 * A text is refused if a comment contains a possible deny entry, or if a comment behind an entry contains a comma.
 */
function withoutComments<T>(text: string, read: (plain: string) => Parsed<T>): Parsed<T> {
  const problems: Problem[] = [];
  const lines = text.split(/\r\n|\n|\r/).map((line, index) => {
    const found = COMMENT.exec(line);
    if (!found) return line;
    const at = found.index + (found[1]?.length ?? 0);
    const before = line.slice(0, at);
    const hidden = (before.trim() === '' ? HIDES_DENIAL : HIDES_ENTRIES).exec(line.slice(at));
    if (hidden) problems.push({ ...HIDDEN, line: index + 1, column: at + hidden.index + 1 });
    return before;
  });
  return problems.length > 0 ? { ok: false, problems } : read(lines.join('\n'));
}
const [HIDES_DENIAL, HIDES_ENTRIES] = [/[\s,]!/, /[,!]/];
const HIDDEN: Problem = {
  detail: 'a comment has a "," or a "!" in it, and may hide entries: in YAML, ">" makes one line of several',
  remedy: 'write "|-" in place of ">", and comments without "!" on lines of their own',
};

const readLists = (text: string): Parsed<Said> =>
  said(withoutComments(text, parseListNames), (lists) => ({ lists }));

/** The labels that exist, without their prefix. */
export const LABELS: ReadonlyMap<string, (text: string) => Parsed<Said>> = new Map([
  ['allow', (text) => said(withoutComments(text, parseEntries), (allow) => ({ allow }))],
  ['lists', readLists],
  ['list', readLists],
  ['mode', (text) => said(parseMode(text), (mode) => ({ mode }))],
  ['limit', (text) => said(parseLimits(text), (limits) => ({ limits }))],
  ['ask', (text) => said(parseAsk(text), (askMs) => ({ askMs }))],
]);
const ADDS: readonly string[] = ['allow', 'lists', 'list'];

interface Label {
  readonly key: string;
  readonly text: string;
  readonly fromImage: boolean;
  readonly parsed: Parsed<Said>;
}

function unknownLabel(key: string): Parsed<never> {
  const known = [...LABELS.keys()].map((name) => PREFIX + name).join(', ');
  return refuse(`${PREFIX}${key} is unknown`, `labels are ${known}`);
}

export const isTrustedImage = (facts: LabelFacts, trustImages: readonly string[]): boolean =>
  matchesAny(trustImages, facts.image);

/** Some thousand entries. An image's label may be megabytes, which would be read again at every look. */
const MAX_LABEL = 65_536;

const tooLong = (key: string): Parsed<never> =>
  refuse(
    `${PREFIX}${key} is longer than ${MAX_LABEL} characters`,
    'put the entries in a list, and name it in drawbridge.lists',
  );

function readLabel(facts: LabelFacts, name: string, trusted: boolean): Label {
  const key = name.slice(PREFIX.length);
  const text = facts.labels[name] ?? '';
  const parsed = text.length > MAX_LABEL ? tooLong(key) : (LABELS.get(key)?.(text) ?? unknownLabel(key));
  const fromImage = !trusted && !isOwnLabel(facts, name);
  return { key, text, fromImage, parsed: fromImage ? withFewDenied(key, parsed) : parsed };
}

/** Each deny entry may need a rule and a set of its own in the kernel: the text of another party must not make thousands. */
const MAX_IMAGE_DENIED = 200;
function withFewDenied(key: string, parsed: Parsed<Said>): Parsed<Said> {
  const denied = parsed.ok ? (parsed.value.allow ?? []).filter((e) => e.kind === 'dest' && e.deny) : [];
  if (denied.length <= MAX_IMAGE_DENIED) return parsed;
  return refuse(
    `${PREFIX}${key} of the image has more than ${MAX_IMAGE_DENIED} deny entries`,
    'put them in a list, and name it in drawbridge.lists of the container',
  );
}

/** Notes of one label, of all, and characters of one: an image's labels are text of another party, and may be megabytes. */
const MAX_NOTES = 10;
const MAX_ALL_NOTES = 100;
const MAX_TEXT = 200;

/** Text of a label as a terminal may show it: cut, and without control characters. */
export function tame(text: string): string {
  const plain = shown(text);
  return plain.length > MAX_TEXT ? `${plain.slice(0, MAX_TEXT)}…` : plain;
}

function brokenNotes(label: Label): readonly PolicyNote[] {
  if (label.parsed.ok) return [];
  return label.parsed.problems.slice(0, MAX_NOTES).map(({ detail, remedy, ...place }) => ({
    ...place,
    code: BROKEN_LABEL,
    detail: `label ${PREFIX}${tame(label.key)}: ${tame(detail)}; nothing is allowed until the label is corrected`,
    remedy: tame(remedy),
  }));
}

const tightens = (label: Label): boolean => label.key === 'mode' && label.text.trim() === 'enforce';

function ignoredNote(label: Label): Problem {
  const effect = ADDS.includes(label.key)
    ? 'enables enforcement; of its entries only those that deny count'
    : 'is ignored';
  return {
    detail: `label ${PREFIX}${label.key}=${tame(label.text)} comes with the image: it ${effect}`,
    remedy: 'set another value on the container, or name the image in labels.trustImages',
  };
}

const UNKNOWN_IMAGE: Problem = {
  detail: "the image's own labels are not known yet: until then drawbridge labels add no entries",
  remedy: 'wait; if this remains, check that Docker can still inspect the image',
};

function imageNotes(facts: LabelFacts, labels: readonly Label[]): readonly Problem[] {
  const ignored = labels.filter((label) => label.parsed.ok && !tightens(label));
  if (ignored.length === 0) return [];
  return facts.imageLabels ? ignored.map(ignoredNote) : [UNKNOWN_IMAGE];
}

const addedBy = (said: readonly Said[]): Pick<LabelIntent, 'allow' | 'lists'> => ({
  allow: said.flatMap(({ allow }) => allow ?? []),
  lists: said.flatMap(({ lists }) => lists ?? []),
});

/** Reads all drawbridge.* labels of a container. Never throws; a label that does not parse is `broken` and described in `notes`. */
export function readLabels(facts: LabelFacts, trustImages: readonly string[]): LabelIntent {
  const trusted = isTrustedImage(facts, trustImages);
  const names = Object.keys(facts.labels).filter((name) => name.startsWith(PREFIX));
  const labels = names.sort().map((name) => readLabel(facts, name, trusted));
  const counted = labels.filter((label) => !label.fromImage || tightens(label));
  const heard = counted.flatMap((label) => (label.parsed.ok ? [label.parsed.value] : []));
  const images = labels.filter((label) => label.fromImage);
  return {
    ...Object.assign({}, ...heard),
    ...addedBy(heard),
    fromImage: addedBy(images.flatMap(({ parsed }) => (parsed.ok ? [parsed.value] : []))),
    hasEntries: labels.some((label) => ADDS.includes(label.key)),
    broken: labels.some((label) => !label.parsed.ok),
    notes: [...labels.flatMap(brokenNotes), ...imageNotes(facts, images)].slice(0, MAX_ALL_NOTES),
  };
}
