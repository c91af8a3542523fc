/** Labels as Docker shows them, and notes on what it said that could not be read. Pure. */
import { asRecord, textMap } from './json.js';

/** Something that Docker said and that could not be read: for the log. */
export type Notes = string[];

/**
 * Stands in for labels that cannot be read. It is an unknown `drawbridge.*` key, and so enforces with an empty policy:
 * a container whose labels are unreadable must not pass as one without labels.
 */
export const UNREADABLE_LABELS: Readonly<Record<string, string>> = { 'drawbridge.unreadable': 'docker' };

export function labelsOf(value: unknown, where: string, notes: Notes): Readonly<Record<string, string>> {
  if (value === undefined || value === null) return {};
  const record = asRecord(value);
  if (record && Object.values(record).every((v) => typeof v === 'string')) return textMap(record);
  notes.push(`${where}: labels are not a map of texts; treated as broken labels`);
  return UNREADABLE_LABELS;
}
