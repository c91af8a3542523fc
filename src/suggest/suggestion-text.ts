/** A suggestion as a list file, as labels, and as a part of a Compose file. The same suggestion gives the same text. Pure. */
import { stringify } from 'yaml';
import type { Suggestion } from './suggest.js';

export const SUGGESTION_FORMATS = ['yaml', 'list', 'label', 'compose'] as const;
export type SuggestionFormat = (typeof SUGGESTION_FORMATS)[number];

/** `of`: the container or the project, for people. */
export function suggestionText(
  of: string,
  suggestions: readonly Suggestion[],
  format: SuggestionFormat,
): string {
  if (format === 'compose') return composeText(of, suggestions);
  if (format === 'label') return suggestions.map((s) => labelText(s, suggestions.length > 1)).join('');
  return listText(of, suggestions);
}

/** By bytes, so that the order is the same on every host. */
const byEntry = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/** Names, reasons and networks are of other people: none of them ends a comment. */
const oneLine = (text: string): string => text.replace(/[\p{Cc}\p{Cf}\u2028\u2029\s]+/gu, ' ').trim();
const comment = (text: string, indent = ''): string => `${indent}# ${oneLine(text)}\n`;

const scalar = (text: string): string => stringify(text, { lineWidth: 0 }).trimEnd();

function headText(of: string, suggestions: readonly Suggestion[]): string {
  const facts = suggestions.flatMap(({ container, stable, notes }) => {
    const who = suggestions.length > 1 ? `${container}: ` : '';
    return [`${who}${stable.text}`, ...notes.map((note) => `${who}${note}`)];
  });
  return [`Suggested for ${of} by what was recorded.`, ...new Set(facts)]
    .map((line) => comment(line))
    .join('');
}

interface Line {
  readonly entry: string;
  readonly comments: readonly string[];
}

/** One line for each entry of all of them, with the comments of each. */
function merged(
  suggestions: readonly Suggestion[],
  of: (s: Suggestion) => readonly { readonly entry: string; readonly text: string }[],
): readonly Line[] {
  const lines = new Map<string, string[]>();
  for (const suggestion of suggestions)
    for (const { entry, text } of of(suggestion)) {
      const shown = suggestions.length > 1 ? `${suggestion.container}: ${text}` : text;
      lines.set(entry, [...(lines.get(entry) ?? []), shown]);
    }
  return [...lines].sort(([a], [b]) => byEntry(a, b)).map(([entry, comments]) => ({ entry, comments }));
}

const entriesOf = (s: Suggestion) =>
  s.entries.map((e) => ({
    entry: e.entry,
    text: e.risk === null ? e.comment : `${e.comment}; anyone can receive data there: ${e.risk}`,
  }));
const listsOf = (s: Suggestion) =>
  s.lists.map(({ list, comment: why, covers }) => ({
    entry: `list:${list}`,
    text: covers.length > 0 ? `${why}: ${covers.join(', ')}` : why,
  }));

/** What all of them permit together, as entries of a list. */
export function suggestedEntries(suggestions: readonly Suggestion[]): readonly string[] {
  const lines = [...merged(suggestions, listsOf), ...merged(suggestions, entriesOf)];
  return lines.map(({ entry }) => entry);
}

/** Not in the list: entries that are left out, and present ones that were not used. */
function leftText(suggestions: readonly Suggestion[], indent: string): string {
  const taken = new Set(suggestedEntries(suggestions));
  const left = merged(suggestions, (s) => s.left.map(({ entry, why }) => ({ entry, text: why })));
  const gone = merged(suggestions, (s) =>
    s.remove.map(({ entry, from, unusedSince }) => ({
      entry,
      text: `not used since ${unusedSince}; now by ${from}`,
    })),
  );
  const part = (title: string, lines: readonly Line[]): string => {
    const shown = lines.filter(({ entry }) => !taken.has(entry));
    if (shown.length === 0) return '';
    const rows = shown.map(({ entry, comments }) =>
      comment(`- ${scalar(oneLine(entry))} # ${comments.join('; ')}`, indent),
    );
    return `${comment(title, indent)}${rows.join('')}`;
  };
  return `${part('Left out:', left)}${part('Not used, to be removed:', gone)}`;
}

function listText(of: string, suggestions: readonly Suggestion[]): string {
  const lines = [...merged(suggestions, listsOf), ...merged(suggestions, entriesOf)];
  const items = lines.map(({ entry, comments }) => {
    const why = comments.map((text) => comment(text, '  ')).join('');
    return `${why}  - ${scalar(entry)}\n`;
  });
  const left = leftText(suggestions, '  ');
  const allow = items.length > 0 ? `allow:\n${items.join('')}` : 'allow: []\n';
  return `${headText(of, suggestions)}description: ${scalar(oneLine(`What ${of} was seen to use`))}\n${allow}${left}`;
}

interface Labels {
  readonly 'drawbridge.allow'?: readonly string[];
  readonly 'drawbridge.lists'?: readonly string[];
}

function labelsOf({ entries, lists }: Suggestion): Labels {
  return {
    ...(entries.length > 0 && { 'drawbridge.allow': entries.map((e) => e.entry) }),
    ...(lists.length > 0 && { 'drawbridge.lists': lists.map((l) => l.list) }),
  };
}

/** KEY=VALUE, as docker run --label takes them. An empty policy is a label without entries. */
function labelText(suggestion: Suggestion, isNamed: boolean): string {
  const labels = Object.entries(labelsOf(suggestion));
  const lines = labels.map(([key, values]) => `${key}=${values.join(', ')}\n`);
  const head = isNamed ? comment(suggestion.container) : '';
  return `${head}${lines.length > 0 ? lines.join('') : 'drawbridge.mode=enforce\n'}`;
}

const COMPOSE_OWNER = /^compose:[^/]+\/(.+)$/s;

function composeText(of: string, suggestions: readonly Suggestion[]): string {
  const services = suggestions.map((suggestion) => {
    const name = COMPOSE_OWNER.exec(suggestion.owner)?.[1] ?? suggestion.container;
    const labels = labelsOf(suggestion);
    const allow = labels['drawbridge.allow']?.map((entry) => `        ${entry}\n`).join('');
    const lists = labels['drawbridge.lists']?.join(', ');
    return [
      `  ${scalar(name)}:\n    labels:\n`,
      allow === undefined ? '' : `      drawbridge.allow: |-\n${allow}`,
      lists === undefined ? '' : `      drawbridge.lists: ${scalar(lists)}\n`,
      allow === undefined && lists === undefined ? '      drawbridge.mode: enforce\n' : '',
      leftText([suggestion], '      '),
    ].join('');
  });
  return `${headText(of, suggestions)}services:\n${services.join('')}`;
}
