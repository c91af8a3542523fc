import type { Problem } from '../lib/problem.js';
import type { Entry } from '../policy/entry.js';
import { parseEntries } from '../policy/entry-parse.js';
import { CommandFailure } from './failure.js';

/** The entries of the arguments, each of which may hold several. Throws CommandFailure with every problem. */
export function entriesOf(args: readonly string[]): readonly Entry[] {
  const parsed = args.map((text) => parseEntries(text));
  const problems: Problem[] = parsed.flatMap((p) =>
    p.ok ? [] : p.problems.map(({ line: _, column: __, ...rest }) => rest),
  );
  if (problems.length > 0) throw new CommandFailure(problems);
  return parsed.flatMap((p) => (p.ok ? p.value : []));
}
