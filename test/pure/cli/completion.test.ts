/** The completion of bash, zsh and fish, by the shells themselves, with names of a service. */
import { execFile } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { chmod, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { program } from '../../lab/drawbridge.js';
import { Bench } from './bench.js';

const run = promisify(execFile);
const SHELLS = ['bash', 'zsh', 'fish'] as const;
type Shell = (typeof SHELLS)[number];

const has = (shell: string): boolean =>
  (process.env.PATH ?? '').split(delimiter).some((folder) => {
    try {
      accessSync(join(folder, shell), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });

let bench: Bench;
beforeAll(async () => {
  bench = await Bench.make();
  await bench.serve();
  const command = join(bench.dir, 'drawbridge');
  await writeFile(
    command,
    `#!/bin/sh\nexec ${program()
      .map((part) => `'${part}'`)
      .join(' ')} "$@"\n`,
  );
  await chmod(command, 0o755);
  for (const shell of SHELLS)
    await writeFile(join(bench.dir, `script.${shell}`), (await bench.run('completion', shell)).out);
  await writeFile(join(bench.dir, 'type.zsh'), ZSH);
});
afterAll(() => bench.end());

const BASH = `source "$SCRIPT"; read -ra COMP_WORDS <<<"$LINE"; [[ $LINE == *' ' ]] && COMP_WORDS+=('')
COMP_CWORD=$((\${#COMP_WORDS[@]} - 1)); _drawbridge; printf '%s\\n' "\${COMPREPLY[@]}"`;
/** A shell at a terminal of its own, in which a line and Tab are typed; what completes it is written to a file. */
const ZSH = `zmodload zsh/zpty zsh/zselect
zpty z env SCRIPT=$SCRIPT HITS=$HITS zsh -f -i
zpty -w z 'PROMPT=; autoload -Uz compinit; compinit -D -u; source $SCRIPT
compadd() {
  if [[ \${@[1,(i)(-|--)]} == *-(O|A|D)\\ * ]]; then builtin compadd "$@"; return $?; fi
  local -a hits; builtin compadd -A hits "$@"; print -rl -- $hits >>$HITS
}
ended() { print END >>$HITS }; comppostfuncs=(ended); print READY >>$HITS'
repeat 200; do zselect -t 5; [[ "$(<$HITS)" == *READY* ]] && break; done 2>/dev/null
zpty -n -w z "$LINE"$'\\t'
repeat 400; do zselect -t 5; [[ "$(<$HITS)" == *END* ]] && break; done
zpty -d z
print -r -- "\${$(<$HITS)//(READY|END)/}"`;

/** The words that complete the line, without what the shell shows of their meaning. */
async function completed(shell: Shell, line: string, env: Record<string, string> = {}): Promise<string[]> {
  const argv = {
    bash: ['--norc', '-c', BASH],
    zsh: ['-f', join(bench.dir, 'type.zsh')],
    fish: ['--no-config', '-c', 'source $SCRIPT; complete -C "$LINE"'],
  }[shell];
  const hits = join(bench.dir, 'hits');
  await writeFile(hits, '');
  const path = `${bench.dir}${delimiter}${process.env.PATH}`;
  const own = { SCRIPT: join(bench.dir, `script.${shell}`), HITS: hits, LINE: line, HOME: bench.dir };
  const given = { ...process.env, PATH: path, DRAWBRIDGE_CONFIG: bench.config, ...own, ...env };
  const { stdout } = await run(shell, argv, { env: given, cwd: bench.dir });
  const words = stdout.split(/\n/).map((text) => text.split('\t')[0]?.trim() ?? '');
  return words.filter((word) => word !== '').sort();
}

describe.each(SHELLS)('%s', (shell) => {
  const isThere = has(shell);
  if (!isThere) process.stdout.write(`SKIPPED: completion of ${shell}, which is not installed\n`);

  it.skipIf(!isThere).each([
    ['drawbridge li', ['lists']],
    ['drawbridge lists ', ['add', 'create', 'delete', 'edit', 'remove', 'show']],
    ['drawbridge lists show --', ['--config', '--help', '--json']],
    ['drawbridge inspect ', ['web']],
    ['drawbridge lists show ', ['npm']],
    ['drawbridge --json feeds sync --due ', ['bad']],
    ['drawbridge mode web en', ['enforce']],
    ['drawbridge tokens create ci --role ', ['admin', 'read', 'write']],
    ['drawbridge tokens create ci --role=a', ['--role=admin']],
    ['drawbridge check conf', ['config.yaml']],
    ['drawbridge explain web ', []],
  ])('%s', async (line, expected) => {
    expect(await completed(shell, line)).toEqual(expected);
  });

  it.skipIf(!isThere)('completes no name, and prints nothing, without the service', async () => {
    expect(await completed(shell, 'drawbridge inspect ', { DRAWBRIDGE_CONFIG: '/none' })).toEqual([]);
    const config = `--config ${bench.config}`;
    expect(await completed(shell, `drawbridge inspect ${config} `, { DRAWBRIDGE_CONFIG: '/none' })).toEqual([
      'web',
    ]);
  });
});

it('no name that a shell could execute is completed', async () => {
  const { controller } = bench;
  const { container } = controller;
  controller.container = () => ({
    ...container.call(controller, 'web'),
    compose: { project: '$(touch x)', service: 'web' },
  });
  expect((await bench.run('__complete', 'suggest', '--project', '')).out).toBe('');
  expect((await bench.run('__complete', 'inspect', '')).out).toBe('web\n');
  controller.container = container;
});

it.each([
  [['xyz', '']],
  [['inspect', '--config', '/none', '']],
  [['inspect', '--config=/none', '']],
  [['inspect', 'web', '']],
])('__complete %j prints nothing and succeeds', async (words) => {
  expect(await bench.run('__complete', ...words)).toEqual({ code: 0, out: '', err: '' });
});

it.each([
  [[''], 'status\t'],
  [['lists', 'show', '-'], '--json\tprint JSON'],
  [['tokens', 'create', 'ci', '--role', ''], 'read'],
  [['tokens', 'create', 'ci', '--role', '=', 'a'], 'admin'],
  [['tokens', 'create', 'ci', '--role=a'], '--role=admin'],
  [['inspect', '--', '-'], 'web'],
  [['--version', ''], 'lists\t'],
  [['sync', ''], ':dir'],
])('__complete %j prints the word, and its meaning after a tab', async (words, line) => {
  const { code, out, err } = await bench.run('__complete', ...words);
  expect({ code, err }).toEqual({ code: 0, err: '' });
  expect(out.split('\n').some((text) => text.startsWith(line))).toBe(true);
});

it('another shell is wrong usage', async () => {
  expect(await bench.run('completion', 'tcsh')).toMatchObject({
    code: 2,
    err: expect.stringMatching(/bash, zsh or fish/),
  });
});
