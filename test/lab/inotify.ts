/** A user without inotify instances: the limit (fs.inotify.max_user_instances) is counted by user. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { end, startDaemon, tail, waitFor } from './process.js';

const ROOT = join(import.meta.dirname, '..', '..');
/** Takes every instance that its user may have, says so and holds them. */
const HOLD = `
const koffi = require(process.argv[1]);
const make = koffi.load(null).func('int inotify_init1(int flags)');
let taken = 0;
while (make(0o2000000) >= 0) taken += 1;
console.log('taken', taken);
setInterval(() => undefined, 1_000_000);
`;

export interface NoInotify extends AsyncDisposable {
  /** Before a program's own arguments: it then runs as that user, with every right of root. */
  readonly through: readonly string[];
}

/** Each call has a user of its own. `dir`: for the log of the process that holds the instances. */
export async function exhaustInotify(dir: string): Promise<NoInotify> {
  const uid = 100_000 + process.pid;
  const caps = ownCapabilities()
    .map((n) => `+cap_${n}`)
    .join(',');
  const rights = ['--inh-caps', caps, '--ambient-caps', caps];
  const through = ['setpriv', '--reuid', String(uid), '--regid', '0', '--clear-groups', ...rights, '--'];
  const log = join(dir, 'inotify.log');
  const koffi = join(ROOT, 'node_modules', 'koffi');
  const pid = startDaemon([...through, process.execPath, '-e', HOLD, koffi], log);
  await waitFor('the instances to be taken', () => readFileSync(log, 'utf8').includes('taken'), 20_000).catch(
    (e: Error) => {
      throw new Error(`${e.message}\n${tail(log)}`);
    },
  );
  return { through, [Symbol.asyncDispose]: () => end(pid, 5_000) };
}

/** Numbers of the capabilities that this process may hand on: a container has not all. */
function ownCapabilities(): number[] {
  const permitted = /^CapPrm:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0';
  const bits = BigInt(`0x${permitted}`);
  return Array.from({ length: 64 }, (_, n) => n).filter((n) => ((bits >> BigInt(n)) & 1n) === 1n);
}
