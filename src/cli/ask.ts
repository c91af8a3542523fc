import { once } from 'node:events';
import { createInterface } from 'node:readline/promises';
import type { Session } from './command.js';
import { wrongUsage } from './failure.js';

export interface Consent {
  /** `--yes`. */
  readonly yes: boolean;
  /** What is asked about, as a command: "mode web enforce". */
  readonly command: string;
  readonly question: string;
}

/** Fails with wrong usage where the question could not be asked: before anything is printed or changed. */
export function mustBeAskable({ host, out }: Session, { yes, command }: Omit<Consent, 'question'>): void {
  if (yes || (host.canAsk && !out.isJson)) return;
  const why = out.isJson ? 'with --json it cannot ask' : 'there is no terminal to ask on';
  wrongUsage(`drawbridge ${command} asks before it changes anything, and ${why}`, 'add --yes');
}

/** The answer of the terminal; true at once with `--yes`. Only y or yes is consent. */
export async function consents(session: Session, consent: Consent): Promise<boolean> {
  mustBeAskable(session, consent);
  return consent.yes || agrees(session, consent.question);
}

/** Asks; without consent nothing is changed, and the terminal shows that. */
export async function agrees(session: Session, question: string): Promise<boolean> {
  const answer = await answerTo(session, `${question} [y/N]`);
  if (/^y(es)?$/i.test(answer)) return true;
  session.out.note('nothing was changed');
  return false;
}

/** One line; `atEnd` where the input ends without one. */
export async function answerTo({ host, out }: Session, question: string, atEnd = ''): Promise<string> {
  const lines = createInterface({ input: host.stdin, terminal: false });
  try {
    out.note(question);
    const [answer] = await Promise.race([once(lines, 'line'), once(lines, 'close').then(() => [atEnd])]);
    return String(answer).trim();
  } finally {
    lines.close();
  }
}
