import type { Exec } from './exec.js';
import { RESTORE } from './read-rules.js';

const TRY = '*raw\n-A OUTPUT -j CT --zone-orig 1\nCOMMIT\n';

/**
 * Whether `raw` takes rules that give a packet a zone of conntrack (xt_CT): tried without laying them. Not with
 * iptables-legacy: it replaces whole tables, so that the rule of a cgroup that has ended would keep Docker out of its own.
 */
export async function canZone(run: Exec): Promise<boolean> {
  if ((await run('iptables', ['--version'])).stdout.includes('legacy')) return false;
  const tried = await Promise.all(
    Object.values(RESTORE).map((tool) => run(tool, ['--test', '--noflush', '-w', '10'], { input: TRY })),
  );
  return tried.every(({ code }) => code === 0);
}
