import type { Logger } from '../lib/log.js';
import type { Problem } from '../lib/problem.js';

/** Of one file; the rest is shown by `drawbridge check`. */
const MOST_OF_FILE = 10;

/** Logs what is wrong with list files once, when it appears: a change of one file does not repeat what is wrong with the others. */
export class ListProblems {
  readonly #log: Logger;
  #known: ReadonlySet<string> = new Set();

  constructor(log: Logger) {
    this.#log = log;
  }

  /** `problems`: all there are now. */
  report(problems: readonly Problem[]): void {
    const all = new Map(problems.map((problem) => [JSON.stringify(problem), problem]));
    const byFile = new Map<string, Problem[]>();
    for (const [key, problem] of all) {
      const file = problem.file ?? '';
      if (!this.#known.has(key)) byFile.set(file, [...(byFile.get(file) ?? []), problem]);
    }
    this.#known = new Set(all.keys());
    for (const [file, fresh] of byFile) this.#reportFile(file, fresh);
  }

  #reportFile(file: string, problems: readonly Problem[]): void {
    for (const problem of problems.slice(0, MOST_OF_FILE))
      this.#log.error({ ...problem }, 'a list file is refused: its last good version stays in force');
    const more = problems.length - MOST_OF_FILE;
    if (more > 0)
      this.#log.error({ file, more }, 'a list file has more faults: see all with drawbridge check FILE');
  }
}
