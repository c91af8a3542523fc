import type { Argument, Command, Option } from 'commander';
import { ROLES } from '../policy/token.js';
import { MODES } from './access-commands.js';
import type { NameKind } from './admin-commands.js';
import type { Registry } from './command.js';
import { wrongUsage } from './failure.js';

type Kind = NameKind | 'file' | 'dir' | '' | `=${string}`;

/**
 * What completes a word: names that the service knows (__names), files, folders, words of a choice (`=a b`), or nothing (''). By the name of
 * the argument, or of the value of an option.
 */
const KINDS: Readonly<Record<string, readonly Kind[]>> = {
  container: ['container'],
  'container-and-mode': ['container', `=${MODES.join(' ')}`],
  list: ['list'],
  feed: ['feed'],
  token: ['token'],
  node: ['node'],
  project: ['project'],
  file: ['file'],
  dir: ['dir'],
  role: [`=${ROLES.join(' ')}`],
  shell: ['=bash zsh fish'],
};
const kindsOf = (name: string): readonly Kind[] => KINDS[name] ?? [''];

/** A word and what it means. */
type Choice = readonly [word: string, meaning: string];
interface Place {
  /** The words of the command, as in "lists show". */
  readonly path: string;
  readonly commands: readonly Choice[];
  readonly options: readonly Choice[];
  /** Options that take a value, with its kind. */
  readonly values: readonly Choice[];
  /** Kinds of the arguments. The last one is that of all further ones if the command takes any number. */
  readonly args: readonly string[];
  readonly isOpen: boolean;
}

const LONGEST_MEANING = 78;
/** Up to the first detail, on one line of a terminal. */
const meaningOf = (text: string): string => {
  const [first = ''] = text.split(/[;:,] | \(/);
  return first.length > LONGEST_MEANING ? `${first.slice(0, LONGEST_MEANING - 1)}…` : first;
};
const HELP: Choice = ['--help', 'display help for command'];

function placesOf(command: Command, path: readonly string[] = []): readonly Place[] {
  const args = command.registeredArguments;
  const options = command.options.filter((o) => o.long !== undefined && !o.hidden);
  const place: Place = {
    path: path.join(' '),
    commands: command.commands.map((c): Choice => [c.name(), meaningOf(c.description())]),
    options: [...options.map((o): Choice => [longOf(o), meaningOf(o.description)]), HELP],
    values: options.filter((o) => o.required || o.optional).map((o): Choice => [longOf(o), kindOfValue(o)]),
    args: args.flatMap((a) => kindsOf(a.name())),
    isOpen: args.some((a: Argument) => a.variadic) && args.at(-1)?.name() !== 'container-and-mode',
  };
  return [place, ...command.commands.flatMap((c) => placesOf(c, [...path, c.name()]))];
}

const longOf = (option: Option): string => option.long ?? '';
const kindOfValue = ({ flags }: Option): string => kindsOf(/[<[]([\w-]+)/.exec(flags)?.[1] ?? '')[0] ?? '';

const SCRIPTS: Readonly<Record<string, (places: readonly Place[]) => string>> = { bash, zsh, fish };

export function completionCommand(program: Command, registry: Registry): void {
  registry.add<[string]>(program, {
    usage: 'completion <shell>',
    summary: 'print a script that completes commands, options and names in bash, zsh or fish',
    examples: [
      'completion bash > /etc/bash_completion.d/drawbridge',
      "completion zsh > '/usr/share/zsh/site-functions/_drawbridge'",
      'completion fish > /etc/fish/completions/drawbridge.fish',
    ],
    run: async ({ out, host }, [shell]) => {
      const write = SCRIPTS[shell];
      if (!write) return wrongUsage(`no completion for the shell "${shell}"`, 'write bash, zsh or fish');
      const script = write(placesOf(await registry.tree()));
      out.show({ shell, script }, () => host.stdout.write(script));
      return 0;
    },
  });
}

const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;
const quotedAll = (choices: readonly Choice[], join: string): string =>
  choices.map(([word, meaning]) => quoted(`${word}${join}${meaning}`)).join(' ');

/** Names are compared and quoted word by word: `compgen -W` would execute what is in them. */
function bash(places: readonly Place[]): string {
  const cases = places.map(
    ({ path, commands, options, values, args, isOpen }) =>
      `    ${quoted(path)}) commands=(${commands.map(([c]) => c).join(' ')}) options=(${options.map(([o]) => o).join(' ')}) values=(${quotedAll(values, ':')}) args=(${args.map(quoted).join(' ')}) open=${isOpen} ;;`,
  );
  return `# bash completion for drawbridge, printed by: drawbridge completion bash
__drawbridge_at() {
  case $1 in
${cases.join('\n')}
    *) return 1 ;;
  esac
}
__drawbridge_words() {
  local word
  for word in "$@"; do [[ $word == "$cur"* ]] && COMPREPLY+=("$word"); done
}
__drawbridge_kind() {
  local names
  case $1 in
    '') ;;
    file | dir)
      compopt -o filenames 2>/dev/null
      [ "$1" = file ] && mapfile -t COMPREPLY < <(compgen -f -- "$cur") || mapfile -t COMPREPLY < <(compgen -d -- "$cur")
      ;;
    =*)
      read -ra names <<<"\${1#=}"
      __drawbridge_words "\${names[@]}"
      ;;
    *)
      mapfile -t names < <("\${COMP_WORDS[0]}" __names "$1" "\${config[@]}" 2>/dev/null)
      __drawbridge_words "\${names[@]}"
      ;;
  esac
}
__drawbridge_value() {
  local value
  for value in "\${values[@]}"; do [[ $value == "$1":* ]] && kind=\${value#*:} && return 0; done
  return 1
}
_drawbridge() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD - 1]} path='' next word kind i n=0 open plain=false
  local commands=() options=() values=() args=() config=()
  COMPREPLY=()
  __drawbridge_at ''
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=\${COMP_WORDS[i]}
    if ! $plain && [ "$word" = -- ]; then plain=true
    elif ! $plain && __drawbridge_value "$word"; then
      [ "\${COMP_WORDS[i + 1]}" = = ] && ((i++))
      ((i++))
      [ "$word" = --config ] && [ "$i" -lt "$COMP_CWORD" ] && config=(--config "\${COMP_WORDS[i]}")
    elif ! $plain && [[ $word == -* ]]; then :
    else
      next=\${path:+$path }$word
      if [ "$n" = 0 ] && __drawbridge_at "$next"; then path=$next; else ((n++)); fi
    fi
  done
  [ "$cur" = = ] && cur=''
  [ "$prev" = = ] && prev=\${COMP_WORDS[COMP_CWORD - 2]}
  if ! $plain && __drawbridge_value "$prev"; then __drawbridge_kind "$kind"
  elif ! $plain && [[ $cur == -* ]]; then __drawbridge_words "\${options[@]}"
  elif [ "$n" = 0 ] && [ \${#commands[@]} -gt 0 ]; then __drawbridge_words "\${commands[@]}"
  elif [ "$n" -lt \${#args[@]} ]; then __drawbridge_kind "\${args[n]}"
  elif $open; then __drawbridge_kind "\${args[-1]}"
  fi
}
complete -F _drawbridge drawbridge
`;
}

function zsh(places: readonly Place[]): string {
  const cases = places.map(
    ({ path, commands, options, values, args, isOpen }) =>
      `    ${quoted(path)}) commands=(${quotedAll(commands, ':')}) options=(${quotedAll(options, ':')}) values=(${values.map(([o, kind]) => `${quoted(o)} ${quoted(kind)}`).join(' ')}) args=(${args.map(quoted).join(' ')}) open=${isOpen} ;;`,
  );
  return `#compdef drawbridge
# zsh completion for drawbridge, printed by: drawbridge completion zsh
__drawbridge_at() {
  case $1 in
${cases.join('\n')}
    (*) return 1 ;;
  esac
}
__drawbridge_kind() {
  local -a names
  case $1 in
    ('') ;;
    (file) _files ;;
    (dir) _files -/ ;;
    ('='*) names=(\${(s: :)\${1#'='}}); compadd -a names ;;
    (*)
      names=(\${(f)"$($words[1] __names $1 $config 2>/dev/null)"})
      compadd -a names
      ;;
  esac
}
_drawbridge() {
  local here='' next word open=false
  local -i i n=0
  local -a commands options args config
  local -A values
  local plain=false
  __drawbridge_at ''
  for ((i = 2; i < CURRENT; i++)); do
    word=$words[i]
    if ! $plain && [[ $word == -- ]]; then plain=true
    elif ! $plain && (( $+values[$word] )); then
      ((i++))
      if [[ $word == --config ]] && ((i < CURRENT)); then config=(--config $words[i]); fi
    elif ! $plain && [[ $word == --config=* ]]; then config=($word)
    elif ! $plain && [[ $word == -* ]]; then :
    else
      next=\${here:+$here }$word
      if ((n == 0)) && __drawbridge_at $next; then here=$next; else ((n += 1)); fi
    fi
  done
  local cur=$words[CURRENT] prev=$words[CURRENT-1]
  if ! $plain && [[ $cur == --*=* ]] && (( $+values[\${cur%%=*}] )); then
    compset -P '*='
    __drawbridge_kind "$values[\${cur%%=*}]"
  elif ! $plain && (( $+values[$prev] )); then __drawbridge_kind "$values[$prev]"
  elif ! $plain && [[ $cur == -* ]]; then _describe -o -t options option options
  elif ((n == 0 && $#commands > 0)); then _describe -t commands command commands
  elif ((n < $#args)); then __drawbridge_kind "$args[n+1]"
  elif $open; then __drawbridge_kind "$args[-1]"
  fi
}
if [[ $funcstack[1] == _drawbridge ]]; then _drawbridge "$@"; else compdef _drawbridge drawbridge; fi
`;
}

const inFish = (text: string): string => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
const allInFish = (choices: readonly Choice[]): string =>
  choices.map(([word, meaning]) => inFish(`${word}\t${meaning}`)).join(' ');

function fish(places: readonly Place[]): string {
  const cases = places.map(
    ({ path, commands, options, values, args, isOpen }) => `    case ${inFish(path)}
      set -g __drawbridge_commands ${allInFish(commands)}
      set -g __drawbridge_options ${allInFish(options)}
      set -g __drawbridge_values ${values.map(([o, kind]) => inFish(`${o}:${kind}`)).join(' ')}
      set -g __drawbridge_args ${args.map(inFish).join(' ')}
      set -g __drawbridge_open ${isOpen}`,
  );
  return `# fish completion for drawbridge, printed by: drawbridge completion fish
function __drawbridge_at
  switch $argv[1]
${cases.join('\n')}
    case '*'
      return 1
  end
end
function __drawbridge_kind
  switch $argv[1]
    case ''
    case file
      __fish_complete_path $argv[2]
    case dir
      __fish_complete_directories $argv[2]
    case '=*'
      string split ' ' -- (string sub -s 2 -- $argv[1])
    case '*'
      command $argv[3] __names $argv[1] $argv[4..] 2>/dev/null
  end
end
function __drawbridge_value
  for value in $__drawbridge_values
    set -l parts (string split -m 1 : -- $value)
    test "$parts[1]" = "$argv[1]"; and echo "$parts[2]"; and return 0
  end
  return 1
end
function __drawbridge_complete
  set -l cur (commandline -ct)
  set -l words (commandline -opc)
  set -l path ''
  set -l n 0
  set -l config
  set -l plain false
  set -l i 2
  set -l kind
  __drawbridge_at ''
  while test $i -le (count $words)
    set -l word $words[$i]
    if test $plain = false; and test "$word" = --
      set plain true
    else if test $plain = false; and __drawbridge_value "$word" >/dev/null
      set i (math $i + 1)
      if test "$word" = --config; and test $i -le (count $words)
        set config --config $words[$i]
      end
    else if test $plain = false; and string match -q -- '--config=*' "$word"
      set config $word
    else if test $plain = false; and string match -q -- '-*' "$word"
    else
      set -l next (string trim -- "$path $word")
      if test $n -eq 0; and __drawbridge_at "$next"
        set path $next
      else
        set n (math $n + 1)
      end
    end
    set i (math $i + 1)
  end
  if test $plain = false; and test (count $words) -gt 1; and set kind (__drawbridge_value "$words[-1]")
    __drawbridge_kind "$kind" "$cur" $words[1] $config
  else if test $plain = false; and string match -q -- '-*' "$cur"
    string join \\n -- $__drawbridge_options
  else if test $n -eq 0; and test (count $__drawbridge_commands) -gt 0
    string join \\n -- $__drawbridge_commands
  else if test $n -lt (count $__drawbridge_args)
    __drawbridge_kind "$__drawbridge_args[$(math $n + 1)]" "$cur" $words[1] $config
  else if test "$__drawbridge_open" = true
    __drawbridge_kind "$__drawbridge_args[-1]" "$cur" $words[1] $config
  end
end
complete -c drawbridge -f -a '(__drawbridge_complete)'
`;
}
