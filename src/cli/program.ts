import { Command, CommanderError } from 'commander';
import { allowCommand } from './allow.js';
import { auditCommand } from './audit.js';
import { checkCommand } from './check.js';
import { Registry } from './command.js';
import { doctorCommand } from './doctor.js';
import { explainCommand } from './explain.js';
import { type CommandFailure, failureOf, problemText } from './failure.js';
import { feedsCommand } from './feeds.js';
import { guardCommand } from './guard.js';
import type { Host } from './host.js';
import { listsCommand } from './lists.js';
import { lockdownCommand } from './lockdown.js';
import { modeCommand } from './mode.js';
import { nodesCommand } from './nodes.js';
import { printable } from './output.js';
import { pauseCommand } from './pause.js';
import { planCommand } from './plan.js';
import { psCommand } from './ps.js';
import { revokeCommand } from './revoke.js';
import { runCommand } from './run.js';
import { scanCommand } from './scan.js';
import { statusCommand } from './status.js';
import { storeCommand } from './store.js';
import { syncCommand } from './sync.js';
import { teardownCommand } from './teardown.js';
import { threatsCommand } from './threats.js';
import { tokensCommand } from './tokens.js';
import { exportCommand, importCommand } from './transfer.js';

const COMMANDS = [
  runCommand,
  statusCommand,
  psCommand,
  allowCommand,
  revokeCommand,
  modeCommand,
  pauseCommand,
  lockdownCommand,
  listsCommand,
  checkCommand,
  explainCommand,
  planCommand,
  feedsCommand,
  threatsCommand,
  auditCommand,
  scanCommand,
  doctorCommand,
  guardCommand,
  tokensCommand,
  nodesCommand,
  exportCommand,
  importCommand,
  syncCommand,
  storeCommand,
  teardownCommand,
];

/** Runs one command line (without node and script). Exit code: 0 done, 1 failed, 2 wrong usage. */
export async function runCli(argv: readonly string[], host: Host): Promise<number> {
  let code = 0;
  const program = new Command('drawbridge')
    .description('Egress firewall controller for Docker hosts')
    .version(host.version)
    .exitOverride()
    .configureOutput({
      writeOut: (text) => host.stdout.write(text),
      writeErr: (text) => host.stderr.write(text),
    })
    .showHelpAfterError('(see --help)');
  const registry = new Registry(host, (exit) => {
    code = exit;
  });
  for (const command of COMMANDS) command(program, registry);
  try {
    await program.parseAsync([...argv], { from: 'user' });
    return code;
  } catch (e) {
    if (e instanceof CommanderError) return e.exitCode === 0 ? 0 : 2;
    return report(failureOf(e), argv.includes('--json'), host);
  }
}

function report(failure: CommandFailure, asJson: boolean, host: Host): number {
  const text = asJson
    ? JSON.stringify({ errors: failure.problems }, undefined, 2)
    : failure.problems.map((p) => printable(problemText(p))).join('\n');
  host.stderr.write(`${text}\n`);
  return failure.exitCode;
}
