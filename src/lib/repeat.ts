interface ErrorLog {
  error(facts: object, message: string): void;
}
const AGAIN_MS = 60_000;

/**
 * The work of a timer that repeats, so that what it throws ends nothing: it is logged (once a minute while it is the same),
 * and the next turn tries again. `what` says what is not done meanwhile.
 */
export function repeatSafely(
  log: ErrorLog,
  what: string,
  work: () => unknown,
  now: () => number = () => performance.now(),
): () => Promise<void> {
  let last = { message: '', at: Number.NEGATIVE_INFINITY };
  return async () => {
    try {
      await work();
    } catch (e) {
      const message = e instanceof Error ? e.message : String(e);
      if (message === last.message && now() - last.at < AGAIN_MS) return;
      last = { message, at: now() };
      log.error({ err: message }, what);
    }
  };
}
