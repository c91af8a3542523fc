import { logContained } from '../../src/lib/faults.js';

/** Runs `work` as in the service, which logs contained errors and goes on. `work` gets their messages, which grow. */
export async function containing(work: (logged: readonly string[]) => Promise<void>): Promise<void> {
  const logged: string[] = [];
  logContained({ error: (_, message) => void logged.push(message ?? '') });
  try {
    await work(logged);
  } finally {
    logContained(undefined);
  }
}
