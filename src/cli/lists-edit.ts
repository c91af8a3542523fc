import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { ApiError } from '../api/client.js';
import type { ListBody } from '../api/schemas.js';
import { answerTo } from './ask.js';
import type { Session } from './command.js';
import { CommandFailure, fail, failureOf, problemText } from './failure.js';
import { bodyFromYaml, listYaml } from './lists-yaml.js';

const HEAD = '# Save and leave to put this in force; leave it unchanged to change nothing.\n';

/** Opens a list of the store in the editor and puts what was saved. An edit that is refused is never lost. */
export async function editList(session: Session, name: string): Promise<ListBody> {
  const { env, isTerminal } = session.host;
  if (!isTerminal && !env.VISUAL && !env.EDITOR)
    fail(
      'there is no terminal for an editor',
      `write a file: drawbridge lists create ${name} --replace --file FILE`,
    );
  const client = await session.client();
  const list = await client.list(name);
  if (list.source === 'folder')
    fail(`the list ${name} is a file`, `edit ${list.file ?? 'it'}; it is in force within a second`);
  const file = join(await mkdtemp(join(tmpdir(), 'drawbridge-')), `${name}.yaml`);
  const before = `${HEAD}${listYaml(list)}`;
  await writeFile(file, before, { mode: 0o600 });
  for (;;) {
    await runEditor(session, file);
    const text = await readFile(file, 'utf8');
    const answer = text === before ? list : await put(session, list, file, text);
    if (!answer) continue;
    await rm(dirname(file), { recursive: true });
    return answer;
  }
}

/** Undefined: refused, and to be edited again. */
async function put(
  session: Session,
  list: ListBody,
  file: string,
  text: string,
): Promise<ListBody | undefined> {
  try {
    const body = bodyFromYaml(list.name, file, text);
    return await (await session.client()).putList(list.name, body, list.revision);
  } catch (e) {
    const { problems } = failureOf(e);
    // Editing again helps against what is wrong in the text, not against what happened elsewhere.
    const isText = e instanceof CommandFailure || (e instanceof ApiError && e.problem.status === 422);
    if (isText && (await askAgain(session, problems.map(problemText)))) return undefined;
    const again = `drawbridge lists create ${list.name} --replace --file ${file}`;
    throw new CommandFailure([
      ...problems,
      { detail: `your edit is kept in ${file}`, remedy: `mend it, then: ${again}` },
    ]);
  }
}

async function askAgain(session: Session, problems: readonly string[]): Promise<boolean> {
  if (!session.host.isTerminal) return false;
  for (const problem of problems) session.out.note(problem);
  return !/^n/i.test(await answerTo(session, 'Edit again? [Y/n]', 'n'));
}

/** $VISUAL or $EDITOR may carry arguments ("code --wait"), so a shell reads it. */
async function runEditor({ host }: Session, file: string): Promise<void> {
  const editor = host.env.VISUAL || host.env.EDITOR || 'vi';
  const child = spawn('/bin/sh', ['-c', `${editor} "$1"`, 'sh', file], { stdio: 'inherit' });
  const [code, signal] = await once(child, 'exit');
  if (code !== 0)
    fail(
      `the editor (${editor}) ended with ${signal ?? code}; nothing was changed`,
      `set EDITOR; the text is in ${file}`,
    );
}
