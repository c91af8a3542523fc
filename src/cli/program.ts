import { Command, CommanderError } from 'commander';
import { shownJson } from '../lib/foreign-text.js';
import { nearest, shownProblem } from '../lib/problem.js';
import { Registry } from './command.js';
import { CommandFailure, failureOf, problemText } from './failure.js';
import type { Host } from './host.js';
import { painted, printable } from './output.js';

/** Runs one command line (without node and script). Exit code: 0 done, 1 failed, 2 wrong usage; 4: `run` was ended by a teardown. */
export async function runCli(argv: readonly string[], host: Host): Promise<number> {
  let code = 0;
  const program = programOf(host);
  const onExit = (exit: number): void => {
    code = exit;
  };
  const registry = new Registry(host, onExit);
  try {
    if (argv[0] === COMPLETE) {
      const isNamed = argv.length > 2 && NAMES_OF_COMMANDS.includes(argv[1] ?? '');
      await load(program, registry, isNamed ? argv[1] : undefined);
      return await (await completion()).complete(argv.slice(1), program, host);
    }
    mustBeKnown('command', argv[0], NAMES_OF_COMMANDS);
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
    if (e instanceof CommanderError && (e.exitCode === 0 || e.code === HELP)) return e.exitCode === 0 ? 0 : 2;
    const failure = e instanceof CommanderError ? usageFailure(e, pathOf(program, argv)) : failureOf(e);
    return report(failure, argv.includes('--json'), host);
  }
}

/** Every command with its options, as the help has them. */
export async function commandTree(host: Host): Promise<Command> {
  const program = programOf(host);
  await load(program, new Registry(host, () => undefined), undefined);
  return program;
}

/** Of the error by which commander ends after it has printed the help in place of running a command. */
const HELP = 'commander.help';

/** What commander found wrong: "error: unknown option '--jsn'", and in a second line what was meant. */
function usageFailure({ message }: CommanderError, command: string): CommandFailure {
  const [first = '', second = ''] = message.split('\n');
  const meant = /^\(Did you mean (.*)\?\)$/.exec(second)?.[1];
  const remedy = meant === undefined ? `see ${command} --help` : `did you mean ${meant}?`;
  return new CommandFailure([{ detail: first.replace(/^error: /, ''), remedy }], 2);
}

/** "drawbridge lists show": the command that the words name. */
function pathOf(program: Command, argv: readonly string[]): string {
  const names = [program.name()];
  for (let [at, i]: [Command | undefined, number] = [program, 0]; ; i++) {
    at = at.commands.find((c) => c.name() === argv[i]);
    if (at === undefined) return names.join(' ');
    names.push(at.name());
  }
}

function programOf(host: Host): Command {
  return new Command('drawbridge')
    .description('Egress firewall controller for Docker hosts')
    .addHelpText('before', BEGIN)
    .version(host.version)
    .exitOverride()
    .configureOutput({
      writeOut: (text) => host.stdout.write(text),
      writeErr: (text) => host.stderr.write(text),
      outputError: () => undefined, // reported as every other failure
    });
}

const BEGIN = `Begin with these:
  $ drawbridge doctor                      can this host enforce?
  $ drawbridge ps                          which containers run, and what is enforced
  $ drawbridge mode web enforce --dry-run  what enforcing the container web would block
`;

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
    ? shownJson({ errors: failure.problems.map(shownProblem) }, 2)
    : failure.problems.map((p) => inRed(printable(problemText(p)), host)).join('\n');
  host.stderr.write(`${text}\n`);
  return failure.exitCode;
}

/** The problem in red, and its remedy after it in the colour of the terminal. */
function inRed(text: string, { colours }: Host): string {
  const end = text.lastIndexOf('\n  →');
  return colours?.stderr === true ? painted('red', text.slice(0, end)) + text.slice(end) : text;
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
const ask = () => import('./ask-commands.js');
const list = () => import('./list-commands.js');
const store = () => import('./store-commands.js');
const feed = () => import('./feed-commands.js');
const admin = () => import('./admin-commands.js');
const service = () => import('./service-commands.js');
const completion = () => import('./completion-command.js');
const bugreport = () => import('./bugreport-command.js');

/** Every command, in the order of the help. */
const COMMANDS: readonly Listed[] = [
  { name: 'status', group: DAILY, load: async () => (await import('./status-command.js')).statusCommand },
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
  { name: 'ask', group: DAILY, load: async () => (await ask()).askCommand },
  { name: 'lists', group: POLICIES, load: async () => (await list()).listsCommand },
  { name: 'check', group: POLICIES, load: async () => (await list()).checkCommand },
  { name: 'sync', group: POLICIES, load: async () => (await list()).syncCommand },
  { name: 'export', group: POLICIES, load: async () => (await store()).exportCommand },
  { name: 'import', group: POLICIES, load: async () => (await store()).importCommand },
  { name: 'feeds', group: POLICIES, load: async () => (await feed()).feedsCommand },
  { name: 'threats', group: POLICIES, load: async () => (await feed()).threatsCommand },
  { name: 'notify', group: INSPECTION, load: async () => (await feed()).notifyCommand },
  { name: 'scan', group: INSPECTION, load: async () => (await inspect()).scanCommand },
  { name: 'audit', group: INSPECTION, load: async () => (await admin()).auditCommand },
  { name: 'plan', group: INSPECTION, load: async () => (await inspect()).planCommand },
  { name: 'nodes', group: INSPECTION, load: async () => (await admin()).nodesCommand },
  {
    name: 'doctor',
    group: INSPECTION,
    load: async () => (await service()).doctorCommand,
  },
  { name: 'bugreport', group: INSPECTION, load: async () => (await bugreport()).bugreportCommand },
  { name: 'run', group: SERVICE, load: async () => (await service()).runCommand },
  { name: 'guard', group: SERVICE, load: async () => (await service()).guardCommand },
  { name: 'tokens', group: SERVICE, load: async () => (await admin()).tokensCommand },
  { name: 'store', group: SERVICE, load: async () => (await store()).storeCommand },
  {
    name: 'teardown',
    group: SERVICE,
    load: async () => (await service()).teardownCommand,
  },
  { name: 'completion', group: SERVICE, load: async () => (await completion()).completionCommand },
  {
    name: 'version',
    group: SERVICE,
    load: async () => (await inspect()).versionCommand,
  },
];

const NAMES_OF_COMMANDS = COMMANDS.map((c) => c.name);
/** Completes a command line for a shell. It is not in the help. */
const COMPLETE = '__complete';
