import { describe, expect, it } from 'vitest';
import { modeText, sourceView } from '../../../src/api/container-body.js';
import { modeReason } from '../../../src/cli/output.js';
import { listOf, sourceText } from '../../../src/policy/deny-entries.js';
import { type EntrySource, MODE_SOURCES, SOURCES } from '../../../src/policy/policy.js';

const NAMES = ['npm', 'a-b_c.d', 'claim', 'label'];
const entrySources: readonly EntrySource[] = [
  { kind: 'label' },
  ...SOURCES.flatMap((kind) => NAMES.map((name) => ({ kind, name }))),
];

describe('the source of an entry', () => {
  it('has one text for each object, and the object says what the text says', () => {
    expect(new Set(entrySources.map(sourceText)).size).toBe(entrySources.length);
    for (const source of entrySources) {
      const { kind, name } = sourceView(source);
      expect(kind).toBe(source.kind);
      expect(sourceText(source)).toContain(name ?? 'label drawbridge.allow');
    }
  });

  it('names a list where there is one to edit', () => {
    for (const source of entrySources) {
      const isOfList = ['list', 'claim', 'baseline'].includes(source.kind);
      expect(listOf(source)).toBe(isOfList ? sourceView(source).name : null);
    }
  });
});

it('each source of a mode has a word, a name where the kind has one, and a reason that a person reads', () => {
  const all = [
    ...MODE_SOURCES.map((kind) => ({ kind })),
    ...NAMES.map((name) => ({ kind: 'claim' as const, name })),
  ];
  expect(new Set(all.map(modeText)).size).toBe(all.length);
  expect(new Set(all.map((s) => modeReason(sourceView(s)))).size).toBe(all.length);
  expect(modeText({ kind: 'claim', name: 'npm' })).toBe('claim:npm');
  expect(modeReason(sourceView({ kind: 'claim', name: 'npm' }))).toBe('list npm, which claims it');
});
