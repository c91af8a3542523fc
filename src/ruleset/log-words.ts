/** The words that end the prefix of a packet that a rule logs, behind the prefix of kernel objects and a colon. */

/**
 * Of the group of denied and observed packets. `passes`: the rule only logs. `isOwn`: a chain of the container's own may have counted the
 * packet (kernel/counts.ts).
 */
const LOG_WORDS = {
  deny: { isOwn: true, passes: false },
  would: { isOwn: true, passes: true },
  /** Observed, to a neighbour past FORWARD: the bridge table logs it whether or not an entry permits it. */
  near: { isOwn: false, passes: true },
  threat: { isOwn: false, passes: false },
  seen: { isOwn: false, passes: true },
  /** From the middle of a connection to a neighbour that conntrack does not have: it does not show which side has opened it. */
  later: { isOwn: false, passes: false },
  flood: { isOwn: false, passes: false },
  connections: { isOwn: true, passes: false },
  quota: { isOwn: true, passes: false },
  /** Data with the SYN (TCP Fast Open, RFC 7413) would reach the server before anything was evaluated. */
  syndata: { isOwn: false, passes: false },
  /** No rule has it: the word of a rule of another version, or of another program. */
  unknown: { isOwn: false, passes: false },
} as const;
export type LogWord = keyof typeof LOG_WORDS;
/** Of a rule. */
export type RuleWord = Exclude<LogWord, 'unknown'>;

/**
 * Words of packets that are copied for the check of names. `syn`: the first packet of a connection. `again`: the same, when conntrack already had
 * an entry for the connection. `answer`: what a server has sent to a container in the network of the host.
 */
export type CheckWord = 'syn' | 'again' | 'answer';

export const logPrefix = (prefix: string, word: RuleWord | CheckWord): string => `${prefix}:${word}`;

const isLogWord = (word: string): word is LogWord => Object.hasOwn(LOG_WORDS, word);

export function logWordOf(prefix: string): LogWord {
  const word = prefix.slice(prefix.lastIndexOf(':') + 1);
  return isLogWord(word) ? word : 'unknown';
}

export const meaningOf = (word: LogWord): (typeof LOG_WORDS)[LogWord] => LOG_WORDS[word];

const CHECK_WORDS: readonly CheckWord[] = ['again', 'answer'];

/** What is not known counts as a SYN. */
export const checkWordOf = (prefix: string): CheckWord =>
  CHECK_WORDS.find((word) => prefix.endsWith(`:${word}`)) ?? 'syn';
