/** `docker exec` as requests to Docker's API: the docker client takes 17 ms of processor time for each, some thousand times in a test run. */
import { request } from 'node:http';
import type { Result, RunOptions } from './process.js';

interface Answer {
  readonly status: number;
  readonly body: Buffer;
}

function ask(
  socketPath: string,
  method: 'GET' | 'POST',
  path: string,
  body: object | undefined,
  signal: AbortSignal,
): Promise<Answer> {
  const headers = body === undefined ? {} : { 'content-type': 'application/json' };
  return new Promise((resolve, reject) => {
    const req = request({ socketPath, method, path, headers, agent: false, signal }, (res) => {
      const parts: Buffer[] = [];
      res.on('data', (part: Buffer) => parts.push(part));
      res.on('error', reject);
      res.on('end', () => resolve({ status: res.statusCode ?? 0, body: Buffer.concat(parts) }));
    });
    req.on('error', reject);
    req.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

/** Docker sends both streams in one: frames of a header of 8 bytes (the stream, 0, 0, 0, the length) and the bytes. */
function streamsOf(body: Buffer): { readonly stdout: string; readonly stderr: string } {
  const parts: { readonly 1: Buffer[]; readonly 2: Buffer[] } = { 1: [], 2: [] };
  for (let at = 0; at + 8 <= body.length; ) {
    const end = at + 8 + body.readUInt32BE(at + 4);
    parts[body[at] === 2 ? 2 : 1].push(body.subarray(at + 8, end));
    at = end;
  }
  return { stdout: Buffer.concat(parts[1]).toString(), stderr: Buffer.concat(parts[2]).toString() };
}

const messageOf = ({ body }: Answer): string => {
  try {
    return (JSON.parse(body.toString()) as { message: string }).message;
  } catch {
    return body.toString();
  }
};
const failed = (why: string): Result => ({
  code: 1,
  stdout: '',
  stderr: `Error response from daemon: ${why}\n`,
});

async function execute(
  socketPath: string,
  container: string,
  argv: readonly string[],
  signal: AbortSignal,
): Promise<Result> {
  const spec = { AttachStdout: true, AttachStderr: true, Cmd: argv };
  const created = await ask(
    socketPath,
    'POST',
    `/containers/${encodeURIComponent(container)}/exec`,
    spec,
    signal,
  );
  if (created.status !== 201) return failed(messageOf(created));
  const { Id: id } = JSON.parse(created.body.toString()) as { Id: string };
  const started = await ask(socketPath, 'POST', `/exec/${id}/start`, { Detach: false, Tty: false }, signal);
  const shown = await ask(socketPath, 'GET', `/exec/${id}/json`, undefined, signal);
  const { ExitCode: code } = JSON.parse(shown.body.toString()) as { ExitCode: number | null };
  if (started.status !== 200) return { ...failed(messageOf(started)), code: code || 1 };
  return { code: code ?? 1, ...streamsOf(started.body) };
}

/** Does not throw on a failing command. Past `timeoutMs` (default 120 s) it is left alone, with exit code 128. */
export async function dockerExec(
  socketPath: string,
  container: string,
  argv: readonly string[],
  options: Pick<RunOptions, 'timeoutMs'> = {},
): Promise<Result> {
  const signal = AbortSignal.timeout(options.timeoutMs ?? 120_000);
  return execute(socketPath, container, argv, signal).catch((e: Error) =>
    signal.aborted
      ? { code: 128, stdout: '', stderr: '' }
      : { code: 1, stdout: '', stderr: `error during connect: ${e.message}\n` },
  );
}
