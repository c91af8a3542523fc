/** What a record does not have, in the words of every view: flows, previews and suggestions. */
import { counted } from '../lib/units.js';

export interface Missing {
  /** Oldest first; times RFC 3339. */
  readonly gaps: readonly { readonly from: string; readonly to: string; readonly reason: string }[];
  /** Flows of this host that are in no record. */
  readonly dropped: number;
}
/** How a view shows a time (RFC 3339), and a reason that others may have made. */
interface Shown {
  readonly time?: (time: string) => string;
  readonly reason?: (reason: string) => string;
}
const same = (text: string): string => text;
const MOST_GAPS = 5;

/** Phrases without a full stop; none: nothing is missing. */
export function missingTexts(
  { gaps, dropped }: Missing,
  { time = same, reason: safe = same }: Shown = {},
): readonly string[] {
  const more = gaps.length - MOST_GAPS;
  return [
    ...(more > 0 ? [`${counted(more, 'earlier gap')} in the record`] : []),
    ...gaps
      .slice(-MOST_GAPS)
      .map(({ from, to, reason }) => `not recorded from ${time(from)} to ${time(to)}: ${safe(reason)}`),
    ...(dropped > 0
      ? [`${counted(dropped, 'flow')} of this host could not be recorded: some may be of what is shown here`]
      : []),
  ];
}
