import { Command, CommanderError } from 'commander';
import { nearest, shownProblem } from '../lib/problem.js';
import { Registry } from './command.js';
import { CommandFailure, failureOf, problemText } from './failure.js';
import type { Host } from './host.js';
import { printable } from './output.js';

/** Runs one command line (without node and script). Exit code: 0 done, 1 failed, 2 wrong usage; 4: `run` was ended by a teardown. */
export async function runCli(argv: readonly string[], host: Host): Promise<number> {
  let code = 0;
  const program = programOf(host);
  const registry = new Registry(host, (exit) => {
    code = exit;
  });
  try {
    mustBeKnown(
      'command',
      argv[0],
      COMMANDS.map((c) => c.name),
    );
    await load(program, registry, argv[0]);
    const parent = program.commands.find((c) => c.name() === argv[0] && c.commands.length > 0);
    if (parent)
      mustBeKnown(
        `command of ${argv[0]}`,
        argv[1],
        parent.commands.map((c) => c.name()),
      );
    await program.parseAsync([...argv], { from: 'user' });
    return code;
  } catch (e) {
    if (e instanceof CommanderError) return e.exitCode === 0 ? 0 : 2;
    return report(failureOf(e), argv.includes('--json'), host);
  }
}

function programOf(host: Host): Command {
  return new Command('drawbridge')
    .description('Egress firewall controller for Docker hosts')
    .version(host.version)
    .exitOverride()
    .configureOutput({
      writeOut: (text) => host.stdout.write(text),
      writeErr: (text) => host.stderr.write(text),
    })
    .showHelpAfterError('(see --help)');
}

const VERSION_FLAGS: readonly string[] = ['--version', '-V'];

/** Load the group of the named command. The help needs all groups, the version none. */
async function load(program: Command, registry: Registry, name: string | undefined): Promise<void> {
  if (name !== undefined && VERSION_FLAGS.includes(name)) return;
  const named = COMMANDS.filter((c) => c.name === name);
  for (const { load: register, group } of named.length > 0 ? named : COMMANDS) {
    program.commandsGroup(group);
    (await register())(program, registry);
  }
}

/** Before options are read: the help of the whole must not answer for a command that does not exist. */
function mustBeKnown(what: string, word: string | undefined, known: readonly string[]): void {
  if (word === undefined || word.startsWith('-') || word === 'help' || known.includes(word)) return;
  const meant = nearest(word, known);
  const remedy = meant === undefined ? `there are: ${known.join(', ')}` : `did you mean ${meant}?`;
  throw new CommandFailure([{ detail: `unknown ${what} "${word}"`, remedy }], 2);
}

function report(failure: CommandFailure, asJson: boolean, host: Host): number {
  const text = asJson
    ? JSON.stringify({ errors: failure.problems.map(shownProblem) }, undefined, 2)
    : failure.problems.map((p) => printable(problemText(p))).join('\n');
  host.stderr.write(`${text}\n`);
  return failure.exitCode;
}

type Register = (program: Command, registry: Registry) => void;
interface Listed {
  readonly name: string;
  readonly group: string;
  /** Each command is loaded only when it runs, or for the whole help. */
  readonly load: () => Promise<Register>;
}

const DAILY = 'Daily:';
const POLICIES = 'Policies and feeds:';
const INSPECTION = 'Inspection:';
const SERVICE = 'Service:';

/** Importing a group loads its commands and nothing that only other groups need. */
const inspect = () => import('./inspect-commands.js');
const flow = () => import('./flow-commands.js');
const access = () => import('./access-commands.js');
const list = () => import('./list-commands.js');
const store = () => import('./store-commands.js');
const feed = () => import('./feed-commands.js');
const admin = () => import('./admin-commands.js');
const service = () => import('./service-commands.js');

/** Every command, in the order of the help. */
const COMMANDS: readonly Listed[] = [
  { name: 'status', group: DAILY, load: async () => (await inspect()).statusCommand },
  { name: 'ps', group: DAILY, load: async () => (await inspect()).psCommand },
  { name: 'inspect', group: DAILY, load: async () => (await inspect()).inspectCommand },
  { name: 'explain', group: DAILY, load: async () => (await inspect()).explainCommand },
  { name: 'flows', group: DAILY, load: async () => (await flow()).flowsCommand },
  { name: 'allow', group: DAILY, load: async () => (await access()).allowCommand },
  { name: 'revoke', group: DAILY, load: async () => (await access()).revokeCommand },
  { name: 'mode', group: DAILY, load: async () => (await access()).modeCommand },
  { name: 'suggest', group: DAILY, load: async () => (await flow()).suggestCommand },
  { name: 'pause', group: DAILY, load: async () => (await admin()).pauseCommand },
  {
    name: 'lockdown',
    group: DAILY,
    load: async () => (await admin()).lockdownCommand,
  },
  { name: 'lists', group: POLICIES, load: async () => (await list()).listsCommand },
  { name: 'check', group: POLICIES, load: async () => (await list()).checkCommand },
  { name: 'sync', group: POLICIES, load: async () => (await list()).syncCommand },
  { name: 'export', group: POLICIES, load: async () => (await store()).exportCommand },
  { name: 'import', group: POLICIES, load: async () => (await store()).importCommand },
  { name: 'feeds', group: POLICIES, load: async () => (await feed()).feedsCommand },
  { name: 'threats', group: POLICIES, load: async () => (await feed()).threatsCommand },
  { name: 'scan', group: INSPECTION, load: async () => (await inspect()).scanCommand },
  { name: 'audit', group: INSPECTION, load: async () => (await admin()).auditCommand },
  { name: 'plan', group: INSPECTION, load: async () => (await inspect()).planCommand },
  { name: 'nodes', group: INSPECTION, load: async () => (await admin()).nodesCommand },
  {
    name: 'doctor',
    group: INSPECTION,
    load: async () => (await service()).doctorCommand,
  },
  { name: 'run', group: SERVICE, load: async () => (await service()).runCommand },
  { name: 'guard', group: SERVICE, load: async () => (await service()).guardCommand },
  { name: 'tokens', group: SERVICE, load: async () => (await admin()).tokensCommand },
  { name: 'store', group: SERVICE, load: async () => (await store()).storeCommand },
  {
    name: 'teardown',
    group: SERVICE,
    load: async () => (await service()).teardownCommand,
  },
  {
    name: 'version',
    group: SERVICE,
    load: async () => (await inspect()).versionCommand,
  },
];
