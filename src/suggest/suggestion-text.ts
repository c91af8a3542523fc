/** A suggestion as a list file, as labels, and as a part of a Compose file. The same suggestion gives the same text. Pure. */
import { stringify } from 'yaml';
import { shown } from '../lib/foreign-text.js';
import { counted } from '../lib/units.js';
import { composeOf } from '../policy/own-labels.js';
import { byText } from './needs.js';
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

/** Names, reasons and networks are of other people: none of them ends a comment. */
const oneLine = (text: string): string =>
  shown(text, () => ' ')
    .replace(/\s+/g, ' ')
    .trim();
const comment = (text: string, indent = ''): string => `${indent}# ${oneLine(text)}\n`;

const scalar = (text: string): string => stringify(text, { lineWidth: 0 }).trimEnd();

/** As the Compose file calls it. */
export const shownName = ({ owner, container }: Pick<Suggestion, 'owner' | 'container'>): string =>
  composeOf(owner)?.service ?? container;

/** Of what is to be decided. */
const MOST_NAMED = 3;

/** "4 entries · 1 to decide (files.example.com) · nothing new for 3 days, 17 starts" */
export function summaryLine({ entries, lists, left, stable, starts }: Suggestion): string {
  const open = left.filter(({ action }) => action === 'decide').map(({ entry }) => entry);
  const more = open.length > MOST_NAMED ? `, and ${open.length - MOST_NAMED} more` : '';
  const span =
    stable.for === null
      ? stable.text
      : `nothing new for ${stable.for}, ${counted(starts, 'start')}${stable.enough ? '' : ' (a short record)'}`;
  return [
    counted(entries.length, 'entry', 'entries'),
    ...(lists.length > 0 ? [counted(lists.length, 'list')] : []),
    ...(open.length > 0 ? [`${open.length} to decide (${open.slice(0, MOST_NAMED).join(', ')}${more})`] : []),
    span,
  ].join(' · ');
}

/** Undefined: it reaches what it needs. */
export function nothingText(suggestion: Suggestion): string | undefined {
  const open = suggestion.left.filter(({ action }) => action === 'decide').length;
  return suggestion.reachesNothing
    ? `${shownName(suggestion)} would reach nothing: ${decide(open)}`
    : undefined;
}
const decide = (n: number): string => (n === 1 ? 'decide this one' : `decide these ${n}`);

/** Each note once, with the services that it is about, unless that is all of them. */
export function notesText(suggestions: readonly Suggestion[]): readonly string[] {
  const of = new Map<string, string[]>();
  for (const suggestion of suggestions)
    for (const note of suggestion.notes) of.set(note, [...(of.get(note) ?? []), shownName(suggestion)]);
  return [...of].map(([note, names]) =>
    names.length === suggestions.length ? note : `${names.join(', ')}: ${note}`,
  );
}

function headText(of: string, suggestions: readonly Suggestion[]): string {
  const width = Math.max(...suggestions.map((s) => shownName(s).length));
  const several = suggestions.length > 1;
  const lines = suggestions.map(
    (s) => `# ${several ? `${oneLine(shownName(s)).padEnd(width)}  ` : ''}${oneLine(summaryLine(s))}\n`,
  );
  return [
    comment(`Suggested for ${of} by what was recorded.`),
    ...suggestions.flatMap((s) => nothingText(s) ?? []).map((text) => comment(text)),
    ...lines,
    ...(several ? [] : suggestions.map(({ stable }) => comment(stable.text))),
    ...(suggestions.some((s) => openOf([s]).length > 0)
      ? [comment('Commented entries are left out. To permit one, take away the first # of its line.')]
      : []),
  ].join('');
}

const tailText = (suggestions: readonly Suggestion[]): string => {
  const notes = notesText(suggestions);
  return notes.length === 0
    ? ''
    : `${comment('Notes:')}${notes.map((note) => comment(`- ${note}`)).join('')}`;
};

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
  return [...lines].sort(([a], [b]) => byText(a, b)).map(([entry, comments]) => ({ entry, comments }));
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

/** Entries and lists that a person can add by taking a "#" away. An entry for which there is a reason against it is none of them. */
function openOf(suggestions: readonly Suggestion[]): readonly Line[] {
  const taken = new Set(suggestedEntries(suggestions));
  const refused = new Set(
    suggestions.flatMap((s) => s.left.flatMap(({ entry, action }) => (action === 'none' ? [entry] : []))),
  );
  const lines = merged(suggestions, (s) => [
    ...s.offered.map(({ list, size, covers }) => ({
      entry: `list:${list}`,
      text: `in place of ${covers.join(', ')}: has ${size} entries`,
    })),
    ...s.left.map(({ entry, why }) => ({ entry, text: why })),
  ]);
  return lines.filter(({ entry }) => !taken.has(entry) && !refused.has(entry));
}

/** What no entry is offered for, and present entries that were not used. */
function restText(suggestions: readonly Suggestion[], indent: string): string {
  const taken = new Set(suggestedEntries(suggestions));
  const open = new Set(openOf(suggestions).map(({ entry }) => entry));
  const left = merged(suggestions, (s) => s.left.map(({ entry, why }) => ({ entry, text: why })));
  const gone = merged(suggestions, (s) =>
    s.remove.map(({ entry, from, unusedSince }) => ({
      entry,
      text: `not used since ${unusedSince}; now by ${from}`,
    })),
  );
  const part = (title: string, lines: readonly Line[]): string => {
    const shown = lines.filter(({ entry }) => !taken.has(entry) && !open.has(entry));
    if (shown.length === 0) return '';
    const rows = shown.map(({ entry, comments }) => comment(`  ${entry}: ${comments.join('; ')}`, indent));
    return `${comment(title, indent)}${rows.join('')}`;
  };
  return `${part('Left out, and no entry is offered:', left)}${part('Not used, to be removed:', gone)}`;
}

/** `# ENTRY   # why`: without the first "#" it is an entry with a comment, which in a label has neither "," nor "!" (policy/labels.ts). */
const openLine = ({ comments }: Line, shown: string, indent: string): string =>
  `${indent}# ${shown}   # ${oneLine(comments.join('; ')).replaceAll(',', ';').replaceAll('!', '')}\n`;

function listText(of: string, suggestions: readonly Suggestion[]): string {
  const lines = [...merged(suggestions, listsOf), ...merged(suggestions, entriesOf)];
  const items = lines.map(({ entry, comments }) => {
    const why = comments.map((text) => comment(text, '  ')).join('');
    return `${why}  - ${scalar(entry)}\n`;
  });
  const open = openOf(suggestions).map((line) => openLine(line, `- ${scalar(line.entry)}`, '  '));
  const allow = items.length + open.length > 0 ? `allow:\n${items.join('')}${open.join('')}` : 'allow: []\n';
  return [
    headText(of, suggestions),
    `description: ${scalar(oneLine(`What ${of} was seen to use`))}\n${allow}`,
    restText(suggestions, '  '),
    tailText(suggestions),
  ].join('');
}

/** KEY=VALUE, as docker run --label and --label-file take them. An empty policy is a label without entries. */
function labelText(suggestion: Suggestion, isNamed: boolean): string {
  const { entries, lists, mode } = suggestion;
  const open = openOf([suggestion]);
  const allow = entries.map((e) => e.entry);
  const nothing = nothingText(suggestion);
  const isHeld = nothing !== undefined && mode !== 'enforce';
  const lines = [
    ...(allow.length > 0 ? [`drawbridge.allow=${allow.join(', ')}\n`] : []),
    ...(lists.length > 0 ? [`drawbridge.lists=${lists.map((l) => l.list).join(', ')}\n`] : []),
  ];
  return [
    isNamed ? comment(suggestion.container) : '',
    nothing === undefined ? '' : comment(`${nothing}${isHeld ? '. Until then it is not enforced:' : ''}`),
    lines.join('') || `${isHeld ? '# ' : ''}drawbridge.mode=enforce\n`,
    ...open.map(
      ({ entry, comments }) =>
        `${comment(`${entry}: ${comments.join('; ')}. To permit it, instead:`)}# drawbridge.allow=${[...allow, entry].join(', ')}\n`,
    ),
  ].join('');
}

function composeText(of: string, suggestions: readonly Suggestion[]): string {
  const services = suggestions.map((suggestion) => {
    const { entries, lists } = suggestion;
    const open = openOf([suggestion]);
    const allow = [
      ...entries.map(({ entry }) => `        ${entry}\n`),
      // Compose replaces variables in labels.
      ...open.map((line) => openLine(line, line.entry, '        ').replaceAll('$', '$$$$')),
    ];
    return [
      `  ${scalar(shownName(suggestion))}:\n    labels:\n`,
      modeText(suggestion, entries.length + lists.length === 0),
      allow.length === 0 ? '' : `      drawbridge.allow: |-\n${allow.join('')}`,
      lists.length === 0 ? '' : `      drawbridge.lists: ${scalar(lists.map((l) => l.list).join(', '))}\n`,
      restText([suggestion], '      '),
    ].join('');
  });
  return `${headText(of, suggestions)}services:\n${services.join('')}${tailText(suggestions)}`;
}

/** A label with entries enforces, also when it has nothing but comments. */
function modeText(suggestion: Suggestion, isEmpty: boolean): string {
  const nothing = nothingText(suggestion);
  if (nothing === undefined) return isEmpty ? '      drawbridge.mode: enforce\n' : '';
  if (suggestion.mode === 'enforce') return comment(nothing, '      ');
  return `${comment(`${nothing}. Then take the next line away: its entries enforce.`, '      ')}      drawbridge.mode: observe\n`;
}
