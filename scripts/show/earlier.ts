/** What demos on this host that were killed have left: their services, rules and folders. */
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { end, run } from '../../test/lab/process.js';

export const FOLDER = 'drawbridge-demo-';
const MAIN = join(import.meta.dirname, '..', '..', 'dist', 'main.js');

/** Words of each process that can be read, by pid. */
function commands(): Map<number, readonly string[]> {
  const found = new Map<number, readonly string[]>();
  for (const name of readdirSync('/proc').filter((n) => /^\d+$/.test(n))) {
    try {
      found.set(Number(name), readFileSync(`/proc/${name}/cmdline`, 'utf8').split('\0'));
    } catch {
      // it has ended meanwhile
    }
  }
  return found;
}

/** Throws while another demo plays on this host. */
export async function endEarlier(): Promise<void> {
  const all = [...commands()];
  const other = all.find(
    ([pid, words]) =>
      pid !== process.pid &&
      words.includes('--host') &&
      words.some((w) => /(^|\/)scripts\/demo\.ts$/.test(w)),
  );
  if (other) throw new Error(`another demo plays on this host (process ${other[0]}): wait for its end`);
  for (const name of readdirSync(tmpdir()).filter((n) => n.startsWith(FOLDER))) {
    const dir = join(tmpdir(), name);
    const config = join(dir, 'drawbridge', 'config.yaml');
    for (const [pid, words] of all) if (words.includes(config)) await end(pid, 10_000);
    if (existsSync(config))
      await run([process.execPath, MAIN, 'teardown', '--config', config], { check: true });
    rmSync(dir, { recursive: true });
  }
}
