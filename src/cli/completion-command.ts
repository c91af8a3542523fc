import type { Command, Option } from 'commander';
import type { ApiClient } from '../api/client.js';
import { ROLES } from '../policy/token.js';
import { MODES } from './access-commands.js';
import { type Registry, Session } from './command.js';
import { wrongUsage } from './failure.js';
import type { Host } from './host.js';

/** Names that the service knows, by kind. */
const NAMES = {
  container: async (client: ApiClient) => (await client.containers()).map((c) => c.name),
  project: async (client: ApiClient) => (await client.containers()).flatMap((c) => c.compose?.project ?? []),
  list: async (client: ApiClient) => (await client.lists()).map((l) => l.name),
  feed: async (client: ApiClient) => (await client.feeds()).map((f) => f.name),
  token: async (client: ApiClient) => (await client.tokens()).map((t) => t.name),
  node: async (client: ApiClient) => (await client.nodes()).map((n) => n.node),
};
const SHELLS = ['bash', 'zsh', 'fish'] as const;

/** What a word may be: a name of the service, a file or folder that the shell knows, or one of these words, each with its meaning. */
type Kind = keyof typeof NAMES | 'file' | 'dir' | readonly (readonly [word: string, meaning?: string])[];
const wordsOf = (words: readonly string[]): Kind => words.map((word) => [word]);

/** By the name of the argument, or of the value of an option. */
const KINDS: Readonly<Record<string, readonly Kind[]>> = {
  container: ['container'],
  'container-and-mode': ['container', wordsOf(MODES)],
  list: ['list'],
  feed: ['feed'],
  token: ['token'],
  node: ['node'],
  project: ['project'],
  file: ['file'],
  dir: ['dir'],
  role: [wordsOf(ROLES)],
  shell: [wordsOf(SHELLS)],
};
const kindsOf = (name: string): readonly Kind[] => KINDS[name] ?? [[]];

/** A command line before the word that is being written. */
interface Line {
  command: Command;
  /** Arguments of the command that are complete. */
  args: number;
  /** `--` was written: no further word is an option. */
  isPlain: boolean;
  /** The option to which the value at the cursor belongs. */
  option: Option | undefined;
  /** `--config`. */
  config: string | undefined;
}

function lineOf(program: Command, words: readonly string[]): Line {
  const line: Line = { command: program, args: 0, isPlain: false, option: undefined, config: undefined };
  for (const word of words) {
    if (line.option) {
      if (word === '=') continue; // bash makes three words of --role=read
      if (line.option.long === '--config') line.config = word;
      line.option = undefined;
    } else if (!line.isPlain && word.startsWith('-')) {
      line.isPlain = word === '--';
      line.option = optionsOf(line.command).find((o) => o.long === word && takesValue(o));
      if (word.startsWith('--config=')) line.config = word.slice('--config='.length);
    } else {
      const next = line.args === 0 ? line.command.commands.find((c) => c.name() === word) : undefined;
      if (next) line.command = next;
      else line.args++;
    }
  }
  return line;
}

const optionsOf = (command: Command) => command.options.filter((o) => o.long !== undefined && !o.hidden);
const takesValue = (option: Option): boolean => option.required || option.optional;
const kindOfValue = ({ flags }: Option): Kind => kindsOf(/[<[]([\w-]+)/.exec(flags)?.[1] ?? '')[0] ?? [];

const LONGEST_MEANING = 78;
/** Up to the first detail, on one line of a terminal. */
const meaningOf = (text: string): string => {
  const [first = ''] = text.split(/[;:,] | \(/);
  return first.length > LONGEST_MEANING ? `${first.slice(0, LONGEST_MEANING - 1)}…` : first;
};

function kindOf({ command, args, isPlain, option }: Line, word: string): Kind {
  if (option) return kindOfValue(option);
  if (!isPlain && word.startsWith('-')) {
    const options = optionsOf(command).map((o) => [o.long ?? '', meaningOf(o.description)] as const);
    return [...options, ['--help', 'display help for command']];
  }
  if (args === 0 && command.commands.length > 0)
    return command.commands.map((c) => [c.name(), meaningOf(c.description())]);
  const known = command.registeredArguments;
  const kinds = known.flatMap((a) => kindsOf(a.name()));
  const isOpen = known.at(-1)?.variadic === true && known.at(-1)?.name() !== 'container-and-mode';
  return kinds[args] ?? (isOpen ? kinds.at(-1) : undefined) ?? [];
}

/** Projects come from labels: a shell gets only what it need not quote. */
const PLAIN = /^[\w@%+.,/-]+$/;
const PATIENCE_MS = 2_000;

/** Lines for the shell. It compares them with what is written, and completes files and folders itself. */
async function candidates(kind: Kind, config: string | undefined, host: Host): Promise<readonly string[]> {
  if (kind === 'file' || kind === 'dir') return [`:${kind}`];
  if (typeof kind !== 'string') return kind.map((choice) => choice.join('\t'));
  try {
    const client = await new Session(host, config === undefined ? {} : { config }).client(PATIENCE_MS);
    return [...new Set(await NAMES[kind](client))].filter((name) => PLAIN.test(name)).sort();
  } catch {
    return []; // the service is away: a shell has no place for an error
  }
}

/**
 * Print what completes the last of the words that follow "drawbridge", which may be empty: a word a line, a tab and its meaning after it;
 * `:file` and `:dir` for the names of files and folders.
 */
export async function complete(words: readonly string[], program: Command, host: Host): Promise<number> {
  const word = words.at(-1) ?? '';
  const line = lineOf(program, words.slice(0, -1));
  const [, long] = /^(--[^=]+)=/.exec(word) ?? [];
  const joined =
    line.isPlain || line.option ? undefined : optionsOf(line.command).find((o) => o.long === long);
  const found = await candidates(
    kindOf(joined ? { ...line, option: joined } : line, word),
    line.config,
    host,
  );
  const before = joined && !found[0]?.startsWith(':') ? `${long}=` : '';
  for (const text of found) host.stdout.write(`${before}${text}\n`);
  return 0;
}

/** Names are compared and quoted word by word: `compgen -W` would execute what is in them. */
const STUBS: Readonly<Record<(typeof SHELLS)[number], string>> = {
  bash: `# bash completion for drawbridge, printed by: drawbridge completion bash
_drawbridge() {
  local line cur=\${COMP_WORDS[COMP_CWORD]}
  [ "$cur" = = ] && cur=''
  COMPREPLY=()
  while IFS= read -r line; do
    case $line in
      :file | :dir)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -"\${line:1:1}" -- "$cur")
        ;;
      "$cur"*) COMPREPLY+=("\${line%%$'\\t'*}") ;;
    esac
  done < <("\${COMP_WORDS[0]}" __complete "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _drawbridge drawbridge
`,
  zsh: `#compdef drawbridge
# zsh completion for drawbridge, printed by: drawbridge completion zsh
_drawbridge() {
  local line
  local -a found
  for line in "\${(@f)$($words[1] __complete "\${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
    [[ $line == :* && $words[CURRENT] == --*=* ]] && compset -P '*='
    case $line in
      ('') ;;
      (:file) _files ;;
      (:dir) _files -/ ;;
      (*) found+=(\${line/$'\\t'/:}) ;;
    esac
  done
  _describe drawbridge found
}
if [[ $funcstack[1] == _drawbridge ]]; then _drawbridge "$@"; else compdef _drawbridge drawbridge; fi
`,
  fish: `# fish completion for drawbridge, printed by: drawbridge completion fish
function __drawbridge_complete
  set -l cur (commandline -ct)
  set -l words (commandline -opc)
  for line in (command $words[1] __complete $words[2..] "$cur" 2>/dev/null)
    switch $line
      case :file
        __fish_complete_path "$cur"
      case :dir
        __fish_complete_directories "$cur"
      case '*'
        echo $line
    end
  end
end
complete -c drawbridge -f -a '(__drawbridge_complete)'
`,
};

export function completionCommand(program: Command, registry: Registry): void {
  registry.add<[string]>(program, {
    usage: 'completion <shell>',
    summary: 'print a script that completes commands, options and names in bash, zsh or fish',
    examples: [
      'completion bash > /etc/bash_completion.d/drawbridge',
      "completion zsh > '/usr/share/zsh/site-functions/_drawbridge'",
      'completion fish > /etc/fish/completions/drawbridge.fish',
    ],
    run: async ({ out, host }, [name]) => {
      const shell = SHELLS.find((known) => known === name);
      if (!shell) return wrongUsage(`no completion for the shell "${name}"`, 'write bash, zsh or fish');
      out.show({ shell, script: STUBS[shell] }, () => host.stdout.write(STUBS[shell]));
      return 0;
    },
  });
}
